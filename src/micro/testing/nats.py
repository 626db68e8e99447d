"""A NATS server of its own for tests: started, killed at will, started again on the same port and data."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from micro.backends.nats import process


class NatsChild:
    """A nats-server child process of the test, bound to no loop; its output goes to `folder/output`."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.server = process.prepare(folder, f"127.0.0.1:{port}")
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
