"""Records that end, what is told of them, and copies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import (
    Cause,
    Change,
    Commit,
    Delete,
    Get,
    Put,
    Query,
    Record,
)
from micro.ports.store import Kept, Store
from micro.testing.contracts._store_world import (
    DB,
    KEYS,
    METADATA,
    OTHER,
    Contract,
    SettableClock,
    everything,
    given,
    keys,
    put,
    refused,
    watching,
    write,
)


class ExpiryContract(Contract):
    """Records that end."""

    async def test_gone_to_the_millisecond(self, store: Store, clock: SettableClock) -> None:
        await write(store, Put("orders", "k", b"1", clock.now + 5), put("stays", b"2"))
        clock.now += 4
        assert await store.read(DB, "orders", "k") is not None
        clock.now += 1
        assert await store.read(DB, "orders", "k") is None
        assert await keys(store) == ["stays"]
        assert [each.record.key for each in await everything(store)] == ["stays"]
        assert (await write(store, Get("orders", "k"), Delete("orders", "k"))).results == (None, None)

    async def test_absent_for_conditions(self, store: Store, clock: SettableClock) -> None:
        await write(store, put("k", b"1", expires=clock.now + 5))
        clock.now += 5
        await refused(Kind.ABORTED, write(store, put("k", if_version=1)), "not there")
        written = await write(store, put("k", b"2", if_version=0))
        assert await store.read(DB, "orders", "k") == Record("k", b"2", written.revision)

    async def test_what_ended_before_it_was_written_is_not_there(self, store: Store, clock: SettableClock) -> None:
        answer = await write(store, put("k", expires=clock.now), Get("orders", "k"))
        assert answer.results == (Record("k", b"", 1, clock.now), None)
        assert await store.read(DB, "orders", "k") is None

    async def test_writing_anew_takes_the_end_away(self, store: Store, clock: SettableClock) -> None:
        await write(store, put("k", b"1", expires=clock.now + 5))
        await write(store, put("k", b"2"))
        clock.advance(60)
        assert await store.read(DB, "orders", "k") == Record("k", b"2", 2)

    async def test_a_table_is_gone_with_what_it_held(self, store: Store, clock: SettableClock) -> None:
        await write(store, put("k", expires=clock.now + 5), put("k", table="lines"))
        clock.now += 5
        assert await store.tables(DB) == ["lines"]

    async def test_a_sweep_is_told_once(self, store: Store, clock: SettableClock) -> None:
        await write(store, put("b", b"1", expires=clock.now + 5), put("a", expires=clock.now + 7), put("stays"))
        async with watching(store, 1) as watch:
            clock.now += 7
            assert await store.read(DB, "orders", "a") is None
            swept: list[Change] = []
            revision = 1
            while len(swept) < 2:
                commit = await watch.commit()
                revision += 1
                assert commit.revision == revision
                swept += commit.changes
                assert all(each.record.version == commit.revision for each in commit.changes)
            assert sorted((each.table, each.record.key, each.cause) for each in swept) == [
                ("orders", "a", Cause.EXPIRED),
                ("orders", "b", Cause.EXPIRED),
            ]
            last = await write(store, put("last"))
            assert last.revision == revision + 1
            assert (await watch.commit()).revision == last.revision


class WatchContract(Contract):
    """What happened, in order, once."""

    async def test_tells_whole_batches(self, store: Store, clock: SettableClock) -> None:
        async with watching(store, 0) as watch:
            await write(store, Put("orders", "b", b"1", clock.now + 9000, METADATA), put("a", table="lines"))
            await write(store, Delete("orders", "b"), put("c", b"\0"))
            assert await watch.commit() == Commit(
                1,
                (
                    Change("orders", Record("b", b"1", 1, clock.now + 9000, METADATA)),
                    Change("lines", Record("a", b"", 1)),
                ),
            )
            assert await watch.commit() == Commit(
                2,
                (
                    Change("orders", Record("b", version=2), Cause.DELETED),
                    Change("orders", Record("c", b"\0", 2)),
                ),
            )

    async def test_begins_where_it_is_told(self, store: Store) -> None:
        for n in range(5):
            await write(store, put(str(n)))
        for after in range(5):
            async with watching(store, after) as watch:
                assert [each.revision for each in await watch.until(5)] == list(range(after + 1, 6))

    async def test_what_happened_is_told_for_five_minutes(self, store: Store, clock: SettableClock) -> None:
        for number in range(3):
            await write(store, put(f"{number}"))
        clock.advance(299)
        await write(store, put("3"))
        async with watching(store, 0) as watch:
            assert [(await watch.commit()).revision for _ in range(4)] == [1, 2, 3, 4]

    async def test_begins_now_when_told_nothing(self, store: Store) -> None:
        await write(store, put("before"))
        async with watching(store) as watch:
            told = asyncio.ensure_future(watch.commit())  # owned: below
            while not told.done():  # the watch may take a while to begin: no batch before that is its own
                await write(store, put("k"))
                await asyncio.sleep(0)
            first = (await told).revision
            assert first > 1
            last = (await write(store, put("k"))).revision
            if last > first:
                assert [each.revision for each in await watch.until(last)] == list(range(first + 1, last + 1))

    async def test_a_database_that_is_not_there_yet(self, store: Store) -> None:
        async with watching(store, 0) as watch, watching(store, 0, OTHER) as other:
            await write(store, put("k"))
            assert (await watch.commit()).revision == 1
            await write(store, put("there"), database=OTHER)
            assert [each.record.key for each in (await other.commit()).changes] == ["there"]

    async def test_what_never_was_is_out_of_range(self, store: Store) -> None:
        await write(store, put("k"))
        async with watching(store, 2) as watch:
            await watch.ends(Kind.OUT_OF_RANGE)
        async with watching(store, 1, OTHER) as watch:
            await watch.ends(Kind.OUT_OF_RANGE)

    async def test_a_batch_that_fails_or_changes_nothing_is_not_told(self, store: Store) -> None:
        async with watching(store, 0) as watch:
            await refused(Kind.ABORTED, write(store, put("k", if_version=9)))
            await write(store, Delete("orders", "absent"))
            await write(store, put("k"))
            assert [each.record.key for each in (await watch.commit()).changes] == ["k"]

    async def test_many_watchers_and_many_writers(self, store: Store) -> None:
        async with watching(store, 0) as one, watching(store, 0) as two:
            written = asyncio.gather(*(write(store, put(f"{n}"), put(f"{n}+")) for n in range(100)))
            first, second = await asyncio.gather(one.until(100), two.until(100))
            answers = await written
        assert first == second
        assert [each.revision for each in first] == list(range(1, 101))
        told = {each.revision: [change.record.key for change in each.changes] for each in first}
        assert told == {answer.revision: [f"{n}", f"{n}+"] for n, answer in enumerate(answers)}

    async def test_a_page_and_a_watch_after_it_fit_without_gap(self, store: Store) -> None:
        async def writes() -> None:
            for n in range(60):
                await write(store, put(f"{n:02}"))

        writing = asyncio.ensure_future(writes())  # owned: below
        await write(store, put("first"))
        page = await store.scan(DB, "orders", Query())
        await writing
        async with watching(store, page.revision) as watch:
            missing = await watch.until(61) if page.revision < 61 else []
        told = [each.key for each in page.records] + [each.changes[0].record.key for each in missing]
        assert sorted(told) == sorted(await keys(store))

    async def test_a_slow_watcher_misses_nothing(self, store: Store) -> None:
        async with aclosing(store.watch(DB, 0)) as commits:
            for n in range(20):
                await write(store, put("k", str(n).encode() * 30_000))
                if n % 7 == 0:
                    assert (await anext(commits)).revision == n // 7 + 1
            seen = [(await anext(commits)).revision for _ in range(17)]
        assert seen == list(range(4, 21))


class CopiesContract(Contract):
    """Whole databases."""

    async def test_a_dump_is_of_one_moment(self, store: Store) -> None:
        await write(store, *(put(f"{n:03}", bytes(2000)) for n in range(500)))
        told: list[Kept] = []
        async for each in store.dump(DB):
            if not told:
                await write(store, put("later"), put("000", b"changed"), Delete("orders", "499"))
            told.append(each)
        assert [each.record for each in told] == [Record(f"{n:03}", bytes(2000), 1) for n in range(500)]

    async def test_a_dump_loads_elsewhere(self, store: Store, clock: SettableClock) -> None:
        await write(store, *(put(key, key.encode()) for key in KEYS), Put("lines", "m", b"", clock.now + 50, METADATA))
        await write(store, put("here", b"before"), put("gone"), database=OTHER)
        await write(store, put("here", b"again"), database=OTHER)
        assert await store.load(OTHER, store.dump(DB)) == len(KEYS) + 1
        revision = await store.revision(OTHER)
        assert revision > 2
        expected = [replace(each.record, version=revision) for each in await everything(store)]
        assert [each.record for each in await everything(store, OTHER)] == expected
        assert await store.read(OTHER, "orders", "here") is None
        clock.now += 50
        assert await store.read(OTHER, "lines", "m") is None
        assert (await write(store, put("next"), database=OTHER)).revision > revision

    async def test_a_load_makes_a_database(self, store: Store, clock: SettableClock) -> None:
        records = [Kept("t", Record("a", b"1", 900)), Kept("t", Record("over", b"2", 900, clock.now))]
        assert await store.load(DB, given(records)) == 1
        assert await store.databases() == [DB]
        assert await keys(store, table="t") == ["a"]
        assert await store.load(DB, given([])) == 0
        assert await store.tables(DB) == []
        assert await store.databases() == [DB]

    async def test_a_load_goes_on_above_the_revision_that_it_is_told(self, store: Store) -> None:
        assert await store.load(DB, given([Kept("t", Record("a", b"1"))]), above=5000) == 1
        found = await store.read(DB, "t", "a")
        assert found is not None
        assert found.version == await store.revision(DB) > 5000
        before = found.version
        await store.load(DB, given([Kept("t", Record("a", b"2"))]), above=7)
        assert await store.revision(DB) > before
        assert (await write(store, put("next"))).revision > before
        async with watching(store, 4000) as watch:
            await watch.ends(Kind.OUT_OF_RANGE)

    async def test_a_load_that_fails_changes_nothing(self, store: Store) -> None:
        async def torn() -> AsyncIterator[Kept]:
            for n in range(50):
                yield Kept("orders", Record(f"{n}", bytes(1000)))
            raise errors.data_loss("the copy is torn")

        await write(store, put("k", b"1"))
        before = await everything(store)
        await refused(Kind.DATA_LOSS, store.load(DB, torn()), "torn")
        twice = [Kept("orders", Record("a")), Kept("lines", Record("a")), Kept("orders", Record("a"))]
        await refused(Kind.INVALID_ARGUMENT, store.load(DB, given(twice)), "'a'", "orders", "twice")
        await refused(Kind.DATA_LOSS, store.load(OTHER, torn()), "torn")
        assert await everything(store) == before
        assert await store.revision(DB) == 1
        assert await store.databases() == [DB]

    async def test_a_load_tells_watchers_to_read_anew(self, store: Store) -> None:
        await write(store, put("k"))
        async with watching(store, 1) as watch, watching(store, 0) as behind:
            await behind.commit()
            await store.load(DB, given([Kept("orders", Record("new"))]))
            await watch.ends(Kind.OUT_OF_RANGE)
            await behind.ends(Kind.OUT_OF_RANGE)
        revision = await store.revision(DB)
        async with watching(store, revision) as watch:
            await write(store, put("next"))
            assert (await watch.commit()).revision == revision + 1
        async with watching(store, 1) as watch:
            await watch.ends(Kind.OUT_OF_RANGE)

    async def test_records_are_written_while_a_copy_is_loaded(self, store: Store) -> None:
        async def slow() -> AsyncIterator[Kept]:
            for n in range(10):
                await write(store, put(f"during-{n}"))
                yield Kept("orders", Record(f"loaded-{n}"))

        assert await store.load(DB, slow()) == 10
        assert await keys(store) == [f"loaded-{n}" for n in range(10)]

    async def test_a_database_is_dropped(self, store: Store) -> None:
        await write(store, put("k"))
        await write(store, put("k"), database=OTHER)
        async with watching(store, 1) as watch:
            await store.drop(DB)
            await watch.ends(Kind.OUT_OF_RANGE)
        assert await store.databases() == [OTHER]
        assert await store.read(DB, "orders", "k") is None
        assert await store.revision(DB) == 0
        assert await everything(store) == []
        await store.drop(DB)
        await write(store, put("k", b"new"))
        assert await keys(store) == ["k"]
        assert await store.read(OTHER, "orders", "k") is not None
