"""What the runtime and its instances share: the means to run processes, and word of their ends."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from micro.domain.namespace import Quota
from micro.domain.workload import Workload
from micro.ports.accounts import ServiceAccounts
from micro.ports.announcements import RUNTIME, Announcements, Silent
from micro.ports.builder import Builder
from micro.ports.free_address import free_address
from micro.ports.launcher import Launcher, ProcessInfo
from micro.ports.runtime import Drainable, Liveness, Logs, Sources, Traffic, WorkloadStore
from micro.rpc.asgi_server import Command

_log = logging.getLogger(__name__)

Quotas = Callable[[str], Quota | None]
"""The limits of a namespace; None when there is no such namespace."""

KIND = "kind"
SERVICE = "service"
PYTHON = "python"
"""Label of a process: the interpreter that it runs with."""

_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_INHERITED_PREFIXES = ("LC_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """How services are run."""

    network: str
    """HOST:PORT of the mesh that services call each other through."""

    ready_timeout: float = 30.0
    """Seconds that a process may take from its start until it is routed."""

    start_slot: float = 5.0
    """Seconds that a process which is not ready yet keeps others from starting after a restart of the server."""

    drain_timeout: float = 10.0
    """Seconds that requests in flight may take to finish once no new ones come."""

    stop_grace: float = 5.0
    """Seconds between SIGTERM and SIGKILL."""

    settle: float = 0.3
    """Seconds between the data planes' word that they route elsewhere and the last request that was on its way:
    Envoy's workers take an accepted update over one after the other, and say nothing when they have."""

    leave_timeout: float = 30.0
    """Seconds to get an instance out of the routes when registry or network do not answer; then it is ended anyway."""

    reconcile: float = 5.0
    """Seconds between looks at which processes really run."""

    probe: float = 5.0
    """Seconds between questions whether an instance answers."""

    silent: float = 3.0
    """Seconds without an answer after which requests go to the other instances: more than a busy event loop takes when
    all is well, and less than callers wait."""

    hung: float = 30.0
    """Seconds without any answer after which an instance is started again: far more than code takes that keeps all
    else waiting, which ends by itself."""

    upkeep: float = 600.0
    """Seconds between looks for uploads and output that nobody needs any more."""


@dataclass(frozen=True, slots=True)
class Host:
    """All that running services needs.

    Attributes:
        command: makes what to execute from interpreter, folder, address and admin socket; may block.
        admin_socket: path of a process's admin socket, by process id.
        admin: what drains the process behind an admin socket.
        liveness: what asks instances whether they live.
        environ: the environment of the server, of which processes get what is harmless.
        host: address that services listen on.
        announcements: who hears what becomes of services.
    """

    launcher: Launcher
    builder: Builder
    store: WorkloadStore
    sources: Sources
    logs: Logs
    traffic: Traffic
    accounts: ServiceAccounts
    command: Callable[[Path, Path, str, Path], Command]
    admin_socket: Callable[[str], Path]
    admin: Callable[[Path], Drainable]
    liveness: Liveness
    settings: RuntimeSettings
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    host: str = "127.0.0.1"
    announcements: Announcements = field(default_factory=Silent)

    def tell(self, about: Workload, type_: str, **data: str) -> None:
        """Announce what happened to a workload; see `Announcements.tell`."""
        said = {name: value for name, value in data.items() if value}
        self.announcements.tell(
            about.namespace, RUNTIME, type_, {"service": about.name, "version": about.version, **said}
        )

    def inherited(self) -> dict[str, str]:
        """What a process gets of the server's environment: nothing that belongs to the process that embeds us."""
        return {
            name: value
            for name, value in self.environ.items()
            if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
        }

    def free_address(self) -> str:
        """An address that nothing listens on now. Somebody may be faster: then the process says so and ends."""
        return free_address(self.host)


class Lasting(Announcements):
    """Tells nothing to namespaces that are being removed.

    Args:
        ending: those; the caller goes on changing it.
    """

    def __init__(self, announcements: Announcements, ending: Collection[str]) -> None:
        self._announcements = announcements
        self._ending = ending

    def tell(self, namespace: str, topic: str, type_: str, data: Mapping[str, str]) -> None:
        if namespace not in self._ending:
            self._announcements.tell(namespace, topic, type_, data)


class Exits:
    """Tells who waits for it that a process has ended."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._expected: dict[str, asyncio.Future[ProcessInfo]] = {}
        self._started: set[str] = set()

    def expect(self, process_id: str) -> asyncio.Future[ProcessInfo]:
        """A future of the process's end. Ask before it is started."""
        return self._expected.setdefault(process_id, asyncio.get_running_loop().create_future())

    def expects(self, process_id: str) -> bool:
        return process_id in self._expected

    def forget(self, process_id: str) -> None:
        """Its end interests nobody any more: should it run, the next look ends it."""
        self._started.discard(process_id)
        if future := self._expected.pop(process_id, None):
            future.cancel()

    async def watch(self) -> None:
        """Pass on what the launcher tells, for ever."""
        async for info in self._host.launcher.watch():
            if info.exit_status is not None:
                self._ended(info)

    async def reconcile(self) -> None:
        """Look every few seconds at what runs, for ever: an end that the watch missed is noticed late, not never, and
        a process of ours that nobody knows is ended."""
        strangers: set[str] = set()
        missing: set[str] = set()
        while True:
            await asyncio.sleep(self._host.settings.reconcile)
            try:
                expected = {process_id for process_id in self._started if not self._expected[process_id].done()}
                running = {info.id: info for info in await self._host.launcher.list()}
                absent = expected - running.keys()
                for process_id in absent & missing:  # twice: word of its end may be on its way
                    _log.warning("%s has ended unseen", process_id)
                    self._ended(ProcessInfo(process_id, 0, {}, 255, ("its end was not seen",)))
                missing = absent
                unknown = {i for i, info in running.items() if info.labels.get(KIND) == SERVICE} - self._expected.keys()
                for process_id in unknown & strangers:
                    _log.warning("%s runs and should not: it is ended", process_id)
                    await self._host.launcher.stop(process_id, self._host.settings.stop_grace)
                strangers = unknown
            except Exception as error:  # noqa: BLE001 - the next look may succeed
                _log.warning("the running processes cannot be listed: %s", error)

    def started(self, process_id: str) -> None:
        """The launcher has said that it runs."""
        if process_id in self._expected:
            self._started.add(process_id)

    def _ended(self, info: ProcessInfo) -> None:
        future = self._expected.get(info.id)
        if future is not None and not future.done():
            future.set_result(info)
