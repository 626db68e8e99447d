"""What the contract of the store is told with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import (
    Commit,
    Committed,
    Metadata,
    Operation,
    Put,
    Query,
)
from micro.ports.store import Kept, Store

DB, OTHER = "shop", "other"
PATIENCE = 30.0
"""Seconds for what should come at once."""

KEYS = ["a", "a\0b", "a/1", "a/2", "aé", "b", "b☃", "é", "\U00010348", "￿", "\U0010ffff"]
KEYS.sort(key=str.encode)
METADATA: Metadata = {
    "s": "é ☃ \0",
    "i": 2**53,
    "f": 1.5,
    "t": True,
    "n": None,
    "list": [1, "2", {"x": []}],
    "o": {"y": {}},
}
QUERIES = (
    Query(prefix="a"),
    Query(prefix="a/"),
    Query(prefix="é"),
    Query(prefix="\U0010ffff"),
    Query(prefix="a%"),
    Query(suffix="b"),
    Query(suffix="\0b"),
    Query(suffix="☃"),
    Query(suffix="_"),
    Query(prefix="a", suffix="1"),
    Query(start="a/1"),
    Query(until="b"),
    Query(start="a/2", until="b☃"),
    Query(start="b", until="a"),
    Query(prefix="a", start="a/1", until="aé"),
    Query(prefix="b", until="a"),
    Query(after="a/1"),
    Query(after="absent"),
    Query(after="a/1", prefix="a"),
    Query(after="z", suffix="b"),
)


class SettableClock:
    """A clock that goes only when the test says so, and always forward."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


def put(
    key: str,
    value: bytes = b"",
    *,
    table: str = "orders",
    expires: int | None = None,
    if_version: int | None = None,
) -> Put:
    return Put(table, key, value, expires, if_version=if_version)


async def refused(kind: Kind, call: Awaitable[object], *words: str) -> None:
    """The call fails with that kind, and says these words in one line."""
    with pytest.raises(errors.Error) as caught:
        await call
    assert caught.value.kind is kind, caught.value
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


async def write(store: Store, *operations: Operation, database: str = DB) -> Committed:
    return await store.commit(database, operations)


async def keys(store: Store, query: Query | None = None, table: str = "orders") -> list[str]:
    """Of a page, which tells the same when it is asked for keys alone."""
    page = await store.scan(DB, table, query or Query())
    found = [each.key for each in page.records]
    alone = await store.keys(DB, table, query or Query())
    assert list(alone.keys[: len(found)]) == found
    assert page.more or (len(alone.keys), alone.more) == (len(found), False)
    return found


async def everything(store: Store, database: str = DB) -> list[Kept]:
    return [each async for each in store.dump(database)]


async def given(records: Sequence[Kept]) -> AsyncIterator[Kept]:
    for each in records:
        yield each


class Contract:
    """What all parts of it share."""

    @pytest.fixture
    def clock(self) -> SettableClock:
        return SettableClock()


class Watching:
    """A watch that is under way."""

    def __init__(self, commits: AsyncGenerator[Commit]) -> None:
        self._commits = commits
        # owned: by `watching`
        self._next: asyncio.Task[Commit] = asyncio.ensure_future(anext(commits))

    async def commit(self) -> Commit:
        """The next one."""
        async with asyncio.timeout(PATIENCE):
            found = await self._next
        self._next = asyncio.ensure_future(anext(self._commits))  # owned: by `watching`
        return found

    async def until(self, revision: int) -> list[Commit]:
        """All up to that revision."""
        found = [await self.commit()]
        while found[-1].revision < revision:
            found.append(await self.commit())
        return found

    async def ends(self, kind: Kind) -> None:
        """It does, with that error."""
        async with asyncio.timeout(PATIENCE):
            await refused(kind, self._next)

    async def stop(self) -> None:
        self._next.cancel()
        await asyncio.wait([self._next])


@asynccontextmanager
async def watching(store: Store, after: int | None = None, database: str = DB) -> AsyncGenerator[Watching]:
    async with aclosing(store.watch(database, after)) as commits:
        watch = Watching(commits)
        try:
            yield watch
        finally:
            await watch.stop()
