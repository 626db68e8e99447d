"""How a service's source becomes something that runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Build:
    """What a build made: the interpreter that has all the service needs, and the folder to run it in."""

    python: Path
    folder: Path


class Builder(ABC):
    """One environment a set of dependencies, shared by all services that ask for the same."""

    @abstractmethod
    async def build(self, folder: Path, *, background: bool = False) -> Build:
        """Make what the source in `folder` needs. Raises FAILED_PRECONDITION with the last lines of output; then what
        was built before is untouched.

        Args:
            background: nobody waits for it, so it may have to wait until others are made.
        """

    @abstractmethod
    async def sweep(self, folders: Collection[Path], pythons: Collection[Path]) -> None:
        """Remove the environments that are neither needed by a source in one of the `folders`, which may be absent,
        nor belong to one of the interpreters in use, nor were asked for since this began."""
