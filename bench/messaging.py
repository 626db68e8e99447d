"""What messaging costs beside nats-py straight to the same server, which syncs every write either way."""

from __future__ import annotations

import json
import operator
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from bench import machine, processes
from bench.rows import Row, memory, paired
from micro.server.settings import Layout

SOAK_SECONDS = float(os.environ.get("MICRO_SOAK_SECONDS", "600"))


SETTLED_SECONDS = 270.0
"""NATS remembers the ids of events for two minutes, and forgets them after four at the latest: until then its memory
grows, however little is kept."""


class Client:
    """Runs the measures of `programs/messaging.py` on a platform."""

    def __init__(self, platform: processes.Platform) -> None:
        account = json.loads(platform.cli("auth", "create", "account", "bench", "-o", "json"))
        credentials = Layout(platform.home).nats / "credentials.json"
        self._words = (account["id"], account["secret"], str(credentials))
        self._platform = platform

    def run(self, measure: str, *words: object, timeout: float = 600) -> dict[str, list[float]]:
        env = {**self._platform.env, "PYTHONPATH": str(processes.CONTRACT)}
        command = [sys.executable, str(processes.PROGRAMS / "messaging.py"), *self._words, measure, *map(str, words)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=timeout)
        if done.returncode:
            raise SystemExit(f"bench: messaging.py {measure}: {done.stderr[-2000:]}")
        return dict(json.loads(done.stdout))


def messaging() -> Iterator[Row]:
    """Events and broker against nats-py straight to the same NATS, 200 bytes each."""
    with processes.platform() as platform:
        client = Client(platform)
        for measure, what, unit, goal, dream in (
            ("publish", "durable publishes, 64 in flight", "events/s", 0.6, 0.9),
            ("consume", "events consumed with acks", "events/s", 0.6, None),
            ("fan_out", "messages to 10 subscribers", "messages/s", 0.2, None),
        ):
            found = client.run(measure)
            yield Row(f"{what}, nats-py straight", statistics.median(found["straight"]), unit)
            yield Row(f"{what}, through the service", statistics.median(found["ours"]), unit)
            ratio = paired(operator.truediv, found["ours"], found["straight"])
            yield Row(f"{what}, service / straight", ratio, "ratio", goal, dream=dream)
        found = client.run("latency")
        taken = sorted(found["ours"])
        yield Row("publish to handler, nats-py straight, p50", statistics.median(found["straight"]) * 1000, "ms")
        yield Row("a byte to the other idle core and back, p50", machine.waking() * 1000, "ms")
        yield Row("publish to handler, p50", statistics.median(taken) * 1000, "ms", 3, at_most=True)
        yield Row("publish to handler, p99", taken[int(len(taken) * 0.99)] * 1000, "ms")
        found = client.run("lag")
        yield Row("durable publishes, nobody behind", statistics.median(found["alone"]), "events/s")
        ratio = paired(operator.truediv, found["beside"], found["alone"])
        yield Row("durable publishes beside a million events of lag / alone", ratio, "ratio", 0.9)


def topics() -> Iterator[Row]:
    """How messaging grows with the number of topics, and of groups of one topic."""
    with processes.platform() as platform:
        platform.cli("namespace", "quota", "micro", "--topics", "0")
        client, before = Client(platform), 0
        for count in (10, 1000, 10_000):
            found = client.run("topics", before, count)
            before = count
            yield Row(f"{count:,} topics: one more, with its first event", found["made"][0] * 1000, "ms")
            yield Row(
                f"{count:,} topics: publish to one of them, p50", statistics.median(found["publish"]) * 1000, "ms"
            )
            begin = time.perf_counter()
            listed = json.loads(platform.cli("events", "topics", "-o", "json"))
            if len(listed) < count:
                raise SystemExit(f"bench: {len(listed)} of {count} topics are listed")
            yield Row(f"{count:,} topics: micro events topics", (time.perf_counter() - begin) * 1000, "ms")
            pids = platform.pids()
            yield Row(f"{count:,} topics: memory of nats and events", memory(_only(pids, "nats", "events")), "MB")
        for count in (1, 10, 100):
            taken = client.run("groups", count)["seconds"]
            yield Row(f"{count:,} groups: publish until all handled it, p50", statistics.median(taken) * 1000, "ms")


def soak() -> Iterator[Row]:
    """Half of what events can take, published and handled for ten minutes (MICRO_SOAK_SECONDS): is memory flat?"""
    with processes.platform() as platform:
        client = Client(platform)
        rate = statistics.median(client.run("publish")["ours"]) / 2
        sizes: list[float] = []
        over, begun = threading.Event(), time.monotonic()

        def watch() -> None:
            while not over.wait(SOAK_SECONDS / 40):
                if time.monotonic() - begun > min(SETTLED_SECONDS, SOAK_SECONDS / 2):
                    sizes.append(memory(_only(platform.pids(), "nats", "events", "mesh", "proxy")))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            found = client.run("soak", SOAK_SECONDS, rate, timeout=SOAK_SECONDS + 120)
        finally:
            over.set()
            watching.join()
        yield Row("soak: events published and handled", found["handled"][0], "events")
        yield Row("soak: memory of nats, events, mesh and proxy at first", statistics.median(sizes[:5]), "MB")
        yield Row("soak: memory at last", statistics.median(sizes[-5:]), "MB")
        grown = statistics.median(sizes[-5:]) / statistics.median(sizes[:5])
        yield Row("soak: memory at last / at first", grown, "times", 1.1, at_most=True)


def _only(pids: dict[str, int], *names: str) -> dict[str, int]:
    return {name: pids[name] for name in names}
