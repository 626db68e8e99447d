"""Starting and stopping: what can be wrong is told in one line, and nothing is left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    """A server that runs beside the others."""
    with worlds.world(tmp_path_factory.mktemp("server")) as made:
        made.start()
        yield made


def test_a_server_says_where_it_is_and_that_it_is_well(world: worlds.World) -> None:
    state = json.loads(world.layout.state.read_text())
    assert state["api_address"] == world.api
    assert world.layout.state.stat().st_mode & 0o777 == 0o600
    assert world.layout.settings.stat().st_mode & 0o777 == 0o600
    health = world.cli("health")
    core = ("nats", "registry", "network", "runtime", "store", "config", "broker", "events", "mesh", "api", "proxy")
    for name in core:
        assert name in health.stdout


def test_a_second_server_on_the_same_home_is_refused(world: worlds.World) -> None:
    second = world.cli("server", check=False)
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert str(world.process.pid) in second.stderr
    assert "Traceback" not in second.stderr
    world.cli("health")


def test_ctrl_c_while_it_starts_ends_everything(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.process = subprocess.Popen([worlds.MICRO, "server"], env=world.env, stdout=subprocess.PIPE, text=True)
        assert worlds.eventually(lambda: world.processes())
        pids = world.processes()
        assert world.stop(signal.SIGINT) in (0, 130)
        assert not [name for name, pid in pids.items() if worlds.alive(pid)]


def test_a_taken_port_is_told_in_one_line_with_the_way_out(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world, socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = world.cli("server", "--api-address", address, check=False)
        assert done.returncode == 1
        assert f"{address} is in use" in done.stderr
        assert "--api-address" in done.stderr
        assert world.processes() == {}


def test_a_python_without_a_shared_library_is_told_in_one_line(tmp_path: Path) -> None:
    with worlds.world(tmp_path, MICRO_LIBPYTHON="/nowhere/libpython3.so") as world:
        done = world.cli("server", check=False)
        assert done.returncode == 1
        assert "libpython" in done.stderr
        assert "Traceback" not in done.stderr
        assert world.processes() == {}


def test_a_home_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with worlds.world(tmp_path) as world:
        world.extra["MICRO_HOME"] = str(tmp_path / "file" / "home")
        done = world.cli("server", check=False)
        assert done.returncode == 1
        assert "MICRO_HOME" in done.stderr
        assert "Traceback" not in done.stderr


def test_bad_addresses_and_profiles_are_refused(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        for words in (("--api-address", "nonsense"), ("--profile", "none-such"), ("--proxy-address", "1.2.3.4:99999")):
            done = world.cli("server", *words, check=False)
            assert done.returncode != 0
            assert words[1] in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


def test_a_command_without_a_server_says_so_at_once(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.cli("env", "add", "nowhere", world.proxy)
        done = world.cli("--env", "nowhere", "services", check=False)
        assert done.returncode == 4
        assert "micro server" in done.stderr


def test_services_come_back_with_the_server_and_a_server_beside_it_notices_nothing(
    world: worlds.World, tmp_path: Path
) -> None:
    with worlds.world(tmp_path) as other:
        other.start()
        source = worlds.HELLO.replace('GREETING = "Hello"', 'GREETING = os.environ["GREETING"]')
        other.cli("run", str(other.service(source=source)), "-e", "GREETING=Good day", "-i", "2", "--version", "v7")
        greeting = "not for everybody: 7d41"
        other.cli("update", str(other.service(source=source)), "-e", f"GREETING={greeting}", "--version", "v7")
        assert "helloworld" in other.cli("services").stdout
        assert "helloworld" not in world.cli("services").stdout
        for how in (lambda: other.stop(timeout=60), lambda: kill(other)):
            before = other.processes()
            how()
            world.cli("health")
            other.start()
            assert "helloworld" in other.cli("status").stdout, "it is told from the beginning"
            assert worlds.eventually(lambda: running(other) == ("v7", "running", 2), 40), other.cli("status").stdout
            said = other.cli("helloworld", "--name=Ann").stdout
            assert f"{greeting} Ann" in said
            assert not set(before.values()) & set(other.processes().values())
        assert not [path for path in other.layout.root.rglob("*") if path.is_file() and greeting in text(path)]
        assert os.access(other.layout.logs, os.R_OK)


STUBBORN = """
import asyncio
from micro import Service
from proto.helloworld_connect import Helloworld
from proto.helloworld_pb import Response

class Handler(Helloworld):
    async def call(self, request, ctx):
        print("asked")
        await asyncio.Event().wait()

    async def follow(self, request, ctx):
        yield Response(msg="begun")
        await asyncio.Event().wait()

app = Service("helloworld", Handler(), timeout=0)

@app.on_stop
async def linger():
    await asyncio.Event().wait()
"""


def test_a_service_that_does_not_let_go_does_not_keep_the_server_from_ending_in_ten_seconds(tmp_path: Path) -> None:
    stream = " rpc Follow(Request) returns (stream Response); }"
    with worlds.world(tmp_path) as stubborn, ThreadPoolExecutor(1) as callers:
        stubborn.start()
        proto = worlds.PROTO.replace("returns (Response); }", f"returns (Response);{stream}")
        stubborn.cli("run", str(stubborn.service(source=STUBBORN, proto=proto)))
        hanging = callers.submit(ask, stubborn, "/helloworld/call")
        assert worlds.eventually(lambda: "asked" in stubborn.cli("logs", "helloworld").stdout)
        with ask(stubborn, "/helloworld/follow") as following:
            assert "begun" in following.readline().decode()
            pids = stubborn.processes()
            before = time.monotonic()
            assert stubborn.stop(signal.SIGTERM) == 0
            assert time.monotonic() - before < 10
        assert not [name for name, pid in pids.items() if worlds.alive(pid)]
        with pytest.raises(urllib.error.HTTPError, match="503"):
            hanging.result()
        assert errors_of(stubborn) == []


def ask(world: worlds.World, path: str) -> http.client.HTTPResponse:
    """The begin of an answer."""
    json_body = {"content-type": "application/json"}
    answer: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(f"http://{world.api}{path}", b"{}", json_body), timeout=60
    )
    return answer


def test_a_server_ends_without_a_trace(world: worlds.World) -> None:
    pids = world.processes()
    before = time.monotonic()
    assert world.stop(signal.SIGTERM) == 0
    assert time.monotonic() - before < 10
    assert not [name for name, pid in pids.items() if worlds.alive(pid)]
    assert not world.layout.state.exists()
    assert world.processes() == {}
    assert "Traceback" not in world.output()
    # The others follow what registry and auth tell: those streams are open until the end.
    assert errors_of(world) == []


def errors_of(world: worlds.World) -> list[str]:
    """What the core processes logged as errors, with whose log it is."""
    lines = (
        (log.stem, line) for log in (world.layout.logs / "core").iterdir() for line in log.read_text().splitlines()
    )
    return [f"{unit}: {line}" for unit, line in lines if json.loads(line)["level"] in ("error", "critical")]


def running(world: worlds.World) -> tuple[str, str, int] | None:
    """Version, state and running instances of the one service."""
    [found] = json.loads(world.cli("status", "-o", "json").stdout)
    return found["version"], found["status"], found["instances"]


def kill(world: worlds.World) -> None:
    """End the server and all that it has started at once, as a power cut does."""
    assert world.process is not None
    for pid in (world.process.pid, *world.processes().values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    world.process.wait(10)


def text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")
