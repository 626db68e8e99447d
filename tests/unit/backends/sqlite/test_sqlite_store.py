"""What is SQLite's own about records: files, restarts, full disks, and what happens when one of many is damaged."""

import asyncio
import os
import random
import sqlite3
import stat
import subprocess
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from micro.backends.memory.store import MemoryStore
from micro.backends.sqlite import _store_write
from micro.backends.sqlite.store import SqliteStore, check
from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import Cause, Commit, Committed, Delete, Get, Json, Operation, Put, Query, Record
from micro.ports.store import Kept, Store
from micro.testing.contracts.store import DB, SettableClock, refused, watching


@asynccontextmanager
async def opened(folder: Path, **more: Any) -> AsyncGenerator[SqliteStore]:
    async with AsyncExitStack() as stack:
        store = SqliteStore(folder, **more)
        await store.start(stack)
        yield store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "server" / "store"


def put(key: str, value: bytes = b"", expires: int | None = None) -> Put:
    return Put("t", key, value, expires)


async def told(store: Store, database: str, after: int, until: int) -> list[Commit]:
    async with aclosing(store.watch(database, after)) as commits:
        return [await anext(commits) for _ in range(until - after)]


async def test_files_are_their_owners_and_made_when_something_is_written(folder: Path) -> None:
    async with opened(folder) as store:
        assert await store.read("shop", "t", "k") is None
        assert sorted(each.name for each in folder.iterdir()) == [".lock"]
        await store.commit("shop", [put("k")])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    assert sorted(each.name for each in folder.iterdir()) == [".lock", "shop.db", "shop.db-mark"]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../a", "a\0b", "x" * 300])
async def test_a_database_is_a_name_for_a_file(folder: Path, name: str) -> None:
    async with opened(folder) as store:
        await refused(Kind.INVALID_ARGUMENT, store.commit(name, [put("k")]), "database")
        await refused(Kind.INVALID_ARGUMENT, store.read(name, "t", "k"))


async def test_one_process_at_a_time_has_a_folder(folder: Path) -> None:
    async with opened(folder) as store:
        assert store.healthy()
        async with AsyncExitStack() as stack:
            await refused(Kind.UNAVAILABLE, SqliteStore(folder).start(stack), str(folder), "another process")
        await store.commit("shop", [put("k")])
    assert not store.healthy()
    await refused(Kind.UNAVAILABLE, store.read("shop", "t", "k"), "closed")
    async with opened(folder) as again:
        assert await again.read("shop", "t", "k") is not None


async def test_everything_is_there_after_a_restart(folder: Path) -> None:
    clock = SettableClock()
    async with opened(folder, clock=clock) as store:
        await store.commit("shop", [put("ends", b"1", clock.now + 50), put("stays")])
        await store.commit("shop", [Delete("t", "stays"), put("new", b"2")])
    clock.now += 50
    async with opened(folder, clock=clock) as store, watching(store, 0, "shop") as watch:
        assert await store.read("shop", "t", "ends") is None
        commits = await watch.until(3)
        assert [change.cause for each in commits for change in each.changes] == [
            Cause.WRITTEN,
            Cause.WRITTEN,
            Cause.DELETED,
            Cause.WRITTEN,
            Cause.EXPIRED,
        ]
        assert (await store.commit("shop", [put("k")])).revision == 4


async def test_many_databases_share_few_files(folder: Path) -> None:
    clock = SettableClock()
    names = [f"n{number}" for number in range(12)]
    async with opened(folder, clock=clock, open_files=3) as store, watching(store, 0, "n0") as watch:
        for name in names:
            await store.commit(name, [put("k", name.encode(), clock.now + 500)])
        await asyncio.gather(*(store.commit(name, [put(f"{n}")]) for n in range(5) for name in names))
        await store.read("n5", "t", "k")
        descriptors = [str(Path(each).readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert len({each for each in descriptors if each.startswith(str(folder)) and each.endswith(".db")}) <= 4
        for name in names:
            found = await store.read(name, "t", "k")
            assert found is not None
            assert found.value == name.encode()
        clock.now += 500
        await store.read("n11", "t", "k")
        commits = await watch.until(7)  # it is told, whether its file was open or not
        assert [change.cause for change in commits[-1].changes] == [Cause.EXPIRED]
        assert await store.databases() == sorted(names)


async def test_a_history_that_is_too_large_loses_its_oldest_part(folder: Path) -> None:
    clock = SettableClock()
    async with opened(folder, clock=clock, history_bytes=100_000) as store:
        for number in range(40):
            await store.commit("shop", [put(f"{number}", bytes(10_000))])
        async with watching(store, 0, "shop") as watch:
            await watch.ends(Kind.OUT_OF_RANGE)
        assert [each.revision for each in await told(store, "shop", 35, 40)] == [36, 37, 38, 39, 40]
        clock.advance(301)
        await store.commit("shop", [put("last")])
        async with watching(store, 39, "shop") as watch:
            await watch.ends(Kind.OUT_OF_RANGE)
        assert len(await told(store, "shop", 40, 41)) == 1


async def test_a_watcher_that_is_far_behind_reads_the_history(folder: Path) -> None:
    async with opened(folder) as store, aclosing(store.watch("shop", 0)) as slow:
        await store.commit("shop", [put("first")])
        assert (await anext(slow)).revision == 1
        for number in range(2, 9):
            await store.commit("shop", [put("k", bytes([number]) * 1_500_000), put("l")])
        feed = store._databases["shop"].feed
        assert feed.bytes < 8_000_000, "what watchers miss is not kept in memory"
        for number in range(2, 9):
            commit = await anext(slow)
            assert commit.revision == number
            assert commit.changes[0].record.value == bytes([number]) * 1_500_000


async def test_one_database_is_damaged_and_others_go_on(folder: Path) -> None:
    async with opened(folder) as store:
        for name in ("bad", "good"):
            await store.commit(name, [put(f"{n}", b"secret" * 100) for n in range(100)])
    data = bytearray((folder / "bad.db").read_bytes())
    place = data.index(b"secretsecret")
    data[place] ^= 4
    (folder / "bad.db").write_bytes(data)
    async with opened(folder) as store:
        calls = (
            store.read("bad", "t", "0"),
            store.commit("bad", [put("k")]),
            store.scan("bad", "t", Query()),
            store.tables("bad"),
            store.revision("bad"),
        )
        for call in calls:
            await refused(Kind.DATA_LOSS, call, "database bad is damaged", "bad.db-wal")
        assert store.damaged() == ["bad"]
        async with watching(store, 0, "bad") as watch:
            await watch.ends(Kind.DATA_LOSS)
        assert await store.databases() == ["bad", "good"]
        assert len((await store.scan("good", "t", Query())).records) == 100
        assert (folder / "bad.db").read_bytes() == data

        async def backup() -> AsyncIterator[Kept]:
            yield Kept("t", Record("restored", b"1"))

        assert await store.load("bad", backup()) == 1
        assert await store.revision("bad") == 2, "revisions grow also when what they were of is lost"
        assert await store.read("bad", "t", "restored") == Record("restored", b"1", 2)
        assert store.damaged() == []
        kept = [each for each in folder.iterdir() if "damaged" in each.name]
        assert data in [each.read_bytes() for each in kept]
    async with opened(folder) as store:
        assert [each.key for each in (await store.scan("bad", "t", Query())).records] == ["restored"]
        await store.drop("bad")
        assert await store.databases() == ["good"]


async def test_a_large_file_is_looked_at_while_it_is_in_use(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(folder) as store:
        await store.commit("shop", [put(f"{n}", b"v" * 100) for n in range(900)])
    connection = sqlite3.connect(folder / "shop.db")
    connection.execute("DELETE FROM record WHERE key = ?", (b"500",))
    connection.commit()
    connection.close()
    async with opened(folder, verify_bytes=0) as store, watching(store, 1, "shop") as watch:
        await watch.ends(Kind.DATA_LOSS)
        await refused(Kind.DATA_LOSS, store.read("shop", "t", "1"), "899", "900")
    assert f"{folder / 'shop.db'}: database shop is damaged" in caplog.text


async def test_who_opens_a_store_says_how_it_is_restored_and_can_look_before(folder: Path) -> None:
    async with opened(folder) as store:
        for name in ("bad", "good"):
            await store.commit(name, [put("k")])
    check(folder)
    (folder / "bad.db").write_bytes(b"nothing")
    async with opened(folder, restore="bring {stem}.backup, in place of {name}") as store:
        await refused(Kind.DATA_LOSS, store.read("bad", "t", "k"), "cut off; bring bad.backup, in place of bad.db")
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    with pytest.raises(errors.Error, match="cut off; bring bad") as told:
        check(folder, "bring {stem}")
    assert told.value.kind is Kind.DATA_LOSS
    assert told.value.message.startswith(f"{folder / 'bad.db'}: database bad is damaged")
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    check(folder / "absent")


async def test_a_file_of_a_newer_release_is_refused(folder: Path) -> None:
    async with opened(folder) as store:
        await store.commit("shop", [put("k")])
    connection = sqlite3.connect(folder / "shop.db")
    connection.execute("UPDATE state SET format = 2")
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()
    async with opened(folder) as store:
        await refused(Kind.FAILED_PRECONDITION, store.read("shop", "t", "k"), "newer release", "upgrade")


async def test_what_was_dropped_halfway_is_gone(folder: Path) -> None:
    async with opened(folder) as store:
        await store.commit("shop", [put("k")])
    (folder / "shop.db").rename(folder / ".shop.db.dropped")
    (folder / ".other.db.draft").write_bytes(b"half of it")
    (folder / ".load-x").write_bytes(b"half of it")
    async with opened(folder) as store:
        assert await store.read("shop", "t", "k") is None
        assert [each.name for each in folder.iterdir()] == [".lock"]


async def fill(store: SqliteStore, start: int) -> int:
    """Write until there is no room; how much was written."""
    for number in range(start, start + 1000):
        try:
            await store.commit("shop", [put(f"{number}", bytes(20_000)), put(f"{number}+")])
        except errors.Error as error:
            if error.kind is not Kind.RESOURCE_EXHAUSTED or "full" not in error.message:
                raise
            return number
    raise AssertionError("there is room without end")


async def check_full(store: SqliteStore, written: int) -> None:
    assert store.healthy()
    page = await store.scan("shop", "t", Query(keys_only=True))
    assert len(page.records) == 2 * written, "what failed is not there"
    found = await store.read("shop", "t", "0")
    assert found is not None
    assert found.value == bytes(20_000)


async def test_no_room_is_told_and_what_is_there_can_be_read(folder: Path) -> None:
    async with opened(folder) as store:
        await store.commit("other", [put("k")])
        await store.commit("shop", [put("0", bytes(20_000)), put("0+")])
        writer = store._databases["shop"].file._writer
        assert writer is not None
        writer.execute("PRAGMA max_page_count = 100").fetchall()
        written = await fill(store, 1)
        await check_full(store, written)
        writer.execute("PRAGMA max_page_count = 100000").fetchall()
        await store.commit("shop", [put("again")])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB, where we may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts disks")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_is_told_and_what_is_there_can_be_read(small_disk: Path) -> None:
    async with opened(small_disk / "store") as store:
        written = await fill(store, 0)
        await check_full(store, written)
        await refused(Kind.RESOURCE_EXHAUSTED, store.commit("new", [put("k", bytes(500_000))]), "full")
        assert await store.databases() == ["shop"]
        loaded = store.load("shop", store.dump("shop"))
        await refused(Kind.RESOURCE_EXHAUSTED, loaded, "full")
        await check_full(store, written)
    async with opened(small_disk / "store") as store:
        await check_full(store, written)


async def test_a_batch_that_cannot_be_kept_does_not_disturb_its_neighbours(folder: Path) -> None:
    bad: list[list[Operation]] = [
        [put("x"), Put("t", "y", expires=2**70)],
        [Put("t", "z", expires=-(2**70))],
        [put("x"), Put("t", "\ud800")],
        [Put("t", "z", metadata={"a": {1}})],  # type: ignore[dict-item]
        [put("x"), Put("t", "y", if_version=7)],
    ]
    async with opened(folder) as store:
        good = [[put(f"{n}", b"v"), put(f"{n}+", b"v")] for n in range(20)]
        mixed = [each for pair in zip(good, bad * 4, strict=True) for each in pair]
        answers = await asyncio.gather(*(store.commit("shop", each) for each in mixed), return_exceptions=True)
        assert [isinstance(each, Exception) for each in answers] == [False, True] * 20
        keys = [each.key for each in (await store.scan("shop", "t", Query())).records]
        assert sorted(keys) == sorted([f"{n}" for n in range(20)] + [f"{n}+" for n in range(20)])
        assert await store.revision("shop") == 20
    async with opened(folder) as store:
        assert [each.revision for each in await told(store, "shop", 0, 20)] == list(range(1, 21))


async def test_writers_share_transactions(folder: Path) -> None:
    async with opened(folder) as store:
        await store.commit("shop", [put("first")])
        begun: list[str] = []
        writer = store._databases["shop"].file._writer
        assert writer is not None
        writer.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
        await asyncio.gather(*(store.commit("shop", [put(f"{n}")]) for n in range(64)))
        assert len(begun) <= 2


async def test_batches_that_share_a_transaction_do_what_they_do_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store_write, "_HEADS", 4)  # so that some are forgotten, and looked for again
    choice = random.Random(3)
    clock = SettableClock()

    def operation(key: str) -> Operation:
        condition = choice.choice([None, None, None, 0, choice.randrange(300)])
        if choice.random() < 0.2:
            return Delete("t", key, condition)
        expires = choice.choice([None, None, clock.now + choice.choice([1_000, 10_000])])
        metadata: dict[str, Json] = choice.choice([{}, {}, {"a": [1, None]}])
        return Put("t", key, choice.randbytes(choice.randrange(50)), expires, metadata, condition)

    def batch() -> list[Operation]:
        found: list[Operation] = [operation(key) for key in choice.sample("abcdef", choice.choice([1, 1, 1, 2, 4]))]
        return [*found, Get("t", choice.choice("abcdef"))] if choice.random() < 0.2 else found

    def kinds(answers: list[Committed | BaseException]) -> list[Committed | Kind]:
        return [each if isinstance(each, Committed) else getattr(each, "kind", Kind.UNKNOWN) for each in answers]

    alone = MemoryStore(clock=clock)
    async with AsyncExitStack() as stack:
        await alone.start(stack)
        async with opened(folder, clock=clock) as store:
            for _ in range(5):
                batches = [batch() for _ in range(100)]
                together = [store.commit("shop", each) for each in batches]
                too_far = store.commit("shop", [put("a"), put("b", expires=2**70)])
                answers = kinds(await asyncio.gather(*together, too_far, return_exceptions=True))
                assert answers.pop() is Kind.INVALID_ARGUMENT
                apart = [
                    (await asyncio.gather(alone.commit("shop", each), return_exceptions=True))[0] for each in batches
                ]
                assert answers == kinds(apart)
                assert Kind.ABORTED in answers
            revision = await alone.revision("shop")
            assert await told(store, "shop", 0, revision) == await told(alone, "shop", 0, revision)
        async with opened(folder, clock=clock) as store:  # which looks at all of it
            assert await store.scan("shop", "t", Query()) == await alone.scan("shop", "t", Query())


async def test_who_is_cancelled_waits_for_what_a_thread_has_begun(folder: Path) -> None:
    async with opened(folder) as store:
        await store.commit("shop", [put("k")])
        begun, go_on = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            go_on.wait(30)

        reading = asyncio.create_task(store._databases["shop"].read(work))  # owned: awaited below
        assert await asyncio.to_thread(begun.wait, 30)
        for _ in range(3):
            reading.cancel()
            await asyncio.sleep(0)
        assert not reading.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_nothing_is_kept_in_memory_for_watchers_where_there_are_none(folder: Path) -> None:
    async with opened(folder) as store:
        await store.commit("shop", [put("k", bytes(1 << 20))])
        assert store._databases["shop"].feed.bytes == 0
        async with watching(store, 0) as watch:
            await watch.commit()
            await store.commit(DB, [put("k", bytes(1 << 20))])
            assert store._databases[DB].feed.bytes > 0
            await watch.commit()
        assert store._databases[DB].feed.bytes == 0
        assert [each.revision for each in await told(store, DB, 0, 2)] == [1, 2]


async def test_who_begins_to_watch_while_something_is_written_is_told_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folder) as store:
        await store.commit(DB, [put("before")])
        found = store._databases[DB]
        written, go_on = threading.Event(), threading.Event()
        write = found.file.write

        def held(*args: Any, **more: Any) -> Any:
            answer = write(*args, **more)
            written.set()
            go_on.wait(30)
            return answer

        monkeypatch.setattr(found.file, "write", held)
        writing = asyncio.ensure_future(store.commit(DB, [put("k")]))  # owned: awaited below
        assert await asyncio.to_thread(written.wait, 30)
        async with aclosing(store.watch(DB)) as commits:
            first = asyncio.ensure_future(anext(commits))  # owned: awaited below
            while not found.watchers:
                await asyncio.sleep(0)
            go_on.set()
            await writing
            commit: Commit = await asyncio.wait_for(first, 30)
        assert [each.record.key for each in commit.changes] == ["k"]


async def test_what_is_remembered_of_records_is_what_is_on_disk(folder: Path) -> None:
    async with opened(folder) as store:
        first = await store.commit("shop", [put("k")])
        writer = store._databases["shop"].file._writer
        assert writer is not None
        writer.execute("PRAGMA max_page_count = 30").fetchall()
        second, none = await asyncio.gather(
            store.commit("shop", [put("k", b"2")]),
            store.commit("shop", [put("k", bytes(1 << 20))]),  # takes the other one's transaction with it
            return_exceptions=True,
        )
        assert isinstance(none, errors.Error)
        assert not isinstance(second, BaseException)
        await refused(Kind.ABORTED, store.commit("shop", [Put("t", "k", if_version=first.revision)]))
        third = await store.commit("shop", [Put("t", "k", if_version=second.revision)])
        await store.commit("shop", [Delete("t", "k", if_version=third.revision)])
        fourth = await store.commit("shop", [Put("t", "k", b"4", if_version=0)])
        await store.commit("shop", [put("other"), Put("t", "k", b"5", if_version=fourth.revision)])
        await refused(Kind.ABORTED, store.commit("shop", [Put("t", "k", if_version=fourth.revision)]))
    async with opened(folder) as store:
        found = await store.read("shop", "t", "k")
        assert found is not None
        assert found.value == b"5"


async def test_what_a_slow_watcher_reads_of_a_database_made_anew_is_no_damage(folder: Path) -> None:
    async with opened(folder) as store:
        for _ in range(3):
            await store.commit("shop", [put("k")])
        old = store._databases["shop"]
        await store.drop("shop")
        await store.commit("shop", [put("k")])
        assert await old.read(lambda: old.file.history(2, 3)) is None
        assert (await store.read("shop", "t", "k")) is not None


async def test_what_was_damaged_goes_with_its_database(folder: Path) -> None:
    async with opened(folder) as store:
        for database in ("shop", "shop-2"):
            await store.commit(database, [put("k")])
    for path in folder.glob("*.db"):
        path.write_bytes(b"rubbish")

    async def nothing() -> AsyncIterator[Kept]:
        for each in ():
            yield each

    async with opened(folder) as store:
        for database in ("shop", "shop-2"):
            await store.load(database, nothing())
        assert list(folder.glob("shop.db.damaged-*"))
        await store.drop("shop")
        assert not [path for path in folder.iterdir() if path.name.startswith("shop.")]
        assert list(folder.glob("shop-2.db.damaged-*"))
