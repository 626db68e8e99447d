"""What is measured: servers on their own and whole platforms, each ended again."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from micro.ports.free_address import free_addresses
from micro.rpc import asgi_server
from micro.rpc.method import Method
from micro.server.settings import Layout

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "bench/programs"
CONTRACT = ROOT / "examples/helloworld"
MICRO = str(Path(sys.executable).parent / "micro")


def _listening(address: str, process: subprocess.Popen[bytes], within: float = 20) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + within
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.01)
    raise SystemExit(f"bench: nothing came to listen on {address}")


@contextlib.contextmanager
def _running(argv: list[str], env: dict[str, str], address: str, core: str) -> Iterator[str]:
    process = subprocess.Popen(["taskset", "-c", core, *argv], env={**os.environ, **env})
    try:
        _listening(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def asgi(app: str, folder: Path = PROGRAMS) -> Iterator[str]:
    """An ASGI application of `programs/` or another folder, alone on the first processor; yields its address."""
    (address,) = free_addresses(1)
    with tempfile.TemporaryDirectory(prefix="mb") as scratch:
        command = asgi_server.command(app, address=address, admin=Path(scratch, "admin.sock"), folder=folder)
        env = {**command.env, "PYTHONPATH": os.pathsep.join((str(CONTRACT), command.env["PYTHONPATH"]))}
        with _running(list(command.argv), env, address, machine.cores()[0]) as up:
            yield up


@contextlib.contextmanager
def python(program: str) -> Iterator[str]:
    """A Python server of `programs/`, alone on the first processor; yields its address."""
    (address,) = free_addresses(1)
    argv = [sys.executable, str(PROGRAMS / program), address]
    with _running(argv, {"PYTHONPATH": str(CONTRACT)}, address, machine.cores()[0]) as up:
        yield up


@contextlib.contextmanager
def bare_envoy(upstream: str) -> Iterator[str]:
    """An Envoy with one route to one address and nothing else, on the second processor: what the hop itself costs."""
    (address,) = free_addresses(1)
    kind = "type.googleapis.com/envoy.extensions."
    options = {
        "@type": kind + "upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    instance = {"endpoint": {"address": _socket(upstream)}}
    cluster = {
        "name": "service",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [instance]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "service"}}
    router = {"@type": kind + "filters.http.router.v3.Router"}
    manager = {
        "@type": kind + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    listener = {"name": "bare", "address": _socket(address), "filter_chains": [chain]}
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    argv = [asgi_server.envoy_binary(), "--config-yaml", json.dumps(config), "--concurrency", "1"]
    argv += ["--disable-hot-restart", "--log-level", "error"]
    with _running(argv, {}, address, machine.cores()[1]) as up:
        yield up


def _socket(address: str) -> dict[str, object]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


class Platform:
    """A `micro server` with a home of its own."""

    def __init__(self, home: Path, **extra: str) -> None:
        self.home = home
        self.api, self.proxy = free_addresses(2)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MICRO_")}
        self.env = {
            **kept,
            "MICRO_HOME": str(home),
            "MICRO_API_ADDRESS": self.api,
            "MICRO_PROXY_ADDRESS": self.proxy,
            **extra,
        }

    def start(self) -> float:
        """Start it; seconds until `micro health` finds all ready."""
        begin = time.perf_counter()
        self.process = subprocess.Popen([MICRO, "server"], env=self.env, stdout=subprocess.DEVNULL)
        self.cli("health", "--wait", "60")
        return time.perf_counter() - begin

    def cli(self, *words: str) -> str:
        """Run a command; its output."""
        done = subprocess.run([MICRO, *words], env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench: micro {' '.join(words)}: {done.stderr}")
        return done.stdout

    def python(self, script: Path, *words: str) -> str:
        """Run a program of `programs/` as a client of this platform; its output."""
        env = {**self.env, "PYTHONPATH": str(CONTRACT), "MICRO_PROXY_ADDRESS": self.proxy}
        command = [sys.executable, str(script), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300).stdout

    @property
    def settings(self) -> dict[str, str]:
        """The addresses it chose."""
        return dict(json.loads(Layout(self.home).settings.read_text()))

    def pids(self) -> dict[str, int]:
        """Its processes by name, the supervisor included."""
        records = Layout(self.home).processes.glob("*.json")
        return {"server": self.process.pid, **{r.stem: int(json.loads(r.read_text())["pid"]) for r in records}}

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)


def echo_method() -> Method:
    """The method that is measured, for what is measured without any process."""
    sys.path[:0] = [str(CONTRACT), str(PROGRAMS)]
    from echo_service import app

    return next(method for method in app.methods if method.desc.name == "Call")


@contextlib.contextmanager
def platform(**extra: str) -> Iterator[Platform]:
    """A platform that is up, with nothing on it."""
    with tempfile.TemporaryDirectory(prefix="micro-bench-") as home:
        made = Platform(Path(home), **extra)
        made.start()
        try:
            yield made
        finally:
            made.stop()
