"""Copies of databases: whole, checked, put back at once or not at all; and the end of a namespace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from store_world import ANN, BOB, ROOT, StoreWorld, running, sent, turns

from micro.domain.dump import Digest
from micro.domain.errors import Error, Kind
from micro.domain.record import Put
from micro.rpc.gen.micro.store.v1 import store_pb as pb


@pytest.fixture
async def world() -> AsyncIterator[StoreWorld]:
    async with running() as made:
        yield made


async def fill(world: StoreWorld, count: int = 3) -> None:
    for number in range(count):
        puts = (
            Put("books", f"{number:04}", b"x" * number, metadata={"n": number, "deep": {"list": [1, 2.5, None]}}),
            Put("films", f"{number:04}", bytes([number % 256]), expires=world.wall() + 60_000),
        )
        await world.state.commit("shop", puts)


async def dump(world: StoreWorld, database: str = "shop") -> list[pb.DumpResponse]:
    return [message async for message in world.backup.dump(pb.DumpRequest(database=database), world.ctx(ROOT))]


def requests(copy: list[pb.DumpResponse], database: str = "bank") -> list[pb.LoadRequest]:
    return [
        pb.LoadRequest(database=database, records=list(message.records), checksum=message.checksum) for message in copy
    ]


async def load(world: StoreWorld, messages: list[pb.LoadRequest]) -> int:
    return (await world.backup.load(sent(messages), world.ctx(ROOT))).count


async def test_a_copy_is_put_back_as_it_was(world: StoreWorld) -> None:
    await fill(world, 700)
    await world.lock.acquire(pb.AcquireRequest(name="held"), world.ctx())
    await world.state.commit("bank", (Put("old", "gone"),))
    copy = await dump(world)
    assert copy[0].count == 1401
    assert len(copy) > 3, "in pieces"
    assert await load(world, requests(copy)) == 1401
    assert await world.state.tables("bank") == [".locks", "books", "films"]
    again = await dump(world, "bank")
    assert again[-1].checksum == copy[-1].checksum
    was, found = await world.state.read("shop", "books", "0002"), await world.state.read("bank", "books", "0002")
    assert was is not None
    assert found is not None
    assert (found.value, found.metadata, found.expires) == (was.value, was.metadata, was.expires)


async def test_a_copy_of_nothing_is_one(world: StoreWorld) -> None:
    copy = await dump(world)
    assert (copy[0].count, list(copy[-1].records)) == (0, [])
    await world.state.commit("bank", (Put("old", "gone"),))
    assert await load(world, requests(copy)) == 0
    assert await world.state.tables("bank") == []


async def test_what_is_not_a_whole_copy_replaces_nothing(world: StoreWorld) -> None:
    await fill(world)
    await world.state.commit("bank", (Put("old", "kept"),))
    good = requests(await dump(world))
    flipped = requests(await dump(world))
    flipped[-1].records[1].record.value = b"y"  # type: ignore[union-attr]
    moved = requests(await dump(world))
    moved[-1].records.reverse()
    late = requests(await dump(world))
    late[-1].records[0].expires += 1
    twice = requests(await dump(world))
    twice[-1].records.append(twice[-1].records[-1])
    none = requests(await dump(world))
    none[-1].records[0].record = None
    large = requests(await dump(world))
    large[-1].records[0].record.key = "k" * 2000  # type: ignore[union-attr]
    for messages, words in (
        (good[:-1], "cut off"),
        ([], "the copy is empty"),
        (flipped, "damaged"),
        (late, "damaged"),
        (moved, "not in order"),
        (twice, "not in order"),
        (none, "a record that is none"),
        (large, "1,024 are allowed"),
        ([*good, pb.LoadRequest()], "goes on after its checksum"),
    ):
        with pytest.raises(Error, match=words) as caught:
            await load(world, messages)
        assert caught.value.kind is Kind.INVALID_ARGUMENT
        assert await world.state.tables("bank") == ["old"], words


async def test_a_purge_leaves_nothing_and_lets_nothing_in_for_a_while(world: StoreWorld) -> None:
    await fill(world)
    await world.backup.purge(pb.PurgeRequest(namespace="shop"), world.ctx(ROOT))
    assert await world.state.databases() == []
    assert world.dropped == ["shop"]
    body = {"record": {"key": "late"}}
    assert (await world.error("Store/Write", body, ANN))[1] == "failed_precondition"
    assert (await world.error("Lock/Acquire", {"name": "late"}, ANN))[1] == "failed_precondition"
    await world.ok("Store/Write", body, BOB)
    world.seconds += 61
    await world.ok("Store/Write", body, ANN)


async def test_a_purge_waits_for_what_is_being_written(world: StoreWorld) -> None:
    with world.databases.changing("shop"):
        purging = asyncio.create_task(world.databases.purge("shop"))
        await turns()
        await world.state.commit("shop", (Put("books", "late"),))
        assert not purging.done()
    await asyncio.wait_for(purging, 10)
    assert await world.state.databases() == []


async def test_only_admins_of_the_platform_purge_and_they_say_what(world: StoreWorld) -> None:
    assert (await world.error("Backup/Purge", {}, ROOT))[:2] == (400, "invalid_argument")
    assert (await world.error("Backup/Purge", {"namespace": "bank"}, ANN))[1] == "permission_denied"
    assert (await world.error("Backup/Purge", {"namespace": "shop"}, ANN))[1] == "permission_denied"
    await world.ok("Backup/Purge", {"namespace": "nowhere"}, ROOT)


async def test_a_copy_brings_no_other_table_of_the_platforms(world: StoreWorld) -> None:
    made = pb.Kept(table=".elsewhere", record=pb.Record(key="k"))
    with pytest.raises(Error) as caught:
        await load(world, [pb.LoadRequest(database="bank", records=[made])])
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert await world.state.databases() == []


async def test_nothing_is_written_once_the_namespace_is_gone(world: StoreWorld) -> None:
    async def slow() -> AsyncIterator[pb.LoadRequest]:
        yield pb.LoadRequest(database="shop")
        await world.backup.purge(pb.PurgeRequest(namespace="shop"), world.ctx(ROOT))
        world.namespaces.remove("shop")
        world.seconds += 1000  # nobody is kept out any more
        yield pb.LoadRequest(checksum=Digest().told())

    with pytest.raises(Error) as caught:
        await world.backup.load(slow(), world.ctx(ROOT))
    assert caught.value.kind is Kind.NOT_FOUND
    assert await world.state.databases() == []


async def test_versions_go_on_growing_where_a_copy_is_put_into_another_store(world: StoreWorld) -> None:
    await fill(world)
    for _ in range(5):
        held = await world.lock.acquire(pb.AcquireRequest(name="report"), world.ctx())
        await world.lock.release(pb.ReleaseRequest(name="report", holder=held.holder), world.ctx())
    copy = await dump(world)
    messages = requests(copy)
    messages[0].above = copy[-1].revision
    async with running() as other:
        await load(other, messages)
        again = await other.lock.acquire(pb.AcquireRequest(name="report", database="bank"), other.ctx(ROOT))
        assert again.token > held.token


@pytest.mark.parametrize("above", [-1, 1 << 60])
async def test_a_copy_does_not_use_up_all_revisions(world: StoreWorld, above: int) -> None:
    with pytest.raises(Error) as caught:
        await load(world, [pb.LoadRequest(database="bank", above=above), pb.LoadRequest(checksum=Digest().told())])
    assert caught.value.kind is Kind.INVALID_ARGUMENT
