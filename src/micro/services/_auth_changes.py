"""How state is changed: one change of a thing after the other, each to its end, and each at a moment of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar
from weakref import WeakValueDictionary

from micro.domain import errors, names
from micro.domain.token import SKEW_SECONDS
from micro.ports.announcements import AUTH, Announcements, Silent
from micro.ports.background import OwnedTasks
from micro.ports.identity import Entry

T = TypeVar("T")

log = logging.getLogger("micro.auth")

STEP = 1e-6

_TYPES = {
    "account.create": "account.created",
    "account.delete": "account.deleted",
    "account.secret": "secret.changed",
    "account.reset": "secret.changed",
    "account.scopes": "scopes.changed",
    "rule.create": "rule.created",
    "rule.update": "rule.updated",
    "rule.delete": "rule.deleted",
    "session.revoke": "session.revoked",
    "session.end": "session.revoked",
    "session.reuse": "session.revoked",
    "key.rotate": "keys.rotated",
    "namespace.create": "namespace.created",
    "namespace.quota": "namespace.updated",
    "namespace.delete": "namespace.deleted",
}
"""What is announced of the audit log's actions: not logins, which are many."""


class Moments:
    """Seconds since 1970, to the microsecond, each later than the last one, so that "made before" is never in doubt.

    Follows a clock that is set back by more than tokens allow for.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._last = 0.0

    def now(self) -> float:
        """The time, which may be the same twice."""
        return self._now()

    def next(self) -> float:
        """A moment after all that were given before."""
        now = self._now()
        if self._last - SKEW_SECONDS <= now <= self._last:
            now = self._last + STEP
        self._last = round(now, 6)
        return self._last


class Changes:
    """What is stored must be told too, even when whoever asked for it has gone in between.

    Args:
        announcements: who hears of it, besides those who keep to it.
    """

    def __init__(self, announcements: Announcements | None = None) -> None:
        self._announcements = announcements or Silent()
        self._tasks = OwnedTasks()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self, stack: AsyncExitStack) -> None:
        await self._tasks.start(stack)

    async def run(self, subject: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work when no other about the subject is going on, and return what it does. It is not cancelled."""
        done = await asyncio.shield(self._tasks.spawn(self._alone(subject, work), f"changing {subject}"))
        if isinstance(done, errors.Error):
            raise done
        return done

    def later(self, subject: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work in its turn, as `run` does; nobody waits for it."""
        self._tasks.spawn(self._reported(subject, work), f"changing {subject}")

    def announce(self, entry: Entry) -> None:
        """Announce what has just been stored with that line of the audit log. About whom and by whom, no more: the
        rest is for those who administer the namespace.

        Called in the change itself, so that the order is right.
        """
        type_ = _TYPES[entry.action]
        subject = type_.partition(".")[0]
        namespace, target = entry.namespace, entry.target
        if subject == "namespace":
            namespace = names.DEFAULT_NAMESPACE
        elif subject in ("rule", "keys"):
            subject, target = subject.removesuffix("s"), target.partition(": ")[0]
        elif entry.action.startswith("session.") and "/" not in target:
            subject = "session"
        else:
            subject, target = "account", target.partition("/")[2]
        by = {"by": entry.actor} if entry.actor else {}  # who shows a token that has served is not known
        self._announcements.tell(namespace, AUTH, type_, {subject: target, **by})

    async def _alone(self, subject: str, work: Callable[[], Awaitable[T]]) -> T | errors.Error:
        """An answer other than success is no fault of the task's."""
        async with self._locks.setdefault(subject, asyncio.Lock()):
            try:
                return await work()
            except errors.Error as error:
                return error

    async def _reported(self, subject: str, work: Callable[[], Awaitable[None]]) -> None:
        if (failed := await self._alone(subject, work)) is not None:
            log.warning("%s could not be changed: %s", subject, failed)
