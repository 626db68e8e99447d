"""ASGI's `receive` as every server should have it.

Servers differ in what comes after the end of a body: the contract says that `receive` waits until the caller leaves,
while some answer with empty messages over and over, or do not bear to be cancelled while they wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Receive = Callable[[], Awaitable[Any]]

FIRST_LOOK = 0.02
"""Seconds until a server that does not wait is asked again."""

_SLOWEST_LOOK = 0.25
"""What it grows to. Longer would spare an idle platform some of the processor, and cost a queue of subscribers the
messages that go to one who has left meanwhile."""

_SMALL = 64 * 1024
_PATIENCE = 1.0


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


async def unheeded(receive: Receive, headers: Mapping[bytes, bytes]) -> None:
    """Take the body of a call that is refused without it, where it is small (64 KiB) and arrives within a second. To be
    used when none of it has been read.

    A server that answers before the request has ended resets the HTTP/2 stream with no error. Some clients take it for
    one all the same, and lose the answer. A large body, or one of unknown length, whose sender may wait for an answer
    first, is refused at once: HTTP allows it. gRPC's clients know answers that come early.
    """
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 5 or int(length) > _SMALL:
        return
    size, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while more and size <= _SMALL:
                waiting = receive()
                message = await (asyncio.shield(waiting) if asyncio.isfuture(waiting) else waiting)
                more = message.get("more_body", False)
                size += len(message.get("body", b""))


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
            if not waiting.done():
                await _until(waiting)
            self._waiting = None
            message = waiting.result()
        else:
            message = await waiting
        self._ended = message["type"] == "http.request" and not message.get("more_body", False)
        return message


async def _until(waiting: asyncio.Future[Any]) -> None:
    """Return when it is done. Cancelled, it leaves it as it is, as `asyncio.shield` does at several times the price."""
    done = waiting.get_loop().create_future()

    def wake(_: object) -> None:
        if not done.done():
            done.set_result(None)

    waiting.add_done_callback(wake)
    try:
        await done
    except BaseException:
        waiting.remove_done_callback(wake)
        raise
