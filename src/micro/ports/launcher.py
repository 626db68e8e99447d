"""Processes of this host: started, watched, drained, ended. Lives in the supervisor, so that what it runs outlives
every core service, and nothing outlives the supervisor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run.

    Attributes:
        id: unique while the process lives; also names its admin socket.
        argv: program and arguments.
        env: the whole environment.
        cwd: working folder.
        log: file that receives the output, one JSON object a line: timestamp, level, message, instance. Rotated.
        labels: free pairs that `list` gives back, so that a restarted core service knows what it had started.
        note: a warning for the log, before all output of the process; none when it is empty.
    """

    id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that runs, or has ended.

    Attributes:
        exit_status: None while it runs; as a shell tells it after that (128 + signal where a signal ended it).
        tail: the last lines of output (at most 40), once it has ended.
    """

    id: str
    pid: int
    labels: Mapping[str, str]
    exit_status: int | None = None
    tail: tuple[str, ...] = ()


class Launcher(ABC):
    """Each process leads its own process group; the group is what is signalled.

    The log of one that ends without being stopped says so behind its output."""

    @abstractmethod
    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        """Start it. Raises ALREADY_EXISTS while a process of that id runs, FAILED_PRECONDITION when it cannot be
        executed."""

    @abstractmethod
    async def stop(self, process_id: str, grace: float = 5.0) -> None:
        """Send SIGTERM to the group, after `grace` seconds SIGKILL; return when it is gone. Absent: nothing to do."""

    @abstractmethod
    async def list(self) -> list[ProcessInfo]:
        """Those that run, sorted by id."""

    @abstractmethod
    def watch(self) -> AsyncIterator[ProcessInfo]:
        """Those that run now, then each one as it ends. Goes on by itself through a lost connection, and then begins
        with those that run again."""
