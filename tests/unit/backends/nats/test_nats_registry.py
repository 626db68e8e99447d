"""What the registry's state in NATS does beyond its contract: it lives through kill -9 and lost data."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from micro.backends.nats._connection import Connection, NatsAddress
from micro.backends.nats.registry import NatsRegistry
from micro.domain import errors
from micro.domain.registrations import Synced
from micro.domain.service import Change
from micro.testing.contracts.registry import changes_until, registration, until_synced
from micro.testing.nats import NatsChild, nats_child


@pytest.fixture
def child(tmp_path: Path) -> Iterator[NatsChild]:
    with nats_child(tmp_path / "nats") as child:
        yield child


@asynccontextmanager
async def connected(address: NatsAddress, **options: Any) -> AsyncIterator[NatsRegistry]:
    async with AsyncExitStack() as stack:
        connection = Connection(address)
        await connection.start(stack)
        registry = NatsRegistry(connection, **options)
        await registry.start(stack)
        yield registry


@pytest.fixture
async def registry(child: NatsChild) -> AsyncGenerator[NatsRegistry]:
    async with connected(child.address) as registry:
        yield registry


async def kind_of(call: Any) -> errors.Kind:
    with pytest.raises(errors.Error) as caught:
        await call
    assert "\n" not in caught.value.message
    return caught.value.kind


async def test_a_watch_goes_on_through_kill_9_without_gap_or_repetition(
    child: NatsChild, registry: NatsRegistry
) -> None:
    """Three times: the server is killed while there are writes, and started again on its data."""
    acknowledged: list[Change] = []

    async def write(number: int) -> None:
        entry = registration(f"n{number}")
        acknowledged.append(Change(await registry.put(entry), entry.key, entry))

    async with aclosing(registry.watch()) as changes:
        await until_synced(changes)
        for crash in range(3):
            first = crash * 30
            for number in range(first, first + 10):
                await write(number)
            async with asyncio.TaskGroup() as tasks:
                for number in range(first + 10, first + 30):
                    tasks.create_task(write(number))
                await asyncio.sleep(0)
                child.kill()
                await child.start()
        gone = await registry.delete(registration("n0").key, expired=True)
        seen = await changes_until(changes, gone)
    revisions = [change.revision for change in seen]
    assert revisions == sorted(set(revisions)), "in order, none twice"
    told = {change.revision: change for change in seen}
    assert all(told[change.revision] == change for change in acknowledged), "none missing"
    assert seen[-1] == Change(gone, registration("n0").key, None, expired=True)
    _, found = await registry.snapshot()
    assert {entry.node.id for entry in found} == {f"n{number}" for number in range(1, 90)}


async def test_a_watch_that_begins_while_the_server_is_away_waits_for_it(
    child: NatsChild, registry: NatsRegistry
) -> None:
    revision = await registry.put(registration())
    child.kill()
    async with aclosing(registry.watch()) as changes:
        reading = asyncio.create_task(until_synced(changes))
        await child.start()
        assert await reading == [Change(revision, registration().key, registration())]


async def test_health_follows_the_connection(child: NatsChild, registry: NatsRegistry) -> None:
    assert registry.healthy()
    child.kill()
    async with asyncio.timeout(10):
        while registry.healthy():
            await asyncio.sleep(0.01)
        await child.start()
        while not registry.healthy():
            await asyncio.sleep(0.01)


async def test_a_write_while_the_server_stays_away_is_unavailable(child: NatsChild) -> None:
    async with connected(child.address, patience=0.2) as registry:
        await registry.put(registration())
        child.kill()
        assert await kind_of(registry.put(registration("other"))) is errors.Kind.UNAVAILABLE
        assert await kind_of(registry.delete(registration().key)) is errors.Kind.UNAVAILABLE
        assert await kind_of(registry.snapshot()) is errors.Kind.UNAVAILABLE


async def test_when_the_data_is_lost_the_watcher_is_told_to_begin_anew(
    child: NatsChild, registry: NatsRegistry
) -> None:
    """Though the new bucket could have counted up to the old revision long since: revisions begin with the time."""
    async with aclosing(registry.watch()) as changes:
        await until_synced(changes)
        revision = await registry.put(registration())
        await changes_until(changes, revision)
        child.kill()
        shutil.rmtree(child.server.config.parent / "data")
        await child.start()
        assert await kind_of(changes_until(changes, revision + 1)) is errors.Kind.OUT_OF_RANGE
    assert (await registry.snapshot())[1] == []
    again = await registry.put(registration())
    assert again > revision
    async with aclosing(registry.watch(revision)) as changes:
        assert await kind_of(until_synced(changes)) is errors.Kind.OUT_OF_RANGE


async def test_old_markers_are_swept_away_and_who_missed_them_begins_anew(child: NatsChild) -> None:
    async with connected(child.address, marker_seconds=0) as registry:
        before = await registry.put(registration("goes"))
        await registry.put(registration("comes back"))
        gone = await registry.delete(registration("goes").key)
        away = await registry.delete(registration("comes back").key)
        assert away > gone
        back = await registry.put(registration("comes back"))
        assert await registry.sweep() == 1
        assert await registry.sweep() == 0
        async with aclosing(registry.watch(before)) as changes:
            assert await kind_of(until_synced(changes)) is errors.Kind.OUT_OF_RANGE
        for start in (gone, away):
            async with aclosing(registry.watch(start)) as changes:
                assert [change.revision for change in await until_synced(changes)] == [back]
        assert (await registry.snapshot())[1] == [registration("comes back")]
        async with aclosing(registry.watch()) as changes:
            assert [change.revision for change in await until_synced(changes)] == [back]


async def test_young_markers_stay(registry: NatsRegistry) -> None:
    await registry.put(registration())
    await registry.delete(registration().key)
    assert await registry.sweep() == 0


async def test_a_sweep_does_not_disturb_who_is_watching(child: NatsChild) -> None:
    async with connected(child.address, marker_seconds=0) as registry, aclosing(registry.watch()) as changes:
        await until_synced(changes)
        for _ in range(3):
            await registry.put(registration())
            gone = await registry.delete(registration().key)
            await changes_until(changes, gone)
            assert await registry.sweep() == 1
        last = await registry.put(registration("last"))
        assert [change.key[2] for change in await changes_until(changes, last)] == ["last"]


async def test_a_record_that_cannot_be_read_is_left_out_and_can_be_replaced(
    child: NatsChild, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        connection = Connection(child.address)
        await connection.start(stack)
        registry = NatsRegistry(connection)
        await registry.start(stack)
        await registry.put(registration("good"))
        await connection.jetstream.publish("$KV.registry.r.micro.greeter.greeter-1", b'{"v":99}')
        assert [entry.node.id for entry in (await registry.snapshot())[1]] == ["good"]
        assert "micro/greeter/greeter-1" in caplog.text
        await registry.put(registration())
        assert len((await registry.snapshot())[1]) == 2


async def test_two_writers_see_the_same_state(child: NatsChild, registry: NatsRegistry) -> None:
    async with connected(child.address) as other:
        entries = [replace(registration(), version=f"v{number}") for number in range(20)]
        writers = (registry, other)
        revisions = await asyncio.gather(*(writers[n % 2].put(entry) for n, entry in enumerate(entries)))
        assert len(set(revisions)) == len(entries)
        assert await registry.snapshot() == await other.snapshot()
        last = entries[revisions.index(max(revisions))]
        assert (await other.snapshot())[1] == [last]


async def test_a_registration_larger_than_a_message_is_refused(registry: NatsRegistry) -> None:
    large = replace(registration(), descriptors=bytes(7 * 1024 * 1024))
    assert await kind_of(registry.put(large)) is errors.Kind.RESOURCE_EXHAUSTED
    fits = replace(registration(), descriptors=bytes(5 * 1024 * 1024))
    await registry.put(fits)
    assert (await registry.snapshot())[1] == [fits]


async def test_many_large_records_arrive_whole(registry: NatsRegistry) -> None:
    """More than the server sends before it wants to hear that it arrived."""
    entries = [replace(registration(f"n{number:02}"), descriptors=bytes(1024 * 1024)) for number in range(20)]
    for entry in entries:
        await registry.put(entry)
    async with aclosing(registry.watch()) as changes:
        seen = await until_synced(changes)
    assert [change.registration for change in seen] == entries


async def test_the_state_is_there_after_kill_9_and_revisions_go_on(child: NatsChild) -> None:
    async with connected(child.address) as registry:
        revision = await registry.put(registration())
        gone = await registry.delete(registration().key)
    child.kill()
    await child.start()
    async with connected(child.address) as registry:
        async with aclosing(registry.watch(revision)) as changes:
            assert await until_synced(changes) == [Change(gone, registration().key, None)]
        assert await registry.put(registration()) > gone
        async with aclosing(registry.watch(gone)) as changes:
            assert not isinstance(await anext(changes), Synced)
