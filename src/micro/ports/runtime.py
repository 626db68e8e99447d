"""What the runtime needs beside processes and builds: kept workloads, code, logs, and the way of traffic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from micro.domain.workload import Key, Workload


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of output: when (RFC 3339, UTC, microseconds), how grave, what, and which instance wrote it."""

    timestamp: str
    level: str
    message: str
    instance: str


class WorkloadStore(ABC):
    """What is to run, kept so that it survives every process."""

    @abstractmethod
    async def put(self, workload: Workload) -> None:
        """Store under the workload's key, replacing what is there. Durable and whole when it returns.

        Raises UNAVAILABLE when it cannot be stored; then nothing changed."""

    @abstractmethod
    async def delete(self, key: Key) -> None:
        """Remove. Removing what is absent is nothing to do."""

    @abstractmethod
    async def purge(self, namespace: str) -> None:
        """Remove all that is kept of a namespace: also what cannot be read, and what its services log in with.

        Raises UNAVAILABLE when something stays."""

    @abstractmethod
    async def keys(self) -> list[Key]:
        """Those of all, sorted: of what cannot be read too."""

    @abstractmethod
    async def list(self) -> list[Workload]:
        """All, sorted by key. What cannot be read is left out and logged, never removed."""


class Sources(ABC):
    """Uploaded archives, and the code that is unpacked from them: one folder a workload and generation.

    An upload belongs to a namespace and to the account that made it, NAMESPACE/ID."""

    @abstractmethod
    async def receive(self, pieces: AsyncIterator[bytes], namespace: str, account: str, most: int = 0) -> str:
        """Keep an archive of `most` bytes, 0 for no limit of the namespace's own; return its id, which nobody can
        guess. Nothing is kept when the pieces end in an error.

        Raises RESOURCE_EXHAUSTED when it is larger than allowed, INVALID_ARGUMENT when it is empty."""

    @abstractmethod
    async def unpack(self, upload_id: str, key: Key, generation: int, account: str) -> Path:
        """Unpack the archive into the folder of that generation, whole or not at all. An id serves once.

        Raises NOT_FOUND for an unknown or used id, and for one of another account or namespace, INVALID_ARGUMENT when
        the archive is not allowed or damaged."""

    @abstractmethod
    async def mend(self, key: Key, generation: int) -> None:
        """Put back what was lost of the code of a generation, and leave what the service has written there. What was
        looked at once is looked at again only when it is gone.

        Raises DATA_LOSS when it is gone and cannot be put back, UNAVAILABLE when the folder cannot be read."""

    @abstractmethod
    def folder(self, key: Key, generation: int) -> Path:
        """Where the code of a generation lies, whether it is there or not."""

    @abstractmethod
    async def remove(self, key: Key, generation: int | None = None) -> None:
        """Remove the code of one generation, or of all. Absent: nothing to do."""

    @abstractmethod
    async def keys(self) -> list[Key]:
        """Those that there is code of, sorted."""

    @abstractmethod
    async def sweep(self, wanted: Mapping[Key, int | None]) -> None:
        """Remove every generation but the wanted one of each key, None for all of them, and what an interrupted upload
        or unpacking left. Only while nothing is received or unpacked."""

    @abstractmethod
    async def expire(self) -> None:
        """Remove uploads that nobody has used for an hour."""

    @abstractmethod
    async def purge(self, namespace: str) -> None:
        """Remove everything that is kept for a namespace, output included. Only while nothing of it runs.

        Raises UNAVAILABLE when something stays."""


class Logs(ABC):
    """The output of services, by namespace, name and version. In the default namespace, names of core services lead to
    theirs."""

    @abstractmethod
    def path(self, key: Key) -> Path:
        """The file that a process's output goes to."""

    @abstractmethod
    def exists(self, key: Key) -> bool:
        """Whether there is any output."""

    @abstractmethod
    def read(self, key: Key, lines: int) -> list[LogRecord]:
        """The last records, at most `lines`, oldest first."""

    @abstractmethod
    def follow(self, key: Key, lines: int) -> AsyncIterator[LogRecord]:
        """The last records as `read` gives them, then each new one, for ever: none missed, none twice."""

    @abstractmethod
    def remove(self, key: Key) -> None:
        """Forget the output. Only while no process writes there."""

    @abstractmethod
    def sweep(self, known: Callable[[Key], bool]) -> None:
        """Forget the output of services that are not known any more, when it has become old or too much. May block."""


class Traffic(Protocol):
    """Which instances get requests."""

    async def registered(self, namespace: str, name: str, node_id: str) -> int:
        """Wait until the instance is in the registry; return a revision in which it is. Waits for as long as that
        takes, also through the registry's restarts: the caller sets the deadline."""
        ...

    async def services(self, namespace: str) -> set[str]:
        """Names that are registered in a namespace, by whomever.

        Raises UNAVAILABLE when the registry does not answer."""
        ...

    async def deregister(self, namespace: str, name: str, node_id: str) -> int:
        """Take the instance out of the registry; return a revision in which it is absent.

        Raises UNAVAILABLE when the registry does not answer."""
        ...

    async def sync(self, revision: int) -> None:
        """Wait until every data plane routes by that revision or a later one. The caller sets the deadline.

        Raises UNAVAILABLE when the control plane does not answer."""
        ...


class Drainable(Protocol):
    """The server inside a service's process, as far as ending it without loss needs it."""

    async def drain(self) -> None:
        """Ask clients to move away. Raises UNAVAILABLE when nobody answers."""
        ...

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no request is in flight: True then, or when it is gone; False after `timeout` seconds."""
        ...


class Liveness(Protocol):
    """Whether instances live."""

    async def answered(self, address: str) -> None:
        """Return once the instance at HOST:PORT has answered a question about its health, whatever it says. Waits for
        as long as that takes, also while nothing listens there: the caller sets the deadline.

        Raises OSError when it cannot be asked for a reason of this side's own, as too many open files."""
        ...
