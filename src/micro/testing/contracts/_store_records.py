"""Records, batches of them, and looking for them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import (
    VALUE_BYTES,
    Check,
    Committed,
    Delete,
    Get,
    Page,
    Put,
    Query,
    Record,
)
from micro.ports.store import PAGE_BYTES, PAGE_RECORDS, Kept, Store
from micro.testing.contracts._store_world import (
    DB,
    KEYS,
    METADATA,
    OTHER,
    QUERIES,
    Contract,
    SettableClock,
    everything,
    keys,
    put,
    refused,
    write,
)


class RecordsContract(Contract):
    """One record after the other."""

    async def test_knows_nothing_at_first(self, store: Store) -> None:
        assert store.healthy()
        assert await store.read(DB, "orders", "k") is None
        assert await store.scan(DB, "orders", Query()) == Page((), 0)
        assert await store.databases() == []
        assert await store.tables(DB) == []
        assert await store.revision(DB) == 0
        assert await everything(store) == []

    async def test_gives_back_every_field_of_a_record(self, store: Store, clock: SettableClock) -> None:
        whole = Put("orders", "k", b"\0\xff value", clock.now + 1000, METADATA)
        committed = await write(store, whole)
        expected = Record("k", b"\0\xff value", 1, clock.now + 1000, METADATA)
        assert committed == Committed(1, (expected,))
        assert await store.read(DB, "orders", "k") == expected
        assert await store.scan(DB, "orders", Query()) == Page((expected,), 1)
        assert await everything(store) == [Kept("orders", expected)]
        found = await store.read(DB, "orders", "k")
        assert found is not None
        assert [type(value) for value in found.metadata.values()] == [type(value) for value in METADATA.values()]

    async def test_keeps_any_key_and_any_value(self, store: Store) -> None:
        longest = "é" * 512
        await write(store, *(put(key, key.encode()) for key in (*KEYS, longest)), put("large", b"\xa5" * VALUE_BYTES))
        for key in (*KEYS, longest):
            found = await store.read(DB, "orders", key)
            assert found is not None, key
            assert found.value == key.encode()
        large = await store.read(DB, "orders", "large")
        assert large is not None
        assert large.value == b"\xa5" * VALUE_BYTES

    async def test_a_record_is_replaced_whole_and_its_version_grows(self, store: Store) -> None:
        await write(store, Put("orders", "k", b"1", metadata={"a": 1}))
        again = await write(store, put("k", b"1"))
        assert again.results == (Record("k", b"1", 2),)
        assert await store.read(DB, "orders", "k") == Record("k", b"1", 2)
        await write(store, Delete("orders", "k"))
        assert (await write(store, put("k"))).revision == 4

    async def test_delete_tells_what_it_removed(self, store: Store) -> None:
        await write(store, Put("orders", "k", b"1", metadata={"a": 1}))
        assert await write(store, Delete("orders", "k")) == Committed(2, (Record("k", b"", 1, None, {"a": 1}),))
        assert await store.read(DB, "orders", "k") is None
        assert await write(store, Delete("orders", "k")) == Committed(2, (None,))
        assert await store.revision(DB) == 2

    async def test_databases_and_tables_know_nothing_of_each_other(self, store: Store) -> None:
        await write(store, put("k", b"1"))
        await write(store, put("k", b"2", table=".locks"))
        await write(store, put("k", b"3"), database=OTHER)
        assert [(await store.read(*where, "k")) for where in ((DB, "orders"), (DB, ".locks"), (OTHER, "orders"))] == [
            Record("k", b"1", 1),
            Record("k", b"2", 2),
            Record("k", b"3", 1),
        ]
        assert await store.read(OTHER, ".locks", "k") is None
        assert await store.databases() == [OTHER, DB]
        assert await store.tables(DB) == [".locks", "orders"]
        assert await store.tables(OTHER) == ["orders"]

    async def test_a_table_is_gone_with_its_last_record_and_a_database_stays(self, store: Store) -> None:
        await write(store, put("k"))
        await write(store, Delete("orders", "k"))
        assert await store.tables(DB) == []
        assert await store.databases() == [DB]

    async def test_what_changes_nothing_makes_no_database(self, store: Store) -> None:
        assert await write(store, Get("orders", "k"), Delete("orders", "k"), Check("orders", "k", 0)) == Committed(
            0, (None, None, None)
        )
        assert await store.databases() == []


class BatchesContract(Contract):
    """All or nothing."""

    async def test_a_batch_is_one_revision_and_reads_itself(self, store: Store) -> None:
        await write(store, put("old", b"0"), put("gone", b"1"))
        committed = await write(
            store,
            Get("orders", "new"),
            put("new", b"2"),
            Get("orders", "new"),
            Get("orders", "old"),
            Delete("orders", "gone"),
            Get("orders", "gone"),
            Check("orders", "old", 1),
            put("new", b"3", table="lines"),
        )
        new = Record("new", b"2", 2)
        assert committed.revision == 2
        assert committed.results == (
            None,
            new,
            new,
            Record("old", b"0", 1),
            Record("gone", b"", 1),
            None,
            None,
            Record("new", b"3", 2),
        )

    async def test_conditions_are_about_what_was_there_before(self, store: Store) -> None:
        await write(store, put("a"), put("b"))
        await write(store, put("a", b"2", if_version=1), Check("orders", "a", 1), Check("orders", "c", 0), put("c"))
        assert await keys(store) == ["a", "b", "c"]

    async def test_a_condition_that_fails_undoes_all(self, store: Store) -> None:
        await write(store, put("a", b"1"))
        before = await everything(store)
        first, removed = put("new", b"x"), Delete("orders", "a")
        await refused(Kind.ALREADY_EXISTS, write(store, first, put("a", if_version=0)), "'a'", "orders", "1")
        await refused(Kind.ABORTED, write(store, first, put("a", if_version=7)), "'a'", "7")
        await refused(Kind.ABORTED, write(store, first, put("absent", if_version=1)), "'absent'", "not there")
        await refused(Kind.ABORTED, write(store, first, Delete("orders", "a", if_version=2)), "'a'")
        await refused(Kind.ABORTED, write(store, removed, Check("orders", "b", 1)), "'b'")
        await refused(Kind.ALREADY_EXISTS, write(store, removed, Check("orders", "a", 0)), "'a'")
        assert await everything(store) == before
        assert await store.revision(DB) == 1

    async def test_only_one_of_many_wins(self, store: Store) -> None:
        await write(store, put("k"))
        answers = await asyncio.gather(
            *(write(store, put("k", str(n).encode(), if_version=1), put(f"mine-{n}")) for n in range(20)),
            return_exceptions=True,
        )
        won = [n for n, answer in enumerate(answers) if isinstance(answer, Committed)]
        assert len(won) == 1
        lost = [answer.kind for answer in answers if isinstance(answer, errors.Error)]
        assert lost == [Kind.ABORTED] * 19
        assert await keys(store) == ["k", f"mine-{won[0]}"]

    async def test_a_counter_loses_nothing(self, store: Store) -> None:
        async def add() -> None:
            for _ in range(5):
                while True:
                    there = await store.read(DB, "orders", "n")
                    count, version = (int(there.value), there.version) if there else (0, 0)
                    try:
                        await write(store, put("n", str(count + 1).encode(), if_version=version))
                        break
                    except errors.Error as error:
                        if error.kind not in {Kind.ABORTED, Kind.ALREADY_EXISTS}:
                            raise

        await asyncio.gather(*(add() for _ in range(8)))
        found = await store.read(DB, "orders", "n")
        assert found is not None
        assert (found.value, found.version) == (b"40", 40)

    async def test_concurrent_batches_get_revisions_of_their_own(self, store: Store) -> None:
        answers = await asyncio.gather(*(write(store, put(f"{n}a"), put(f"{n}b")) for n in range(100)))
        assert sorted(each.revision for each in answers) == list(range(1, 101))
        for n, answer in enumerate(answers):
            assert [each and each.version for each in answer.results] == [answer.revision] * 2
            assert await store.read(DB, "orders", f"{n}b") == Record(f"{n}b", b"", answer.revision)

    async def test_what_is_cancelled_happened_whole_or_not_at_all(self, store: Store) -> None:
        calls = [asyncio.ensure_future(write(store, put(f"{n}/a"), put(f"{n}/b"))) for n in range(30)]  # owned: here
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await write(store, put("last"))
        there = set(await keys(store))
        for n, answer in enumerate(answers):
            assert (f"{n}/a" in there) == (f"{n}/b" in there)
            assert isinstance(answer, asyncio.CancelledError) or f"{n}/a" in there


class ScansContract(Contract):
    """Many records in order."""

    async def fill(self, store: Store) -> None:
        await write(store, *(put(key, b"v") for key in reversed(KEYS)), put("b", table="orderz"), put("b", table="a"))

    async def test_orders_by_bytes(self, store: Store) -> None:
        await self.fill(store)
        assert await keys(store) == KEYS
        assert await keys(store, Query(descending=True)) == KEYS[::-1]
        assert [each.record.key for each in await everything(store) if each.table == "orders"] == KEYS
        assert [each.table for each in await everything(store)] == ["a", *["orders"] * len(KEYS), "orderz"]

    @pytest.mark.parametrize("descending", [False, True])
    async def test_finds_what_fits(self, store: Store, *, descending: bool) -> None:
        await self.fill(store)
        order = KEYS[::-1] if descending else KEYS
        for query in QUERIES:
            asked, after = replace(query, descending=descending), query.after
            fits = [each for each in order if after is None or ((each < after) if descending else (each > after))]
            fits = [each for each in fits if asked.matches(each)]
            assert await keys(store, asked) == fits, asked
            for limit, offset in ((1, 0), (2, 1), (3, 2), (0, 1), (5, 50)):
                page = await store.scan(DB, "orders", replace(asked, limit=limit, offset=offset))
                expected = fits[offset : offset + limit if limit else None]
                assert [each.key for each in page.records] == expected, (asked, limit, offset)
                assert page.more == (len(fits) > offset + len(expected)), (asked, limit, offset)

    async def test_a_page_is_of_one_state_and_tells_its_revision(self, store: Store) -> None:
        await self.fill(store)
        page = await store.scan(DB, "orders", Query(limit=2))
        assert (page.revision, page.more) == (1, True)
        assert page.records == (Record("a", b"v", 1), Record("a\0b", b"v", 1))

    async def test_keys_alone(self, store: Store, clock: SettableClock) -> None:
        await write(store, Put("orders", "k", b"v", clock.now + 10, {"a": 1}))
        assert await store.scan(DB, "orders", Query(keys_only=True)) == Page((Record("k", b"", 1, clock.now + 10),), 1)

    async def test_pages_are_bounded_in_records(self, store: Store) -> None:
        names = [f"{n:04}" for n in range(PAGE_RECORDS + 5)]
        await write(store, *map(put, names[:700]))
        await write(store, *map(put, names[700:]))
        first = await store.scan(DB, "orders", Query(limit=PAGE_RECORDS * 5))
        assert [each.key for each in first.records] == names[:PAGE_RECORDS]
        assert first.more
        second = await store.scan(DB, "orders", Query(after=first.records[-1].key))
        assert [each.key for each in second.records] == names[PAGE_RECORDS:]
        assert not second.more
        exact = await store.scan(DB, "orders", Query(start=names[5]))
        assert len(exact.records) == PAGE_RECORDS
        assert not exact.more

    async def test_pages_are_bounded_in_bytes(self, store: Store) -> None:
        half = bytes(PAGE_BYTES // 2)
        await write(store, put("a", half), put("b", half), put("c", bytes(PAGE_BYTES * 2)), put("d"))
        found: list[list[str]] = []
        query = Query()
        while True:
            page = await store.scan(DB, "orders", query)
            found.append([each.key for each in page.records])
            if not page.more:
                break
            query = Query(after=page.records[-1].key)
        assert found == [["a"], ["b"], ["c"], ["d"]]
        assert await keys(store, Query(keys_only=True)) == ["a", "b", "c", "d"]
