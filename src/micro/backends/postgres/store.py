"""Records on a PostgreSQL server, 13 or newer, which several processes may share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack

from micro.backends.postgres import _scan, _schema, _tables
from micro.backends.postgres._commits import Committer
from micro.backends.postgres._copies import Copies
from micro.backends.postgres._server import CONNECT_SECONDS, Server
from micro.backends.postgres._upkeep import Upkeep
from micro.backends.postgres._watch import Listener, Watches
from micro.domain.record import Commit, Committed, Durability, Operation, Page, Query, Record
from micro.ports import store
from micro.ports.store import Kept, Now, Store


class PostgresStore(Store):
    """Tables in one schema of a server, made and brought up to date by `start`; the pool reconnects by itself.

    Watches are told by LISTEN/NOTIFY, and look every 5 seconds as well should a notification not come through. A pooler
    in front of the server has to pool sessions, not transactions.
    """

    def __init__(
        self, url: str, schema: str = "micro", *, clock: Now = store.now, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        """
        Args:
            url: "postgresql://USER:PASSWORD@HOST:PORT/DATABASE", or with postgres://; options of libpq as ?NAME=VALUE.
            schema: what else is in it stays as it is; stores of the same schema share everything.
            clock: tells what has expired; the same for all that share a schema, or nearly.
            connect_seconds: how long `start` tries to reach a server that does not answer.

        Raises:
            Error: INVALID_ARGUMENT for a url or schema that cannot be one.
        """
        self._server = Server(url, schema)
        self._clock = clock
        self._connect_seconds = connect_seconds
        self._committer = Committer(self._server, clock)
        self._copies = Copies(self._server, clock)
        self._listener = Listener(self._server, _tables.channel(schema))
        self._watches = Watches(self._server, self._listener)
        self._upkeep = Upkeep(self._server, clock)

    @property
    def place(self) -> str:
        """HOST:PORT/DATABASE, to be shown: without user and password."""
        return self._server.place

    @property
    def durability(self) -> Durability:
        return Durability.SERVER

    async def start(self, stack: AsyncExitStack) -> None:
        await self._server.start(stack, self._connect_seconds, lambda it: _schema.migrate(it, self._server))
        await self._listener.start(stack)
        await self._watches.start(stack)
        await self._upkeep.start(stack)
        await self._committer.start(stack)

    def healthy(self) -> bool:
        return self._server.reachable

    async def commit(self, database: str, operations: Sequence[Operation]) -> Committed:
        return await self._committer.commit(database, operations)

    async def read(self, database: str, table: str, key: str) -> Record | None:
        return await self._server.run(lambda it: _scan.record(it, database, table, key, self._clock()))

    async def scan(self, database: str, table: str, query: Query) -> Page:
        return await self._server.run(lambda it: _scan.page(it, database, table, query, self._clock()))

    async def databases(self) -> list[str]:
        return await self._server.run(_scan.databases)

    async def tables(self, database: str) -> list[str]:
        return await self._server.run(lambda it: _scan.tables(it, database, self._clock()))

    async def revision(self, database: str) -> int:
        return await self._server.run(lambda it: _scan.revision(it, database))

    def watch(self, database: str, after: int | None = None) -> AsyncGenerator[Commit]:
        return self._watches.watch(database, after)

    def dump(self, database: str) -> AsyncIterator[Kept]:
        return self._copies.dump(database)

    async def load(self, database: str, records: AsyncIterator[Kept], *, above: int = 0) -> int:
        return await self._copies.load(database, records, above)

    async def drop(self, database: str) -> None:
        await self._copies.drop(database)
