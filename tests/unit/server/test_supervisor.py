"""The supervisor's story, with processes that begin and end on command."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from micro.backends.memory.launcher import MemoryLauncher
from micro.domain.errors import Error
from micro.ports.launcher import ProcessInfo, ProcessSpec
from micro.server import supervisor
from micro.server.supervisor import Supervisor, Unit


class Notes:
    """A screen that remembers, and wakes who waits for a line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.changed = asyncio.Event()

    def _note(self, line: str) -> None:
        self.lines.append(line)
        self.changed.set()

    def ready(self, unit: Unit, seconds: float) -> None:
        self._note(f"{unit.name} ready")

    def ended(self, unit: Unit, reason: str) -> None:
        self._note(f"{unit.name} {reason}")

    def back(self, unit: Unit, seconds: float) -> None:
        self._note(f"{unit.name} back")

    def note(self, text: str) -> None:
        self._note(text)

    async def until(self, line: str) -> None:
        async with asyncio.timeout(5):
            while line not in self.lines:
                self.changed.clear()
                await self.changed.wait()


def spec(name: str, /, **labels: str) -> ProcessSpec:
    return ProcessSpec(name, (name,), {}, Path(), Path(f"{name}.log"), labels or {"unit": name})


async def at_once() -> None:
    return


def unit(name: str, *needs: str, outlived_by: tuple[str, ...] = ()) -> Unit:
    return Unit(name, "", needs, lambda: spec(name), at_once, at_once, outlived_by=outlived_by)


class World:
    def __init__(self, *units: Unit) -> None:
        self.order: list[str] = []
        self.launcher = MemoryLauncher()
        self.notes = Notes()
        self.stop = asyncio.Event()
        self.up = asyncio.Event()
        self.drained: list[str] = []
        self.supervisor = Supervisor(self.launcher, units, self.notes, self.drain)

    async def drain(self, process: ProcessInfo) -> None:
        self.drained.append(process.id)

    async def run(self) -> None:
        async def announce() -> None:
            self.up.set()

        await self.supervisor.run(self.stop, announce)


async def test_what_is_needed_is_ready_before_what_needs_it_starts_and_ends_after_it() -> None:
    world = World(
        unit("nats"),
        unit("registry", "nats"),
        unit("network", "nats", outlived_by=("registry",)),
        unit("api", "network"),
    )
    ended: list[str] = []
    stop = world.launcher.stop

    async def noted(process_id: str, grace: float = 5.0) -> None:
        ended.append(process_id)
        await stop(process_id, grace)

    world.launcher.stop = noted  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        await world.up.wait()
        started = [process.id for process in world.launcher.started]
        assert started.index("nats") < started.index("registry")
        assert started.index("network") < started.index("api")
        await world.launcher.start(spec("hello", kind="service"))
        world.stop.set()
    assert world.launcher.running == {}
    assert world.drained == ["hello"]
    assert (
        ended.index("hello")
        < ended.index("api")
        < ended.index("network")
        < ended.index("registry")
        < ended.index("nats")
    )


async def test_a_unit_that_ends_is_started_again() -> None:
    world = World(unit("nats"), unit("registry", "nats"))
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        await world.up.wait()
        world.launcher.end("registry", 137)
        await world.notes.until("registry back")
        world.stop.set()
    assert "registry ended by SIGKILL" in world.notes.lines
    assert [process.id for process in world.launcher.started] == ["nats", "registry", "registry"]


async def test_a_unit_that_does_not_answer_is_ended_and_started_again() -> None:
    answers = asyncio.Event()
    answers.set()

    async def answered() -> None:
        await answers.wait()

    def make() -> ProcessSpec:
        answers.set()  # a new process is well
        return spec("registry")

    stuck = Unit("registry", "", ("nats",), make, at_once, answered)
    world = World(unit("nats"), stuck)
    world.supervisor = Supervisor(
        world.launcher, [unit("nats"), stuck], world.notes, world.drain, probe=0.01, hung=0.05
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        await world.up.wait()
        world.launcher.deaf.add("registry")
        answers.clear()
        await world.notes.until("registry back")
        world.stop.set()
    assert "registry it did not answer for 0.05 s" in world.notes.lines
    assert [process.note for process in world.launcher.started if process.id == "registry"] == [
        "",
        "started again: it did not answer for 0.05 s",
    ]


async def test_a_unit_that_answers_late_is_told_of_and_goes_on() -> None:
    answers = asyncio.Event()
    slow = Unit("registry", "", (), lambda: spec("registry"), at_once, answers.wait)  # type: ignore[arg-type]
    world = World(slow)
    world.supervisor = Supervisor(world.launcher, [slow], world.notes, world.drain, probe=0.01, silent=0.01)
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        await world.notes.until("registry does not answer; it is waited for")
        answers.set()
        await world.notes.until("registry answers again")
        world.stop.set()
    assert len(world.launcher.started) == 1


async def test_a_unit_that_does_not_start_ends_everything_and_is_told_with_its_last_lines() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    broken = Unit("registry", "", ("nats",), lambda: spec("registry"), never, at_once)
    world = World(unit("nats"), broken)

    def die(process: ProcessSpec) -> None:
        if process.id == "registry":
            asyncio.get_running_loop().call_soon(world.launcher.end, "registry", 1, "no libpython for you")

    world.launcher._begin = die
    with pytest.raises(Error, match="registry did not start: exit status 1") as raised:
        await world.run()
    assert "no libpython for you" in raised.value.message
    assert world.launcher.running == {}
    assert not world.up.is_set()


async def test_files_that_cannot_be_written_do_not_end_the_platform_once_it_runs() -> None:
    full = {"disk": False}

    def make() -> ProcessSpec:
        if full["disk"]:
            raise OSError(28, "No space left on device", "/tmp/x.json")
        return spec("registry")

    world = World(Unit("registry", "", (), make, at_once, at_once))
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        await world.up.wait()
        full["disk"] = True
        world.launcher.end("registry", 1)
        await world.notes.until("registry registry did not start: /tmp/x.json: No space left on device")
        full["disk"] = False
        await world.notes.until("registry back")
        world.stop.set()


async def test_told_to_stop_while_it_starts_it_ends_what_it_has_started() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    world = World(unit("nats"), Unit("registry", "", ("nats",), lambda: spec("registry"), never, at_once))
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        await world.notes.until("nats ready")
        world.stop.set()
    assert world.launcher.running == {}
    assert not world.up.is_set()


async def test_an_end_that_takes_long_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "QUIET_SECONDS", 0.05)
    world = World(unit("nats"))

    async def drain(process: ProcessInfo) -> None:
        if process.id == "hello-1":
            await world.notes.until("waiting for hello to finish what is in hand")

    world.supervisor = Supervisor(world.launcher, [unit("nats")], world.notes, drain)
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        await world.up.wait()
        for name in ("hello-1", "idle-1"):
            await world.launcher.start(spec(name, kind="service", name=name.removesuffix("-1")))
        world.stop.set()
    assert world.notes.lines.count("waiting for hello to finish what is in hand") == 1
    assert world.launcher.running == {}
