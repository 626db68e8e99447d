"""Streams over Connect, protobuf and uncompressed: what programs of the platform speak where it is a matter of many
bytes, or of little time. Their messages are cut out of large pieces and made into such, with few steps for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from protobuf import Message

from micro.domain import errors
from micro.domain.errors import Error
from micro.domain.service import StreamKind
from micro.rpc import admission, binary, deadline, envelopes, frames, unary
from micro.rpc import errors as wire
from micro.rpc.context import Context
from micro.rpc.deadline import DisconnectedError
from micro.rpc.envelopes import COMPRESSED, END, KIND, Envelopes
from micro.rpc.guard import REFUSED, RefusedTokenError
from micro.rpc.method import Method
from micro.rpc.receive import Receive
from micro.rpc.send import Send
from micro.rpc.unary import RawHeaders

_END = object()
_TYPE = (b"content-type", KIND.encode())


def serves(method: Method, headers: RawHeaders) -> bool:
    """Whether a call is one of those that are served here."""
    return (
        method.kind is not StreamKind.UNARY
        and headers.get(b"content-type") == _TYPE[1]
        and headers.get(b"connect-content-encoding", b"identity") == b"identity"
        and b"connect-accept-encoding" not in headers
    )


async def serve(ctx: Context, headers: RawHeaders, receive: Receive, send: Send, limit: int) -> None:
    """Answer a call that was let in.

    Args:
        limit: bytes that one message may have.
    """
    method, answer = ctx.endpoint, _Answer(ctx, send, limit)
    error: BaseException | None = None
    try:
        unary.due(headers, None)
        if method.kind is StreamKind.CLIENT:
            async with aclosing(_requests(receive, method.input, limit)) as requests:
                with admission.of(ctx):
                    response = await method.invoke(requests, ctx, None)
            await answer.add(response)
        elif method.kind is StreamKind.BIDI:
            heard = asyncio.Event()
            requests = _requests(receive, method.input, limit, heard.set)
            watched = _once(heard, receive)
            await deadline.run(_all(method, requests, ctx, answer), ctx.deadline, watched)
        else:
            request = await deadline.run(_request(receive, method.input, limit), ctx.deadline)
            await deadline.run(_all(method, request, ctx, answer), ctx.deadline, receive)
    except BaseException as caught:
        if isinstance(caught, OSError) and answer.broken:
            raise
        error = caught
    told = None if error is None else unary.told(error)
    if error is None or told is not None:
        await answer.end(told)
    if error is not None:
        unary.raise_again(error)


async def responses(method: Method, request: Any, ctx: Context) -> AsyncGenerator[Any]:
    """What a function that answers with a stream answers with; checked, and closed with this."""
    found = method.function(request, ctx)
    iterator = aiter(found)
    stoppable, breath = admission.of(ctx), deadline.Breath()
    try:
        while True:
            with stoppable:
                response = await anext(iterator, _END)
            if response is _END:
                return
            if response.__class__ is not method.output:
                raise method.wrong(response)
            yield response
            await breath()
    finally:
        close = getattr(found, "aclose", None)
        if close is not None:
            await close()


def end(error: Error | None, trailers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """The envelope that ends a stream."""
    metadata: dict[str, list[str]] = {}
    for name, value in trailers or ():
        metadata.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    if isinstance(error, RefusedTokenError):
        metadata[REFUSED.decode()] = [error.header.decode("latin-1")]
    told: dict[str, Any] = {"metadata": metadata} if metadata else {}
    if error is not None:
        told["error"] = wire.to_value(error)
    message = json.dumps(told, ensure_ascii=False).encode()
    return envelopes.prefix(len(message), END) + message


class _Answer:
    """The answer to one call.

    Attributes:
        broken: whether its reader has left.
    """

    def __init__(self, ctx: Context, send: Send, limit: int) -> None:
        self.broken = False
        self._ctx = ctx
        self._give = send
        self._limit = limit
        self._begun = False

    async def add(self, response: Any) -> None:
        """Send a message. Raises RESOURCE_EXHAUSTED; OSError when the reader has left."""
        parts = binary.parts(response)
        size = sum(map(len, parts))
        if size > self._limit:
            raise frames.answer_too_large(size, self._limit)
        await self._send(b"".join((envelopes.prefix(size), *parts)), more=True)

    async def end(self, error: Error | None) -> None:
        """Tell how it ended, if there is still somebody to tell."""
        with contextlib.suppress(OSError):
            await self._send(end(error, unary.pairs(self._ctx._response_trailers)), more=False)

    async def _send(self, body: bytes, *, more: bool) -> None:
        try:
            if not self._begun:
                self._begun = True
                headers = [_TYPE, *unary.pairs(self._ctx._response_headers)]
                await self._give({"type": "http.response.start", "status": 200, "headers": headers})
            await self._give({"type": "http.response.body", "body": body, "more_body": more})
        except OSError:
            self.broken = True
            raise


async def _all(method: Method, request: Any, ctx: Context, answer: _Answer) -> None:
    async with aclosing(responses(method, request, ctx)) as found:
        async for response in found:
            await answer.add(response)


async def _request(receive: Receive, cls: type[Message], limit: int) -> Any:
    """The one message of a request."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise DisconnectedError
    body = await frames.rest(message, receive, limit, framed=True)
    size = len(body) - frames.PREFIX
    # The flags' byte of an uncompressed frame is zero, so the prefix reads as one number.
    if int.from_bytes(body[: frames.PREFIX], "big") != size or size > limit:
        raise frames.fault(body, limit)
    return _decoded(cls, [body[frames.PREFIX :]])


async def _requests(
    receive: Receive, cls: type[Message], limit: int, ended: Callable[[], None] = lambda: None
) -> AsyncGenerator[Any]:
    """The messages of a request, as they arrive; `ended` is called when all have."""
    held, more = Envelopes(limit, COMPRESSED), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        more = message.get("more_body", False)
        held.feed(message.get("body", b""))
        while (found := held.next()) is not None:
            flags, data = found
            if flags:
                raise errors.internal("protocol error: sent compressed message without compression support")
            yield _decoded(cls, data)
    held.end()
    ended()


def _once(heard: asyncio.Event, receive: Receive) -> Receive:
    """What tells whether the caller has left, once it has said all: before, whoever reads its messages is told."""

    async def take() -> Any:
        await heard.wait()
        return await receive()

    return take


def _decoded(cls: type[Message], data: Sequence[bytes | memoryview]) -> Any:
    try:
        return binary.decode(cls, data)
    except Exception as error:
        raise wire.malformed(error) from error
