"""Whether an instance answers: asked again and again, for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_log = logging.getLogger("micro")

_STEPS = 3


@dataclass(frozen=True, slots=True)
class Pulse:
    """The questions to one instance.

    Time is counted in steps in which this process ran: what it slept through itself, as on a suspended laptop, is held
    against nobody.

    Attributes:
        ask: returns when the instance has answered; an exception is as good, and is logged.
        interval: seconds between an answer and the next question.
        patience: seconds without an answer after which it is silent.
        limit: seconds without an answer after which it hangs.
        silent: called when it is silent.
        back: called when it answers after that.
    """

    ask: Callable[[], Awaitable[None]]
    interval: float
    patience: float
    limit: float
    silent: Callable[[], None]
    back: Callable[[], None]

    async def lost(self) -> None:
        """Return when the instance hangs."""
        # Those that started together are not asked together.
        await asyncio.sleep(random.uniform(0, self.interval))  # noqa: S311 - no secret
        while await self._answers():  # noqa: ASYNC110 - another process, no event
            await asyncio.sleep(self.interval)

    async def _answers(self) -> bool:
        """Ask once. A late answer is an answer; False when none came at all."""
        asked = asyncio.ensure_future(self.ask())  # owned: by this call
        step = self.patience / _STEPS
        waited = 0
        try:
            while not (await asyncio.wait({asked}, timeout=step))[0]:
                waited += 1
                if waited == _STEPS:
                    self.silent()
                if waited * step >= self.limit:
                    return False
        finally:
            asked.cancel()
        if (error := asked.exception()) is not None:  # ours, as no more files: nothing is known of who was asked
            _log.warning("it cannot be asked whether a process lives: %s", error)
        if waited >= _STEPS:
            self.back()
        return True
