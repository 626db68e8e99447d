"""An instance's presence in the registry: announced once it listens, renewed while it lives, then taken back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

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


class Presence:
    """Keeps one instance registered.

    Args:
        registration: what to announce.
        registrar: where.
        listening: returns once the instance accepts connections.
        interval: seconds between renewals.
        ttl: seconds of the lease.
        sleep: the clock.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        delays: Callable[[], Iterator[float]] = lambda: backoff.exponential(cap=5.0),
    ) -> None:
        self._registration = registration
        self._registrar = registrar
        self._listening = listening
        self._interval = interval
        self._ttl = ttl
        self._sleep = sleep
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
                await self._sleep(self._interval)

    async def _withdraw(self) -> None:
        if not self._announced:
            return
        try:
            await self._registrar.deregister(self._registration)
        except Error as error:
            _log.warning("cannot deregister: %s: the registry will notice within %.0f s", error, self._ttl)


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
