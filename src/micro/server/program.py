"""A server as an object: tests start the same one that the command line does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from micro._version import __version__
from micro.domain import errors
from micro.domain.address import split
from micro.ports import background, private_file, private_folder
from micro.rpc import asgi_server
from micro.server import assemble, catalog, first_start, moving, shared, storage
from micro.server import format as data_format
from micro.server.settings import Layout, Settings
from micro.server.supervisor import Screen, Supervisor


class Program:
    """One server on one home."""

    def __init__(self, settings: Settings, screen: Screen) -> None:
        self.settings = settings.with_ports()
        self.layout = Layout(settings.home)
        self._screen = screen
        self._certificates = assemble.certificates(self.settings, self.layout)

    async def run(self, announce: assemble.Announce) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP; everything that was started has ended when it returns.

        Raises:
            Error: FAILED_PRECONDITION when the home or a port is taken, or this Python cannot be embedded;
                INVALID_ARGUMENT for a certificate that does not hold, or what is no web origin;
                StartError when a process does not become ready.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup a terminal that goes away is no reason to stop.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, stop.set)
        # Told now, in one line, instead of by every process in many.
        asgi_server.libpython()
        shared.front(self.settings)
        with self._owned_home(), _full_disks_told():
            await data_format.upgrade(self.settings, self.layout, self._screen.note)
            # Before there are several who would each make one.
            catalog.sealing(self.layout).begin()
            # What a killed server left would lead the command line to ports that are somebody else's by now.
            self.layout.state.unlink(missing_ok=True)
            self.layout.own_client.unlink(missing_ok=True)
            for name in ("api_address", "proxy_address"):
                _check_free(name, getattr(self.settings, name))
            async with AsyncExitStack() as stack:
                if self._certificates is not None:
                    stack.callback(self.layout.own_client.unlink, missing_ok=True)
                    self._certificates.load()
                    background.spawn(stack, self._certificates.follow(self._screen.note), "following the certificate")
                launcher = await assemble.launcher(self.layout, stack)
                if not await _unless(stop, assemble.check_nats(self.settings, self.layout, self._screen.note)):
                    return
                # Now nobody has the store open that a killed server has left.
                settling = moving.settle(self.settings, self.layout, self._screen.note)
                if not await _unless(stop, settling):
                    return
                units = assemble.units(self.settings, self.layout)
                storage.keep_url(self.layout, self.settings, catalog.sealing(self.layout))
                self._write(self.layout.settings, self.settings.dump())
                supervisor = Supervisor(launcher, units, self._screen, assemble.service_drain(self.layout))

                async def ready() -> None:
                    first = await first_start.begin(self.settings)
                    # Only now: who finds it may need the session.
                    self._write(self.layout.state, json.dumps(self.state()))
                    stack.callback(self.layout.state.unlink, missing_ok=True)
                    announce(self.settings, self.layout, first)

                await supervisor.run(stop, ready)

    def state(self) -> dict[str, object]:
        """What the command line needs to know of a running server."""
        return {
            "pid": os.getpid(),
            "version": __version__,
            "api_address": self.settings.api_address,
            "proxy_address": self.settings.proxy_address,
            "tls_cert": str(self.layout.certificate) if self.settings.tls_cert else "",
            "tls_client": str(self.layout.own_client) if self.settings.tls_client_ca else "",
            "accounts": not self.settings.open,
        }

    @contextlib.contextmanager
    def _owned_home(self) -> Iterator[None]:
        """Make the folders and hold the home's lock; the kernel gives the lock back whatever happens to us."""
        layout = self.layout
        for folder in (layout.root, layout.logs / "core", layout.processes, layout.tls, layout.run):
            try:
                private_folder.make(folder)
            except OSError as error:
                raise errors.failed_precondition(
                    f"cannot make {folder}: {error.strerror}; free space there, or set MICRO_HOME to another folder"
                ) from error
        _check_private(self.layout.run)
        with self.layout.lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise errors.failed_precondition(self._taken()) from None
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield
            finally:
                # Sockets, the proxies' configuration and keys: of no use to anybody now.
                for folder in (layout.run, layout.tls):
                    shutil.rmtree(folder, ignore_errors=True)

    def _taken(self) -> str:
        pid = self.layout.lock.read_text().strip() or "?"
        return (
            f"a server is already running on {self.layout.home} (pid {pid}): use it, stop it with Ctrl-C or "
            f"kill {pid}, or set MICRO_HOME for another one"
        )

    @staticmethod
    def _write(path: Path, text: str) -> None:
        """Write a private file whole or not at all."""
        private_file.write(path, text)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, which may take long; give it up when the server is to stop. Whether it was done."""
    working = asyncio.create_task(work)  # owned: by this call
    stopping = asyncio.create_task(stop.wait())  # owned: by this call
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait((working, stopping))
    if working.cancelled():
        return False
    working.result()
    return True


@contextlib.contextmanager
def _full_disks_told() -> Iterator[None]:
    """Files that cannot be written are the machine's fault: one line, no traceback."""
    try:
        yield
    except OSError as error:
        raise errors.failed_precondition(f"{error.filename or 'a file'}: {error.strerror or error}") from error


def _check_private(folder: Path) -> None:
    """The temporary folder is everybody's; what lies there under our name must be ours alone."""
    status = folder.lstat()
    if status.st_uid != os.getuid():  # where only its owner may remove it
        raise errors.failed_precondition(
            f"{folder} belongs to another user: set TMPDIR to a folder of your own, of at most 40 characters"
        )
    if status.st_mode & 0o077 or not folder.is_dir() or folder.is_symlink():
        raise errors.failed_precondition(f"{folder} is not a private folder of yours: remove it and try again")


def _check_free(name: str, address: str) -> None:
    """A taken port is told here, in one line, instead of by Envoy in many."""
    host, port = split(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    flag = "--" + name.replace("_", "-")
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            cause = (
                "is in use by another program"
                if error.errno == errno.EADDRINUSE
                else f"cannot be bound: {error.strerror}"
            )
            raise errors.failed_precondition(
                f"{address} {cause}: free it or choose another with {flag} HOST:PORT"
            ) from None
