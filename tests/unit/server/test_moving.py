"""What a home keeps moves along when another store is named, whatever happens meanwhile; nothing is taken for it."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from micro.backends.memory.store import MemoryStore
from micro.domain.errors import Error, Kind
from micro.domain.record import Put, Query
from micro.ports.store import Kept, Store
from micro.server import catalog, moving, settings, storage
from micro.server.settings import Layout, Settings

FIRST, SECOND = "postgres://ann:secret@db:5432/first", "postgres://ann:secret@db:5432/second"
LATER = 4_000_000_000_000
KEPT = (
    ("store", "micro", Put("orders", "a", b"1", LATER, {"n": 1.5, "ä": None})),
    ("store", "micro", Put(".locks", "x\0y", bytes(300_000))),
    ("store", "shop", Put("orders", "ö", b"")),
    ("config", "micro", Put("document", "document", b"{}")),
    ("auth", "auth", Put("accounts", "jane", b"{}")),
    ("runtime", "runtime", Put("workloads", "micro/a/latest", b"{}")),
)


class Server(MemoryStore):
    """A database server that is not there."""

    place = ""


@dataclass
class World:
    """A home, and servers that keep what they have."""

    layout: Layout
    servers: dict[tuple[str, str], Server] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def postgres(self, url: str, schema: str, clock: object) -> Server:
        found = self.servers.setdefault((url, schema), Server())
        found.place = url.rpartition("@")[2]
        return found

    def settings(self, store: str, **arguments: Any) -> Settings:
        return settings.read({"MICRO_HOME": str(self.layout.home), "MICRO_STORE": store}, **arguments)

    async def start(self, store: str, **arguments: Any) -> list[str]:
        """As a server does; returns what it tells."""
        self.notes.clear()
        wanted = self.settings(store, **arguments)
        catalog.sealing(self.layout).begin()
        await moving.settle(wanted, self.layout, self.notes.append)
        storage.keep_url(self.layout, wanted, catalog.sealing(self.layout))
        return self.notes

    async def opened(self, store: str, owner: str, work: Callable[[Store], Awaitable[Any]]) -> Any:
        async with AsyncExitStack() as stack:
            found = catalog.store(self.settings(store), self.layout, owner)
            await found.start(stack)
            return await work(found)

    async def fill(self, store: str) -> None:
        for owner, database, put in KEPT:
            for _ in range(3):
                await self.opened(store, owner, lambda it, d=database, p=put: it.commit(d, [p]))  # type: ignore[misc]

    async def content(self, store: str) -> dict[tuple[str, str], list[Kept]]:
        """All but versions, and what is the server's own."""

        async def read(found: Store) -> dict[str, list[Kept]]:
            return {
                name: [Kept(each.table, replace(each.record, version=0)) async for each in found.dump(name)]
                for name in await found.databases()
                if name != moving.PLATFORM
            }

        return {
            (owner, name): kept
            for owner in moving.OWNERS
            for name, kept in (await self.opened(store, owner, read)).items()
        }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(Layout(tmp_path))
    made.layout.root.mkdir(mode=0o700)
    monkeypatch.setattr(catalog, "_postgres", made.postgres)
    return made


async def refused(start: Awaitable[object], text: str) -> str:
    with pytest.raises(Error, match=text) as caught:
        await start
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert "\n" not in caught.value.message
    assert "secret" not in caught.value.message
    return caught.value.message


async def test_a_home_begins_and_goes_on_in_silence(world: World) -> None:
    assert await world.start("sqlite") == []
    assert world.layout.storage.stat().st_mode & 0o777 == 0o600
    await world.fill("sqlite")
    before = await world.content("sqlite")
    assert len(before) == 5
    assert await world.start("sqlite") == []
    assert await world.content("sqlite") == before


@pytest.mark.parametrize(("old", "new"), [("sqlite", FIRST), (FIRST, "sqlite"), (FIRST, SECOND)])
async def test_everything_moves_to_another_store(world: World, old: str, new: str) -> None:
    await world.start(old)
    await world.fill(old)
    before = await world.content(old)
    versions = await world.opened(old, "store", lambda it: it.revision("micro"))
    begin, *owners, end = await world.start(new)
    assert begin == f"moving everything from {place(old)} to {place(new)}"
    assert [line.split(":")[0].strip() for line in owners] == list(moving.OWNERS)
    assert "3 records in 2 databases" in owners[0]
    assert end == f"everything is in {place(new)} now; {place(old)} is as it was, and is not used any more"
    assert await world.content(new) == await world.content(old) == before
    assert await world.opened(new, "store", lambda it: it.revision("micro")) > versions, "fencing tokens go on growing"
    assert await world.start(new) == []
    assert "secret" not in world.layout.storage.read_text() + "".join((begin, *owners, end))
    await refused(world.start(old), f"holds the data of a platform already, and this home uses {place(new)}")


def place(store: str) -> str:
    return "SQLite" if store == "sqlite" else f"PostgreSQL at {store.rpartition('@')[2]}"


async def test_files_from_before_homes_remembered_are_moved_too(world: World) -> None:
    await world.fill("sqlite")
    before = await world.content("sqlite")
    assert len(await world.start(FIRST)) == 6
    assert await world.content(FIRST) == before


async def test_a_store_with_another_name_is_the_same_one(world: World) -> None:
    await world.start(FIRST)
    await world.fill(FIRST)
    world.servers = {(FIRST.replace("@db", "@127.0.0.1"), schema): it for (_, schema), it in world.servers.items()}
    assert await world.start(FIRST.replace("@db", "@127.0.0.1")) == []
    used = storage.read(world.layout)
    assert used is not None
    assert used.place == "PostgreSQL at 127.0.0.1:5432/first"


async def test_a_store_that_lost_everything_is_not_begun_anew(world: World) -> None:
    await world.start(FIRST)
    await world.fill(FIRST)
    code = world.layout.namespaces(FIRST) / "micro/services/a/latest/1"
    code.mkdir(parents=True)
    world.servers.clear()
    await refused(world.start(FIRST), "is empty, and this home has kept everything there: restore it")
    await refused(world.start(SECOND), "does not hold it any more: restore it from a backup")
    [told] = await world.start(FIRST, adopt_store=True)
    assert told == "what is in PostgreSQL at db:5432/first is used as it is"
    assert storage.foreign_code(world.settings(FIRST), world.layout), "nobody sweeps it"
    assert await world.start(FIRST) == []


@pytest.mark.parametrize("store", ["sqlite", FIRST])
async def test_what_was_restored_without_its_id_is_the_homes(world: World, store: str) -> None:
    await world.start(store)
    await world.fill(store)
    await world.opened(store, "runtime", lambda it: it.drop(moving.PLATFORM))
    assert await world.start(store) == []
    before = await world.content(store)
    await world.opened(store, "runtime", lambda it: it.commit(moving.PLATFORM, [Put(moving.TABLE, moving.ID, b"x")]))
    await refused(world.start(store), "but the data of another platform, or of an earlier time: put back")
    assert len(await world.start(store, adopt_store=True)) == 1
    assert await world.start(store) == []
    assert await world.content(store) == before


async def test_a_store_of_somebody_else_is_not_taken(world: World, tmp_path: Path) -> None:
    await world.start(FIRST)
    await world.fill(FIRST)
    before = await world.content(FIRST)
    other = World(Layout(tmp_path / "other"), world.servers)
    other.layout.root.mkdir(parents=True)
    await refused(other.start(FIRST), "holds the data of a platform already, and this home has never used it: name an")
    await other.start("sqlite")
    await other.fill("sqlite")
    told = await refused(other.start(FIRST), "this home uses SQLite: go on with that one, name an empty")
    assert "--adopt-store" in told
    assert await world.content(FIRST) == before
    assert len(await other.start(FIRST, adopt_store=True)) == 1
    assert await other.start(FIRST) == []
    assert await world.content(FIRST) == before


async def test_the_way_back_to_files_needs_a_place_for_them(world: World) -> None:
    await world.start("sqlite")
    await world.fill("sqlite")
    await world.start(FIRST)
    told = await refused(world.start("sqlite"), r"move all \*\.db\* files of ")
    for owner in moving.OWNERS:
        assert str(world.layout.records(owner)) in told
        for path in world.layout.records(owner).glob("*.db*"):
            path.unlink()
    await world.opened(FIRST, "store", lambda it: it.commit("micro", [Put("orders", "new", b"")]))
    before = await world.content(FIRST)
    await world.start("sqlite")
    assert await world.content("sqlite") == before


async def test_where_the_way_is_forgotten_is_told(world: World) -> None:
    await world.start(FIRST)
    await world.fill(FIRST)
    world.layout.config_key.unlink()
    world.layout.key_ids.unlink()
    await refused(world.start("sqlite"), "start it once with the old MICRO_STORE, and then with the new one")
    assert await world.start(FIRST) == []
    assert len(await world.start("sqlite")) == 6


async def test_memory_is_apart(world: World) -> None:
    await world.start(FIRST)
    code = [world.layout.namespaces(store) / "micro/services/a" for store in ("memory", FIRST)]
    for folder in code:
        folder.mkdir(parents=True)
    remembered = world.layout.storage.read_text()
    assert await world.start("memory") == []
    assert world.layout.storage.read_text() == remembered
    assert [folder.exists() for folder in code] == [False, True]


async def test_a_copy_that_is_not_the_same_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.start("sqlite")
    await world.fill("sqlite")
    before = await world.content("sqlite")

    async def forgetful(self: Server, database: str, records: Any, *, above: int = 0) -> int:
        await self.commit(database, [Put(each.table, each.record.key, b"!") async for each in records])
        return len((await self.scan(database, "orders", Query())).records)

    with monkeypatch.context() as patch:
        patch.setattr(Server, "load", forgetful)
        with pytest.raises(Error, match="database micro of store has not arrived in PostgreSQL at") as caught:
            await world.start(FIRST)
        assert caught.value.kind is Kind.DATA_LOSS
    assert await world.start("sqlite") == []
    assert await world.content("sqlite") == before
    await world.start(FIRST)
    assert await world.content(FIRST) == before


class Killed(BaseException):
    """As if the process had ended there."""


async def test_a_move_that_is_killed_anywhere_begins_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.start(FIRST)
    await world.fill(FIRST)
    before, old = await world.content(FIRST), world.servers.copy()
    remembered = [(path, path.read_text()) for path in (world.layout.storage, world.layout.store_url)]
    for step in range(100):
        world.servers = old.copy()
        for path, text in remembered:
            path.write_text(text)
        with monkeypatch.context() as patch:
            dying(patch, step)
            with contextlib.suppress(Killed):
                await world.start(SECOND)
                break
        assert await world.content(FIRST) == before
        await world.start(SECOND)
        assert await world.content(SECOND) == before
        assert await world.start(SECOND) == []
    assert step > 15


async def test_the_old_store_goes_on_after_a_move_that_was_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start("sqlite")
    await world.fill("sqlite")
    with monkeypatch.context() as patch:
        dying(patch, 10)
        with pytest.raises(Killed):
            await world.start(FIRST)
    assert await world.start("sqlite") == []
    await world.opened("sqlite", "store", lambda it: it.commit("micro", [Put("orders", "new", b"")]))
    before = await world.content("sqlite")
    await world.start(FIRST)
    assert await world.content(FIRST) == before


def dying(patch: pytest.MonkeyPatch, calls: int) -> None:
    """Let the process end after so many steps that change something: every second time before the next is done, else
    after it."""
    done = 0

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        async def either(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done > calls / 2 and calls % 2 == 0:
                raise Killed
            found = await real(*args, **kwargs)
            if done > calls / 2:
                raise Killed
            return found

        return either

    def written(*args: Any) -> None:
        nonlocal done
        done += 1
        if done > calls / 2 and calls % 2 == 0:
            raise Killed
        write(*args)
        if done > calls / 2:
            raise Killed

    write = storage.write
    patch.setattr(storage, "write", written)
    for name in ("commit", "load", "drop"):
        patch.setattr(Server, name, wrapped(getattr(Server, name)))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', "\udc80"])
async def test_a_file_that_is_none_of_ours_is_told(world: World, text: str) -> None:
    world.layout.storage.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Error, match="does not hold what it should") as caught:
        await world.start("sqlite")
    assert caught.value.kind is Kind.DATA_LOSS


@pytest.mark.parametrize(
    ("package", "module", "open_", "told"),
    [
        ("asyncpg", "micro.backends.postgres", catalog.place, r"pip install 'micro\[postgres\]'"),
        ("obstore", "micro.backends.objects", lambda it: catalog.blobs(it, Layout(it.home)), r"install 'micro\[s3\]'"),
    ],
)
def test_a_package_that_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, module: str, open_: Any, told: str
) -> None:
    for name in list(sys.modules):
        if name.startswith((module, package)):
            monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=package)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    environ = {"MICRO_HOME": str(tmp_path), "MICRO_STORE": FIRST, "MICRO_BLOBS": "s3://bucket"}
    with pytest.raises(Error, match=told) as caught:
        open_(settings.read(environ))
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert "\n" not in caught.value.message
