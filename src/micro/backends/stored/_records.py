"""One database of a store as JSON values, changed by transactions: what one has read is still so when it writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.record import Check, Delete, Operation, Put, Query, Record
from micro.ports.store import Store

T = TypeVar("T")

BATCH = 400
"""Operations in one batch at most, where many records are removed."""

_ATTEMPTS = 200
"""How often a transaction begins anew. Of those that are in each other's way one gets on each time."""

_CONFLICTS = (Kind.ABORTED, Kind.ALREADY_EXISTS)


class Transaction:
    """Reads and writes that take effect together, at one moment, or not at all."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._read: dict[tuple[str, str], int] = {}
        self._written: dict[tuple[str, str], bytes | None] = {}

    async def read(self, table: str, key: str) -> Any | None:
        """The value as it was before the transaction; None when it is absent. Nobody changes it in between."""
        found = await self._records.record(table, key)
        self._read[table, key] = found.version if found else 0
        return None if found is None else self._records.decoded(table, found)

    async def read_all(self, *wanted: tuple[str, str]) -> list[Any | None]:
        """As `read`, of several tables and keys at a time."""
        return list(await asyncio.gather(*(self.read(table, key) for table, key in wanted)))

    def create(self, table: str, key: str, value: object) -> None:
        """Write where nothing is."""
        self._read[table, key] = 0
        self.write(table, key, value)

    def write(self, table: str, key: str, value: object) -> None:
        self._written[table, key] = encoded(value)

    def remove(self, table: str, key: str) -> None:
        self._written[table, key] = None

    def operations(self) -> list[Operation]:
        """What has to be committed; nothing where nothing was written."""
        if not self._written:
            return []
        checks = [Check(*place, version) for place, version in self._read.items() if place not in self._written]
        return [*checks, *(self._change(*place, value) for place, value in self._written.items())]

    def _change(self, table: str, key: str, value: bytes | None) -> Put | Delete:
        version = self._read.get((table, key))
        return Delete(table, key, version) if value is None else Put(table, key, value, if_version=version)


class Records:
    """A database.

    Methods raise what the store raises, and DATA_LOSS for a value that is none of ours.
    """

    def __init__(self, store: Store, database: str) -> None:
        self._store = store
        self._database = database

    async def start(self, stack: AsyncExitStack) -> None:
        await self._store.start(stack)

    def healthy(self) -> bool:
        return self._store.healthy() and self._database not in self._store.damaged()

    async def record(self, table: str, key: str) -> Record | None:
        return await self._store.read(self._database, table, key)

    async def read(self, table: str, key: str) -> Any | None:
        """The value; None when it is absent."""
        found = await self.record(table, key)
        return None if found is None else self.decoded(table, found)

    async def scan(self, table: str, query: Query) -> AsyncGenerator[Record]:
        """Every record that is asked for, page after page: as many as the query's limit, 0 for all."""
        left = query.limit
        while True:
            page = await self._store.scan(self._database, table, query)
            for record in page.records:
                yield record
            left -= len(page.records)
            if not page.more or not page.records or (query.limit and left <= 0):
                return
            query = replace(query, after=page.records[-1].key, offset=0, limit=left if query.limit else 0)

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do what `work` asks for. It is called anew for as long as others were in between, so it only reads through
        the transaction what it decides by, and changes nothing else. Raises what it raises."""
        for _ in range(_ATTEMPTS):
            transaction = Transaction(self)
            found = await work(transaction)
            operations = transaction.operations()
            try:
                if operations:
                    await self._store.commit(self._database, operations)
            except Error as error:
                if error.kind not in _CONFLICTS:
                    raise
            else:
                return found
        raise errors.unavailable(f"too many change the same part of {self._database} at the same time: try again")

    async def commit(self, operations: Sequence[Operation]) -> None:
        await self._store.commit(self._database, operations)

    async def remove(self, places: Iterable[tuple[str, str]]) -> None:
        """Remove records by table and key, some at a time."""
        left = list(places)
        for begin in range(0, len(left), BATCH):
            await self.commit([Delete(*place) for place in left[begin : begin + BATCH]])

    async def remove_below(self, table: str, prefix: str) -> None:
        """Remove all records whose keys begin so."""
        query = Query(prefix=prefix, limit=BATCH, keys_only=True)
        while found := [record.key async for record in self.scan(table, query)]:
            await self.remove((table, key) for key in found)

    def decoded(self, table: str, record: Record) -> Any:
        """What `encoded` made a value of."""
        try:
            return json.loads(record.value)
        except ValueError:
            raise errors.data_loss(
                f"{record.key!r} of table {table} in database {self._database} is damaged: restore a backup"
            ) from None


def encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
