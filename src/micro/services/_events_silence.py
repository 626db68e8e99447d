"""Members that have fallen silent: a connection may stand for hours whose other end is frozen, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GRACE_SECONDS = 1.0
"""How much longer is waited: when it is this process that stood still, what was said meanwhile is yet to be read."""


class Silence:
    """Notices that nothing has been heard for a while.

    Args:
        seconds: how long; 0 for never.
        fallen: is called then, once.
    """

    def __init__(self, seconds: float, fallen: Callable[[], None]) -> None:
        self._seconds = seconds
        self._fallen = fallen
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._last = False
        self._timer = self._loop.call_later(seconds, self._look) if seconds else None

    def heard(self) -> None:
        """Something was said."""
        self._heard = self._loop.time()

    def end(self) -> None:
        """It does not matter any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        left = self._heard + self._seconds - self._loop.time()
        if left <= 0 and self._last:
            self._fallen()
            return
        self._last = left <= 0
        self._timer = self._loop.call_later(GRACE_SECONDS if self._last else left, self._look)
