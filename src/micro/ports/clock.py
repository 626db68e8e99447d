"""Time that passes: read, and waited for. A port, so that a test can let an hour pass at once."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod


class Clock(ABC):
    """A clock that never goes back and that stands still while the machine sleeps."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since a moment of no meaning."""

    @abstractmethod
    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Return when the event is set or the seconds have passed, whichever is first; None waits without end."""


class MonotonicClock(Clock):
    """The machine's own."""

    def now(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return
