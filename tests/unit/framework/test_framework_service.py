"""A service from its author's side: named, started, stopped, announced, and wrong in ways that say what to do."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import micro
from gen.helloworld.helloworld_connect import Helloworld
from gen.helloworld.helloworld_pb import Request, Response
from micro.domain.errors import Error, Kind
from micro.domain.service import Registration
from micro.framework import logging as logs
from micro.framework.service import Service
from micro.rpc.registrar import Registrar
from micro.testing.app import connect


class Handler(Helloworld):
    async def call(self, request: Request, ctx: Any) -> Response:
        if not request.name:
            raise micro.errors.invalid_argument("name is empty")
        return Response(msg=f"Hello {request.name}")


@pytest.fixture(autouse=True)
def no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "NETWORK",
        "REGISTRY",
        "SERVICE_NAME",
        "SERVICE_VERSION",
        "SERVICE_ID",
        "SERVICE_ADDRESS",
        "NAMESPACE",
    ):
        monkeypatch.delenv(f"MICRO_{name}", raising=False)


async def test_a_service_is_called_in_process() -> None:
    async with connect(Service("helloworld", Handler())) as service:
        assert await service.call("Helloworld.Call", Request(name="Ann")) == Response(msg="Hello Ann")
        assert await service.call("call", {"name": "Ann"}) == {"msg": "Hello Ann"}
        assert (await service.http("POST", "/helloworld/call", {"name": "Ann"})).json() == {"msg": "Hello Ann"}
        assert (await service.http("GET", "/helloworld", query="name=Ann")).json() == {"msg": "Hello Ann"}
        with pytest.raises(Error, match="name is empty") as raised:
            await service.call("Helloworld.Call", Request())
        assert raised.value.kind is Kind.INVALID_ARGUMENT
        with pytest.raises(Error) as missing:
            await service.call("Helloworld.Nope", Request())
        assert missing.value.kind is Kind.NOT_FOUND


async def test_hooks_run_in_order_and_undo_in_reverse() -> None:
    app, seen = Service("helloworld", Handler()), []

    @app.on_start
    async def open_one() -> None:
        seen.append("start")

    @app.on_start
    async def open_two(stack: AsyncExitStack) -> None:
        seen.append("start with stack")
        stack.callback(seen.append, "undone")

    @app.on_stop
    async def close_one() -> None:
        seen.append("stop")

    @app.on_stop
    async def close_two() -> None:
        seen.append("stop second")

    async with connect(app):
        assert seen == ["start", "start with stack"]
    assert seen[2:] == ["undone", "stop second", "stop"]


async def test_a_hook_that_fails_keeps_the_service_from_starting() -> None:
    app, sent = Service("helloworld", Handler()), []

    @app.on_start
    async def broken() -> None:
        raise RuntimeError("no database")

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    with pytest.raises(RuntimeError):
        await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "helloworld cannot start: no database"}]


def test_the_environment_goes_before_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_SERVICE_NAME", "greeter")
    monkeypatch.setenv("MICRO_SERVICE_VERSION", "v2")
    app = Service("helloworld", Handler(), version="v1")
    assert (app.name, app.version) == ("greeter", "v2")


def test_without_a_name_it_is_the_folder_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "Greeter"
    folder.mkdir()
    monkeypatch.chdir(folder)
    app = Service(None, Handler())
    assert (app.name, app.version) == ("greeter", "latest")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((Handler(),), "the name comes first"),
        (("helloworld", Handler), "pass Handler"),
        (("helloworld", object()), "derive its class"),
    ],
)
def test_what_is_written_wrong_says_what_to_write(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Service(*arguments)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(Error, match="not a service name"):
        Service("Hello World", Handler())


async def test_a_service_with_nothing_to_do_says_so_when_it_starts() -> None:
    app = Service("idle")
    async with AsyncExitStack() as stack:
        with pytest.raises(TypeError, match=r"service idle has nothing to do: give it a handler"):
            await app.start(stack)
    with pytest.raises(TypeError, match="nothing to do"):
        app.run()


class Recorded(Registrar):
    def __init__(self) -> None:
        self.registered: asyncio.Future[Registration] = asyncio.get_running_loop().create_future()
        self.gone: list[Registration] = []

    async def register(self, registration: Registration, ttl: float) -> None:
        if not self.registered.done():
            self.registered.set_result(registration)

    async def deregister(self, registration: Registration) -> None:
        self.gone.append(registration)


async def test_inside_the_platform_it_announces_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MICRO_SERVICE_ADDRESS", address)
        monkeypatch.setenv("MICRO_SERVICE_ID", "node-7")
        monkeypatch.setenv("MICRO_NAMESPACE", "team")
        registrar = Recorded()
        async with connect(Service("helloworld", Handler(), metadata={"a": "b"}, registrar=registrar)):
            told = await registrar.registered
        assert told.key == ("team", "helloworld", "node-7")
        assert (told.node.address, told.metadata, told.version) == (address, {"a": "b"}, "latest")
        assert [endpoint.name for endpoint in told.endpoints] == [
            "Helloworld.Call",
            "Helloworld.Stream",
            "Helloworld.PingPong",
        ]
        assert told.descriptors
        assert registrar.gone == [told]


async def test_elsewhere_it_announces_nothing() -> None:
    registrar = Recorded()
    async with connect(Service("helloworld", Handler(), registrar=registrar)):
        pass
    assert (registrar.registered.done(), registrar.gone) == (False, [])


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    level = logger.level
    yield logger
    logger.setLevel(level)


def test_the_log_is_json_inside_the_platform(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_LOG_FORMAT", "json")
    monkeypatch.setattr(root, "handlers", [])
    stream = io.StringIO()
    logs.configure(stream)
    logs.configure(stream)
    root.warning("two\nlines %d", 1)
    try:
        raise ValueError("why")
    except ValueError:
        root.exception("broken")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first == {"level": "warning", "message": "two\nlines 1"}
    assert second["level"] == "error"
    assert "ValueError: why" in second["message"]


def test_the_log_is_text_for_people(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MICRO_LOG_FORMAT", raising=False)
    monkeypatch.setattr(root, "handlers", [])
    stream = io.StringIO()
    logs.configure(stream, level="warning")
    root.info("quiet")
    root.warning("loud")
    assert stream.getvalue() == "WARNING loud\n"


def test_the_package_gives_what_it_promises() -> None:
    assert all(getattr(micro, name) is not None for name in micro.__all__)
    assert micro.Service is Service
    with pytest.raises(AttributeError, match="nothing"):
        _ = micro.nothing
