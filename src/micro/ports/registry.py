"""Where registrations are kept: a map with a history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from micro.domain.registrations import Synced
from micro.domain.service import Change, Registration


class Registry(ABC):
    """Registrations by key, each change numbered by a revision that only grows.

    Leases are not this port's business: the registry service holds them and deletes what expired, so that neither a
    restart nor a suspended machine makes everything expire at once.
    """

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Connect. Raises UNAVAILABLE when the state cannot be reached within 10 s."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether the state can be reached, as far as is known without asking."""

    @abstractmethod
    async def put(self, registration: Registration) -> int:
        """Store under the registration's key, replacing what is there. Durable when it returns.

        Returns the revision in which it is visible to watchers. Putting what is already there returns the revision
        that put it there and is no change itself. Raises UNAVAILABLE when it cannot be stored; then nothing changed,
        or it changed whole. Raises RESOURCE_EXHAUSTED when it is too large.
        """

    @abstractmethod
    async def delete(self, key: tuple[str, str, str], *, expired: bool = False) -> int:
        """Remove; returns the revision in which it is gone. Removing what is absent is no change itself, and returns
        a revision at most that of the last change.

        `expired` travels to the watchers with the change. Raises as `put` does.
        """

    @abstractmethod
    async def snapshot(self) -> tuple[int, list[Registration]]:
        """Everything, sorted by key, with the revision it belongs to."""

    @abstractmethod
    def watch(self, after: int = 0) -> AsyncGenerator[Change | Synced]:
        """Changes with a revision greater than `after`, in order, none missing, for ever.

        Between the changes that were there when the watch began and those that come later stands one Synced. Several
        changes of one key may be folded into its last. From 0 on, absent keys are left out before the Synced. A watch
        goes on by itself through a lost connection. A backend that does not remember the history after `after`, or
        that never came as far, raises OUT_OF_RANGE, at the beginning or later: the watcher begins anew from 0.
        """
