"""Records, looked for. Statements name no schema: each connection has its own as search path.

`now` is in milliseconds since 1970: what has expired is passed over.
"""

from __future__ import annotations

from typing import Any

from micro.backends.postgres._rows import stored
from micro.backends.postgres._server import Connection
from micro.domain.record import Page, Query, Record
from micro.ports.store import PAGE_BYTES, PAGE_RECORDS, Kept

_MOST_OFFSET = 1 << 62


def _sized(matching: str, order: str, limit: str) -> str:
    """So many of the rows that match, as far as they fit a page, one at least; `found` tells how many match."""
    return f"""
        SELECT * FROM (
            SELECT m.*, row_number() OVER w AS number, count(*) OVER () AS found,
                sum(length(key) + length(metadata) + length(value)) OVER w AS size
            FROM ({matching}) m WINDOW w AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)
        ) n WHERE number <= {limit} AND (size <= {PAGE_BYTES} OR number = 1)"""  # noqa: S608 - numbers and names


_POINT = """
    SELECT r.key, r.version, r.expires, r.metadata, r.value FROM databases d JOIN records r ON r.database = d.id
    WHERE d.name = $1 AND r.tab = $2 AND r.key = $3"""

_DATABASES = "SELECT name FROM databases WHERE revision > 0 ORDER BY name"

_REVISION = "SELECT revision FROM databases WHERE name = $1"

# From each table to the next one, however many records lie between.
_TABLES = """
    WITH RECURSIVE d AS (SELECT id FROM databases WHERE name = $1), t AS (
        SELECT (
            SELECT r.tab FROM records r WHERE r.database = d.id AND (r.expires IS NULL OR r.expires > $2)
            ORDER BY r.tab LIMIT 1
        ) AS tab FROM d
        UNION ALL
        SELECT (
            SELECT r.tab FROM records r
            WHERE r.database = d.id AND r.tab > t.tab AND (r.expires IS NULL OR r.expires > $2)
            ORDER BY r.tab LIMIT 1
        ) FROM t, d WHERE t.tab IS NOT NULL
    ) SELECT tab FROM t WHERE tab IS NOT NULL"""

_COPIED = _sized(
    f"""
        SELECT r.tab, r.key, r.version, r.expires, r.metadata, r.value FROM records r
        WHERE r.database = $1 AND (r.expires IS NULL OR r.expires > $2) AND (r.tab, r.key) > ($3, $4)
        ORDER BY r.tab, r.key LIMIT {PAGE_RECORDS}""",  # noqa: S608 - a number
    order="tab, key",
    limit=str(PAGE_RECORDS),
)


async def record(connection: Connection, database: str, table: str, key: str, now: int) -> Record | None:
    """The one under a key."""
    row = await connection.fetchrow(_POINT, database, table, key.encode())
    return found if row is not None and (found := stored(row)).live(now) else None


async def databases(connection: Connection) -> list[str]:
    """Those that something was written to."""
    return [row[0] for row in await connection.fetch(_DATABASES)]


async def revision(connection: Connection, database: str) -> int:
    """0 for a database that there is none of."""
    return await connection.fetchval(_REVISION, database) or 0


async def tables(connection: Connection, database: str, now: int) -> list[str]:
    """Those with live records."""
    return [row[0] for row in await connection.fetch(_TABLES, database, now)]


async def page(connection: Connection, database: str, table: str, query: Query, now: int) -> Page:
    """As the port's `scan`, in one statement: so of one state."""
    low, high = query.bounds()
    limit = min(query.limit or PAGE_RECORDS, PAGE_RECORDS)
    given: list[Any] = [database, table, now, low, limit, min(query.offset, _MOST_OFFSET)]
    given += [text for text in (high, query.suffix.encode()) if text]
    rows = await connection.fetch(_statement(query, ends=bool(high)), *given)
    if not rows:
        return Page((), 0)
    records = tuple(stored(row) for row in rows if row["key"] is not None)
    return Page(records, rows[0]["revision"], bool(records) and rows[0]["found"] > len(records))


async def copied(connection: Connection, id_: int, after: Kept | None, now: int) -> list[Kept]:
    """A page of all records of a database, by table and key."""
    place = ("", b"") if after is None else (after.table, after.record.key.encode())
    return [Kept(row["tab"], stored(row)) for row in await connection.fetch(_COPIED, id_, now, *place)]


def _statement(query: Query, *, ends: bool) -> str:
    """One for each shape that a question can have."""
    order = "key DESC" if query.descending else "key"
    content = "''::bytea AS metadata, ''::bytea AS value" if query.keys_only else "r.metadata, r.value"
    where = "r.database = d.id AND r.tab = $2 AND (r.expires IS NULL OR r.expires > $3) AND r.key >= $4"
    if ends:
        where += " AND r.key < $7"
    if query.suffix:
        suffix = "$8" if ends else "$7"
        where += f" AND substr(r.key, greatest(length(r.key) - length({suffix}::bytea) + 1, 1)) = {suffix}"
    matching = f"""
        SELECT r.key, r.version, r.expires, {content} FROM records r WHERE {where} ORDER BY r.{order}
        LIMIT $5 + 1 OFFSET $6"""  # noqa: S608 - nothing of the question is in it
    return f"""
        SELECT d.revision, p.* FROM databases d LEFT JOIN LATERAL ({_sized(matching, order, "$5")}) p ON true
        WHERE d.name = $1 ORDER BY p.number"""  # noqa: S608 - nor here
