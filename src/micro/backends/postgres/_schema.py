"""The tables, and how a schema gets them: numbered steps, each done once, whoever comes first.

`databases` has a row each, whose lock every change takes: so revisions have no gap and come in the order of commits.
`history` has a row for each change that can still be watched; `start` is how many bytes its database's history had ever
held before that commit. Keys are bytes, which order as Python's strings do and may hold a NUL. Names are text that
orders by bytes; metadata is JSON as bytes, since PostgreSQL's own holds no NUL and keeps no number as it was.
"""

from __future__ import annotations

import zlib
from typing import Any

from micro.backends.postgres._server import Connection, Server
from micro.backends.postgres._tables import Transaction
from micro.domain import errors

OLDEST_SERVER = 13

_FIRST = """
CREATE TABLE databases (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    revision bigint NOT NULL DEFAULT 0,
    written bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE records (
    database bigint NOT NULL,
    tab text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    version bigint NOT NULL,
    expires bigint,
    metadata bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (database, tab, key)
);
CREATE INDEX records_expires ON records (expires) WHERE expires IS NOT NULL;
CREATE TABLE history (
    database bigint NOT NULL,
    revision bigint NOT NULL,
    position integer NOT NULL,
    start bigint NOT NULL,
    at bigint NOT NULL,
    cause smallint NOT NULL,
    tab text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    expires bigint,
    metadata bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (database, revision, position)
);
ALTER TABLE records ALTER COLUMN value SET STORAGE EXTERNAL;
ALTER TABLE history ALTER COLUMN value SET STORAGE EXTERNAL;
"""

MIGRATIONS = (_FIRST,)


async def migrate(connection: Connection, server: Server) -> None:
    """Bring the schema up to date, or make it. Raises FAILED_PRECONDITION for one of a newer release."""
    found = connection.get_server_version().major
    if found < OLDEST_SERVER:
        raise errors.failed_precondition(
            f"PostgreSQL at {server.place} is version {found}: micro needs {OLDEST_SERVER} or newer"
        )
    async with Transaction().on(connection):
        # Whoever starts at the same time waits here; the statements after it see what that one has done.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", zlib.crc32(f"micro {server.schema}".encode()))
        await _up(connection, server)


async def _up(connection: Connection, server: Server) -> None:
    schema = server.schema
    if not await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema):
        await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
    )
    done: Any = await connection.fetchval("SELECT coalesce(max(version), 0) FROM migrations")
    if done > len(MIGRATIONS):
        raise errors.failed_precondition(
            f"schema {schema} of PostgreSQL at {server.place} was written by a newer release of micro (version {done}, "
            f"{len(MIGRATIONS)} is known): upgrade"
        )
    if done:
        await connection.execute("SELECT FROM databases, records, history LIMIT 0")  # they are there
    for number in range(done, len(MIGRATIONS)):
        await connection.execute(MIGRATIONS[number])
        await connection.execute("INSERT INTO migrations (version) VALUES ($1)", number + 1)
