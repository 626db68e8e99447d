"""Whole databases, read and replaced."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from micro.backends.postgres import _scan, _tables
from micro.backends.postgres._rows import Row, packed
from micro.backends.postgres._server import Connection, Server
from micro.backends.postgres._tables import Transaction
from micro.domain import errors
from micro.ports.store import PAGE_BYTES, PAGE_RECORDS, Kept, Now

_COLUMNS = ("tab", "key", "version", "expires", "metadata", "value")


_ID = "SELECT id FROM databases WHERE name = $1"

_STAGE = "CREATE TEMPORARY TABLE staged AS SELECT tab, key, version, expires, metadata, value FROM records LIMIT 0"

_PLAIN = "ALTER TABLE staged ALTER COLUMN value SET STORAGE EXTERNAL"

_TWICE = "SELECT tab, key FROM staged GROUP BY tab, key HAVING count(*) > 1 LIMIT 1"

_CLEAR = ("DELETE FROM records WHERE database = $1", "DELETE FROM history WHERE database = $1")

_SWAP = """
    INSERT INTO records (database, tab, key, version, expires, metadata, value)
    SELECT $1, tab, key, $2, expires, metadata, value FROM staged WHERE expires IS NULL OR expires > $3"""

_RAISE = "UPDATE databases SET revision = $2 WHERE id = $1 RETURNING pg_notify(current_schema() || '_changes', name)"

_REMOVE = "DELETE FROM databases WHERE id = $1 RETURNING pg_notify(current_schema() || '_changes', name)"


class Copies:
    """On connections of their own, as they take as long as whoever reads or gives the records."""

    def __init__(self, server: Server, clock: Now) -> None:
        self._server = server
        self._clock = clock

    async def dump(self, database: str) -> AsyncGenerator[Kept]:
        """As the port's: pages of one snapshot."""
        async with self._server.alone() as connection:
            with self._server.told():
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                found = await connection.fetchval(_ID, database)
            now, after = self._clock(), None
            while found is not None:
                with self._server.told():
                    page = await _scan.copied(connection, found, after, now)
                for after in page:
                    yield after
                if not page:
                    return

    async def load(self, database: str, records: AsyncIterator[Kept], above: int) -> int:
        """As the port's: staged beside the records, and put in their place in one transaction."""
        async with self._server.alone() as connection:
            with self._server.told():
                await connection.execute(_STAGE)
                await connection.execute(_PLAIN)
            async for rows in _chunks(records):
                with self._server.told():
                    await connection.copy_records_to_table("staged", records=rows, columns=_COLUMNS)
            with self._server.told():
                if twice := await connection.fetchrow(_TWICE):
                    raise errors.invalid_argument(f"{twice['key'].decode()!r} of table {twice['tab']} comes twice")
                return await self._swapped(connection, database, above)

    async def _swapped(self, connection: Connection, database: str, above: int) -> int:
        async with Transaction().on(connection):
            locked = await _tables.lock(connection, database, make=True)
            assert locked is not None
            for statement in _CLEAR:
                await connection.execute(statement, locked.id)
            revision = max(locked.revision, above) + 1
            status = await connection.execute(_SWAP, locked.id, revision, self._clock())
            await connection.fetch(_RAISE, locked.id, revision)
        return int(status.rpartition(" ")[2])

    async def drop(self, database: str) -> None:
        """As the port's."""
        async with self._server.alone() as connection:
            with self._server.told():
                async with Transaction().on(connection):
                    if (locked := await _tables.lock(connection, database, make=False)) is not None:
                        for statement in (*_CLEAR, _REMOVE):
                            await connection.fetch(statement, locked.id)


async def _chunks(records: AsyncIterator[Kept]) -> AsyncGenerator[list[Row]]:
    rows: list[Row] = []
    size = 0
    async for each in records:
        rows.append(packed(each.table, each.record))
        size += len(each.record.value)
        if len(rows) == PAGE_RECORDS or size >= PAGE_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows
