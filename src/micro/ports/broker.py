"""What carries messages to those who listen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from micro.domain.message import Message

Deliver = Callable[[Message], None]
"""Takes a message at once, and keeps nobody waiting."""


class Broker(ABC):
    """Messages by topic, in namespaces that know nothing of each other: at most once, and nothing is kept.

    Names are checked by the caller (`micro.domain.topic`, `micro.domain.message`).
    """

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Connect. Raises UNAVAILABLE."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether messages can be carried, as far as is known without asking."""

    @abstractmethod
    async def publish(self, namespace: str, message: Message) -> None:
        """Send a message to all who are subscribed to its topic by now; those of one publisher come in its order.

        Returns when it is on its way. Raises UNAVAILABLE when it cannot be sent.
        """

    @abstractmethod
    def subscribe(
        self, namespace: str, pattern: str, deliver: Deliver, queue: str = ""
    ) -> AbstractAsyncContextManager[None]:
        """Have what is published to topics of a pattern delivered while the context lasts.

        What is published after it was entered comes, from whichever process. Of those with the same queue, whatever
        their patterns, each message goes to one. It goes on by itself after the connection was lost; what was published
        then may be missing. Entering raises UNAVAILABLE.
        """
