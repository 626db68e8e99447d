"""Processes that are not there: they begin and end on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from micro.domain import errors
from micro.ports.launcher import Launcher, ProcessInfo, ProcessSpec


class MemoryLauncher(Launcher):
    """A launcher for tests.

    Args:
        begin: called with each spec as its process starts; may raise what `start` is to raise.

    Attributes:
        running: specs of what runs, by id.
        started: every spec that was ever started, in order.
        deaf: ids of processes that ignore SIGTERM.
    """

    def __init__(self, begin: Callable[[ProcessSpec], None] = lambda spec: None) -> None:
        self.running: dict[str, ProcessSpec] = {}
        self.started: list[ProcessSpec] = []
        self.deaf: set[str] = set()
        self._begin = begin
        self._pids: dict[str, int] = {}
        self._watchers: set[asyncio.Queue[ProcessInfo]] = set()

    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        if spec.id in self.running:
            raise errors.already_exists(f"process {spec.id!r} runs already: stop it first")
        self._begin(spec)
        self.started.append(spec)
        self.running[spec.id] = spec
        self._pids[spec.id] = 1000 + len(self.started)
        return self._info(spec)

    async def stop(self, process_id: str, grace: float = 5.0) -> None:
        if process_id in self.running:
            self.end(process_id, 128 + (9 if process_id in self.deaf else 15))

    async def list(self) -> list[ProcessInfo]:
        return [self._info(self.running[process_id]) for process_id in sorted(self.running)]

    async def watch(self) -> AsyncIterator[ProcessInfo]:
        queue: asyncio.Queue[ProcessInfo] = asyncio.Queue()
        for info in await self.list():
            queue.put_nowait(info)
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def end(self, process_id: str, exit_status: int, *tail: str) -> None:
        """End the process as if by itself, with these last lines of output."""
        spec = self.running.pop(process_id)
        info = self._info(spec, exit_status, tail[-40:])
        for queue in self._watchers:
            queue.put_nowait(info)

    def _info(self, spec: ProcessSpec, exit_status: int | None = None, tail: tuple[str, ...] = ()) -> ProcessInfo:
        return ProcessInfo(spec.id, self._pids[spec.id], dict(spec.labels), exit_status, tail)
