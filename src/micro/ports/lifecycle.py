"""How everything with a lifetime starts and ends."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol


class Startable(Protocol):
    """Constructors store arguments; `start` does the rest."""

    async def start(self, stack: AsyncExitStack) -> None:
        """Acquire what is needed and register its release on the stack. Called once, in the loop that uses it."""
        ...
