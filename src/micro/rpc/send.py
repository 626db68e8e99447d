"""ASGI's `send` as every server should have it, for readers that are slow or leave.

A server's `send` may be a future that the server sets, and what it raises when the reader has left may be one exception
for all readers, which would keep the frames, and so the messages, of every stream that it ever ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]

LARGE = 2**20
"""Bytes from which on it matters who waits for a reader."""


async def caught_up(sent: Awaitable[None], send: Send) -> None:
    """Return when what is being sent is, and the reader has fetched nearly all of it; the body must not have ended.

    The server takes a whole answer at once, keeps it for as long as the reader likes, and no more counts it among the
    streams that it may reset. So a large answer does not end before it is gone: another piece is taken only then, even
    an empty one.

    Raises:
        OSError: the reader is gone, or the stream was reset.
    """
    await _settled(sent)
    await _settled(send({"type": "http.response.body", "body": b"", "more_body": True}))


async def _settled(sent: Awaitable[None]) -> None:
    try:
        # Cancelled, a future would fail its server, which sets it whether anybody still waits or not.
        await (asyncio.shield(sent) if asyncio.isfuture(sent) else sent)
    except OSError as error:
        error.__traceback__ = None
        raise BrokenPipeError from None


class Attentive:
    """A `send` that waits for the readers of large pieces, and that may be cancelled while it waits for any."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: dict[str, Any]) -> None:
        if len(message.get("body", b"")) >= LARGE:
            await caught_up(self._send({**message, "more_body": True}), self._send)
            if message.get("more_body"):
                return
            message = {**message, "body": b""}
        await _settled(self._send(message))
