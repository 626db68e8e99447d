"""The statements that change tables, for whoever holds a database's row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from micro.backends.postgres._errors import FAILURES
from micro.backends.postgres._rows import CAUSES, packed, stored
from micro.backends.postgres._server import Connection
from micro.domain import errors
from micro.domain.record import BATCH_BYTES, Commit, Record

_CHANGE_BYTES = 100
"""What a change is taken to need in the history beside its key and value."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A database whose row is held until the transaction ends."""

    id: int
    revision: int
    written: int


class Transaction:
    """One on a connection, which knows whether it may have happened when the connection is lost."""

    def __init__(self) -> None:
        self.in_doubt = False
        self.keep = True
        """Turned off by what has changed nothing."""

    @asynccontextmanager
    async def on(self, connection: Connection) -> AsyncIterator[None]:
        """Around what it does; rolled back by any error."""
        self.in_doubt, self.keep = False, True
        under = connection.transaction(isolation="read_committed")
        await under.start()
        try:
            yield
        except BaseException:
            with suppress(*FAILURES):
                await under.rollback()
            raise
        if not self.keep:
            await under.rollback()
            return
        self.in_doubt = True
        await under.commit()
        self.in_doubt = False


_LOCK = "SELECT id, revision, written FROM databases WHERE name = $1 FOR UPDATE"

_MAKE = """
    INSERT INTO databases AS d (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = d.name
    RETURNING id, revision, written"""

# Of values that are more than one answer holds, none comes over the wire.
_TOUCHED = f"""
    SELECT place, key, version, expires, metadata, size,
        CASE WHEN whole AND size <= {BATCH_BYTES} THEN value END AS value
    FROM (
        SELECT w.place, w.whole, r.key, r.version, r.expires, r.metadata, r.value,
            sum(CASE WHEN w.whole THEN length(r.value) ELSE 0 END) OVER () AS size
        FROM unnest($2::int[], $3::text[], $4::bytea[], $5::bool[]) AS w (place, tab, key, whole)
        JOIN records r ON r.database = $1 AND r.tab = w.tab AND r.key = w.key
    ) t"""  # noqa: S608 - a number

_WRITE = """
    WITH change AS MATERIALIZED (
        SELECT * FROM unnest($5::int[], $6::bigint[], $7::smallint[], $8::bool[], $9::text[], $10::bytea[],
            $11::bigint[], $12::bigint[], $13::bytea[], $14::bytea[])
        AS c (position, start, cause, last, tab, key, version, expires, metadata, value)
    ), told AS (
        INSERT INTO history (database, revision, position, start, at, cause, tab, key, expires, metadata, value)
        SELECT $1, version, position, start, $4, cause, tab, key, expires, metadata, value FROM change
    ), gone AS (
        DELETE FROM records r USING change c
        WHERE c.last AND c.cause > 0 AND r.database = $1 AND r.tab = c.tab AND r.key = c.key
    ), put AS (
        INSERT INTO records (database, tab, key, version, expires, metadata, value)
        SELECT $1, tab, key, version, expires, metadata, value FROM change WHERE last AND cause = 0
        ON CONFLICT (database, tab, key) DO UPDATE
        SET version = excluded.version, expires = excluded.expires, metadata = excluded.metadata, value = excluded.value
    )
    UPDATE databases SET revision = $2, written = $3 WHERE id = $1
    RETURNING pg_notify(current_schema() || '_changes', name)"""


def channel(schema: str) -> str:
    """What is notified of a schema's changes, with the database's name."""
    return f"{schema}_changes"


async def lock(connection: Connection, database: str, *, make: bool) -> Locked | None:
    """Hold the database's row, made when there is none; None when it is not to be made."""
    row = await connection.fetchrow(_LOCK, database)
    if row is None and make:
        row = await connection.fetchrow(_MAKE, database)
    return None if row is None else Locked(*row)


async def touched(
    connection: Connection, locked: Locked, wanted: dict[tuple[str, str], bool]
) -> dict[tuple[str, str], Record | None]:
    """What is there, expired or not; with its value where that is wanted.

    Raises RESOURCE_EXHAUSTED for values of more than BATCH_BYTES, which no single batch may read."""
    places = list(wanted)
    rows = await connection.fetch(
        _TOUCHED,
        locked.id,
        list(range(len(places))),
        [table for table, _ in places],
        [key.encode() for _, key in places],
        list(wanted.values()),
    )
    if rows and rows[0]["size"] > BATCH_BYTES:
        raise errors.resource_exhausted(f"the batch reads more than {BATCH_BYTES:,} bytes: read in several batches")
    return {places[row["place"]]: stored(row) for row in rows}


async def write(connection: Connection, locked: Locked, commits: Sequence[Commit], now: int) -> None:
    """Apply what commits change, keep it in the history, and tell those that watch."""
    rows: list[tuple[Any, ...]] = []
    last: dict[tuple[str, str], int] = {}
    written = locked.written
    for commit in commits:
        start = written
        for position, change in enumerate(commit.changes):
            row = packed(change.table, change.record)
            last[change.table, change.record.key] = len(rows)
            rows.append((position, start, CAUSES.index(change.cause), False, *row))
            written += len(row[1]) + len(row[4]) + len(row[5]) + _CHANGE_BYTES
    for place in last.values():
        rows[place] = (*rows[place][:3], True, *rows[place][4:])
    columns = [list(column) for column in zip(*rows, strict=True)]
    await connection.fetch(_WRITE, locked.id, commits[-1].revision, written, now, *columns)
