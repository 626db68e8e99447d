"""Builds nothing, and fails on command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from micro.ports.builder import Build, Builder


class MemoryBuilder(Builder):
    """A builder for tests.

    Args:
        check: called with each folder; may raise what `build` is to raise.
    """

    def __init__(self, check: Callable[[Path], None] = lambda folder: None) -> None:
        self.check = check

    async def build(self, folder: Path) -> Build:
        self.check(folder)
        return Build(Path(sys.executable), folder)
