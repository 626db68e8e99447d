"""Config as a service's author uses it: cached, typed, followed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.store import MemoryStore
from micro.domain import errors
from micro.domain.account import Account, Type
from micro.domain.errors import Error, Kind
from micro.framework.config import Config
from micro.rpc.context import CURRENT, Context
from micro.rpc.gen.micro.config.v1 import config_pb as pb
from micro.services.config import ConfigService

SERVICE = Account("books@latest", "shop", type=Type.SERVICE, metadata={"service": "books"})
ADMIN = Account("ada", "shop", scopes=frozenset({"admin"}))
USER = Account("ann", "shop")


class Wire:
    """Calls of the handler as some account, and how many watches there are; may be cut."""

    def __init__(self, handler: ConfigService, account: Account) -> None:
        self.handler = handler
        self.account = account
        self.watches = 0
        self.down = False
        self.cut = asyncio.Event()
        self.contexts: list[Any] = []

    def _ctx(self) -> Context:
        if self.down:
            raise errors.unavailable("down")
        ctx = Context(None, {"headers": []}, None)  # type: ignore[arg-type]
        ctx.account = self.account
        return ctx

    async def set(self, request: pb.SetRequest) -> pb.SetResponse:
        return await self.handler.set(request, self._ctx())

    async def delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        return await self.handler.delete(request, self._ctx())

    async def watch(self, request: pb.WatchRequest) -> AsyncIterator[pb.WatchResponse]:
        self.watches += 1
        self.contexts.append(CURRENT.get())
        answers = self.handler.watch(request, self._ctx())
        cut = asyncio.ensure_future(self.cut.wait())  # owned: by this call
        following: asyncio.Future[Any] | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(answers))  # owned: by this call
                await asyncio.wait([following, cut], return_when=asyncio.FIRST_COMPLETED)
                if cut.done():
                    raise errors.unavailable("cut")
                yield following.result()
        finally:
            cut.cancel()
            if following is not None:
                following.cancel()

    def break_off(self) -> None:
        self.down = True
        self.cut.set()

    def come_back(self) -> None:
        self.down = False
        self.cut = asyncio.Event()


class World:
    def __init__(self, handler: ConfigService) -> None:
        self.handler = handler
        self.opened: list[Config] = []

    def as_(self, account: Account) -> tuple[Config, Wire]:
        wire = Wire(self.handler, account)
        config = Config(wire)  # type: ignore[arg-type]
        self.opened.append(config)
        return config, wire


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        keyring = Keyring("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", Path("/nonexistent/key"))
        handler = ConfigService(MemoryStore(), AesGcmSealing(keyring))
        await handler.start(stack)
        made = World(handler)
        yield made
        for config in made.opened:
            await config.close()


@pytest.fixture
def in_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_SERVICE_NAME", "books")


async def eventually(config: Config, path: str, value: Any) -> None:
    async with asyncio.timeout(5):
        while await config.get(path) != value:
            await asyncio.sleep(0.001)


async def test_one_watch_serves_every_look(world: World) -> None:
    config, wire = world.as_(USER)
    assert await config.get("db.host", "localhost") == "localhost"
    assert await config.get("db.host") is None
    await config.set("db", {"host": "h", "port": 5432, "on": None})
    assert await config.get("db.host", "localhost") == "h"
    assert await config.get("db.on", "default") is None
    assert await config.get("db.host.deeper", 7) == 7
    assert await config.get("") == {"db": {"host": "h", "port": 5432, "on": None}}
    await asyncio.gather(*(config.get("db") for _ in range(100)))
    assert wire.watches == 1
    await config.delete("db.host")
    assert await config.get("db.host", "gone") == "gone"
    with pytest.raises(Error, match="not set"):
        await config.delete("db.host")


async def test_what_was_given_out_can_be_changed_without_harm(world: World) -> None:
    config, _ = world.as_(USER)
    await config.set("a", {"list": [1, {"b": 2}]})
    first = await config.get("a")
    first["list"][1]["b"] = 3
    assert await config.get("a") == {"list": [1, {"b": 2}]}


class Level(enum.Enum):
    LOW = "low"


@dataclasses.dataclass(frozen=True)
class Pool:
    size: int
    level: Level = Level.LOW


@dataclasses.dataclass(frozen=True)
class Database:
    host: str
    pool: Pool
    port: int = 5432
    tags: tuple[str, ...] = ()


async def test_objects_become_dataclasses(world: World) -> None:
    config, _ = world.as_(USER)
    assert await config.get("db", as_type=Database) is None
    await config.set("db", Database("h", Pool(8), tags=("a",)))
    found = await config.get("db", as_type=Database)
    assert found == Database("h", Pool(8), tags=("a",))
    assert await config.get("db", as_type=Database) is found  # it cannot be changed, so it is made once
    assert await config.get("db.tags", as_type=list[str]) == ["a"]
    assert await config.get("db.pool", as_type=dict[str, Any]) == {"size": 8, "level": "low"}
    assert await config.get("db.port", as_type=int) == 5432
    await config.set("db.pool.size", "eight")
    with pytest.raises(Error, match=r"config 'db' .*pool\.size is a string") as refused:
        await config.get("db", as_type=Database)
    assert refused.value.kind is Kind.FAILED_PRECONDITION
    for odd in (object(), float("nan"), {1: 2}):
        with pytest.raises(TypeError):
            await config.set("x", odd)


async def test_a_watch_gives_the_value_at_once_and_after_each_change_of_it(world: World) -> None:
    config, wire = world.as_(USER)
    changes = config.watch("a.b", "none")
    assert await anext(changes) == "none"
    await config.set("a", {"b": 1})
    assert await anext(changes) == 1
    await config.set("a.c", 1)
    await config.set("a.b", True)  # another type is another value
    assert await anext(changes) is True
    await config.delete("a")
    assert await anext(changes) == "none"
    assert wire.watches == 1


async def test_a_watch_passes_over_what_is_of_another_type(world: World, caplog: pytest.LogCaptureFixture) -> None:
    config, _ = world.as_(USER)
    await config.set("n", 1)
    changes = config.watch("n", as_type=int)
    assert await anext(changes) == 1
    following = asyncio.ensure_future(anext(changes))
    await config.set("n", "two")
    await asyncio.sleep(0)
    await config.set("n", 3)
    assert await following == 3


async def test_while_config_is_away_the_last_values_hold(world: World, caplog: pytest.LogCaptureFixture) -> None:
    config, wire = world.as_(USER)
    other, _ = world.as_(USER)
    await config.set("a", 1)
    assert await config.get("a") == 1
    wire.break_off()
    await other.set("a", 2)
    async with asyncio.timeout(5):
        while "not heard of any more" not in caplog.text:
            assert await config.get("a") == 1
            await asyncio.sleep(0.001)
    assert await config.get("a") == 1
    wire.come_back()
    await eventually(config, "a", 2)
    assert caplog.text.count("not heard of any more") == 1


async def test_the_first_look_waits_for_config_and_says_when_it_does_not_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, wire = world.as_(USER)
    wire.down = True
    looking = asyncio.ensure_future(config.get("a", "default"))
    while not wire.watches:
        await asyncio.sleep(0)
    wire.come_back()
    assert await looking == "default"
    monkeypatch.setattr("micro.framework.config.FIRST_SECONDS", 0.01)
    lost, wire = world.as_(USER)
    wire.down = True
    with pytest.raises(Error) as refused:
        await lost.get("a", "default")
    assert refused.value.kind is Kind.UNAVAILABLE


async def test_a_services_first_look_does_not_tie_the_watch_to_its_call(world: World) -> None:
    config, wire = world.as_(USER)
    token = CURRENT.set(Context(None, {"headers": []}, 0.0))  # type: ignore[arg-type]
    await config.get("a")
    CURRENT.reset(token)
    assert wire.contexts == [None]


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_a_service")
async def test_a_service_is_told_secrets(world: World) -> None:
    admin, _ = world.as_(ADMIN)
    await admin.set("db", {"password": "hunter2"}, secret=True)
    config, wire = world.as_(SERVICE)
    assert await config.get("db.password") == "hunter2"
    assert await config.get("db.password", secret=False) == "[secret]"
    assert wire.watches == 2
    mine, _ = world.as_(USER)  # a service that somebody runs by hand, as himself
    assert await mine.get("db.password") == "[secret]"
    with pytest.raises(Error) as refused:
        await mine.get("db.password", secret=True)
    assert refused.value.kind is Kind.PERMISSION_DENIED


async def test_a_script_asks_for_secrets(world: World) -> None:
    config, _ = world.as_(ADMIN)
    await config.set("p", "hunter2", secret=True)
    assert await config.get("p") == "[secret]"
    assert await config.get("p", secret=True) == "hunter2"


@pytest.mark.usefixtures("in_a_service")
async def test_secrets_that_cannot_be_opened_keep_nothing_else_back(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    keys = [Keyring(key, Path("/nonexistent/key")) for key in ("A" * 43 + "=", "B" * 42 + "A=")]
    async with AsyncExitStack() as stack:
        right = ConfigService(store, AesGcmSealing(keys[0]))
        await right.start(stack)
        wrong = ConfigService(store, AesGcmSealing(keys[1]))
        there, here = World(right), World(wrong)
        admin, _ = there.as_(ADMIN)
        await admin.set("db", {"host": "h"})
        await admin.set("db", {"password": "hunter2"}, secret=True)
        config, _ = here.as_(SERVICE)
        assert await config.get("db.host") == "h"
        for path in ("db.password", "db"):
            with pytest.raises(Error, match="sealed with key") as refused:
                await config.get(path, "default")
            assert refused.value.kind is Kind.FAILED_PRECONDITION
        await admin.set("db.host", "i")
        await eventually(config, "db.host", "i")
        await admin.delete("db.password")
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(Error):
                    if await config.get("db") == {"host": "i"}:
                        break
                await asyncio.sleep(0.001)
        await config.close()
        await admin.close()
