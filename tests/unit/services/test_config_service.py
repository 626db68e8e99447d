"""What is set is found, changed, remembered and put back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from callers import admin, calling, robot
from config_world import ADA, ANN, SHOP, World, running, told

from micro.backends.memory.store import MemoryStore
from micro.backends.sqlite.store import SqliteStore
from micro.domain import config
from micro.domain.errors import Error, Kind
from micro.domain.record import Put
from micro.ports.store import Store
from micro.rpc.gen.micro.config.v1 import config_pb as pb


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def refused(kind: Kind, doing: object) -> str:
    with pytest.raises(Error) as found:
        await doing  # type: ignore[misc]
    assert found.value.kind is kind, found.value
    return str(found.value)


# --- reading and changing ---------------------------------------------------------------------------------------------


async def test_values_keep_their_type_and_objects_are_merged(world: World) -> None:
    assert await world.get() == {}
    assert await world.set("db", {"host": "h", "port": 5432, "tls": True}) == 1
    assert await world.set("db", {"port": 5433, "pool": {"size": 8}}) == 2
    assert await world.get("db") == {"host": "h", "port": 5433, "tls": True, "pool": {"size": 8}}
    assert await world.get("db.pool.size") == 8
    await world.set("db.pool", 3)
    assert await world.get("db.pool") == 3
    await world.set("db.pool.size", [1, {"a": None}])
    assert await world.get("db.pool") == {"size": [1, {"a": None}]}
    await world.set("", {"db": {"host": None}, "limits": {}})
    assert (await world.get())["db"]["host"] is None
    assert await world.get("limits") == {}
    await world.set("big", '{"n":9007199254740993,"f":1.10}')
    assert await world.text("big") == '{"f":1.10,"n":9007199254740993}'
    await world.set("hosts", {"example.com": {"a\\b c": "<&>"}})
    assert await world.text(r"hosts.example\.com.a\\b c") == '"<&>"'


async def test_what_is_not_there_is_not_found(world: World) -> None:
    await world.set("a", 1)
    for path in ("b", "a.b", "a.b.c"):
        assert repr(path) in await refused(Kind.NOT_FOUND, world.get(path))
        await refused(Kind.NOT_FOUND, world.delete(path))
    await world.delete("a")
    await refused(Kind.NOT_FOUND, world.get("a"))
    await world.set("a.b", 1)
    await world.delete("a.b")
    assert await world.get("a") == {}


async def test_a_bad_request_changes_nothing(world: World) -> None:
    await world.set("a", 1)
    service, ctx = world.service, calling(ANN)
    bad: list[object] = [
        service.set(pb.SetRequest(path="a"), ctx),
        service.set(pb.SetRequest(path="a", value=pb.Value(data="{")), ctx),
        service.set(pb.SetRequest(value=pb.Value(data="1")), ctx),
        service.set(pb.SetRequest(path="a..b", value=pb.Value(data="1")), ctx),
        world.set("a", "[" * 1000 + "]" * 1000),
        world.set("a", "x" * config.DOCUMENT_BYTES),
        service.delete(pb.DeleteRequest(), ctx),
        world.rollback("a", 0),
        world.history(limit=-1),
        world.history(before=-1),
    ]
    for doing in bad:
        await refused(Kind.INVALID_ARGUMENT, doing)
    await refused(Kind.OUT_OF_RANGE, world.rollback("a", 9))
    await refused(Kind.ABORTED, world.set("a", 2, if_revision=7))
    await refused(Kind.NOT_FOUND, world.set("a", 2, admin("eve", "gone")))
    assert (await world.get(), len(await world.history())) == ({"a": 1}, 1)
    assert await world.set("a", 2, if_revision=1) == 2


async def test_a_list_tells_every_path_without_secrets(world: World) -> None:
    await world.set("db", {"host": "h", "empty": {}})
    await world.set("db", {"password": "hunter2", "more": {"x": 1}}, secret=True)
    assert await world.list() == {
        "db.empty": ("{}", False),
        "db.host": ('"h"', False),
        "db.more.x": ('"[secret]"', True),
        "db.password": ('"[secret]"', True),
    }
    assert list(await world.list("db.more")) == ["db.more.x"]
    await refused(Kind.NOT_FOUND, world.list("x"))


# --- history ----------------------------------------------------------------------------------------------------------


async def test_every_change_is_remembered_with_who_and_when(world: World) -> None:
    await world.set("a.b", 1)
    await world.set("x", {"password": "hunter2"}, ADA, secret=True)
    await world.set("x", {"password": "hunter3", "user": "u"}, ADA)
    await world.delete("a.b", ADA)
    found = [(one.revision, one.account, one.action, one.path, one.value.data) for one in await world.history()]
    assert found == [
        (4, "shop/ada", "delete", "a.b", ""),
        (3, "shop/ada", "set", "x", '{"password":"[secret]","user":"u"}'),
        (2, "shop/ada", "set", "x", '{"password":"[secret]"}'),
        (1, "shop/ann", "set", "a.b", "1"),
    ]
    times = [one.time for one in await world.history()]
    assert times == sorted(times, reverse=True)
    assert [one.revision for one in await world.history("a")] == [4, 1]
    assert [one.revision for one in await world.history("a.b.c")] == [4, 1]
    assert [one.revision for one in await world.history(limit=2)] == [4, 3]
    assert [one.revision for one in await world.history(before=3, limit=1)] == [2]


async def test_rolling_back_brings_what_was_there(world: World) -> None:
    await world.set("a", {"b": 1, "c": 2})
    await world.set("a.b", {"d": 3})
    await world.set("z", 9)
    await world.delete("a")
    assert await world.rollback("a", 2) == 5
    assert await world.get() == {"a": {"b": {"d": 3}, "c": 2}, "z": 9}
    await world.rollback("a.b", 1)
    assert await world.get("a") == {"b": 1, "c": 2}
    await world.rollback("", 3)
    assert await world.get() == {"a": {"b": {"d": 3}, "c": 2}, "z": 9}
    await world.rollback("z", 2)  # it was not there then
    await refused(Kind.NOT_FOUND, world.get("z"))
    await refused(Kind.NOT_FOUND, world.rollback("z", 2))
    assert (await world.history())[0].action == "rollback"


async def test_history_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HISTORY_CHANGES", 5)
    for number in range(12):
        await world.set("n", number)
    assert [one.revision for one in await world.history()] == [12, 11, 10, 9, 8]
    await world.rollback("n", 8)
    assert await world.get("n") == 7
    assert "is not known" in await refused(Kind.OUT_OF_RANGE, world.rollback("n", 7))
    monkeypatch.setattr(config, "HISTORY_BYTES", 3000)
    await world.set("long", "x" * 2500)
    assert len(await world.history()) < 5
    await world.set("long", "y" * 2500)
    assert len(await world.history()) == 1


# --- at the same time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_sets_at_one_time_all_hold_also_by_several_processes(kind: str, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path) if kind == "sqlite" else MemoryStore()
    async with AsyncExitStack() as stack:
        await store.start(stack)
        await _sets_at_one_time(store)


async def _sets_at_one_time(store: Store) -> None:
    async with (
        running(store, started=True) as one,
        running(store, started=True) as two,
        running(store, started=True) as three,
    ):
        await asyncio.gather(
            *(
                world.set(f"n.{number}.{name}", number, secret=number % 7 == 0)
                for number in range(15)
                for name, world in (("one", one), ("two", two), ("three", three))
            )
        )
        everything = {str(n): {"one": n, "two": n, "three": n} for n in range(15)}
        assert await two.get("n", ADA, clear=True) == everything
        assert [change.revision for change in await one.history(limit=100)] == list(range(45, 0, -1))


# --- watching ---------------------------------------------------------------------------------------------------------


async def test_a_watch_tells_the_value_at_once_and_after_each_change_of_it(world: World) -> None:
    stream = world.watch("a.b")
    assert await told(stream) is None
    await world.set("a", {"b": 1})
    assert await told(stream) == 1
    await world.set("a.c", 5)  # nothing to tell
    await world.set("a.b", [2])
    assert await told(stream) == [2]
    await world.delete("a")
    assert await told(stream) is None
    await stream.aclose()


async def test_a_watch_of_everything_tells_each_revision(world: World) -> None:
    stream, revisions = world.watch(), []
    for _ in range(3):
        revisions.append((await anext(stream)).revision)
        await world.set("a", 1)
    assert revisions == [0, 1, 2]
    await stream.aclose()


async def test_a_watch_goes_on_when_all_is_removed(world: World) -> None:
    await world.set("a", 1)
    stream = world.watch()
    assert await told(stream) == {"a": 1}
    await world.purge("shop")
    assert await told(stream) == {}
    await world.set("a", 2)
    assert await told(stream) == {"a": 2}
    assert [one.revision for one in await world.history()] == [1]
    await stream.aclose()


async def test_a_watch_tells_secrets_to_who_may_see_them(world: World) -> None:
    await world.set("p", "hunter2", secret=True)
    clear, masked = world.watch("p", SHOP, clear=True), world.watch("p")
    assert (await told(clear), await told(masked)) == ("hunter2", "[secret]")
    await world.set("p", "hunter3")
    assert await told(clear) == "hunter3"
    await refused(Kind.PERMISSION_DENIED, told(world.watch("p", clear=True)))
    await clear.aclose()
    await masked.aclose()


async def test_a_change_that_waited_for_a_purge_is_not_the_first_of_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.set("a", 1)
    begun, go, drop = asyncio.Event(), asyncio.Event(), world.store.drop

    async def slow(database: str) -> None:
        begun.set()
        await go.wait()
        await drop(database)

    monkeypatch.setattr(world.store, "drop", slow)
    purge = asyncio.ensure_future(world.purge("shop"))
    await begun.wait()
    late = asyncio.ensure_future(world.set("a", 2))
    await asyncio.sleep(0)
    go.set()
    await purge
    await refused(Kind.FAILED_PRECONDITION, late)
    assert await world.store.databases() == []


# --- whose ------------------------------------------------------------------------------------------------------------


async def test_namespaces_know_nothing_of_each_other(world: World) -> None:
    eve, other = admin("eve", "rival"), robot("shop", "rival")
    await world.set("a", "ours", secret=True)
    await world.set("a", "theirs", eve)
    assert (await world.get("a", SHOP, clear=True), await world.get("a", eve)) == ("ours", "theirs")
    for by in (eve, other):
        request = pb.GetRequest(namespace="shop", path="a")
        await refused(Kind.PERMISSION_DENIED, world.service.get(request, calling(by)))
        await refused(Kind.PERMISSION_DENIED, world.service.get(request, calling(by, "shop")))
    await refused(Kind.UNAUTHENTICATED, world.service.get(pb.GetRequest(), calling(None)))
    await world.purge("shop")
    await refused(Kind.NOT_FOUND, world.get("a"))
    assert await world.get("a", eve) == "theirs"


async def test_what_is_damaged_is_not_told(world: World) -> None:
    await world.set("a", 1)
    await world.set("a", 2)
    await world.store.commit("shop", [Put("history", f"{2:016d}", b"{}")])
    await refused(Kind.DATA_LOSS, world.history())
    await refused(Kind.DATA_LOSS, world.rollback("a", 1))
    assert await world.get("a") == 2
    for rubbish in (
        b"",
        b"{}",
        b"\xff",
        b'{"format":1,"revision":1,"oldest":1,"remembered":0,"key":"","leaves":{"a..b":["1"]}}',
    ):
        await world.store.commit("shop", [Put("document", "document", rubbish)])
        assert "damaged" in await refused(Kind.DATA_LOSS, world.get())
        await refused(Kind.DATA_LOSS, world.set("a", 3))
