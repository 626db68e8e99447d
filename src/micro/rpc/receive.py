"""ASGI's `receive` as every server should have it.

Servers differ in what comes after the end of a body: the contract says that `receive` waits until the caller leaves,
while some answer with empty messages over and over, or do not bear to be cancelled while they wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[Any]]

FIRST_LOOK = 0.02
"""Seconds until a server that does not wait is asked again."""

_SLOWEST_LOOK = 0.25


async def gone(receive: Receive) -> None:
    """Return once the caller has left. To be used when the body has been read to its end."""
    delay = FIRST_LOOK
    while True:
        waiting = receive()
        message = await (asyncio.shield(waiting) if asyncio.isfuture(waiting) else waiting)
        if message["type"].endswith(".disconnect"):
            return
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, _SLOWEST_LOOK)


class Patient:
    """A `receive` that waits, whatever the server does, and that may be cancelled without losing a message."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: asyncio.Future[Any] | None = None
        self._ended = False

    async def __call__(self) -> Any:
        if self._ended:
            await gone(self._receive)
            return {"type": "http.disconnect"}
        waiting = self._waiting or self._receive()
        if asyncio.isfuture(waiting):
            self._waiting = waiting
            message = await asyncio.shield(waiting)
            self._waiting = None
        else:
            message = await waiting
        self._ended = message["type"] == "http.request" and not message.get("more_body", False)
        return message
