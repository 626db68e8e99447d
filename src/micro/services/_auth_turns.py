"""Turns for what takes a core: nobody, and nobody's neighbour, waits in all the places."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from micro.domain import errors

AT_ONCE = 2
"""Secrets that are looked at side by side."""

WAITING = 256
"""Those that may wait for their turn."""

EACH = 16
"""Those of one account that may wait, and those from one address."""

LOCAL = 128
"""Those that may wait from this host, whose services share one address."""


class Turns:
    """Some at once, the others in the order in which they came."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._held: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def turn(self, who: str, address: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises RESOURCE_EXHAUSTED while too many wait."""
        where = network(address)
        keys = {("account", who): EACH, ("address", where): EACH if where else LOCAL}
        if self._waiting >= WAITING or any(self._held[key] >= most for key, most in keys.items()):
            raise errors.resource_exhausted("too many log in at the same time: try again in a few seconds")
        self._waiting += 1
        self._held.update(keys.keys())
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
            self._held.subtract(keys.keys())
            for key in keys:
                if not self._held[key]:
                    del self._held[key]
        try:
            yield
        finally:
            self._turns.release()


def network(address: str) -> str:
    """What counts as one address: of IPv6 the network, since everybody has a whole one. Empty for this host."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if found.is_loopback:
        return ""
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
