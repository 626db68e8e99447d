"""The file behind identity: who may read it, what is done when it is damaged, full or from another release."""

import asyncio
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from micro.backends.sqlite._database import Database
from micro.backends.sqlite._identity_schema import MIGRATIONS
from micro.backends.sqlite.identity import SqliteIdentity
from micro.domain import errors
from micro.domain.account import Account
from micro.domain.errors import Kind
from micro.domain.namespace import Namespace
from micro.ports.identity import Entry, IdentityStore

JANE = Account("jane", "micro")
ENTRY = Entry(1.0, "micro/admin", "account.create", "jane", "micro", "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server" / "auth" / "identity.db"


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[SqliteIdentity]:
    async with AsyncExitStack() as stack:
        store = SqliteIdentity(path)
        await store.start(stack)
        yield store


async def refusal(path: Path) -> errors.Error:
    """What a start is refused with; the store is not healthy then."""
    async with AsyncExitStack() as stack:
        store = SqliteIdentity(path)
        with pytest.raises(errors.Error) as caught:
            await store.start(stack)
        assert not store.healthy()
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value


async def filled(path: Path, accounts: int = 300) -> None:
    async with opened(path) as store:
        for number in range(accounts):
            await store.create_account(Account(f"a{number}", "micro", metadata={"about": "x" * 200}), "hash", ENTRY)


async def test_what_was_stored_is_there_after_a_restart(path: Path) -> None:
    async with opened(path) as store:
        issuer = await store.issuer()
        assert await store.create_first(JANE, "hash", ENTRY)
        await store.create_namespace(Namespace("shop"))
    assert not store.healthy()
    async with opened(path) as store:
        assert store.healthy()
        assert await store.issuer() == issuer
        assert await store.secret("micro", "jane") == (JANE, "hash")
        assert not await store.create_first(Account("other", "micro"), "hash")
        assert await store.namespaces() == [Namespace("micro"), Namespace("shop")]
        assert await store.audit() == [ENTRY]


async def test_every_deployment_has_a_name_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "a" / "i.db") as one, opened(tmp_path / "b" / "i.db") as other:
        assert await one.issuer() != await other.issuer()


async def test_only_the_owner_reads_the_file(path: Path) -> None:
    path.parent.mkdir(parents=True, mode=0o755)
    before = os.umask(0)
    try:
        async with opened(path) as store:
            await store.create_account(JANE, "hash")
            files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert files == dict.fromkeys(["identity.db", "identity.db-wal", "identity.db-shm"], 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    async with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_file_is_used_as_one_that_must_last(path: Path) -> None:
    async with AsyncExitStack() as stack:
        database = Database(path, MIGRATIONS)
        await database.start(stack)
        for name, wanted in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 5000)):
            found = await database.read(lambda connection, name=name: connection.execute(f"PRAGMA {name}").fetchone())
            assert found == (wanted,)


async def test_the_loop_goes_on_while_the_disk_is_busy(path: Path) -> None:
    async with AsyncExitStack() as stack:
        database = Database(path, MIGRATIONS)
        await database.start(stack)
        reached, go = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slow(connection: sqlite3.Connection) -> int:
            loop.call_soon_threadsafe(reached.set)
            assert go.wait(60)
            return connection.execute("SELECT 7").fetchone()[0]

        working = asyncio.ensure_future(database.read(slow))
        await reached.wait()
        assert await asyncio.to_thread(lambda: "the default threads are free") == "the default threads are free"
        go.set()
        assert await working == 7


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:-4096] = os.urandom(len(content) - 8192)
    path.write_bytes(content)


def another_kind_of_file(path: Path) -> None:
    path.write_bytes(b"accounts: none\n" * 1000)


def another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")


def without_tables(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("VACUUM")


@pytest.mark.parametrize(
    "damage", [truncated, emptied, overwritten, another_kind_of_file, another_database, without_tables]
)
async def test_a_damaged_file_is_told_and_left_as_it_is(path: Path, damage: Callable[[Path], None]) -> None:
    await filled(path)
    backup = path.with_name("backup.db")
    shutil.copy(path, backup)
    damage(path)
    content = path.read_bytes()
    error = await refusal(path)
    assert error.kind is Kind.DATA_LOSS
    for word in ("backup", "identity.db-wal", "identity.db-shm"):
        assert word in error.message
    assert path.read_bytes() == content
    for each in path.parent.glob("identity.db*"):
        each.unlink()
    backup.rename(path)
    async with opened(path) as store:
        assert len(await store.accounts("micro", limit=1000)) == 300


async def test_a_file_that_is_gone_from_beside_its_log_is_not_made_anew(path: Path) -> None:
    async with opened(path) as store:
        await store.create_account(JANE, "hash")
        log = Path(f"{path}-wal").read_bytes()
    path.unlink()
    Path(f"{path}-wal").write_bytes(log)
    error = await refusal(path)
    assert error.kind is Kind.DATA_LOSS
    assert not path.exists()


async def test_damage_that_shows_later_is_told_too(path: Path) -> None:
    await filled(path)
    async with opened(path) as store:
        content = bytearray(path.read_bytes())
        content[4096:] = bytes(len(content) - 4096)
        path.write_bytes(content)
        await store._database.read(lambda each: each.execute("PRAGMA shrink_memory").fetchall())
        with pytest.raises(errors.Error, match="backup") as caught:
            await store.accounts("micro", limit=1000)
        assert caught.value.kind is Kind.DATA_LOSS
        assert not store.healthy()


async def test_a_file_of_a_newer_release_is_not_touched(path: Path) -> None:
    await filled(path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    error = await refusal(path)
    assert error.kind is Kind.FAILED_PRECONDITION
    assert "upgrade" in error.message


async def version_and_tables(path: Path, migrations: list[str]) -> tuple[int, list[str]]:
    async with AsyncExitStack() as stack:
        database = Database(path, migrations)
        await database.start(stack)
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        version = await database.read(lambda connection: connection.execute("PRAGMA user_version").fetchone()[0])
        return version, [name for (name,) in await database.read(lambda each: each.execute(tables).fetchall())]


async def test_a_file_is_brought_up_to_date_step_by_step(path: Path) -> None:
    steps = [f"CREATE TABLE t{number} (x); INSERT INTO t{number} VALUES (';')" for number in range(3)]
    assert await version_and_tables(path, steps[:1]) == (1, ["t0"])
    assert await version_and_tables(path, steps) == (3, ["t0", "t1", "t2"])
    assert await version_and_tables(path, steps) == (3, ["t0", "t1", "t2"])
    with pytest.raises(errors.Error, match="newer"):
        await version_and_tables(path, steps[:2])


async def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    good, bad = "CREATE TABLE t0 (x)", "CREATE TABLE t1 (x); CREATE TABLE t0 (x)"
    with pytest.raises(errors.Error):
        await version_and_tables(path, [bad.replace("t1", "t0")])
    assert not path.exists(), "half a file is none"
    assert await version_and_tables(path, [good]) == (1, ["t0"])
    with pytest.raises(errors.Error):
        await version_and_tables(path, [good, bad])
    assert await version_and_tables(path, [good]) == (1, ["t0"])


async def test_a_file_that_was_never_finished_is_made_anew(path: Path) -> None:
    path.parent.mkdir(parents=True)
    Path(f"{path}.draft").write_bytes(b"half of it")
    Path(f"{path}.draft-wal").write_bytes(b"half of it")
    await filled(path, 1)
    assert [each.name for each in path.parent.iterdir()] == ["identity.db"]


async def grow(store: IdentityStore, numbers: range) -> None:
    for number in numbers:
        await store.create_account(Account(f"a{number}", "micro", metadata={"x": "y" * 2000}), "hash", ENTRY)


async def test_a_full_disk_is_told_and_what_is_there_can_be_read(path: Path) -> None:
    async with opened(path) as store:
        await store.create_account(JANE, "hash", ENTRY)
        pages = await store._database.read(lambda each: each.execute("PRAGMA page_count").fetchone()[0])
        await store._database.read(lambda each: each.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone())
        with pytest.raises(errors.Error, match="full") as caught:
            await grow(store, range(1000))
        assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
        assert str(path) in caught.value.message
        assert store.healthy()
        assert len(await store.accounts("micro")) == len(await store.audit()) > 1
        await store._database.read(lambda each: each.execute("PRAGMA max_page_count = 100000").fetchone())
        await grow(store, range(1000, 1010))


async def test_a_file_that_another_process_holds_can_be_read_and_is_unavailable_to_changes(path: Path) -> None:
    async with opened(path) as store:
        await store._database.read(lambda each: each.execute("PRAGMA busy_timeout = 1").fetchone())
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            assert await store.accounts("micro") == []
            with pytest.raises(errors.Error, match="another process") as caught:
                await store.create_account(JANE, "hash", ENTRY)
            assert caught.value.kind is Kind.UNAVAILABLE
            assert not store.healthy()
        finally:
            other.close()
        await store.create_account(JANE, "hash", ENTRY)
        assert store.healthy()
        assert await store.audit() == [ENTRY]


async def test_a_store_that_is_closed_is_unavailable(path: Path) -> None:
    async with opened(path) as store:
        pass
    with pytest.raises(errors.Error, match="closed") as caught:
        await store.accounts("micro")
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_a_place_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert (await refusal(tmp_path / "file" / "identity.db")).kind is Kind.UNAVAILABLE
