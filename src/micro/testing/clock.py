"""A clock that goes only when the test says so."""

from __future__ import annotations

import asyncio

from micro.ports.clock import Clock


class FakeClock(Clock):
    """Starts at 0. Meant for one waiting task."""

    def __init__(self) -> None:
        self._now = 0.0
        self._end: float | None = None
        self._reached = asyncio.Event()
        self._waiting = asyncio.Event()

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        self._end = None if seconds is None else self._now + seconds
        self._reached.clear()
        self._waiting.set()
        # owned: by this call
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._reached)]
        try:
            if seconds is None or seconds > 0:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.clear()
            for each in waits:
                each.cancel()

    async def advance(self, seconds: float) -> None:
        """Let the time pass; whoever waits wakes up exactly when it wanted to, and may wait again."""
        until = self._now + seconds
        while True:
            await self._settled()
            if self._end is None or self._end > until:
                break
            self._now = max(self._now, self._end)
            self._waiting.clear()
            self._reached.set()
        self._now = until

    def jump(self, seconds: float) -> None:
        """Let the time pass while nobody runs, as when the process was stopped."""
        self._now += seconds
        self._reached.set()

    async def _settled(self) -> None:
        """Return when the waiting task waits, and has taken in what was announced to it."""
        for _ in range(20):
            await asyncio.sleep(0)
        await self._waiting.wait()
