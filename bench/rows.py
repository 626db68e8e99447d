"""The measures. Each yields rows; a row with a goal says whether it was reached."""

from __future__ import annotations

import json
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import load, machine, processes

MESSAGE = b"\n\x03Ann"  # Request(name="Ann")
PATH = "/helloworld.Helloworld/Call"

_ROUNDS = 7

_PROCESSES = 4
"""Gateways that are started anew: chance makes each of them faster or slower for as long as it lives."""


@dataclass(frozen=True)
class Row:
    """One figure."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False
    dream: float | None = None

    @property
    def good(self) -> bool | None:
        """Whether the goal was reached; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def _best(measure: Callable[[], load.Result], times: int = 3) -> load.Result:
    """The median of a few runs, the first thrown away: it warms up."""
    measure()
    runs = sorted((measure() for _ in range(times)), key=lambda run: run.rate)
    found = runs[times // 2]
    if found.failed:
        raise SystemExit(f"bench: {found.failed} requests failed")
    return found


def echo() -> Iterator[Row]:
    """Unary gRPC echo: the framework, grpc.aio, and the least an ASGI application can do; the same core each."""
    rates = {}
    for name, server in (
        ("grpc.aio", processes.python("grpc_aio_server.py")),
        ("minimal ASGI app", processes.asgi("minimal_app:app")),
        ("framework", processes.asgi("echo_service:app")),
    ):
        with server as address:
            rates[name] = _best(lambda: load.run(f"http://{address}{PATH}", load.frame(MESSAGE))).rate
        yield Row(f"unary gRPC echo, {name}", rates[name], "requests/s")
    yield Row("framework / grpc.aio", rates["framework"] / rates["grpc.aio"], "ratio", 3, dream=5)
    yield Row("framework / minimal ASGI app", rates["framework"] / rates["minimal ASGI app"], "ratio", 0.6, dream=0.85)


def pin(pids: dict[str, int], core: str) -> None:
    for pid in pids.values():
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {int(core)})


def gateway() -> Iterator[Row]:
    """HTTP/JSON through `api` against straight: service on one core, gateway and generator on the other."""
    straight, via, least = Turns(), Turns(), Turns()
    apart = Turns(), Turns()
    for _ in range(_PROCESSES):
        # One core for the gateway: one worker.
        with processes.platform(MICRO_GATEWAY_WORKERS="1") as platform:
            platform.cli("run", str(processes.CONTRACT))
            found = json.loads(platform.cli("services", "-o", "json"))
            address = next(s["nodes"][0]["address"] for s in found if s["name"] == "helloworld")
            own, other = machine.cores()
            pids = platform.pids()
            pin({name: pid for name, pid in pids.items() if name == "api"}, other)
            pin({name: pid for name, pid in pids.items() if name != "api"}, own)
            with processes.bare_envoy(address) as bare:
                _in_turns({address: straight, platform.api: via, bare: least}, core=other, rounds=4)
            _in_turns({address: apart[0], platform.api: apart[1]}, core=own, rounds=2)
    for name, turns in (("straight", straight), ("through api", via), ("through a bare Envoy", least)):
        yield Row(f"HTTP/JSON {name}", statistics.median(turns.rates), "requests/s")
        yield Row(f"HTTP/JSON {name}, p50 at 500/s", statistics.median(turns.calm), "ms")
    yield Row("api / straight", paired(operator.truediv, via.rates, straight.rates), "ratio", 0.6, dream=0.8)
    # Two cores for three parties: here the gateway has one to itself, and the generator shares the service's.
    beside = paired(operator.truediv, apart[1].rates, apart[0].rates)
    yield Row("api / straight, generator on the service's core", beside, "ratio")
    yield Row("bare Envoy / straight", paired(operator.truediv, least.rates, straight.rates), "ratio")
    added = paired(operator.sub, via.calm, straight.calm)
    yield Row("api adds to p50 at 500/s", added, "ms", 0.3, at_most=True, dream=0.15)
    yield Row("a bare Envoy adds to p50 at 500/s", paired(operator.sub, least.calm, straight.calm), "ms")
    yield Row("a byte to the other idle core and back, p50", machine.waking() * 1000, "ms")


@dataclass
class Turns:
    """What was measured of one thing, turn by turn."""

    rates: list[float] = field(default_factory=list)
    """Requests a second at full speed."""

    calm: list[float] = field(default_factory=list)
    """Medians at 500/s, milliseconds."""


def _in_turns(addresses: dict[str, Turns], *, core: str, rounds: int) -> None:
    """Measure each address in turns: a shared machine changes its speed from one minute to the next. A first round is
    thrown away, as it warms up."""
    body, kind = b'{"name":"Ann"}', "application/json"
    for number in range(rounds + 1):
        for address, turns in addresses.items():
            url = f"http://{address}/helloworld/call"
            fast = load.run(url, body, content_type=kind, count=8_000, core=core)
            slow = load.run(url, body, content_type=kind, count=1000, rate=500, core=core)
            if fast.failed or slow.failed:
                raise SystemExit(f"bench: {fast.failed + slow.failed} requests failed")
            if number:
                turns.rates.append(fast.rate)
                turns.calm.append(slow.p50)


def paired(how: Callable[[float, float], float], left: list[float], right: list[float]) -> float:
    """The median of what `how` makes of each round's two figures."""
    return statistics.median(how(one, two) for one, two in zip(left, right, strict=True))


def mesh() -> Iterator[Row]:
    """Service to service: our client through the mesh against grpc.aio straight, 32 in flight."""
    with processes.platform() as platform:
        platform.cli("run", str(processes.CONTRACT))
        found = json.loads(platform.cli("services", "-o", "json"))
        address = next(s["nodes"][0]["address"] for s in found if s["name"] == "helloworld")
        rates: dict[str, list[float]] = {"grpc": [], "micro": []}
        for number in range(_ROUNDS + 1):
            for kind, where in (("grpc", address), ("micro", platform.settings["mesh_address"])):
                command = [sys.executable, str(processes.PROGRAMS / "caller.py"), kind, where, "4000"]
                env = {**os.environ, "PYTHONPATH": str(processes.CONTRACT)}
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
                if number:  # the first round warms up
                    rates[kind].append(float(done.stdout))
        yield Row("service to service, grpc.aio straight", statistics.median(rates["grpc"]), "calls/s")
        yield Row("service to service, client through the mesh", statistics.median(rates["micro"]), "calls/s")
        yield Row("mesh / straight", paired(operator.truediv, rates["micro"], rates["grpc"]), "ratio", 0.5, dream=0.9)


def start() -> Iterator[Row]:
    """Cold start, `micro run` to the first answer, what an idle platform takes, and the command line's own time."""
    with tempfile.TemporaryDirectory(prefix="micro-bench-") as home:
        platform = processes.Platform(Path(home))
        try:
            yield Row("micro server, cold start to healthy", platform.start(), "s", 5, at_most=True, dream=2.5)
            yield Row("idle platform, proportional memory", memory(platform.pids()), "MB", 600, at_most=True, dream=350)
            yield Row("idle platform, processor", _idle(platform.pids()), "% of a core")
            yield Row("micro run to first answer", _first_answer(platform), "s", 1.5, at_most=True, dream=0.8)
            yield Row("micro --help", _wall(platform, "--help"), "ms", 120, at_most=True, dream=60)
            yield Row("micro services", _wall(platform, "services"), "ms", 250, at_most=True, dream=120)
        finally:
            platform.stop()


def _first_answer(platform: processes.Platform) -> float:
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        platform.cli("run", str(processes.CONTRACT))
        with urllib.request.urlopen(f"http://{platform.api}/helloworld/call?name=Ann", timeout=5) as response:
            response.read()
        taken.append(time.perf_counter() - begin)
        platform.cli("kill", "helloworld")
    return statistics.median(taken)


def _wall(platform: processes.Platform, *words: str, times: int = 9) -> float:
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        platform.cli(*words)
        taken.append((time.perf_counter() - begin) * 1000)
    return statistics.median(taken)


def memory(pids: dict[str, int]) -> float:
    """Proportional memory of processes, MB."""

    def proportional(pid: int) -> int:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))

    return sum(proportional(pid) for pid in pids.values()) / 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _idle(pids: dict[str, int], seconds: float = 20.0) -> float:
    """What processes take of one core while nobody calls, percent."""
    before = sum(_cpu(pid) for pid in pids.values())
    time.sleep(seconds)
    return (sum(_cpu(pid) for pid in pids.values()) - before) / seconds * 100


def scale() -> Iterator[Row]:
    """A thousand services: one more routed everywhere, and what the control plane costs once it is."""
    program = str(processes.PROGRAMS / "registrar.py")
    with processes.platform() as platform:
        command = [sys.executable, program, platform.proxy, "1000"]
        env = {**os.environ, "TOKEN": platform.cli("user", "token", "--platform").strip()}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
        figures = json.loads(done.stdout)
        yield Row("1,000 services registered and routed", figures["all"], "s")
        yield Row("one more service among 1,000, routed everywhere", figures["one"], "s", 1, at_most=True, dream=0.1)
        yield Row(
            "one more instance among 1,000 services, routed everywhere",
            figures["instance"],
            "s",
            1,
            at_most=True,
            dream=0.1,
        )
        names = ("registry", "network", "nats", "api", "proxy", "mesh")
        pids = {name: pid for name, pid in platform.pids().items() if name in names}
        before = {name: _cpu(pid) for name, pid in pids.items()}
        time.sleep(5)
        used = sum(_cpu(pid) - before[name] for name, pid in pids.items()) / 5
        yield Row("control plane's processor time after that", used * 100, "% of a core", 10, at_most=True)
        yield Row("memory of api with 1,000 services", memory({"api": pids["api"]}), "MB")
