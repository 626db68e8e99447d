"""Everything but the fast path: streams over gRPC and Connect, gRPC-Web, protobuf over Connect, compression, GET.

The connectrpc application of the same methods answers; around each function stands what makes it behave as the fast
path does: the same context, deadlines, errors and codecs.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from connectrpc.codec import Codec
from connectrpc.server import ConnectASGIApplication, Endpoint
from protobuf import Message

from micro.domain.errors import Error
from micro.domain.service import StreamKind
from micro.rpc import admission, binary, deadline, frames, json_codec, streams, strict, unary
from micro.rpc import errors as wire
from micro.rpc.admission import Admission
from micro.rpc.context import CURRENT, Context, Scope
from micro.rpc.guard import Guard
from micro.rpc.method import Method
from micro.rpc.receive import Patient, Receive
from micro.rpc.send import Attentive, Send
from micro.rpc.unary import RawHeaders

_TIMEOUTS = (b"grpc-timeout", b"connect-timeout-ms")
_STRICT = "json-strict"


class _Proto(Codec[Any, Any]):
    def __init__(self, limit: int) -> None:
        self._limit = limit

    def name(self) -> str:
        return "proto"

    def encode(self, message: Message) -> bytes:
        return _encode(lambda: binary.encode(message), self._limit)

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        return _decode(message_class.from_binary, data)


class _Json(Codec[Any, Any]):
    def __init__(self, limit: int) -> None:
        self._limit = limit

    def name(self) -> str:
        return "json"

    def encode(self, message: Message) -> bytes:
        return _encode(lambda: json_codec.encode(message), self._limit)

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        return _decode(json_codec.decoder(message_class), bytes(data))


def _encode(encode: Callable[[], bytes], limit: int) -> bytes:
    try:
        return frames.within(encode(), limit)
    except Exception as error:
        raise wire.to_connect(wire.of(error)) from error


def _decode(decode: Callable[[Any], Any], data: bytes | bytearray) -> Any:
    try:
        return decode(data)
    except Exception as error:
        raise wire.to_connect(wire.malformed(error)) from error


class _Strict(_Json):
    """What `micro-codec` asks for, as on the fast path."""

    def name(self) -> str:
        return _STRICT

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        return _decode(strict.decoder(message_class), bytes(data))


class _Connect(ConnectASGIApplication[Any]):
    @property
    def path(self) -> str:
        return "/"


class General:
    """Answers calls of known methods, whatever protocol of connectrpc's they come in."""

    def __init__(self, methods: Sequence[Method], limit: int) -> None:
        endpoints = {method.path: _endpoint(method) for method in methods}
        self._limit = limit
        self._connect = _Connect(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=limit,
            codecs=[_Proto(limit), _Json(limit), _Strict(limit)],
        )

    async def __call__(
        self,
        method: Method,
        scope: Scope,
        headers: RawHeaders,
        receive: Receive,
        send: Send,
        guard: Guard | None = None,
    ) -> None:
        """Hand over one request.

        Raises INVALID_ARGUMENT for headers amiss, and what the guard does, before anything is read or sent: `fail`
        tells it to the caller.
        """
        seconds = method.timeout
        if (given := headers.get(b"grpc-timeout")) is not None:
            seconds = deadline.of_grpc(given)
        elif given := headers.get(b"connect-timeout-ms"):
            seconds = deadline.of_connect(given)
        ctx = Context(method, scope, None if seconds is None else time.monotonic() + seconds)
        receive, send = Patient(receive), Attentive(send)
        if guard is not None and method.kind is not StreamKind.UNARY:
            admitted = Admission.of(guard, ctx, headers)
            receive, send = _receiving(admitted, receive), _sending(admitted, send)
        elif guard is not None:
            guard.admit(ctx, headers)
        token = CURRENT.set(ctx)
        try:
            if streams.serves(method, headers):
                await streams.serve(ctx, headers, receive, send, self._limit)
            else:
                await self._connect(_translate(method, scope, headers, seconds), receive, send)
        except OSError as error:  # the caller is gone
            # Its error is in a cycle with these frames, and they hold the message that did not get through.
            traceback.clear_frames(error.__traceback__)
        finally:
            ctx.done = True
            admission.leave(ctx)
            CURRENT.reset(token)


def _receiving(admitted: Admission, receive: Receive) -> Receive:
    async def take() -> Any:
        try:
            with admitted:
                return await receive()
        except Error as error:
            raise wire.to_connect(error) from error

    return take


def _sending(admitted: Admission, send: Send) -> Send:
    async def give(message: dict[str, Any]) -> None:
        if not message.get("more_body"):
            await send(message)
            return
        # The server has the message, and only its reader is waited for: the call is ended where it comes to next, since
        # what cannot send cannot say why it ends either.
        with contextlib.suppress(Error), admitted:
            await send(message)

    return give


async def fail(send: Send, error: BaseException, kind: str, status: int = 0) -> None:
    """Answer a request of media type `kind` with an error, as its protocol writes it. Raises as `unary.fail_http`."""
    web, stream = kind.startswith("application/grpc-web"), kind.startswith("application/connect+")
    known = unary.told(error) if web or stream else None
    if known is None:
        type_header = (b"content-type", kind.encode())
        if kind.startswith("application/grpc") and not web:
            await unary.fail_grpc(send, error, None, type_header)
        elif not (web or stream):
            await unary.fail_http(send, error, None, status)
        return
    # Neither has anything after the body, so the last frame of it tells, with a flag of its own.
    if web:
        told = b"".join(b"%s: %s\r\n" % pair for pair in unary.grpc_trailers(known))
        told = b"\x80" + len(told).to_bytes(4, "big") + told
    else:
        told = streams.end(known)
    headers = [(b"content-type", kind.encode())]
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})
    unary.raise_again(error)


def _translate(method: Method, scope: Scope, headers: RawHeaders, seconds: float | None) -> dict[str, Any]:
    """The request as connectrpc is to see it: full path, readable headers, and of timeouts only what it must watch.

    A function that answers with one message is watched by ourselves, as on the fast path; the streams are its own.
    """
    pairs = [(key, value) for key, value in scope["headers"] if key not in _TIMEOUTS and value.isascii()]
    if headers.get(b"micro-codec") == b"json" and headers.get(b"content-type") == b"application/grpc":
        pairs = [
            (key, value) if key != b"content-type" else (key, value + b"+" + _STRICT.encode()) for key, value in pairs
        ]
    if seconds is not None and method.kind in {StreamKind.SERVER, StreamKind.BIDI}:
        milliseconds = min(int(seconds * 1000), 99_999_999)
        grpc = headers.get(b"content-type", b"").startswith(b"application/grpc")
        pairs.append(
            (b"grpc-timeout", b"%dm" % milliseconds) if grpc else (b"connect-timeout-ms", b"%d" % milliseconds)
        )
    extensions = {"http.response.trailers": {}, **(scope.get("extensions") or {})}
    return {"root_path": "", **scope, "path": method.path, "headers": pairs, "extensions": extensions}


def _endpoint(method: Method) -> Any:
    make: Mapping[StreamKind, Callable[..., Any]] = {
        StreamKind.UNARY: Endpoint.unary,
        StreamKind.CLIENT: Endpoint.client_stream,
        StreamKind.SERVER: Endpoint.server_stream,
        StreamKind.BIDI: Endpoint.bidi_stream,
    }
    wrap = _one if method.kind in {StreamKind.UNARY, StreamKind.CLIENT} else _many
    return make[method.kind](method=method.info, function=wrap(method))


def _bind(connect: Any) -> Context:
    """Our context of the request, with what it sends back shared with connectrpc's."""
    ctx = CURRENT.get()
    assert ctx is not None
    ctx._response_headers = connect.response_headers
    ctx._response_trailers = connect.response_trailers
    return ctx


def _one(method: Method) -> Callable[..., Any]:
    async def call(request: Any, connect: Any) -> Any:
        try:
            ctx = _bind(connect)
            with admission.of(ctx):
                return await method.invoke(request, ctx, None)
        except Exception as error:
            raise wire.to_connect(wire.of(error)) from error

    return call


def _many(method: Method) -> Callable[..., Any]:
    async def call(request: Any, connect: Any) -> AsyncIterator[Any]:
        ctx = _bind(connect)
        try:
            async with aclosing(streams.responses(method, request, ctx)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:
            raise wire.to_connect(wire.of(error)) from error

    return call
