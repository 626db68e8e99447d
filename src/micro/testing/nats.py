"""NATS servers of a test's own: one, or a cluster, on this machine; killed at will, started again on the same data."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from micro.backends.nats import process
from micro.backends.nats._address import NatsAddress
from micro.ports import private_file
from micro.ports.free_address import free_address, free_addresses

READY_SECONDS = 30.0
_USER, _CLUSTER = "micro", "test"
_TAKEN = "address already in use"


class NatsChild:
    """A nats-server child process of the test, bound to no loop; its output goes to `folder/output`."""

    def __init__(self, folder: Path) -> None:
        self.server = process.prepare(folder, free_address())
        self.address = self.server.address
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Run it; returns before it is ready."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self.server.argv, stdout=output, stderr=output)

    async def start(self) -> None:
        """Run it and wait until it is ready."""
        self.spawn()
        await process.ready(self.address)

    def kill(self) -> None:
        """kill -9; returns when it is gone. Does nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def nats_child(folder: Path) -> Iterator[NatsChild]:
    """A server under `folder` that was spawned, gone when the context ends. Clients wait for it by themselves."""
    child = NatsChild(folder)
    try:
        child.spawn()
        yield child
    finally:
        child.kill()


class NatsNode:
    """A nats-server with a configuration of the test's own.

    Args:
        folder: of this server alone; made where it is missing.
        listen, monitor: HOST:PORT for clients, and for questions about its state.
        configuration: what it is told besides, in its own language.

    Attributes:
        name: the folder's.
        listen: HOST:PORT for clients.
    """

    def __init__(self, folder: Path, listen: str, monitor: str, configuration: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name = folder.name
        self.listen = listen
        self._monitor = monitor
        self._config = folder / "nats.conf"
        self._output = folder / "output"
        head = f"server_name: {self.name}\nlisten: {json.dumps(listen)}\nhttp: {json.dumps(monitor)}\n"
        private_file.write(self._config, head + configuration)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError(f"the NATS server {self.name} does not run")
        return self._process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def spawn(self) -> None:
        """Run it; returns before it is ready. Does nothing when it runs."""
        if self._process is None:
            argv = (str(process.find_program()), "--config", str(self._config))
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL)

    def start(self) -> None:
        """Run it and wait until it answers. Raises RuntimeError with its last words when it does not get there."""
        self.spawn()
        _await(lambda: bool(self.ask("varz")), self)

    def kill(self) -> None:
        """kill -9; returns when it is gone. Does nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def ask(self, what: str) -> dict[str, Any]:
        """What it tells of its state, by the name that NATS gives to that; empty when it does not answer.

        Raises:
            RuntimeError: it has ended by itself.
        """
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"the NATS server {self.name} has ended: {' '.join(self.output.splitlines()[-5:])}")
        try:
            with urllib.request.urlopen(f"http://{self._monitor}/{what}", timeout=2) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (urllib.error.URLError, OSError, ValueError):
            return {}


class NatsCluster:
    """Servers that know each other by a password, with JetStream, under `folder`, not started yet.

    Args:
        sync: whether they sync to disk before they acknowledge. What a kill of one outlives, is outlived without.

    Attributes:
        nodes: the servers.
        address: all of them, and how clients are let in.
    """

    def __init__(self, folder: Path, servers: int = 3, *, sync: bool = False) -> None:
        self._folder = folder
        self._password, self._secret = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self._sync = sync
        self._servers = servers
        self._prepare()

    @property
    def url(self) -> str:
        """What a server is told to use it, with user and password."""
        return ",".join(f"nats://{_USER}:{self._password}@{node.listen}" for node in self.nodes)

    def start(self) -> None:
        """Run all and wait until they are one cluster with a leader.

        Raises:
            RuntimeError: they did not get there.
        """
        for attempt in range(5):
            try:
                for node in self.nodes:
                    node.spawn()
                self.wait_whole()
            except RuntimeError:
                taken = any(_TAKEN in node.output for node in self.nodes)
                self.kill()
                if not taken or attempt == 4:
                    raise
                self._prepare()  # somebody was faster: other ports
            else:
                return

    def kill(self) -> None:
        """kill -9 of all that run."""
        for node in self.nodes:
            node.kill()

    def wait_whole(self) -> None:
        """Return when every server that runs knows the leader, and the leader has all servers with it, and so has the
        leader of each stream. Raises RuntimeError."""
        _await(self._whole, *self.nodes)

    def leader(self, stream: str = "") -> NatsNode:
        """The leader of a stream, or of the cluster, as soon as there is one. Raises RuntimeError."""
        found: list[NatsNode] = []

        def find() -> bool:
            for node in self.nodes:
                state = node.ask("jsz?accounts=true&streams=true")
                groups = _streams(state) if stream else {"": state.get("meta_cluster", {})}
                if groups.get(stream, {}).get("leader") == node.name:
                    found.append(node)  # what it says of itself: the others may not have heard yet
                    return True
            return False

        _await(find, *self.nodes)
        return found[0]

    def _whole(self) -> bool:
        leaders = 0
        for node in self.nodes:
            state = node.ask("jsz?accounts=true&streams=true")
            meta = state.get("meta_cluster", {})
            if meta.get("leader") == node.name:
                leaders += 1
                if not _all_current(meta, self._servers):
                    return False
            for group in _streams(state).values():
                peers = group.get("replicas", [])
                if group.get("leader") == node.name and not _all_current(group, len(peers) + 1):
                    return False
            if not meta.get("leader"):
                return False
        return leaders == 1

    def _prepare(self) -> None:
        count = self._servers
        found = free_addresses(3 * count)
        clients, routes, monitors = found[:count], found[count : 2 * count], found[2 * count :]
        known = ", ".join(json.dumps(f"nats://{_CLUSTER}:{self._secret}@{place}") for place in routes)
        self.nodes: list[NatsNode] = []
        for number in range(count):
            folder = self._folder / f"n{number + 1}"
            own = f"jetstream {{ store_dir: {json.dumps(str(folder / 'data'))}\n"
            own += "  sync_interval: always }\n" if self._sync else "}\n"
            own += f"max_payload: {process.MAX_PAYLOAD}\nmax_pending: {8 * process.MAX_PAYLOAD}\n"
            own += f"authorization {{ user: {_USER}, password: {json.dumps(self._password)} }}\n"
            own += f"cluster {{ name: {_CLUSTER}\n  listen: {json.dumps(routes[number])}\n  routes: [{known}]\n"
            own += f"  authorization {{ user: {_CLUSTER}, password: {json.dumps(self._secret)} }} }}\n"
            self.nodes.append(NatsNode(folder, clients[number], monitors[number], own))
        self.address = NatsAddress(",".join(f"nats://{node.listen}" for node in self.nodes), _USER, self._password)


@contextmanager
def nats_cluster(folder: Path, servers: int = 3, *, sync: bool = False) -> Iterator[NatsCluster]:
    """A cluster that is ready, gone when the context ends. Raises RuntimeError."""
    cluster = NatsCluster(folder, servers, sync=sync)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def _streams(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The group of servers that keeps each stream, by its name, as one server knows them."""
    details = (stream for account in state.get("account_details", []) for stream in account.get("stream_detail", []))
    return {stream["name"]: stream.get("cluster", {}) for stream in details}


def _all_current(group: dict[str, Any], servers: int) -> bool:
    peers = group.get("replicas", [])
    return len(peers) == servers - 1 and all(peer.get("current") and not peer.get("offline") for peer in peers)


def _await(reached: Any, *nodes: NatsNode) -> None:
    end = time.monotonic() + READY_SECONDS
    while not reached():
        if time.monotonic() > end:
            words = "; ".join(f"{node.name}: {' '.join(node.output.splitlines()[-3:])}" for node in nodes)
            raise RuntimeError(f"NATS did not get there in {READY_SECONDS:g} s: {words}")
        time.sleep(0.02)  # it tells nobody
