"""An instance's presence in the registry: announced once it listens, renewed while it lives, then taken back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

from micro.domain import backoff
from micro.domain.address import split
from micro.domain.errors import Error
from micro.domain.service import Registration
from micro.ports import background
from micro.rpc.registrar import Registrar

_log = logging.getLogger(__name__)

INTERVAL = 30.0
"""Seconds between renewals: two may fail before the lease ends."""

TTL = 90.0
"""Seconds of a lease."""


_TICK = 2.0
STOOD_STILL = 2.9
"""Seconds between two ticks that mean that the process did nothing else meanwhile either: stopped, or busy in one
piece. From three on it may have been taken out of the registry."""


class Presence:
    """Keeps one instance registered.

    Args:
        registration: what to announce.
        registrar: where.
        listening: returns once the instance accepts connections.
        interval: seconds between renewals.
        ttl: seconds of the lease.
        sleep: the clock.
        standstill: returns when the process has stood still.
        delays: how long to wait after each failure; it begins anew after a success.
    """

    def __init__(
        self,
        registration: Registration,
        registrar: Registrar,
        *,
        listening: Callable[[], Awaitable[None]],
        interval: float = INTERVAL,
        ttl: float = TTL,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        standstill: Callable[[], Coroutine[Any, Any, None]] = lambda: standstill(),
        delays: Callable[[], Iterator[float]] = lambda: backoff.exponential(cap=5.0),
    ) -> None:
        self._registration = registration
        self._registrar = registrar
        self._listening = listening
        self._interval = interval
        self._ttl = ttl
        self._sleep = sleep
        self._standstill = standstill
        self._delays = delays
        self._announced = False

    async def start(self, stack: AsyncExitStack) -> None:
        """Begin; the stack ends it, and takes the announcement back."""
        stack.push_async_callback(self._withdraw)
        background.spawn(stack, self._keep(), f"registration of {self._registration.name}")

    async def _keep(self) -> None:
        await self._listening()
        delays: Iterator[float] | None = None
        while True:
            # Announced from the first attempt on: one that seems to fail may have arrived.
            self._announced = True
            try:
                await self._registrar.register(self._registration, self._ttl)
            except Error as error:
                if delays is None:
                    _log.warning("cannot register: %s: trying again", error)
                    delays = self._delays()
                await self._sleep(next(delays))
            else:
                if delays is not None:
                    _log.info("registered again")
                    delays = None
                await self._until_due()

    async def _until_due(self) -> None:
        """Wait for the next renewal, which is due at once when the process has stood still."""
        waits = [
            asyncio.ensure_future(wait)  # owned: by this call
            for wait in (self._sleep(self._interval), self._standstill())
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def _withdraw(self) -> None:
        if not self._announced:
            return
        try:
            await self._registrar.deregister(self._registration)
        except Error as error:
            _log.warning("cannot deregister: %s: the registry will notice within %.0f s", error, self._ttl)


async def standstill(tick: float = _TICK, late: float = STOOD_STILL) -> None:
    """Return once this event loop has stood still: two ticks were further apart than `late`."""
    before = time.monotonic()
    while True:
        await asyncio.sleep(tick)
        now = time.monotonic()
        if now - before > late:
            return
        before = now


async def accepting(address: str) -> None:
    """Return once something listens at HOST:PORT."""
    host, port = split(address)
    for delay in backoff.exponential(first=0.01, cap=0.2):
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(delay)
        else:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return
