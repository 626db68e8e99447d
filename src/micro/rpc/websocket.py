"""Calls over WebSocket, for browsers: each text frame is one message in JSON.

A method without a stream of requests takes the first frame as its request. An empty frame ends a stream of requests,
since a WebSocket cannot be closed on one side. An error comes as a frame `{"error": {…}}` before the close.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.service import StreamKind
from micro.rpc import admission, deadline, frames, json_codec, unary
from micro.rpc import errors as wire
from micro.rpc.admission import Admission
from micro.rpc.context import CURRENT, Context, Scope
from micro.rpc.deadline import DisconnectedError
from micro.rpc.guard import Guard
from micro.rpc.method import Method
from micro.rpc.receive import Patient, Receive
from micro.rpc.send import Send

_AHEAD = 16
"""Frames that may wait for the handler before the caller has to."""

_OURS = {Kind.INTERNAL, Kind.UNKNOWN, Kind.DATA_LOSS}


async def serve(
    method: Method | None, scope: Scope, receive: Receive, send: Send, limit: int, guard: Guard | None = None
) -> None:
    """Answer one WebSocket, from its handshake to its close. Whom the guard does not let in has no handshake."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    ctx = _admitted(method, scope, guard)
    if method is None or ctx is None:
        await send({"type": "websocket.close", "code": 1008})
        return
    token = CURRENT.set(ctx)
    code = 1000
    try:
        await send({"type": "websocket.accept"})
        with admission.of(ctx):
            await _converse(method, ctx, receive, send, limit)
    except OSError:
        return  # the caller is gone
    except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
        known = unary.told(error)
        if known is not None:
            code = 1011 if known.kind in _OURS else 1008
            frame = json.dumps({"error": wire.to_value(known)}, ensure_ascii=False)
            with contextlib.suppress(OSError):
                await send({"type": "websocket.send", "text": frame})
                await send({"type": "websocket.close", "code": code})
        unary.raise_again(error)
    else:
        with contextlib.suppress(OSError):
            await send({"type": "websocket.close", "code": code})
    finally:
        ctx.done = True
        admission.leave(ctx)
        CURRENT.reset(token)


def _admitted(method: Method | None, scope: Scope, guard: Guard | None) -> Context | None:
    """The context of a conversation; None for one that is not to be."""
    if method is None or not _same_origin(scope):
        return None
    seconds = method.timeout if method.kind is StreamKind.UNARY else None
    ctx = Context(method, scope, None if seconds is None else time.monotonic() + seconds)
    try:
        if guard is not None:
            # Whatever it calls: it has said nothing yet, and may take its time.
            Admission.of(guard, ctx, dict(scope["headers"]))
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody comes in
        unary.told(error)
        return None
    return ctx


def _same_origin(scope: Scope) -> bool:
    """Browsers let any page open a WebSocket anywhere; we take those of our own origin, and callers without one."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is None:
        return True
    host: bytes = headers.get(b"host", b"")
    return bool(urlsplit(origin.decode("latin-1")).netloc == host.decode("latin-1"))


async def _converse(method: Method, ctx: Context, receive: Receive, send: Send, limit: int) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue(_AHEAD)
    answering = asyncio.current_task()
    assert answering is not None
    gone = False

    async def pump() -> None:
        nonlocal gone
        patient = Patient(receive)
        while (message := await patient())["type"] != "websocket.disconnect":
            await queue.put(message)
        gone = True
        answering.cancel()

    pumping = asyncio.get_running_loop().create_task(pump())  # owned: by this conversation
    cancelling = answering.cancelling()
    try:
        await _answer(method, ctx, _requests(method, queue, limit), send, limit)
    except asyncio.CancelledError:
        if gone and answering.uncancel() <= cancelling:
            raise DisconnectedError from None
        raise
    finally:
        pumping.cancel()


async def _requests(method: Method, queue: asyncio.Queue[Any], limit: int) -> AsyncIterator[Any]:
    decode = json_codec.decoder(method.input)
    while True:
        message = await queue.get()
        text = message.get("text")
        data = text.encode() if text is not None else message.get("bytes") or b""
        if not data:
            return
        if len(data) > limit:
            raise errors.resource_exhausted(f"message is larger than configured max {limit}")
        try:
            request = decode(data)
        except Exception as error:
            raise wire.malformed(error) from error
        yield request


async def _answer(method: Method, ctx: Context, requests: AsyncIterator[Any], send: Send, limit: int) -> None:
    async def give(response: Any) -> None:
        if response.__class__ is not method.output:
            raise method.wrong(response)
        await send({"type": "websocket.send", "text": frames.within(json_codec.encode(response), limit).decode()})

    first: Any = requests
    if method.kind in {StreamKind.UNARY, StreamKind.SERVER}:
        first = await anext(requests, None)
        if first is None:
            first = method.input()
    if method.kind in {StreamKind.UNARY, StreamKind.CLIENT}:
        await give(await method.invoke(first, ctx, None))
        return
    responses = method.function(first, ctx)
    breath = deadline.Breath()

    async def all_of_them() -> None:
        try:
            async for response in responses:
                await give(response)
                await breath()
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()

    await deadline.run(all_of_them(), ctx.deadline)
