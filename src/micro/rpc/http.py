"""Calls over plain HTTP: JSON bodies, forms, query strings, and streams as lines or server-sent events.

What people and browsers send. A page of another origin can send GETs and forms without asking first: which of its
callers a service obeys is the service's business. The platform's own take neither (`rpc/pages.py`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from micro.domain import errors
from micro.domain.errors import Error
from micro.domain.service import StreamKind
from micro.rpc import admission, deadline, frames, json_codec, query, unary
from micro.rpc import errors as wire
from micro.rpc.admission import Admission
from micro.rpc.context import CURRENT, Context, Scope
from micro.rpc.guard import Guard
from micro.rpc.method import Method
from micro.rpc.receive import Receive, unheeded
from micro.rpc.send import Attentive, Send
from micro.rpc.unary import RawHeaders

_BODIES = ("POST", "PUT", "PATCH")
_QUERIES = ("GET", "HEAD", "DELETE")
_FORM = "application/x-www-form-urlencoded"


class WrongMediaTypeError(Error):
    """A body that is neither JSON nor a form."""

    def __init__(self, given: str) -> None:
        cause = f"content-type {given!r} is not known here" if given else "the body has no content-type"
        super().__init__(errors.Kind.INVALID_ARGUMENT, f"{cause}: send application/json")


class WrongEncodingError(Error):
    """A compression that is not spoken here; Connect wants it to be of this kind."""

    def __init__(self, given: str) -> None:
        super().__init__(errors.Kind.UNIMPLEMENTED, f"content-encoding {given!r} is not known here: send gzip or none")


def status(error: BaseException) -> int:
    """The HTTP status of errors that HTTP knows better than their kind does; 0 for the kind's own."""
    if isinstance(error, WrongMediaTypeError | WrongEncodingError):
        return 415
    return 405 if isinstance(error, unary.WrongVerbError) else 0


def media_type(headers: RawHeaders) -> str:
    return headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()


async def serve(
    method: Method,
    scope: Scope,
    headers: RawHeaders,
    receive: Receive,
    send: Send,
    limit: int,
    guard: Guard | None = None,
) -> None:
    """Answer one call; a method with a stream of answers streams them."""
    ctx, refused = None, True
    try:
        ctx = Context(method, scope, None)
        if guard is not None and method.kind is StreamKind.SERVER:
            Admission.of(guard, ctx, headers)
        elif guard is not None:
            guard.admit(ctx, headers)
        if method.kind in {StreamKind.CLIENT, StreamKind.BIDI}:
            raise errors.invalid_argument(f"{method.name} takes a stream of requests: call it over WebSocket or gRPC")
        ctx.deadline = unary.due(headers, method.timeout)
        _acceptable(scope, headers, limit)
        refused = False
        with admission.of(ctx):
            request = await read(method, scope, headers, receive, limit)
        if method.kind is StreamKind.UNARY:
            body = frames.within(json_codec.encode(await method.invoke(request, ctx, receive)), limit)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
        admission.leave(ctx)
        if refused:
            await unheeded(receive, headers)
        await unary.fail_http(send, error, ctx, status(error))
        return
    if method.kind is StreamKind.UNARY:
        await unary.answer_http(send, body if scope["method"] != "HEAD" else b"", ctx)
        return
    events = b"text/event-stream" in headers.get(b"accept", b"")
    await _Streaming(method, ctx, send, limit, events=events).run(request, receive)


def _acceptable(scope: Scope, headers: RawHeaders, limit: int) -> None:
    """Refuse what the headers tell is none. Raises RESOURCE_EXHAUSTED, WrongMediaTypeError, WrongVerbError."""
    verb = scope["method"]
    if verb in _BODIES:
        frames.declared(headers, limit)
        kind = media_type(headers)
        if kind not in {"application/json", _FORM, ""}:
            raise WrongMediaTypeError(kind)
    elif verb not in _QUERIES:
        raise unary.WrongVerbError(verb, "POST", *_QUERIES, *_BODIES[1:])


async def read(method: Method, scope: Scope, headers: RawHeaders, receive: Receive, limit: int) -> Any:
    """The request of a call whose headers are acceptable.

    Raises:
        Error: INVALID_ARGUMENT, RESOURCE_EXHAUSTED, WrongMediaTypeError.
    """
    verb, kind = scope["method"], media_type(headers)
    texts, body = [scope.get("query_string", b"")], b""
    if verb in _BODIES:
        body = await frames.rest(await receive(), receive, limit, framed=False)
        if body and not kind:
            raise WrongMediaTypeError("")
        # curl calls whatever follows -d a form; no form of ours begins with a brace.
        if kind == _FORM and not body.lstrip().startswith(b"{"):
            texts.append(body)
            body = b""
    if any(texts):
        return query.request(method.input, texts, body)
    try:
        return json_codec.decoder(method.input)(body)
    except Exception as error:
        raise wire.malformed(error) from error


class _Streaming:
    """Answers of one call, each sent as it comes: a line of JSON, or an event."""

    def __init__(self, method: Method, ctx: Context, send: Send, limit: int, *, events: bool) -> None:
        self._method = method
        self._ctx = ctx
        self._send = Attentive(send)
        self._limit = limit
        self._events = events
        self._started = False

    async def run(self, request: Any, receive: Receive) -> None:
        token = CURRENT.set(self._ctx)
        try:
            with admission.of(self._ctx):
                await deadline.run(self._pump(request), self._ctx.deadline, receive)
            await self._begin()
            await self._write(b"", more=False)
        except OSError:
            return  # the caller is gone
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await self._fail(error)
        finally:
            self._ctx.done = True
            admission.leave(self._ctx)
            CURRENT.reset(token)

    async def _pump(self, request: Any) -> None:
        responses: AsyncIterator[Any] = self._method.function(request, self._ctx)
        breath = deadline.Breath()
        try:
            async for response in responses:
                if response.__class__ is not self._method.output:
                    raise self._method.wrong(response)
                body = frames.within(json_codec.encode(response), self._limit)
                await self._begin()
                await self._write(b"data: %s\n\n" % body if self._events else body + b"\n", more=True)
                await breath()
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()

    async def _begin(self) -> None:
        if self._started:
            return
        self._started = True
        kind = b"text/event-stream" if self._events else b"application/x-ndjson"
        headers = [(b"content-type", kind), (b"cache-control", b"no-cache"), *unary.response_headers(self._ctx)]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, body: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _fail(self, error: BaseException) -> None:
        if not self._started:
            await unary.fail_http(self._send, error, self._ctx)
            return
        known = unary.told(error)
        if known is not None:
            body = json.dumps({"error": wire.to_value(known)}, ensure_ascii=False).encode()
            with contextlib.suppress(OSError):
                await self._write(b"event: error\ndata: %s\n\n" % body if self._events else body + b"\n", more=False)
        unary.raise_again(error)
