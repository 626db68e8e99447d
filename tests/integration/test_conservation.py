"""Events are conserved: while what carries and handles them is killed at random, each acknowledged one is handled, in
the order of its key, and the dead letters are those that were made to fail.

For twelve seconds; MICRO_SOAK=N makes it twice N.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import conservation_parts as parts
import pytest
import worlds

from micro.domain.delivery import GONE

SECONDS = max(2 * float(os.environ.get("MICRO_SOAK", "0")), 12.0)
CONSUMERS = 3
PAGE = 1000
VICTIMS = ("consumer", "events", "nats", "consumer", "network", "mesh")

TWICE = 0.01
"""The part of the events that may be handled twice."""

FEW = 2_000
"""A run with fewer events than these is too short, or its machine too busy, to tell a part of them by: one kill in an
unlucky moment may be a hundredth of it."""

TWICE_A_KILL = 2
"""What each kill may repeat besides in such a run, on average: at some 100 events a second, what was handled in the
tens of milliseconds in which acknowledgements are on their way, or the progress of the group on its way to the disk."""


class Part:
    """A process that publishes or consumes; killed and started again at will."""

    def __init__(self, world: worlds.World, what: str, notes: Path, account: dict[str, str]) -> None:
        self._command = [sys.executable, parts.__file__, what, str(notes)]
        # As a service would call: by the mesh.
        self._env = {
            **world.env,
            "MICRO_NETWORK": json.loads(world.layout.settings.read_text())["mesh_address"],
            "MICRO_AUTH_ID": account["id"],
            "MICRO_AUTH_SECRET": account["secret"],
        }
        self._output = notes.with_suffix(".out")
        self.start()

    def start(self) -> None:
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(self._command, env=self._env, stdout=output, stderr=output)

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(60)

    def said(self) -> str:
        return self._output.read_text()[-2000:]


@contextlib.contextmanager
def started(world: worlds.World, what: str, folder: Path, account: dict[str, str], count: int) -> Iterator[list[Part]]:
    found = [Part(world, what, folder / f"{what}{number}", account) for number in range(count)]
    try:
        yield found
    finally:
        for part in found:
            with contextlib.suppress(ProcessLookupError):
                part.end(signal.SIGKILL)


def notes(folder: Path, what: str) -> list[list]:
    """All that was written down; a line that its writer was killed in is none."""
    found = []
    for path in folder.glob(f"{what}?"):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


@pytest.mark.timeout(SECONDS + 300)
def test_every_acknowledged_event_is_handled_in_order_whatever_is_killed(tmp_path: Path) -> None:
    choice = random.Random(3)  # each of them dies in the short run too
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(worlds.world(tmp_path / "home"))
        world.start()
        account = json.loads(world.cli("auth", "create", "account", "keeper", "-o", "json").stdout)
        consumers = stack.enter_context(started(world, "consume", tmp_path, account, CONSUMERS))
        (publisher,) = stack.enter_context(started(world, "publish", tmp_path, account, 1))
        assert worlds.eventually(lambda: notes(tmp_path, "consume")), publisher.said() + consumers[0].said()
        kills = _kill_for_a_while(world, consumers, choice)
        publisher.end(signal.SIGTERM)
        assert publisher.process.returncode == 0, publisher.said()
        published = notes(tmp_path, "publish")
        left = worlds.eventually(lambda: not _lag(world), 60)
        assert left, f"{_lag(world)} events are not handled after {kills}\n{consumers[0].said()}"
        dead = _json(world, "dead-letters", parts.TOPIC, parts.GROUP)
        kept = _read(world, "1")
        _check_times(world, kept)
    kept = {offset: content for offset, (content, _) in kept.items()}
    _check(published, notes(tmp_path, "consume"), dead, kept, kills)


def _kill_for_a_while(world: worlds.World, consumers: list[Part], choice: random.Random) -> Counter[str]:
    kills: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    victims = iter(())
    while time.monotonic() < end:
        time.sleep(choice.uniform(1.5, 3.5))  # the pace of misfortune; nothing is awaited here
        victim = next(victims, None)
        if victim is None:
            victims = iter(choice.sample(VICTIMS, len(VICTIMS)))
            victim = next(victims)
        if victim == "consumer":
            part = choice.choice(consumers)
            part.end(signal.SIGKILL)
            part.start()
        elif (pid := world.processes().get(victim)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        kills[victim] += 1
    assert world.cli("health", "--wait", "60").returncode == 0
    return kills


def _check(
    published: list[list], handled: list[list], dead: list[dict], kept: dict[int, bytes], kills: Counter[str]
) -> None:
    acknowledged = {one[0]: one for one in published}
    assert len(acknowledged) == len(published) > 100
    by_key = defaultdict(list)
    succeeded: Counter[str] = Counter()
    first: dict[str, tuple[int, str, int]] = {}
    for when, id_, _offset, key, number, what, _attempt, how in sorted(handled):
        assert what == parts.kind(number)
        if id_ not in first:
            first[id_] = (when, key, number)
            by_key[key].append(number)
        if how == "ok":
            succeeded[id_] += 1

    # Each acknowledged event was handled, or is a dead letter because it was made to fail; nothing was invented.
    good = {id_ for id_, one in acknowledged.items() if one[4] != "poison"}
    assert good <= succeeded.keys(), f"{len(good - succeeded.keys())} of {len(good)} events are lost after {kills}"
    assert {one["id"] for one in dead} >= acknowledged.keys() - good
    assert all(parts.read(kept[int(one["offset"])])[2] == "poison" for one in dead)
    assert {one["reason"] for one in dead} <= {"poison is made to fail", GONE}

    # In the order of each key, no number missing.
    for key, numbers in by_key.items():
        assert numbers == sorted(numbers), f"{key} was first delivered out of order after {kills}"
        assert numbers == list(range(1, len(numbers) + 1)), _story(key, numbers, published, handled, kept)

    doubles = sum(count - 1 for count in succeeded.values())
    allowed = TWICE * len(published) + (TWICE_A_KILL * sum(kills.values()) if len(published) < FEW else 0)
    print(f"{len(published):,} events, {doubles} handled twice, {len(dead)} dead letters, killed: {dict(kills)}")
    assert doubles < allowed

    # What is kept is what was published, byte for byte, at the offset that the publisher was told.
    assert sorted(kept) == list(range(1, len(kept) + 1))
    for _, offset, key, number, _what in published:
        assert kept[offset] == parts.payload(key, number)


def _story(key: str, numbers: list[int], published: list[list], handled: list[list], kept: dict[int, bytes]) -> str:
    """All that is known of the first number that is missing or there twice."""
    odd = next(min(place, number) for place, number in enumerate(numbers, 1) if number != place)
    return "\n".join(
        [
            f"{key}/{odd} was handled {numbers.count(odd)} times for the first time",
            *(f"published: {one}" for one in published if one[2:4] == [key, odd]),
            *(f"handled: {one}" for one in sorted(handled) if one[3:5] == [key, odd]),
            *(f"kept at {offset}" for offset, content in kept.items() if parts.read(content)[:2] == (key, odd)),
        ]
    )


def _json(world: worlds.World, *words: str) -> list[dict]:
    out = world.cli("events", *words, "-o", "json").stdout
    return json.loads(out) if out.lstrip().startswith("[") else [json.loads(line) for line in out.splitlines()]


def _lag(world: worlds.World) -> int:
    (group,) = [one for one in _json(world, "groups", parts.TOPIC) if one["name"] == parts.GROUP]
    return int(group["lag"])


Kept = dict[int, tuple[bytes, dt.datetime]]


def _read(world: worlds.World, start: str) -> Kept:
    """Every event of the topic from a place on, by its offset: what is in it, and when it was appended. Page by page,
    through the command line."""
    found: Kept = {}
    while page := _json(world, "read", parts.TOPIC, "--from", start, "--limit", str(PAGE)):
        for one in page:
            content = one["payload"]
            payload = base64.b64decode(content) if one["encoding"] == "base64" else content.encode()
            found[int(one["offset"])] = (payload, dt.datetime.fromisoformat(one["timestamp"]))
        start = str(max(found) + 1)
        if len(page) < PAGE:
            break
    return found


def _check_times(world: worlds.World, kept: Kept) -> None:
    """From a time on there is what was appended in that millisecond and later, all of it, and nothing else."""
    times = [when for _, (_, when) in sorted(kept.items())]
    assert times == sorted(times)
    last = times[-1]
    between = last - dt.timedelta(milliseconds=1)
    for when in (times[len(times) // 3], times[-len(times) // 10], between, last):
        rest = {offset: one for offset, one in kept.items() if one[1] >= when}
        assert list(_read(world, when.isoformat()).items()) == sorted(rest.items())
    assert not _read(world, (last + dt.timedelta(milliseconds=1)).isoformat())
