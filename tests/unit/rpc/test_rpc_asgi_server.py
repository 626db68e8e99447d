"""The one file that knows how an application becomes a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from micro.domain.address import split
from micro.domain.errors import Error, Kind
from micro.rpc import asgi_server


def test_the_command_names_no_secret_place_twice_and_its_file_is_private(tmp_path: Path) -> None:
    admin = tmp_path / "admin.sock"
    admin.write_text("left over")
    command = asgi_server.command("main:app", address="127.0.0.1:4321", admin=admin, folder=tmp_path)
    file = tmp_path / "admin.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not admin.exists()
    assert str(file) in command.argv
    assert command.env["PYTHONPATH"].startswith(str(tmp_path) + os.pathsep)
    config = json.loads(file.read_text())
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 4321}
    assert listener["enable_reuse_port"] is False
    assert config["admin"]["address"]["pipe"] == {"path": str(admin), "mode": 0o600}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux shows the timers of connections")
def test_whoever_connects_is_probed(target: str) -> None:
    host, port = split(target)
    with socket.create_connection((host, port)) as connection:
        ends = [f":{number:04X}" for number in (port, connection.getsockname()[1])]
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        [timer] = [line[5] for line in lines if line[1].endswith(ends[0]) and line[2].endswith(ends[1])]
        assert timer.startswith("02:"), "no keepalive is armed"


def test_only_one_of_the_two_filters_starts_the_application(tmp_path: Path) -> None:
    text = json.dumps(asgi_server.config("main:app", "127.0.0.1:1", tmp_path / "a.sock"))
    assert text.count(r"\"lifespan\": true") == 1
    assert text.count(r"\"lifespan\": false") == 1
    assert "pyvoy-ws" not in json.dumps(asgi_server.config("main:app", "127.0.0.1:1", tmp_path / "a.sock", False))


def test_a_missing_libpython_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_LIBPYTHON", "/nowhere/libpython3.so")
    with pytest.raises(Error, match="libpython") as raised:
        asgi_server.libpython()
    assert raised.value.kind is Kind.FAILED_PRECONDITION


def test_an_interpreter_that_does_not_run_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(Error, match="no such thing"):
        asgi_server.command("main:app", address="127.0.0.1:1", admin=tmp_path / "a.sock", python=broken)


def test_what_a_service_executes_runs_as_if_it_were_not_inside_envoy(tmp_path: Path) -> None:
    code = "import os, sys\nfrom micro.rpc import asgi_server\nasgi_server.disembed()\n"
    code += "print(sys.executable, *sorted(os.environ))"
    env = {**os.environ, "MICRO_PYTHON": "/usr/bin/other", "PYTHONHOME": f"{sys.prefix}:{sys.prefix}"}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    env["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    executable, *names = done.stdout.split()
    assert executable == "/usr/bin/other"
    assert not {"PYTHONHOME", "PYTHONPATH", "LD_PRELOAD"} & set(names)
    assert "GRPC_ENABLE_FORK_SUPPORT" in names, "gRPC reads it later, at its first call"


def test_what_still_runs_at_the_end_is_ended_before_the_loop_closes_its_generators() -> None:
    ended: list[str] = []

    async def watch() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.append("watch")

    async def call(begun: asyncio.Event) -> None:
        async for _ in watch():
            begun.set()

    async def serve() -> None:
        begun = asyncio.Event()
        calling = asyncio.create_task(call(begun))
        await begun.wait()
        await asgi_server.end_calls()
        assert calling.cancelled()
        assert ended == ["watch"]

    asyncio.run(serve())


def test_a_call_that_does_not_end_does_not_hold_up_the_end() -> None:
    async def serve() -> bool:
        over = asyncio.Event()

        async def stubborn() -> None:
            while not over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()

        calling = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await asgi_server.end_calls(within=0.01)
        left = not calling.done()
        over.set()
        return left

    assert asyncio.run(serve())
