"""What authors of services keep, over the store's own handlers on memory."""

# ruff: noqa: PT012 - what a block raises at its end is what is tested

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from gen.helloworld.helloworld_pb import Request
from micro import client, store
from micro.domain.errors import Error, Kind
from micro.framework.store import Cause
from micro.testing.local import LocalChannel
from micro.testing.platform import Platform, running

pytest_plugins = ("micro.testing.fixtures",)
pytestmark = pytest.mark.usefixtures("platform")


@dataclass
class Order:
    item: str
    count: int = 1


async def test_a_record_is_read_as_it_was_written() -> None:
    version = await store.write("1", Order("pen"), metadata={"by": "ann", "tries": 3, "at": [1.5]})
    found = await store.read("1", as_type=Order)
    assert found == store.Record("1", Order("pen"), version, None, {"by": "ann", "tries": 3, "at": [1.5]})
    assert (await store.read("1")).value == b'{"item":"pen","count":1}'
    await store.write("2", Request(name="Ann"))
    assert await store.get("2", as_type=Request) == Request(name="Ann")


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**53 - 1, 0.1, 1e300, True])
async def test_metadata_come_back_as_they_were_written(number: float) -> None:
    await store.write("k", "", metadata={"n": number, "in": [{"n": number}]})
    found = (await store.read("k")).metadata["n"]
    assert (found, type(found)) == (number, type(number))


@pytest.mark.parametrize(
    ("odd", "told"),
    [(2**53 + 1, "9007199254740993"), (-(2**60), "-1152921504606846976"), (b"x", "bytes"), (bytearray(b"x"), "bytes")],
)
async def test_metadata_that_would_come_back_as_something_else_are_refused(odd: Any, told: str) -> None:
    for metadata in ({"n": odd}, {"in": [1, {"n": (odd,)}]}):
        with pytest.raises(Error, match=f"the metadata of 'k' has .*{told}.* as a string") as caught:
            await store.write("k", "", metadata=metadata)
        assert caught.value.kind is Kind.INVALID_ARGUMENT
    with pytest.raises(Error, match=told):
        async with store.batch() as batch:
            batch.write("k", "", metadata={"n": odd})
    assert await store.get("k") is None


async def test_what_is_absent_is_not_found_or_the_default() -> None:
    with pytest.raises(Error, match="'nobody'") as caught:
        await store.read("nobody")
    assert caught.value.kind is Kind.NOT_FOUND
    assert await store.get("nobody") is None
    assert await store.get("nobody", 7, as_type=int) == 7
    assert not await store.delete("nobody")


async def test_the_wrong_type_names_the_key() -> None:
    await store.table("orders").write("1", "text")
    with pytest.raises(Error, match="the value of '1' in table orders is no int: it is not JSON") as caught:
        await store.table("orders", int).read("1")
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    with pytest.raises(TypeError, match="the value of 'x' cannot be kept"):
        await store.write("x", object())


async def test_a_record_lives_as_long_as_it_was_given() -> None:
    now = 1_000_000

    async with running(clock=lambda: now):
        await store.write("a", "1", ttl=1.5)
        await store.write("b", "1", ttl=dt.timedelta(minutes=1))
        assert (await store.read("a")).expiry == 1.5
        assert (await store.read("b")).expiry == 60
        now += 1500
        assert await store.get("a") is None
        assert await store.get("b") == b"1"
    with pytest.raises(Error, match="the ttl of 'a' is 0 s"):
        await store.write("a", "1", ttl=0)


async def test_conditions_are_about_versions() -> None:
    first = await store.write("a", "1", if_version=0)
    with pytest.raises(Error) as there:
        await store.write("a", "2", if_version=0)
    with pytest.raises(Error) as other:
        await store.write("a", "2", if_version=first + 1)
    with pytest.raises(Error) as gone:
        await store.delete("a", if_version=first + 1)
    kinds = [caught.value.kind for caught in (there, other, gone)]
    assert kinds == [Kind.ALREADY_EXISTS, Kind.ABORTED, Kind.ABORTED]
    assert await store.write("a", "2", if_version=first) > first
    assert await store.delete("a")


async def test_a_counter_loses_nothing() -> None:
    await asyncio.gather(*(store.update("n", lambda n: n + 1, 0, as_type=int) for _ in range(12)))
    assert await store.get("n", as_type=int) == 12

    async def doubled(number: int) -> int:
        return number * 2

    await store.write("n", 12, ttl=100, metadata={"kept": True})
    assert await store.update("n", doubled, 0, as_type=int) == 24
    found = await store.read("n", as_type=int)
    assert found.metadata == {"kept": True}
    assert 99 < (found.expiry or 0) <= 100


async def test_lists_page_by_page() -> None:
    table = store.table("many", str)
    for number in range(25):
        await table.write(f"{'ab'[number % 2]}/{number:02}", str(number))
    assert [one.value async for one in table.list()] == [str(n) for n in (*range(0, 25, 2), *range(1, 25, 2))]
    assert [one.value async for one in table.list(prefix="b/", limit=3, reverse=True)] == ["23", "21", "19"]
    assert [one.key async for one in table.list(suffix="0")] == ["a/00", "a/10", "a/20"]
    assert [one.key async for one in table.list(prefix="a/1", suffix="0")] == ["a/10"]
    first = [key async for key in table.keys(prefix="b/", limit=2)]
    assert [key async for key in table.keys(prefix="b/", limit=2, cursor=first[-1])] == ["b/05", "b/07"]
    assert [one.key async for one in table.list(start="a/22", until="b/03")] == ["a/22", "a/24", "b/01"]
    assert [key async for key in table.keys(prefix="b/", limit=2)] == ["b/01", "b/03"]
    seen, cursor = [], ""
    while True:
        page = await table.page(prefix="a/", limit=4, cursor=cursor)
        seen += [one.key for one in page.records]
        cursor = page.cursor
        if not cursor:
            break
    assert seen == [f"a/{number:02}" for number in range(0, 25, 2)]
    assert await store.tables() == ("many",)


@pytest.mark.parametrize("last", ["\U0010ffff", "\ud7ff", "z"])
async def test_a_prefix_with_a_suffix_ends_where_it_should(last: str) -> None:
    await store.write(f"p{last}/1", "")
    await store.write("q/1", "")
    assert [one.key async for one in store.list(prefix=f"p{last}", suffix="1")] == [f"p{last}/1"]


async def test_a_batch_does_all_or_nothing() -> None:
    await store.write("gone", "1")
    async with store.batch() as batch:
        written = batch.write("a", Order("pen"), if_version=0)
        index = batch.table("index", str)
        index.write("pen", "a", if_version=0)
        found = batch.read("a", as_type=Order)
        nothing = batch.read("nobody")
        deleted = batch.delete("gone")
        with pytest.raises(RuntimeError, match="not committed"):
            _ = found.record
    assert found.record is not None
    assert (found.record.value, written.version, batch.revision) == (Order("pen"), batch.revision, batch.revision)
    assert (nothing.record, deleted.deleted) == (None, True)

    with pytest.raises(Error) as caught:
        async with store.batch() as batch:
            batch.write("b", "1")
            batch.table("index").write("pen", "b", if_version=0)
    assert caught.value.kind is Kind.ALREADY_EXISTS
    with pytest.raises(Error, match="not version 99"):
        async with store.batch() as batch:
            batch.check("a", 99)
            batch.write("b", "1")
    with contextlib.suppress(KeyError):
        async with store.batch() as batch:
            batch.write("b", "1")
            raise KeyError
    async with store.batch():
        pass
    assert await store.get("b") is None


async def test_a_watch_tells_every_change_in_order() -> None:
    begun = (await store.page()).revision
    await store.write("w/1", "1")
    async with store.batch() as batch:
        batch.write("w/2", "2")
        batch.write("other", "")
        batch.delete("w/1")
    told = []
    async with contextlib.aclosing(store.watch("w/", after=begun, as_type=str)) as changes:
        async for change in changes:
            told.append((change.key, change.cause, change.record and change.record.value, change.after - begun))
            if change.cause is Cause.DELETED:
                break
    # In the middle of a batch, who goes on from a change is told the whole batch again.
    assert told == [("w/1", Cause.WRITTEN, "1", 1), ("w/2", Cause.WRITTEN, "2", 1), ("w/1", Cause.DELETED, None, 2)]
    async with contextlib.aclosing(store.watch(key="w/2", after=begun)) as changes:
        assert (await anext(changes)).key == "w/2"


class Unsteady:
    """The store behind a connection that can be cut."""

    name = "store"

    def __init__(self, app: Any) -> None:
        self._app = app
        self._calls: set[asyncio.Task[Any]] = set()
        self.away = False
        self.calls = 0

    async def __call__(self, *asgi: Any) -> None:
        if self.away:
            return
        self.calls += 1
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            await self._app(*asgi)
        finally:
            self._calls.discard(task)

    def cut(self) -> None:
        for call in self._calls:
            call.cancel()


@pytest.fixture
async def unsteady(platform: Platform) -> AsyncIterator[Unsteady]:
    made: Any = Unsteady(platform.services["store"])
    with client.pool.through(LocalChannel({"store": made})):
        yield made


async def test_a_watch_goes_on_through_the_stores_absence(unsteady: Unsteady) -> None:
    told: list[int] = []
    reached = asyncio.Event()

    async def follow() -> None:
        async for change in store.watch("n/", as_type=int):
            assert change.record is not None
            told.append(change.record.value)
            reached.set()
            if change.record.value == 59:
                return

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        while not unsteady.calls:
            await asyncio.sleep(0)
        for number in range(60):
            await store.write(f"n/{number}", number)
            if number % 20 == 10:
                await reached.wait()
                reached.clear()
                unsteady.cut()
        await following
    assert told == list(range(60))


async def test_a_watch_of_a_store_that_was_never_there_says_so(unsteady: Unsteady) -> None:
    unsteady.away = True
    with pytest.raises(Error) as caught:
        await anext(store.watch())
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_a_watch_that_comes_too_late_says_so(platform: Platform) -> None:
    await store.write("a", "1")
    watching = store.watch(after=0)
    assert (await anext(watching)).key == "a"
    await platform.store.drop("micro")
    with pytest.raises(Error) as caught:
        await anext(watching)
    assert caught.value.kind is Kind.OUT_OF_RANGE
