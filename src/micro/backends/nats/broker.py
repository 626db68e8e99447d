"""Messages over core NATS: a subject for each namespace and topic, a queue group for each queue.

A message is what NATS calls a payload, with the header in front of the body: four bytes with the header's size, the
header as JSON, the body. NATS's own headers take neither line ends nor names beyond ASCII.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from micro.backends.nats._connection import REQUEST_SECONDS, Connection, translated
from micro.domain.message import Message
from micro.ports.broker import Broker, Deliver

PREFIX = "micro.broker.1."
"""What subjects begin with; namespace and topic follow. The number is that of the messages' format."""

SUBJECT = "the broker"

Place = tuple[str, str]


@dataclass(slots=True, eq=False)
class _Shared:
    """A subscription for all in this process that want the same and share with nobody."""

    subscription: Subscription | None = None
    members: list[Deliver] = field(default_factory=list)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class NatsBroker(Broker):
    """The port over NATS.

    Args:
        connection: started by whoever made it.
        patience: how many seconds a subscription may wait for a connection that was lost.
    """

    def __init__(self, connection: Connection, *, patience: float = REQUEST_SECONDS) -> None:
        self._connection = connection
        self._patience = patience
        self._shared: dict[Place, _Shared] = {}

    async def start(self, stack: AsyncExitStack) -> None:
        return

    def healthy(self) -> bool:
        return self._connection.connected

    async def publish(self, namespace: str, message: Message) -> None:
        # What the client library would keep for later is not kept: at once, or told that it was not sent.
        await self._connection.wait_connected(0)
        try:
            await self._connection.client.publish(_subject(namespace, message.topic), _encoded(message))
        except (nats.errors.Error, OSError) as error:
            raise translated(error, SUBJECT) from error

    def subscribe(
        self, namespace: str, pattern: str, deliver: Deliver, queue: str = ""
    ) -> AbstractAsyncContextManager[None]:
        if queue:
            return self._alone(namespace, pattern, deliver, queue)
        return self._together((namespace, pattern), deliver)

    @asynccontextmanager
    async def _alone(self, namespace: str, pattern: str, deliver: Deliver, queue: str) -> AsyncGenerator[None]:
        start = len(_subject(namespace, ""))

        def take(raw: Msg) -> None:
            deliver(_decoded(raw, start))

        await self._connection.wait_connected(self._patience)
        subscription = await self._opened(namespace, pattern, take, queue)
        try:
            await self._known()
            yield
        finally:
            await _closed(subscription)

    @asynccontextmanager
    async def _together(self, place: Place, deliver: Deliver) -> AsyncGenerator[None]:
        await self._connection.wait_connected(self._patience)
        shared = self._shared.setdefault(place, _Shared())
        shared.members.append(deliver)
        try:
            async with shared.opening:
                if shared.subscription is None:
                    shared.subscription = await self._fanned_out(place, shared)
            await self._known()
            yield
        finally:
            shared.members.remove(deliver)
            if not shared.members:
                del self._shared[place]
                await _closed(shared.subscription)

    async def _fanned_out(self, place: Place, shared: _Shared) -> Subscription:
        namespace, pattern = place
        start = len(_subject(namespace, ""))

        def take(raw: Msg) -> None:
            message = _decoded(raw, start)
            for deliver in tuple(shared.members):
                deliver(message)

        return await self._opened(namespace, pattern, take)

    async def _opened(self, namespace: str, pattern: str, take: Callable[[Msg], None], queue: str = "") -> Subscription:
        try:
            return await self._connection.client.listen(_subject(namespace, pattern), take, queue)
        except (nats.errors.Error, OSError) as error:
            raise translated(error, SUBJECT) from error

    async def _known(self) -> None:
        """Return when the server has heard what was sent to it. Raises UNAVAILABLE."""
        try:
            async with self._connection.unbroken():
                await self._connection.client.flush(timeout=self._patience)  # type: ignore[arg-type]
        except (nats.errors.Error, OSError) as error:
            raise translated(error, SUBJECT) from error


def _subject(namespace: str, topic: str) -> str:
    return f"{PREFIX}{namespace}.{topic}"


def _encoded(message: Message) -> bytes:
    header = json.dumps(dict(message.header)).encode() if message.header else b""
    return b"".join((len(header).to_bytes(4), header, message.body))


def _decoded(raw: Msg, start: int) -> Message:
    data = raw.data
    end = 4 + int.from_bytes(data[:4])
    header = json.loads(data[4:end]) if end > 4 else {}
    return Message(raw.subject[start:], data[end:], header)


async def _closed(subscription: Subscription | None) -> None:
    if subscription is None:
        return
    try:
        await subscription.unsubscribe()
    except (nats.errors.Error, OSError):
        return  # it ended with the connection
