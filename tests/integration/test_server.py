"""Starting and stopping: what can be wrong is told in one line, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import worlds


def test_a_server_starts_answers_and_ends_without_a_trace(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.start()
        pids = world.processes()
        state = json.loads(world.layout.state.read_text())
        assert state["api_address"] == world.api
        assert world.layout.state.stat().st_mode & 0o777 == 0o600
        assert world.layout.settings.stat().st_mode & 0o777 == 0o600
        health = world.cli("health")
        core = ("nats", "registry", "network", "runtime", "store", "config", "broker", "events", "mesh", "api", "proxy")
        for name in core:
            assert name in health.stdout
        before = time.monotonic()
        assert world.stop(signal.SIGTERM) == 0
        assert time.monotonic() - before < 10
        assert not [name for name, pid in pids.items() if worlds.alive(pid)]
        assert not world.layout.state.exists()
        assert world.processes() == {}
        assert "Traceback" not in world.output()


def test_ctrl_c_while_it_starts_ends_everything(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.process = subprocess.Popen([worlds.MICRO, "server"], env=world.env, stdout=subprocess.PIPE, text=True)
        assert worlds.eventually(lambda: world.processes())
        pids = world.processes()
        assert world.stop(signal.SIGINT) in (0, 130)
        assert not [name for name, pid in pids.items() if worlds.alive(pid)]


def test_a_second_server_on_the_same_home_is_refused(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.start()
        second = world.cli("server", check=False)
        assert second.returncode == 1
        assert "already running" in second.stderr
        assert str(world.process.pid) in second.stderr
        assert "Traceback" not in second.stderr
        world.cli("health")


def test_two_servers_run_side_by_side(tmp_path: Path) -> None:
    with worlds.world(tmp_path / "one") as one, worlds.world(tmp_path / "two") as two:
        one.start()
        two.start()
        one.cli("run", str(one.service()))
        assert "helloworld" in one.cli("services").stdout
        assert "helloworld" not in two.cli("services").stdout
        one.stop()
        two.cli("health")


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


def test_services_come_back_with_the_server(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.start()
        source = worlds.HELLO.replace('GREETING = "Hello"', 'GREETING = os.environ["GREETING"]')
        world.cli("run", str(world.service(source=source)), "-e", "GREETING=Good day", "-i", "2", "--version", "v7")
        greeting = "not for everybody: 7d41"
        world.cli("update", str(world.service(source=source)), "-e", f"GREETING={greeting}", "--version", "v7")
        for how in (lambda: world.stop(timeout=60), lambda: kill(world)):
            before = world.processes()
            how()
            world.start()
            assert "helloworld" in world.cli("status").stdout, "it is told from the beginning"
            assert worlds.eventually(lambda: running(world) == ("v7", "running", 2), 40), world.cli("status").stdout
            said = world.cli("helloworld", "--name=Ann").stdout
            assert f"{greeting} Ann" in said
            assert not set(before.values()) & set(world.processes().values())
        assert not [path for path in world.layout.root.rglob("*") if path.is_file() and greeting in text(path)]
        assert os.access(world.layout.logs, os.R_OK)


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
