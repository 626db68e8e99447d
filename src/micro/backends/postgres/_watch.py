"""Changes, followed: told by NOTIFY, read from the history, so that what is told twice or never does not matter."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from micro.backends.postgres._errors import FAILURES
from micro.backends.postgres._rows import CAUSES, stored
from micro.backends.postgres._server import ATTEMPT_SECONDS, Connection, Server, ended
from micro.domain import backoff, errors
from micro.domain.errors import Error, Kind
from micro.domain.record import BATCH_OPERATIONS, Change, Commit
from micro.ports import background

log = logging.getLogger("micro.postgres")

POLL_SECONDS = 5.0
"""How often a watch looks by itself, should no notification come through."""

_END = (1 << 63) - 1
"""After all revisions."""

_ROWS = 2 * BATCH_OPERATIONS
"""Changes read at once: one commit at least, however large."""

_BYTES = 8 << 20
"""Of the commits read at once, but for the last one's."""


class Listener:
    """A connection that listens, comes back by itself, and knows soonest whether the server is there."""

    def __init__(self, server: Server, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def start(self, stack: AsyncExitStack) -> None:
        stack.callback(self._wake)
        background.spawn(stack, self._listen(), "PostgreSQL listener")

    @contextmanager
    def changes(self, database: str) -> Iterator[asyncio.Event]:
        """An event that is set when a database has changed, or may have."""
        event = asyncio.Event()
        self._waiting[database].add(event)
        try:
            yield event
        finally:
            self._waiting[database].discard(event)
            if not self._waiting[database]:
                del self._waiting[database]

    async def _listen(self) -> None:
        delays = backoff.exponential(0.05, cap=2.0)
        while True:
            try:
                connection = await self._server.connect()
            except FAILURES as error:
                log.debug("%s", self._server.failed(error))
                await asyncio.sleep(next(delays))
                continue
            delays = backoff.exponential(0.05, cap=2.0)
            try:
                await self._follow(connection)
            except FAILURES as error:
                log.debug("%s", self._server.failed(error))
            finally:
                await ended(connection)
            self._server.reachable = False
            log.warning("PostgreSQL at %s: connection lost, connecting again", self._server.place)

    async def _follow(self, connection: Any) -> None:
        """Until the connection is lost."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(self._channel, lambda _c, _pid, _channel, database: self._wake(database))
        self._server.reachable = True
        self._wake()  # something may have happened while nobody listened
        while not lost.is_set():
            await _set_within(lost, POLL_SECONDS)
            if not lost.is_set():
                await connection.execute("SELECT 1", timeout=ATTEMPT_SECONDS)  # one that is half open says nothing

    def _wake(self, database: str | None = None) -> None:
        found = self._waiting.values() if database is None else [self._waiting.get(database, set())]
        for event in (each for events in found for each in events):
            event.set()


_NEXT = f"""
    SELECT d.id, d.revision AS latest, h.* FROM databases d LEFT JOIN LATERAL (
        SELECT h.revision AS version, h.position, h.cause, h.tab, h.key, h.expires, h.metadata, h.value
        FROM history h
        WHERE h.database = d.id AND h.revision > $2 AND h.start < {_BYTES} + (
            SELECT f.start FROM history f WHERE f.database = d.id AND f.revision > $2 ORDER BY f.revision LIMIT 1)
        ORDER BY h.revision, h.position LIMIT {_ROWS}
    ) h ON true WHERE d.name = $1 ORDER BY h.version, h.position"""  # noqa: S608 - numbers


@dataclass(frozen=True, slots=True)
class _Seen:
    """A database as it was at one moment: None and 0 when there was none, and what came next in its history."""

    id: int | None
    latest: int
    commits: list[Commit]


class Watches:
    """The history of each database, read from where somebody is; once for all who are at the same place."""

    def __init__(self, server: Server, listener: Listener) -> None:
        self._server = server
        self._listener = listener
        self._tasks = background.OwnedTasks()
        self._asked: dict[tuple[str, int | None], asyncio.Task[_Seen | Error]] = {}
        """Not sent yet: what they will see is no older than anybody's question."""

    async def start(self, stack: AsyncExitStack) -> None:
        await self._tasks.start(stack)

    async def watch(self, database: str, after: int | None) -> AsyncGenerator[Commit]:
        """As the port's."""
        known: int | None = None
        with self._listener.changes(database) as changed:
            while True:
                changed.clear()
                seen = await self._seen(database, after, changed)
                if known is not None and seen.id != known:
                    raise errors.out_of_range(f"database {database} was removed: there is nothing to watch any more")
                known = seen.id
                after = seen.latest if after is None else after
                _check(database, after, seen)
                for commit in seen.commits:
                    after = commit.revision
                    yield commit
                if after == seen.latest:
                    await _set_within(changed, POLL_SECONDS)

    async def _seen(self, database: str, after: int | None, changed: asyncio.Event) -> _Seen:
        """As soon as the server can be reached."""
        delays = backoff.exponential(0.05, cap=1.0)
        while True:
            if (task := self._asked.get((database, after))) is None:
                task = self._tasks.spawn(self._read(database, after), f"watch of {database}")
                self._asked[database, after] = task
            await asyncio.wait([task])  # which goes on for the others when this one is cancelled
            found = errors.unavailable("the store was closed") if task.cancelled() else task.result()
            if isinstance(found, _Seen):
                return found
            if found.kind is not Kind.UNAVAILABLE or self._server.closed:
                raise found
            await _set_within(changed, next(delays))
            changed.clear()

    async def _read(self, database: str, after: int | None) -> _Seen | Error:
        del self._asked[database, after]

        async def read(connection: Connection) -> _Seen:
            rows = await connection.fetch(_NEXT, database, _END if after is None else after)
            return _Seen(rows[0]["id"], rows[0]["latest"], _commits(rows)) if rows else _Seen(None, 0, [])

        try:
            return await self._server.run(read)
        except Error as error:
            return error


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _check(database: str, after: int, seen: _Seen) -> None:
    """Raises OUT_OF_RANGE when the history does not go on from there. Revisions have no gap."""
    if after > seen.latest:
        raise errors.out_of_range(
            f"database {database} is at revision {seen.latest}, not yet at {after}: read anew, and watch after that "
            "revision"
        )
    if after < seen.latest and (not seen.commits or seen.commits[0].revision != after + 1):
        raise errors.out_of_range(
            f"the history of database {database} does not reach back to revision {after}: read anew, and watch after "
            "that revision"
        )


def _commits(rows: list[Any]) -> list[Commit]:
    """Whole ones: the last of a full page may be there in part."""
    if len(rows) == _ROWS:
        rows = [row for row in rows if row["version"] != rows[-1]["version"]]
    changes: dict[int, list[Change]] = {}
    for row in (row for row in rows if row["version"] is not None):
        changes.setdefault(row["version"], []).append(Change(row["tab"], stored(row), CAUSES[row["cause"]]))
    return [Commit(revision, tuple(each)) for revision, each in changes.items()]
