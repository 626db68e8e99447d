"""A data directory of an older release is brought up to date, whatever happens meanwhile; one of a newer is refused."""

from __future__ import annotations

import contextlib
import pkgutil
import shutil
import sqlite3
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from micro.backends.memory.accounts import MemoryAccounts
from micro.backends.stored.accounts import StoredAccounts
from micro.backends.stored.workloads import RuntimeRecords, StoredWorkloads
from micro.domain.errors import Error, Kind
from micro.domain.namespace import Quota
from micro.domain.record import Put
from micro.domain.rule import Access
from micro.domain.workload import Workload
from micro.ports.identity import IdentityStore, RefreshTokenReusedError
from micro.server import catalog, settings
from micro.server import format as data_format
from micro.server.settings import Layout, Settings

WRITTEN = Path(__file__).parent / "format_1"
"""What the last release of format 1 has left: its identity as SQL, its files as they were."""

NOW = 1_800_000_000.25


def token(text: str) -> bytes:
    return text.encode().rjust(32, b"\0")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty home."""
    made = Layout(tmp_path)
    made.root.mkdir(mode=0o700)
    return made


@pytest.fixture
def old(layout: Layout) -> Layout:
    """A home of format 1, whose server was killed: the last changes are in the log beside the file."""
    shutil.copytree(WRITTEN / "runtime", layout.runtime)
    layout.identity.parent.mkdir(mode=0o700)
    connection = sqlite3.connect(layout.identity)
    connection.executescript((WRITTEN / "identity.sql").read_text())
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE rules SET priority = -8 WHERE priority = -7")
    connection.commit()
    killed = layout.auth / "killed"
    killed.mkdir()
    for ending in ("", "-wal"):
        shutil.copy(f"{layout.identity}{ending}", killed)
    connection.close()
    for copied in killed.iterdir():
        copied.replace(layout.auth / copied.name)
    killed.rmdir()
    return layout


async def upgrade(layout: Layout, store: str = "sqlite") -> list[str]:
    """What is told meanwhile."""
    notes: list[str] = []
    await data_format.upgrade(read(layout, store), layout, notes.append)
    return notes


def read(layout: Layout, store: str = "sqlite") -> Settings:
    return settings.read({"MICRO_HOME": str(layout.home), "MICRO_STORE": store})


@asynccontextmanager
async def identity(layout: Layout) -> AsyncGenerator[IdentityStore]:
    async with AsyncExitStack() as stack:
        store = catalog.identity(read(layout), layout)
        await store.start(stack)
        yield store


async def check_upgraded(layout: Layout) -> None:
    """All that was there is there, and nothing of the old format."""
    assert layout.format.read_text() == "2\n"
    assert list(layout.auth.iterdir()) == [layout.records("auth")]
    assert not [path for kind in ("workloads", "accounts") for path in layout.runtime.rglob(f"{kind}/*")]
    assert not layout.upgrading.exists()
    async with identity(layout) as store:
        await check_accounts(store)
        await check_sessions(store)
        await check_the_rest(store)
    await check_services(layout)


async def check_accounts(store: IdentityStore) -> None:
    found = await store.secret("micro", "Jane «J» Doe ☃")
    assert found is not None
    jane, hashed = found
    assert (jane.id, jane.scopes, jane.metadata) == ("jane", {"admin", "ops:eu"}, {"team": 'a"\\é'})
    assert (jane.created, hashed) == ("2026-01-01T00:00:00Z", "$argon2id$jane")
    assert [each.id for each in await store.accounts("micro")] == ["greeter@latest", "jane"]
    assert [each.name for each in await store.accounts("shop")] == ["Jane of the shop"]
    assert not await store.create_first(jane, "x"), "the deployment has begun"


async def check_sessions(store: IdentityStore) -> None:
    [session] = await store.sessions("micro", "jane")
    assert (session.id, session.current, session.refreshed, session.address) == (
        "s1", token("t2"), NOW + 2, "2001:db8::1",
    )  # fmt: skip
    for used in ("s1", "t1"):
        with pytest.raises(RefreshTokenReusedError):
            await store.rotate(token(used), token("no"), NOW + 3, NOW + 9)
    assert await store.rotate(token("s3"), token("t3"), NOW + 3, NOW + 9e6) is not None
    assert await store.rotate(token("s2"), token("no"), NOW + 3, NOW + 9) is None, "it was ended"


async def check_the_rest(store: IdentityStore) -> None:
    assert await store.issuer() == "0123456789abcdef0123456789abcdef"
    assert [(each.name, each.quota) for each in await store.namespaces()] == [
        ("micro", Quota(7, 8, 9, 10)),
        ("shop", Quota(1, 2, 3, 2**40)),
    ]
    [rule] = await store.rules("micro")
    assert (rule.id, rule.access, rule.priority) == ("only-ops", Access.DENIED, -8)
    assert [each.id for each in await store.rules("shop")] == ["all"]
    assert [(key.kid, key.private) for key in await store.keys()] == [
        ("b", b"-----BEGIN b-----"),
        ("a", b"-----BEGIN a-----"),
    ]
    assert [(each.session, each.before) for each in await store.revocations(NOW)] == [("s2", NOW)]
    assert [each.action for each in await store.audit()][:3] == ["key.rotate", "key.rotate", "session.end"]
    assert [each.action for each in await store.audit("shop")] == ["login", "namespace.create"]


async def check_services(layout: Layout) -> None:
    async with AsyncExitStack() as stack:
        records = RuntimeRecords(catalog.store(read(layout), layout, "runtime"), catalog.sealing(layout))
        await records.start(stack)
        greeter, books = await StoredWorkloads(records).list()
        assert greeter == Workload(
            "micro", "greeter", "latest", ".", {"GREETING": "Hello", "TOKEN": "not-for-everybody"}, 3, {"a": "b"}, 4, 9,
            "", "2026-01-01T00:00:00.000Z", "micro/jane",
        )  # fmt: skip
        assert (books.key, books.error) == (("shop", "books", "v1"), "books: its start was interrupted")
        auth = MemoryAccounts()
        auth.accounts["micro", "greeter@latest"] = await auth.ensure("micro", "greeter", "latest")
        assert (await StoredAccounts(records, auth).ensure("micro", "greeter", "latest")).secret == "secret-1"
        assert auth.asked == 1, "the secret that it had is good"


async def test_what_an_older_release_has_written_is_brought_up_to_date(old: Layout) -> None:
    [note] = await upgrade(old)
    await check_upgraded(old)
    [backup] = old.backups.iterdir()
    assert str(backup) in note
    assert "\n" not in note
    assert {stat.S_IMODE(each.stat().st_mode) for each in (old.backups, *old.backups.rglob("*"))} <= {0o700, 0o600}
    assert len(list(backup.rglob("*.json"))) == 4
    with sqlite3.connect(backup / "auth/identity.db") as copied:
        assert copied.execute("SELECT count(*) FROM accounts").fetchone() == (3,)
        assert copied.execute("SELECT priority FROM rules WHERE namespace = 'micro'").fetchone() == (-8,)
    assert await upgrade(old) == []


async def test_secrets_are_sealed_in_what_is_kept(old: Layout) -> None:
    await upgrade(old)
    kept = b"".join(path.read_bytes() for path in old.root.rglob("*.db*") if old.backups not in path.parents)
    for secret in (b"not-for-everybody", b"BEGIN a", b"secret-1", b"BEGIN a".hex().encode()):
        assert secret not in kept
    assert b"only-ops" in kept
    assert stat.S_IMODE((old.home / "config.key").stat().st_mode) == 0o600


async def test_a_new_directory_is_of_the_newest_format(layout: Layout) -> None:
    assert await upgrade(layout) == []
    assert layout.format.read_text() == "2\n"
    assert sorted(layout.root.iterdir()) == [layout.format]


async def test_a_directory_of_a_newer_release_is_refused_in_words(layout: Layout) -> None:
    layout.format.write_text("7\n")
    with pytest.raises(Error, match=r"newer release of micro \(format 7, 2 is known\): upgrade micro, or") as caught:
        await upgrade(layout)
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert str(layout.root) in caught.value.message
    assert sorted(layout.root.iterdir()) == [layout.format]


async def test_a_number_that_is_none_is_told(layout: Layout) -> None:
    layout.format.write_bytes(b"\xff\0")
    with pytest.raises(Error, match="does not hold the number") as caught:
        await upgrade(layout)
    assert caught.value.kind is Kind.DATA_LOSS


class Killed(BaseException):
    """As if the process had ended there."""


STEPS = (
    "micro.backends.sqlite.identity_file.copy",
    "micro.server.format.shutil.copytree",
    "micro.backends.sqlite.identity_file.read",
    "micro.backends.stored._records.Records.commit",
    "micro.backends.stored.workloads.StoredWorkloads.put",
    "micro.backends.stored.workloads.RuntimeRecords.write",
    "micro.ports.private_file.write",
    "micro.backends.files.format_1.shutil.rmtree",
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("before", [0, 1])
async def test_an_upgrade_that_is_killed_goes_on_the_next_time(
    old: Layout, monkeypatch: pytest.MonkeyPatch, step: str, before: int
) -> None:
    with monkeypatch.context() as patch:
        dying(patch, step, before)
        with contextlib.suppress(Killed):
            await upgrade(old)
    await upgrade(old)
    await check_upgraded(old)
    [backup] = old.backups.iterdir()
    assert (backup / "auth/identity.db").exists()
    assert len(list(backup.rglob("*.json"))) == 4


def dying(patch: pytest.MonkeyPatch, step: str, calls: int) -> None:
    """Let the process end in the middle of a step, after it was done so many times."""
    done = 0

    def wrapped(real: Callable[..., object]) -> Callable[..., object]:
        def either(*args: object, **kwargs: object) -> object:
            nonlocal done
            done += 1
            if done > calls:
                raise Killed
            return real(*args, **kwargs)

        return either

    module, _, name = step.rpartition(".")
    target = pkgutil.resolve_name(module)
    patch.setattr(target, name, wrapped(getattr(target, name)))


async def test_a_store_that_holds_something_else_is_not_overwritten(old: Layout) -> None:
    async with AsyncExitStack() as stack:
        store = catalog.store(read(old), old, "auth")
        await store.start(stack)
        await store.commit("auth", [Put("accounts", "somebody", b"else")])
    with pytest.raises(Error, match="holds something else: move it away") as caught:
        await upgrade(old)
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    shutil.rmtree(old.records("auth"))
    await upgrade(old)
    await check_upgraded(old)


async def test_a_damaged_file_is_told_and_nothing_is_lost(old: Layout) -> None:
    Path(f"{old.identity}-wal").unlink()
    content = old.identity.read_bytes()
    broken = content[:4096] + b"\xaa" * (len(content) - 8192) + content[-4096:]
    old.identity.write_bytes(broken)
    with pytest.raises(Error) as caught:
        await upgrade(old)
    assert caught.value.kind is Kind.DATA_LOSS
    assert str(old.identity) in caught.value.message
    assert old.identity.read_bytes() == broken
    old.identity.write_bytes(content)
    await upgrade(old)
    assert old.format.exists()


async def test_memory_is_not_worth_an_upgrade(old: Layout) -> None:
    assert await upgrade(old, "memory") == []
    assert old.identity.exists()
    assert not old.format.exists()
    await upgrade(old)
    await check_upgraded(old)


async def test_the_code_of_a_service_that_cannot_be_read_is_not_taken_for_nobodys(old: Layout) -> None:
    [file] = old.runtime.glob("namespaces/shop/workloads/*")
    file.write_text("{")
    for name in ("books/v1/3", "forgotten/latest/1"):
        (old.runtime / "namespaces/shop/services" / name).mkdir(parents=True)
    notes = await upgrade(old)
    assert any(str(file) in note for note in notes)
    async with AsyncExitStack() as stack:
        records = RuntimeRecords(catalog.store(read(old), old, "runtime"), catalog.sealing(old))
        await records.start(stack)
        kept = StoredWorkloads(records)
        assert [each.name for each in await kept.list()] == ["greeter"]
        assert await kept.keys() == [("micro", "greeter", "latest"), ("shop", "books", "v1")]
