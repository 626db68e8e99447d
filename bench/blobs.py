"""What blobs cost beside a plain copy of a file through a socket."""

from __future__ import annotations

import json
import operator
import os
import statistics
from collections.abc import Iterator

from bench import processes
from bench.rows import Row, paired

SIZE = 128 << 20
_ROUNDS = 6


def blobs() -> Iterator[Row]:
    """Blobs through mesh and service, against a plain copy of the same file through a socket: durable one way, into a
    file the other."""
    with processes.platform() as platform:
        account = json.loads(platform.cli("auth", "create", "account", "bench", "-o", "json"))
        source = platform.home / "source"
        source.write_bytes(os.urandom(SIZE))
        program = processes.PROGRAMS / "blobs.py"
        told = platform.python(program, account["id"], account["secret"], str(source), str(_ROUNDS))
        rates = {name: [SIZE / 1e6 / each for each in taken] for name, taken in json.loads(told).items()}
    for name in ("write", "read"):
        plain = f"plain {name}"
        yield Row(f"file {name} through a plain socket", statistics.median(rates[plain]), "MB/s")
        yield Row(f"blob {name} through mesh and service", statistics.median(rates[name]), "MB/s")
        yield Row(f"blob {name} / plain socket", paired(operator.truediv, rates[name], rates[plain]), "ratio", 0.5)
