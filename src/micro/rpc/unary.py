"""The fast path: unary calls over gRPC and over plain JSON, answered without anything in between.

Every line here runs for each call. What can be known before the first call is worked out when the service starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from micro.domain import errors
from micro.domain.errors import Error
from micro.rpc import binary, deadline, frames, json_codec
from micro.rpc import errors as wire
from micro.rpc.context import Context, Scope
from micro.rpc.deadline import DisconnectedError
from micro.rpc.guard import REFUSED, Guard, RefusedTokenError
from micro.rpc.method import Method
from micro.rpc.receive import Receive, unheeded
from micro.rpc.send import LARGE, Send, caught_up

RawHeaders = Mapping[bytes, bytes]
Serve = Callable[[Scope, RawHeaders, Receive, Send], Awaitable[None]]
Read = Callable[[bytes], Any]

_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False}
_JSON = (b"content-type", b"application/json")
_UNSENDABLE = re.compile("[\0-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class WrongVerbError(Error):
    """An HTTP method that means nothing here."""

    def __init__(self, given: str, *allowed: str) -> None:
        super().__init__(
            errors.Kind.UNIMPLEMENTED, f"HTTP method {given} does not call anything: use {' or '.join(allowed[:2])}"
        )
        self.allowed = allowed


def grpc(
    method: Method, limit: int, content_type: bytes, *, read: Read | None = None, guard: Guard | None = None
) -> Serve:
    """Answer `method` over gRPC. With `read` messages are JSON instead of protobuf; the answer has `content_type`."""
    decode = read or method.input.from_binary
    encode = json_codec.encode if read else binary.encoder(method.output)
    invoke = method.invoke
    default = method.timeout
    type_header = (b"content-type", content_type)
    start = {"type": "http.response.start", "status": 200, "headers": [type_header], "trailers": True}
    admit = None if guard is None else guard.admit
    from_bytes = int.from_bytes
    monotonic = time.monotonic

    async def serve(scope: Scope, headers: RawHeaders, receive: Receive, send: Send) -> None:
        ctx = None
        try:
            given = deadline.given(headers)
            seconds = default if given is None else deadline.of_grpc(given)
            ctx = Context(method, scope, None if seconds is None else monotonic() + seconds)
            if admit is not None:
                admit(ctx, headers)
            message = await receive()
            body = message.get("body", b"")
            if message.get("more_body"):
                body = await frames.rest(message, receive, limit, framed=True)
            size = len(body) - 5
            # The flags' byte of an uncompressed frame is zero, so the prefix reads as one number.
            if from_bytes(body[:5], "big") != size or size > limit:
                raise frames.fault(body, limit)
            try:
                request = decode(body[5:])
            except Exception as error:
                raise wire.malformed(error) from error
            response = encode(await invoke(request, ctx, receive))
            if len(response) > limit:
                frames.within(response, limit)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await fail_grpc(send, error, ctx, type_header)
            return
        begin, end = start, _OK
        if ctx._response_headers is not None or ctx._response_trailers is not None:
            begin = {**start, "headers": [type_header, *pairs(ctx._response_headers)]}
            end = {**_OK, "headers": [*pairs(ctx._response_trailers), (b"grpc-status", b"0")]}
        try:
            await send(begin)
            body = len(response).to_bytes(5, "big") + response
            if len(body) >= LARGE:
                sent = send({"type": "http.response.body", "body": body, "more_body": True})
                response = body = b""  # the server has it
                await caught_up(sent, send)
            await send({"type": "http.response.body", "body": body})
            await send(end)
        except OSError:
            return  # the caller is gone

    return serve


def json(method: Method, limit: int, guard: Guard | None = None) -> Serve:
    """Answer `method` over HTTP with JSON as Connect defines it, the body being the request."""
    decode = json_codec.decoder(method.input)
    invoke = method.invoke
    default = method.timeout
    admit = None if guard is None else guard.admit

    async def serve(scope: Scope, headers: RawHeaders, receive: Receive, send: Send) -> None:
        ctx, refused = None, True
        try:
            ctx = Context(method, scope, due(headers, default))
            if admit is not None:
                admit(ctx, headers)
            frames.declared(headers, limit)
            refused = False
            message = await receive()
            body = message.get("body", b"")
            if message.get("more_body") or len(body) > limit:
                body = await frames.rest(message, receive, limit, framed=False)
            try:
                request = decode(body)
            except Exception as error:
                raise wire.malformed(error) from error
            response = frames.within(json_codec.encode(await invoke(request, ctx, receive)), limit)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            if refused:
                await unheeded(receive, headers)
            await fail_http(send, error, ctx)
            return
        await answer_http(send, response, ctx)

    return serve


def due(headers: RawHeaders, default: float | None) -> float | None:
    """When a call over HTTP is to be answered, in monotonic seconds. Raises INVALID_ARGUMENT for headers amiss."""
    version = headers.get(b"connect-protocol-version")
    if version is not None and version != b"1":
        raise errors.invalid_argument(f"connect-protocol-version must be '1': got {version.decode('latin-1')!r}")
    given = headers.get(b"connect-timeout-ms")
    seconds = deadline.of_connect(given) if given else default
    return None if seconds is None else time.monotonic() + seconds


async def answer_http(send: Send, body: bytes, ctx: Context) -> None:
    headers = [_JSON, (b"content-length", b"%d" % len(body))] if body else [_JSON]
    if ctx._response_headers is not None or ctx._response_trailers is not None:
        headers += response_headers(ctx)
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    with contextlib.suppress(OSError):
        await send(start)
        if len(body) >= LARGE:
            sent = send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""  # the server has it
            await caught_up(sent, send)
        await send({"type": "http.response.body", "body": body})


async def fail_http(send: Send, error: BaseException, ctx: Context | None, status: int = 0) -> None:
    """Answer with an error as Connect writes it. Raises again what ends the process, after answering."""
    known = told(error)
    if known is None:
        return
    headers = [_JSON, *(response_headers(ctx) if ctx is not None else ())]
    status = status or (413 if isinstance(known, frames.TooLargeError) else known.kind.http_status)
    if isinstance(known, WrongVerbError):
        headers.append((b"allow", ", ".join(known.allowed).encode()))
    elif status == 401:
        why = b' error="invalid_token"' if isinstance(known, RefusedTokenError) else b""
        headers.append((b"www-authenticate", b"Bearer" + why))
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": wire.to_json(known)})
    raise_again(error)


async def fail_grpc(send: Send, error: BaseException, ctx: Context | None, type_header: tuple[bytes, bytes]) -> None:
    """Answer with an error as gRPC does. Raises again what ends the process, after answering."""
    known = told(error)
    if known is None:
        return
    headers, trailers = [type_header], grpc_trailers(known)
    if ctx is not None:
        headers += pairs(ctx._response_headers)
        trailers = [*pairs(ctx._response_trailers), *trailers]
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
        await send({"type": "http.response.body", "body": b""})
        await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})
    raise_again(error)


def grpc_trailers(error: Error) -> list[tuple[bytes, bytes]]:
    """What ends a gRPC call that fails."""
    found = wire.trailers(error)
    if isinstance(error, RefusedTokenError):
        found.append((REFUSED, error.header))
    return found


def response_headers(ctx: Context) -> list[tuple[bytes, bytes]]:
    """What the handler set, as Connect sends it: trailers are headers with a prefix."""
    return [
        *pairs(ctx._response_headers),
        *((b"trailer-" + key, value) for key, value in pairs(ctx._response_trailers)),
    ]


def pairs(headers: Any) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them; none for None. What no header can carry is replaced, or there would be no answer."""
    if headers is None:
        return []
    return [(key.encode(errors="replace"), _UNSENDABLE.sub("?", value).encode()) for key, value in headers.allitems()]


def told(error: BaseException) -> Error | None:
    """What the caller is told; None where there is nobody to tell."""
    if isinstance(error, DisconnectedError):
        return None
    if isinstance(error, asyncio.CancelledError):
        return errors.unavailable("the instance is stopping: try again")
    return wire.of(error)


def raise_again(error: BaseException) -> None:
    """What ends a task ends it. A handler's `sys.exit` does not: the server could not bear it, and no call may end
    the others; it is told as any exception that nobody expected."""
    if isinstance(error, asyncio.CancelledError):
        raise error
