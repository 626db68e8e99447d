"""Records in dicts: the reference that other backends are compared with, and what tests and scripts work on."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import islice

from micro.backends.memory.feed import Feed
from micro.domain import errors, record
from micro.domain.record import Cause, Change, Commit, Committed, Durability, Operation, Page, Query, Record
from micro.ports import store
from micro.ports.store import HISTORY_BYTES, HISTORY_SECONDS, PAGE_BYTES, PAGE_RECORDS, SWEEP_SECONDS, Kept, Now, Store

_SWEPT = 1000
"""Records that one sweep removes at most."""


@dataclass(slots=True)
class _Table:
    records: dict[bytes, Record] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)

    def put(self, record: Record) -> None:
        key = record.key.encode()
        if key not in self.records:
            insort(self.keys, key)
        self.records[key] = record

    def remove(self, key: bytes) -> None:
        if self.records.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class _Database:
    def __init__(self, name: str) -> None:
        self.feed = Feed(name)
        self.tables: dict[str, _Table] = {}
        self.ends: list[tuple[int, str, bytes]] = []
        """A heap of when records end. Those that were changed since are still in it."""

    @property
    def revision(self) -> int:
        return self.feed.revision

    def find(self, table: str, key: str) -> Record | None:
        found = self.tables.get(table)
        return None if found is None else found.records.get(key.encode())

    def apply(self, commit: Commit, now: int) -> None:
        for change in commit.changes:
            if change.cause is Cause.WRITTEN:
                self.put(change.table, change.record)
            else:
                self.tables[change.table].remove(change.record.key.encode())
        self.feed.add(commit, now)
        self.feed.shorten(HISTORY_BYTES, now - int(HISTORY_SECONDS * 1000))

    def put(self, table: str, record: Record) -> None:
        self.tables.setdefault(table, _Table()).put(record)
        if record.expires is not None:
            heapq.heappush(self.ends, (record.expires, table, record.key.encode()))

    def due(self) -> int | None:
        """When the first record ends that is still there."""
        while self.ends:
            end, table, key = self.ends[0]
            found = self.tables[table].records.get(key) if table in self.tables else None
            if found is not None and found.expires == end:
                return end
            heapq.heappop(self.ends)
        return None

    def sweep(self, now: int) -> None:
        """Remove what has ended, in the order that it did."""
        while True:
            changes: dict[tuple[str, bytes], Change] = {}
            while len(changes) < _SWEPT and (end := self.due()) is not None and end <= now:
                _, table, key = heapq.heappop(self.ends)
                changes[table, key] = Change(table, Record(key.decode(), version=self.revision + 1), Cause.EXPIRED)
            if not changes:
                return
            self.apply(Commit(self.revision + 1, tuple(changes.values())), now)


class MemoryStore(Store):
    """Everything is lost with the process."""

    def __init__(self, *, clock: Now = store.now) -> None:
        self._clock = clock
        self._databases: dict[str, _Database] = {}
        self._look = asyncio.Event()

    @property
    def durability(self) -> Durability:
        return Durability.MEMORY

    async def start(self, stack: AsyncExitStack) -> None:
        sweeper = asyncio.create_task(self._sweep())  # owned: by the stack
        stack.push_async_callback(_end, sweeper)

    def healthy(self) -> bool:
        return True

    async def commit(self, database: str, operations: Sequence[Operation]) -> Committed:
        now = self._clock()
        found = self._databases.get(database) or _Database(database)
        committed, commit = record.decide(
            operations, lambda one: found.find(one.table, one.key), found.revision, self._nudge(found, now)
        )
        if commit is not None:
            self._databases[database] = found
            found.apply(commit, now)
            if any(change.record.expires is not None for change in commit.changes):
                self._look.set()
        return committed

    async def read(self, database: str, table: str, key: str) -> Record | None:
        if (found := self._databases.get(database)) is None:
            return None
        now = self._nudge(found, self._clock())
        there = found.find(table, key)
        return there if there is not None and there.live(now) else None

    async def scan(self, database: str, table: str, query: Query) -> Page:
        found = self._databases.get(database)
        if found is None or table not in found.tables:
            return Page((), 0 if found is None else found.revision)
        now = self._nudge(found, self._clock())
        place, ending = found.tables[table], query.suffix.encode()
        low, high = query.bounds()
        keys = place.keys[bisect_left(place.keys, low) : bisect_left(place.keys, high) if high else None]
        found_live = (
            place.records[key]
            for key in (reversed(keys) if query.descending else keys)
            if key.endswith(ending) and place.records[key].live(now)
        )
        most = min(query.limit or PAGE_RECORDS, PAGE_RECORDS)
        first = min(query.offset, len(keys))
        live = list(islice(found_live, first, first + most + 1))
        records: list[Record] = []
        size = 0
        for each in live[:most]:
            told = replace(each, value=b"", metadata={}) if query.keys_only else each
            size += record.size(told)
            if records and size > PAGE_BYTES:
                break
            records.append(told)
        return Page(tuple(records), found.revision, len(records) < len(live))

    async def databases(self) -> list[str]:
        return sorted(name for name, each in self._databases.items() if each.revision)

    async def tables(self, database: str) -> list[str]:
        if (found := self._databases.get(database)) is None:
            return []
        now = self._nudge(found, self._clock())
        return sorted(
            name for name, table in found.tables.items() if any(each.live(now) for each in table.records.values())
        )

    async def revision(self, database: str) -> int:
        return found.revision if (found := self._databases.get(database)) else 0

    async def watch(self, database: str, after: int | None = None) -> AsyncGenerator[Commit]:
        feed = self._databases.setdefault(database, _Database(database)).feed
        place = feed.revision if after is None else after
        while True:
            feed.check(place)
            if place < feed.floor:
                raise feed.gone(place)
            if (commit := feed.next(place)) is None:
                await feed.wait()
            else:
                place = commit.revision
                yield commit

    async def dump(self, database: str) -> AsyncIterator[Kept]:
        if (found := self._databases.get(database)) is None:
            return
        now = self._nudge(found, self._clock())
        copy = [
            Kept(name, table.records[key])
            for name, table in sorted(found.tables.items())
            for key in table.keys
            if table.records[key].live(now)
        ]
        for each in copy:
            yield each

    async def load(self, database: str, records: AsyncIterator[Kept], *, above: int = 0) -> int:
        staged: dict[tuple[str, str], Record] = {}
        async for each in records:
            place = each.table, each.record.key
            if place in staged:
                raise errors.invalid_argument(f"{each.record.key!r} of table {each.table} comes twice")
            staged[place] = each.record
        found = self._databases.setdefault(database, _Database(database))
        now, revision = self._clock(), max(found.revision, above) + 1
        found.tables.clear()
        found.ends.clear()
        count = 0
        for (table, _), one in staged.items():
            if one.live(now):
                found.put(table, replace(one, version=revision, metadata=record.normal(one.metadata)))
                count += 1
        found.feed.reset(revision)
        self._look.set()
        return count

    async def drop(self, database: str) -> None:
        if (found := self._databases.pop(database, None)) is not None:
            found.feed.drop()

    def _nudge(self, database: _Database, now: int) -> int:
        """Let the sweeper look when there is something for it; returns `now`."""
        if database.ends and database.ends[0][0] <= now:
            self._look.set()
        return now

    async def _sweep(self) -> None:
        """Remove what ends, when it does. Looks at its clock now and then, as that may be set."""
        while True:
            self._look.clear()
            now = self._clock()
            for each in self._databases.values():
                each.sweep(now)
            ends = [end for each in self._databases.values() if (end := each.due()) is not None]
            delay = min(max(0.001, (min(ends) - now) / 1000), SWEEP_SECONDS / 2) if ends else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._look.wait()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
