"""Processes of this host, owned by the process that this object lives in.

Nothing outlives the owner: on Linux the kernel kills each child when the owner dies, and what a child left behind is
ended by the next owner, which finds it by the pids and start times that are kept on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from micro.backends.process import proc
from micro.backends.process.logs import Lines, LogWriters
from micro.domain import errors
from micro.ports import private_file
from micro.ports.background import OwnedTasks
from micro.ports.launcher import Launcher, ProcessInfo, ProcessSpec

_PR_SET_PDEATHSIG = 1
_OUTPUT_GRACE = 1.0


class _Output(asyncio.Protocol):
    """The read end of a process's pipe. Lines go straight to the log: a full pipe slows its writer, nobody else."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.lines.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lines.end()
        self.closed.set()


@dataclass(slots=True)
class _Process:
    spec: ProcessSpec
    process: asyncio.subprocess.Process
    output: _Output
    transport: asyncio.ReadTransport
    ended: asyncio.Event
    started: int | None
    stopping: bool = False
    exit_status: int | None = None

    def info(self) -> ProcessInfo:
        return ProcessInfo(
            id=self.spec.id,
            pid=self.process.pid,
            labels=dict(self.spec.labels),
            exit_status=self.exit_status,
            tail=() if self.exit_status is None else tuple(self.output.lines.tail),
        )


class LocalLauncher(Launcher):
    """The launcher of one owner.

    Args:
        state: folder for one small file a running process; made when it is missing. One owner at a time.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._processes: dict[str, _Process] = {}
        self._beginning: dict[str, asyncio.Event] = {}
        self._watchers: set[asyncio.Queue[ProcessInfo]] = set()
        self._attendants = OwnedTasks()  # each ends with its process
        self._logs = LogWriters()

    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        if spec.id in self._processes or spec.id in self._beginning:
            raise errors.already_exists(f"process {spec.id!r} runs already: stop it first")
        begun = self._beginning[spec.id] = asyncio.Event()
        try:
            running = self._processes[spec.id] = await self._spawn(spec)
        finally:
            del self._beginning[spec.id]
            begun.set()
        self._record(running)
        self._attendants.spawn(self._attend(running), f"attend {spec.id}")
        return running.info()

    async def stop(self, process_id: str, grace: float = 5.0) -> None:
        if process_id in self._beginning:
            await self._beginning[process_id].wait()
        running = self._processes.get(process_id)
        if running is None:
            return
        running.stopping = True
        proc.signal_group(running.process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await running.ended.wait()
        except TimeoutError:
            proc.signal_group(running.process.pid, signal.SIGKILL)
            await running.ended.wait()

    async def stop_all(self, grace: float = 5.0) -> None:
        """Stop everything that runs, at the same time."""
        async with asyncio.TaskGroup() as group:
            for process_id in [*self._processes, *self._beginning]:
                group.create_task(self.stop(process_id, grace))

    async def list(self) -> list[ProcessInfo]:
        return list(self._running())

    async def watch(self) -> AsyncIterator[ProcessInfo]:
        queue: asyncio.Queue[ProcessInfo] = asyncio.Queue()
        for info in self._running():
            queue.put_nowait(info)
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    async def end_leftovers(self) -> int:
        """End what a former owner of the same state folder left behind; return how many processes that were.

        Call it once, before the first start. Only processes whose start time is the recorded one are touched.
        """
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        ended = 0
        for file in sorted(self._state.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads(file.read_text())
                ended += proc.end_group(int(kept["pid"]), kept["started"], kept["boot"])
            file.unlink(missing_ok=True)
        return ended

    def _running(self) -> Sequence[ProcessInfo]:
        return sorted((running.info() for running in self._processes.values()), key=lambda info: info.id)

    async def _spawn(self, spec: ProcessSpec) -> _Process:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        output = _Output(Lines(self._logs.acquire(spec.log), spec.id))
        file = os.fdopen(reading, "rb", buffering=0)
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        except (OSError, ValueError) as error:
            file.close()
            self._logs.release(spec.log)
            raise errors.failed_precondition(_cannot_start(spec, error)) from error
        except BaseException:
            file.close()
            self._logs.release(spec.log)
            raise
        finally:
            os.close(writing)
        if spec.note:
            output.lines.note("warning", spec.note)
        transport, _ = await loop.connect_read_pipe(lambda: output, file)
        return _Process(spec, process, output, transport, asyncio.Event(), proc.start_time(process.pid))

    async def _attend(self, running: _Process) -> None:
        """Wait for the end of a process, then of its group and its output, and tell everybody."""
        code = await running.process.wait()
        proc.signal_group(running.process.pid, signal.SIGKILL)
        # A group that a descendant made for itself, as builds are, is still of the session.
        await asyncio.to_thread(proc.end_group, running.process.pid, running.started, proc.boot_id())
        with contextlib.suppress(TimeoutError):  # a descendant that left the group may hold the pipe for ever
            async with asyncio.timeout(_OUTPUT_GRACE):
                await running.output.closed.wait()
        running.transport.close()
        running.output.lines.end()
        if not running.stopping:
            running.output.lines.note("error", _ended(code))
        self._logs.release(running.spec.log)
        running.exit_status = code if code >= 0 else 128 - code
        del self._processes[running.spec.id]
        self._file(running.spec.id).unlink(missing_ok=True)
        running.ended.set()
        for queue in self._watchers:
            queue.put_nowait(running.info())

    def _record(self, running: _Process) -> None:
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        spec, pid = running.spec, running.process.pid
        kept = {"id": spec.id, "pid": pid, "started": running.started, "boot": proc.boot_id()}
        with contextlib.suppress(OSError):  # a full disk must not keep a service from starting
            # After a power cut there is nothing to end.
            private_file.write(self._file(spec.id), json.dumps(kept), durable=False)

    def _file(self, process_id: str) -> Path:
        return self._state / f"{quote(process_id, safe='')}.json"


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does between fork and exec: ask the kernel to be killed with the parent.

    The handle is made before the fork, since a forked child may not take the loader's locks.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return prepare


def _ended(code: int) -> str:
    return f"ended: exit status {code}" if code >= 0 else f"ended: killed by signal {-code}"


def _cannot_start(spec: ProcessSpec, error: Exception) -> str:
    if not spec.cwd.is_dir():
        return f"{spec.id} cannot start: its folder {spec.cwd} is not there"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{spec.id} cannot start: {spec.argv[0]}: {reason}"
