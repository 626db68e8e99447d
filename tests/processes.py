"""Applications of the tests as processes of their own, under the true server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from micro.rpc import asgi_server


@contextlib.contextmanager
def serving(module: Path, target: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the `app` of a module at an address until the block ends; it need not listen yet when the block begins."""
    with tempfile.TemporaryDirectory(prefix="mp-") as folder:
        command = asgi_server.command(
            f"{module.stem}:app", address=target, admin=Path(folder) / "a.sock", folder=module.parent
        )
        path = os.pathsep.join((command.env["PYTHONPATH"], str(Path(__file__).parent)))
        own = {key: value for key, value in os.environ.items() if not key.startswith("MICRO_")}
        process = subprocess.Popen(
            command.argv, env={**own, **command.env, "PYTHONPATH": path, **env}, start_new_session=True,
            stderr=sys.stderr,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def listening(module: Path, target: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """As `serving`; the block begins once it listens."""
    host, _, port = target.partition(":")
    with serving(module, target, **env) as process:
        end = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            assert process.poll() is None, "the service ended while it started"
            assert time.monotonic() < end, "the service does not listen"
            time.sleep(0.02)
        yield process
