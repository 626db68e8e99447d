"""Builds nothing, and fails on command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path

from micro.ports.builder import Build, Builder


class MemoryBuilder(Builder):
    """A builder for tests.

    Args:
        check: called with each folder; may raise what `build` is to raise.

    Attributes:
        swept: the folders and interpreters of each `sweep`.
    """

    def __init__(self, check: Callable[[Path], None] = lambda folder: None) -> None:
        self.check = check
        self.swept: list[tuple[set[Path], set[Path]]] = []

    async def build(self, folder: Path, *, background: bool = False) -> Build:
        self.check(folder)
        return Build(Path(sys.executable), folder)

    async def sweep(self, folders: Collection[Path], pythons: Collection[Path]) -> None:
        self.swept.append((set(folders), set(pythons)))
