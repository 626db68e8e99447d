"""`micro server`: starts the platform's processes in order, says so when each is ready, keeps them running, and ends
them in order. What it started never outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from micro.domain import backoff, errors
from micro.ports.launcher import Launcher, ProcessInfo, ProcessSpec
from micro.ports.pulse import Pulse

DRAIN_SECONDS = 2.0
"""How long what is in flight may take when the server stops. With SERVICE_SECONDS it leaves four of the ten seconds
to the core itself, more than that takes on a busy machine."""

SERVICE_SECONDS = 4.0
"""How long a service has from the order to end on: its consumers may finish what they have in hand. All is over in ten
seconds, as containers expect it."""

QUIET_SECONDS = 1.0
"""How long the end may take before somebody is told what it waits for."""

PROBE_SECONDS = 5.0
"""How often a unit is asked whether it answers."""

SILENT_SECONDS = 3.0
"""How long an answer may take before somebody is told that it is waited for."""

HUNG_SECONDS = 20.0
"""How long a unit may leave that unanswered before it is ended and started again: nothing that a unit does in one piece
takes as long, and everybody waits for it."""

STEADY = 30.0
"""Seconds after which a process that ended is started again without the wait its earlier ends have earned it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One process of the platform.

    Attributes:
        name: as the user sees it; also the id of its process.
        detail: what to say about it when it is ready: its address.
        needs: names of the units that must be ready before it is started.
        spec: makes what to run; asked again for every start.
        ready: returns when it can take calls; raises Error UNAVAILABLE after its own patience.
        answered: returns when it has answered anything, however late.
        drain: finishes what is in flight; None where there is nothing to finish.
        outlived_by: names of the units that are to be there until this one has ended, besides those it needs.
    """

    name: str
    detail: str
    needs: tuple[str, ...]
    spec: Callable[[], ProcessSpec]
    ready: Callable[[], Awaitable[None]]
    answered: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]] | None = None
    outlived_by: tuple[str, ...] = ()


class Screen(Protocol):
    """Who is told what happens."""

    def ready(self, unit: Unit, seconds: float) -> None:
        """The unit takes calls, so many seconds after the start of the server."""
        ...

    def ended(self, unit: Unit, reason: str) -> None:
        """The unit ended by itself and is started again."""
        ...

    def back(self, unit: Unit, seconds: float) -> None:
        """The unit takes calls again, so many seconds after it ended."""
        ...

    def note(self, text: str) -> None:
        """Something happened that is nobody's end."""
        ...


class StartError(errors.Error):
    """A unit did not become ready; carries its last lines of output."""

    def __init__(self, unit: str, reason: str, tail: Iterable[str], log: str) -> None:
        lines = [f"{unit} did not start: {reason}", *(f"  {line}" for line in tail), f"  log: {log}"]
        super().__init__(errors.Kind.UNAVAILABLE, "\n".join(lines))


@dataclass(slots=True)
class _State:
    """What is known of a unit that runs, and why it ended before that."""

    up: asyncio.Event = field(default_factory=asyncio.Event)
    fault: str = ""
    ended: asyncio.Future[ProcessInfo] | None = None


class Supervisor:
    """Runs units until it is told to stop.

    Args:
        launcher: of all processes; those that are no unit's are the users'.
        units: the platform's own.
        screen: who is told.
        drain: finishes what is in flight in a user's process.
        probe, silent, hung: seconds, as PROBE_SECONDS, SILENT_SECONDS and HUNG_SECONDS say.
    """

    def __init__(
        self,
        launcher: Launcher,
        units: Iterable[Unit],
        screen: Screen,
        drain: Callable[[ProcessInfo], Awaitable[None]],
        *,
        probe: float = PROBE_SECONDS,
        silent: float = SILENT_SECONDS,
        hung: float = HUNG_SECONDS,
    ) -> None:
        self._probe, self._silent, self._hung = probe, min(silent, hung), hung
        self._launcher = launcher
        self._drain = drain
        self._units = {unit.name: unit for unit in units}
        self._screen = screen
        self._states = {name: _State() for name in self._units}

    async def run(self, stop: asyncio.Event, announce: Callable[[], Awaitable[None]]) -> None:
        """Start everything, await `announce`, and return when `stop` is set and all that was started has ended.

        Raises:
            StartError: a unit did not become ready; everything has been ended.
        """
        failure: errors.Error | None = None
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            async with asyncio.TaskGroup() as tasks:
                owned = [tasks.create_task(self._watch(), name="exits")]
                try:
                    if await self._start(stop):
                        await announce()
                        owned += [tasks.create_task(self._keep(unit), name=unit.name) for unit in self._units.values()]
                        await stop.wait()
                except errors.Error as error:
                    failure = error
                finally:
                    for task in owned:
                        task.cancel()
        if failure is not None:
            raise failure

    async def _start(self, stop: asyncio.Event) -> bool:
        """Start all units, each as soon as what it needs is ready. False when told to stop before that."""
        begin = time.monotonic()

        async def bring_up(unit: Unit) -> None:
            for need in unit.needs:
                await self._states[need].up.wait()
            await self._launch(unit)
            self._screen.ready(unit, time.monotonic() - begin)

        async def all_up() -> None:
            async with asyncio.TaskGroup() as tasks:
                for unit in self._units.values():
                    tasks.create_task(bring_up(unit), name=unit.name)

        starting = asyncio.ensure_future(all_up())  # owned: by this call
        stopping = asyncio.ensure_future(stop.wait())  # owned: by this call
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            return not stop.is_set()
        except BaseExceptionGroup as group:
            # The first failure explains the others.
            raise group.exceptions[0] from None
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)

    async def _launch(self, unit: Unit) -> None:
        """Start one unit and wait until it is ready."""
        state = self._states[unit.name]
        try:
            spec = unit.spec()
        except OSError as error:
            cause = f"{error.filename or 'its files'}: {error.strerror or error}"
            raise StartError(unit.name, cause, (), "none yet") from error
        if state.fault:
            spec = replace(spec, note=f"started again: {state.fault}")
        state.ended = asyncio.get_running_loop().create_future()
        await self._launcher.start(spec)
        ready = asyncio.ensure_future(unit.ready())  # owned: by this call
        try:
            await asyncio.wait((ready, state.ended), return_when=asyncio.FIRST_COMPLETED)
            if state.ended.done():
                ended = state.ended.result()
                raise StartError(unit.name, reason(ended), ended.tail[-12:], str(spec.log))
            try:
                ready.result()
            except errors.Error as error:
                raise StartError(unit.name, error.message, (), str(spec.log)) from error
        finally:
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.Error):
                await ready
        state.up.set()

    async def _watch(self) -> None:
        async for process in self._launcher.watch():
            state = self._states.get(process.labels.get("unit", ""))
            if process.exit_status is not None and state and state.ended and not state.ended.done():
                state.up.clear()
                state.ended.set_result(process)

    async def _keep(self, unit: Unit) -> None:
        """Start the unit again whenever it ends or hangs."""
        state = self._states[unit.name]
        delays = backoff.exponential(first=0.05, cap=10.0)
        while True:
            began = time.monotonic()
            state.fault = await self._until_lost(unit)
            if time.monotonic() - began > STEADY:
                delays = backoff.exponential(first=0.05, cap=10.0)
            self._screen.ended(unit, state.fault)
            gone = time.monotonic()
            while True:
                await asyncio.sleep(next(delays))
                try:
                    await self._launch(unit)
                    break
                except errors.Error as error:
                    self._screen.ended(unit, error.message.splitlines()[0])
                    await self._launcher.stop(unit.name, 1.0)
            self._screen.back(unit, time.monotonic() - gone)

    async def _until_lost(self, unit: Unit) -> str:
        """Wait for the end of a unit, or end it when it hangs; return why."""
        ended = self._states[unit.name].ended
        assert ended is not None

        def waiting() -> None:
            self._screen.note(f"{unit.name} does not answer; it is waited for")

        def back() -> None:
            self._screen.note(f"{unit.name} answers again")

        pulse = Pulse(unit.answered, self._probe, self._silent, self._hung, waiting, back)
        hangs = asyncio.ensure_future(pulse.lost())  # owned: by this call
        try:
            await asyncio.wait((hangs, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return reason(ended.result())
            hangs.result()
            await self._launcher.stop(unit.name, 0.5)
            await asyncio.shield(ended)
            return f"it did not answer for {self._hung:g} s"
        finally:
            hangs.cancel()
            await asyncio.gather(hangs, return_exceptions=True)

    async def _end(self) -> None:
        """Drain what takes requests, then end everything: users' services first, then units, the needed last."""
        running = await self._launcher.list()
        units: Mapping[str, str] = {p.labels["unit"]: p.id for p in running if "unit" in p.labels}
        users = [p for p in running if "unit" not in p.labels]
        gateways = [unit for name, unit in self._units.items() if unit.drain and self._states[name].up.is_set()]
        with _Waiting(self._screen) as waiting:
            drains = [waiting.until(unit.name, unit.drain()) for unit in gateways if unit.drain]
            drains += [waiting.until(_shown(process), self._drain(process)) for process in users]
            # The runtime goes first: it would start again what ends.
            runtime = self._launcher.stop(units["runtime"], 2.0) if "runtime" in units else asyncio.sleep(0)
            await _all([runtime, _within(DRAIN_SECONDS, _all(drains))])
            stops = ((process, self._launcher.stop(process.id, SERVICE_SECONDS)) for process in users)
            await _all(waiting.until(_shown(process), stop) for process, stop in stops)
        for layer in _layers(self._units.values()):
            await _all(self._launcher.stop(units[name], 1.0) for name in layer if name in units)


async def _within(seconds: float, work: Awaitable[object]) -> None:
    """Wait so long at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


class _Waiting:
    """Tells, once, what the end of the server waits for, where that takes longer than a moment."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._names: list[str] = []

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    async def until(self, name: str, done: Awaitable[object]) -> None:
        """Wait for something that is known by a name."""
        self._names.append(name)
        try:
            await done
        finally:
            self._names.remove(name)

    def _tell(self) -> None:
        if names := ", ".join(sorted(set(self._names))):
            self._screen.note(f"waiting for {names} to finish what is in hand")


def _shown(process: ProcessInfo) -> str:
    """What the user calls a process that is no unit's."""
    return process.labels.get("name", process.id)


def _layers(units: Iterable[Unit]) -> list[list[str]]:
    """Names in the order to end them: nothing goes before what needs it."""
    left = {unit.name: {*unit.needs, *unit.outlived_by} for unit in units}
    for needs in left.values():
        needs &= left.keys()
    layers: list[list[str]] = []
    while left:
        needed = {need for needs in left.values() for need in needs}
        layer = [name for name in left if name not in needed]
        if not layer:
            raise errors.internal(f"units need each other in a circle: {sorted(left)}")
        layers.append(layer)
        for name in layer:
            del left[name]
    return layers


async def _all(waits: Iterable[Awaitable[object]]) -> None:
    """Wait for all; a failure of one is no reason to leave the others."""
    await asyncio.gather(*waits, return_exceptions=True)


def reason(process: ProcessInfo) -> str:
    """How a process ended, in words."""
    status = process.exit_status or 0
    if status > 128:
        import signal

        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(status - 128).name}"
    return f"exit status {status}"
