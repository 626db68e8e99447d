"""Whose database and which table a call to the store is about, and the end of a database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

from micro.domain import errors, names
from micro.domain.record import check_table
from micro.ports import identity
from micro.ports.store import Store
from micro.services import _caller as caller

USERS_TABLE = "micro"
"""Where records of users are whose call names no table."""

SEARCHES = 2
"""Searches of one database at a time: half of what the backend with the fewest does of all."""

CLOSED_SECONDS = 60.0
"""How long a database that was purged takes nothing while its namespace is still there: who was deleted with it is
refused everywhere by then."""


class Databases:
    """The databases of a store: one a namespace.

    Args:
        store: where they are.
        exists: whether there is such a namespace.
        clock: seconds, for how long a database stays closed.
    """

    def __init__(
        self,
        store: Store,
        exists: Callable[[str], bool] = lambda namespace: True,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._exists = exists
        self._clock = clock
        self._closed: dict[str, float] = {}
        self._changing: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._searches: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, ctx: Any, asked: str) -> str:
        """The database that a call asks for; the caller's own for an empty name.

        Raises PERMISSION_DENIED when the caller does not belong there, NOT_FOUND when there is no such namespace.
        """
        namespace = caller.namespace(ctx, asked)
        if not self._exists(namespace):
            raise identity.no_namespace(namespace)
        return namespace

    @contextlib.asynccontextmanager
    async def searching(self, database: str) -> AsyncGenerator[None]:
        """Around what may read for long: some at a time, so that no namespace keeps the others waiting."""
        turns = self._searches.setdefault(database, asyncio.Semaphore(SEARCHES))
        async with turns:
            yield

    def closed(self, database: str) -> bool:
        """Whether it is being removed, or was a moment ago."""
        end = self._closed.get(database)
        if end is not None and self._clock() >= end:
            del self._closed[database]
            end = None
        return end is not None

    @contextlib.contextmanager
    def changing(self, database: str) -> Iterator[None]:
        """Around whatever changes a database. Raises FAILED_PRECONDITION while it is being removed, and NOT_FOUND when
        its namespace has gone since it was asked for."""
        if self._closed and self.closed(database):
            raise removed(database)
        if not self._exists(database):
            raise identity.no_namespace(database)
        self._changing[database] += 1
        try:
            yield
        finally:
            self._changing[database] -= 1
            if not self._changing[database]:
                del self._changing[database]
                self._idle.set()

    async def purge(self, database: str) -> None:
        """Remove a database; changes that were under way are over by then, and no other begins for a while."""
        self._closed[database] = self._clock() + CLOSED_SECONDS
        while self._changing[database]:
            self._idle.clear()
            await self._idle.wait()
        await self.store.drop(database)


def removed(database: str) -> errors.Error:
    """What is told of a database that takes nothing any more."""
    return errors.failed_precondition(f"everything of namespace {database} is being removed: try again later")


def table(ctx: Any, asked: str) -> str:
    """The table that a call asks for; for an empty name that of the service that calls, or "micro" for users.

    Raises INVALID_ARGUMENT for what cannot be one, and for the platform's own.
    """
    if not asked:
        account = ctx.actor or ctx.account
        return account.service or USERS_TABLE
    if asked.startswith("."):
        raise errors.invalid_argument(
            f"table {asked[:40]!r} is the platform's own: use a name that begins with a letter or a digit"
        )
    check_table(asked)
    return asked


def namespace_named(asked: str) -> str:
    """The namespace that a purge names. Raises INVALID_ARGUMENT when it names none."""
    if not asked:
        raise errors.invalid_argument("namespace is missing: say which one to purge")
    return names.namespace(asked)
