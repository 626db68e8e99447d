"""What is done beside the calls: expired records are removed and told, and old history goes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from micro.backends.postgres import _tables
from micro.backends.postgres._server import Connection, Server
from micro.backends.postgres._tables import Transaction
from micro.domain.errors import Error, Kind
from micro.domain.record import BATCH_OPERATIONS, Cause, Change, Commit, Record
from micro.ports import background, store
from micro.ports.store import SWEEP_SECONDS, Now

log = logging.getLogger("micro.postgres")

_TROUBLED_SECONDS = 30.0
"""Until it is tried again after what trying does not mend."""

_REVISIONS = 5000
"""Of the history, removed by one statement at most."""


_EXPIRED = f"""
    SELECT DISTINCT d.name FROM databases d JOIN (
        SELECT database FROM records WHERE expires <= $1 ORDER BY expires LIMIT {BATCH_OPERATIONS}
    ) r ON r.database = d.id"""  # noqa: S608 - a number

_ENDED = f"""
    SELECT tab, key FROM (
        SELECT database, expires, tab, key FROM records WHERE expires <= $2 ORDER BY expires LIMIT {BATCH_OPERATIONS}
    ) r WHERE r.database = $1 ORDER BY expires, tab, key"""  # noqa: S608 - a number

_OLD = """
    SELECT d.id, f.revision, coalesce((
        SELECT k.revision FROM history k
        WHERE k.database = d.id AND k.at >= $1 AND d.written - k.start <= $2 ORDER BY k.revision LIMIT 1
    ), d.revision)
    FROM databases d CROSS JOIN LATERAL (
        SELECT h.revision, h.at, h.start FROM history h WHERE h.database = d.id AND h.revision < d.revision
        ORDER BY h.revision LIMIT 1
    ) f WHERE f.at < $1 OR d.written - f.start > $2"""

_FORGET = "DELETE FROM history WHERE database = $1 AND revision < $2"


async def _forget(connection: Connection, database: int, before: int) -> None:
    await connection.execute(_FORGET, database, before)


class Upkeep:
    """Any number of processes may do it: what one has done under the database's lock, the others do not find."""

    def __init__(self, server: Server, clock: Now) -> None:
        self._server = server
        self._clock = clock

    async def start(self, stack: AsyncExitStack) -> None:
        background.spawn(stack, self._run(), "PostgreSQL upkeep")

    async def _run(self) -> None:
        while True:
            pause = SWEEP_SECONDS / 2  # the clock may be any, and others write as well
            try:
                while await self.sweep():
                    pass
                await self.shorten()
            except Error as error:
                if error.kind is not Kind.UNAVAILABLE:
                    log.error("upkeep: %s", error)
                    pause = _TROUBLED_SECONDS
            await asyncio.sleep(pause)

    async def sweep(self) -> int:
        """Remove some of what has expired; returns how many, 0 when nothing is left."""
        now = self._clock()
        names = await self._server.run(lambda it: it.fetch(_EXPIRED, now))
        return sum([await self._sweep(name, now) for (name,) in names])

    async def _sweep(self, database: str, now: int) -> int:
        async def work(connection: Connection) -> int:
            transaction = Transaction()
            async with transaction.on(connection):
                locked = await _tables.lock(connection, database, make=False)
                rows: list[Any] = [] if locked is None else await connection.fetch(_ENDED, locked.id, now)
                if locked is None or not rows:
                    transaction.keep = False
                    return 0
                revision = locked.revision + 1
                gone = [Record(row["key"].decode(), version=revision) for row in rows]
                changes = [Change(row["tab"], each, Cause.EXPIRED) for row, each in zip(rows, gone, strict=True)]
                await _tables.write(connection, locked, [Commit(revision, tuple(changes))], now)
            return len(rows)

        return await self._server.run(work)

    async def shorten(self) -> None:
        """Let go of history that is too old or too much; each database's last commit stays."""
        before = self._clock() - int(store.HISTORY_SECONDS * 1000)
        found = await self._server.run(lambda it: it.fetch(_OLD, before, store.HISTORY_BYTES))
        for id_, first, keep in found:
            for until in (*range(first + _REVISIONS, keep, _REVISIONS), keep):
                await self._server.run(partial(_forget, database=id_, before=until))
