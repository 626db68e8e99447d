"""Load from h2load, a native generator, pinned to a processor of its own."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import machine


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    rate: float
    """Requests a second."""

    failed: int
    """Requests without a 2xx answer."""

    p50: float = 0.0
    """Median latency, milliseconds; measured in runs at a fixed rate only."""

    p99: float = 0.0
    """99th percentile, milliseconds."""


def generator() -> str:
    """Path of h2load."""
    found = shutil.which("h2load")
    if found is None:
        raise SystemExit("bench: h2load is missing: install it (Debian: apt install nghttp2-client)")
    return found


def frame(message: bytes) -> bytes:
    """A gRPC frame."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def run(
    url: str,
    body: bytes,
    *,
    count: int = 40_000,
    connections: int = 4,
    streams: int = 16,
    content_type: str = "application/grpc",
    rate: int = 0,
    core: str | None = None,
    token: str = "",
) -> Result:
    """Send `count` POSTs over h2c; at `rate` a second where that is given, evenly spaced.

    A connection of h2load's sends on a timer of 10 ms at the finest, and all that were opened together send together.
    So a rate takes one connection for each 100 a second, opened one after the other within those 10 ms.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data, log = Path(scratch, "body"), Path(scratch, "log")
        data.write_bytes(body)
        connections = rate // 100 if rate else connections
        command = ["taskset", "-c", core or machine.cores()[1], generator(), "-n", str(count), "-c", str(connections)]
        command += [
            "-m",
            str(streams),
            "-t",
            "1",
            "-d",
            str(data),
            "-H",
            f"content-type: {content_type}",
            "-H",
            "te: trailers",
        ]
        if token:
            command += ["-H", f"authorization: Bearer {token}"]
        if rate:
            spacing = ["--rps", "100", "-r", "1", "--rate-period", f"{1000 / rate:.0f}ms"]
            command += [*spacing, "--log-file", str(log)]
        done = subprocess.run([*command, url], capture_output=True, text=True, check=True, timeout=300)
        return _parse(done.stdout, log)


def _parse(output: str, log: Path) -> Result:
    rate = float(re.search(r"([\d.]+) req/s", output).group(1))  # type: ignore[union-attr]
    total, good = re.search(r"requests: (\d+) total", output), re.search(r"status codes: (\d+) 2xx", output)
    failed = int(total.group(1)) - int(good.group(1))  # type: ignore[union-attr]
    if not log.exists():
        return Result(rate, failed)
    # One line a request: start in microseconds, status, latency in microseconds.
    taken = sorted(int(line.split()[2]) / 1000 for line in log.read_text().splitlines())
    return Result(rate, failed, statistics.median(taken), taken[int(len(taken) * 0.99)])
