"""A service as an ASGI application: gRPC, gRPC-Web, Connect, JSON over HTTP, WebSocket, from the same handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from connectrpc.method import IdempotencyLevel

from micro.domain import errors
from micro.domain.service import StreamKind
from micro.rpc import deadline, http, json_codec, loops, strict, unary, websocket
from micro.rpc.context import Scope
from micro.rpc.general import General, fail
from micro.rpc.guard import Guard
from micro.rpc.health import Health, Readiness
from micro.rpc.interceptor import Interceptor
from micro.rpc.method import Method, table
from micro.rpc.receive import Receive, unheeded
from micro.rpc.reflection import reflections
from micro.rpc.resolve import Resolver
from micro.rpc.send import Attentive, Send
from micro.rpc.unary import RawHeaders, Serve

DEFAULT_TIMEOUT = 10.0
"""Seconds that a unary call may take when neither its caller nor its method says anything else."""

MAX_MESSAGE = 32 * 2**20
"""Bytes that one message may have, either way."""

_GRPC_TYPES = {b"application/grpc": False, b"application/grpc+proto": False, b"application/grpc+json": True}
_JSON_TYPES = (b"application/json", b"application/json; charset=utf-8")
_CODEC = b"micro-codec"
_HEALTH = "/grpc.health.v1.Health/"


class Application:
    """The calls of one service.

    Args:
        name: of the service, which short paths begin with.
        handlers: objects of classes that derive from generated ones.
        timeout: seconds for unary calls that nobody set a deadline for; 0 for none.
        max_message: bytes that one message may have.
        interceptors: around every handler, the first outermost.
        guard: who may call, decided before a body is read; everybody without one. Health is told to everybody.

    Attributes:
        readiness: whether the service can take calls, as the health endpoint tells it.
        aspects: what health tells besides, by the name that is asked for; none of it keeps calls away.
        methods: what the handlers offer, in order; health and reflection, which every service has, left out.
    """

    def __init__(
        self,
        name: str,
        handlers: Sequence[object],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message: int = MAX_MESSAGE,
        interceptors: Sequence[Interceptor] = (),
        guard: Guard | None = None,
    ) -> None:
        self.name = name
        self.readiness = Readiness()
        self.aspects: dict[str, Readiness] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.max_message = max_message
        self.methods = table(handlers, timeout or None, interceptors)
        files = [method.desc.parent for method in self.methods]
        health = Health(self.readiness, {service.type_name for service in files}, self.aspects)
        standard = table([health, *reflections(files)], None)
        every = [*self.methods, *standard]
        self._by_path = {method.path: method for method in every}
        self._short: Resolver[Method] = Resolver(name, _grouped(self.methods))
        self._general = General(every, max_message)
        self.guard = guard

    @property
    def guard(self) -> Guard | None:
        """Who may call."""
        return self._guard

    @guard.setter
    def guard(self, guard: Guard | None) -> None:
        self._guard = guard
        self._fast: dict[tuple[str, bytes | None], Serve] = {}
        for method in self._by_path.values():
            if method.kind is StreamKind.UNARY:
                self._prepare(method)

    def _guard_of(self, method: Method) -> Guard | None:
        return None if method.path.startswith(_HEALTH) else self._guard

    def _prepare(self, method: Method) -> None:
        """Make the functions that answer a method at once, for each way that programs spell its path."""
        short, call = f"/{self.name}", method.desc.name
        spellings = {short, f"{short}/{call}", f"{short}/{method.desc.parent.name}/{call}", f"{short}/{call.lower()}"}
        paths = [method.path, *(path for path in spellings if self._short(path) is method)]
        guard = self._guard_of(method)
        for content_type, as_json in _GRPC_TYPES.items():
            read = json_codec.decoder(method.input) if as_json else None
            serve = unary.grpc(method, self.max_message, content_type, read=read, guard=guard)
            self._fast.update(((path, content_type), serve) for path in paths)
        serve = unary.json(method, self.max_message, guard)
        self._fast.update(((path, content_type), serve) for path in paths for content_type in _JSON_TYPES)
        # Messages in JSON under the content-type of protobuf, which is all that some gRPC libraries can send. So the
        # framework sends the dicts of authors, who are to be told what they mistype.
        read = strict.decoder(method.input)
        serve = unary.grpc(method, self.max_message, b"application/grpc", read=read, guard=guard)
        self._fast[method.path, _CODEC] = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            headers: RawHeaders = dict(scope["headers"])
            fast = self._fast.get((scope["path"], headers.get(b"content-type")))
            if (
                fast is not None
                and b"grpc-encoding" not in headers
                and b"content-encoding" not in headers
                and not scope["query_string"]
                and _CODEC not in headers
                and scope["method"] == "POST"
            ):
                await fast(scope, headers, receive, send)
            else:
                await self._route(scope, headers, receive, send)
        elif kind == "websocket":
            method = self.resolve(scope["path"])
            limit, guard = self.max_message, None if method is None else self._guard_of(method)
            send = Attentive(send)
            home = self._loop
            if home is None or home is asyncio.get_running_loop():
                await websocket.serve(method, scope, receive, send, limit, guard)
            else:
                await loops.over(
                    home, lambda take, give: websocket.serve(method, scope, take, give, limit, guard), receive, send
                )
        elif kind == "lifespan":
            self._loop = asyncio.get_running_loop()
            await self.lifespan(receive, send)

    def resolve(self, path: str) -> Method | None:
        """The method behind a path, whichever way it is spelled."""
        return self._by_path.get(path) or self._short(path)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """The server's start and stop; there is nothing to do for either here."""
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _route(self, scope: Scope, headers: RawHeaders, receive: Receive, send: Send) -> None:
        """Everything that is not on the fast path as it stands."""
        kind = http.media_type(headers)
        method = self.resolve(scope["path"])
        if kind.startswith("application/grpc"):
            await self._route_grpc(method, kind, scope, headers, receive, send)
            return
        try:
            if method is None:
                raise self._unknown(scope["path"], headers)
            guard = self._guard_of(method)
            _known_encoding(headers.get(b"content-encoding", b"").decode("latin-1"))
            if _is_connect(method, kind, scope, headers):
                await self._general(method, scope, headers, receive, send, guard)
            else:
                await http.serve(method, scope, headers, receive, send, self.max_message, guard)
        except Exception as error:  # noqa: BLE001 - the last place to answer from
            await unheeded(receive, headers)
            await fail(send, error, kind, http.status(error))

    async def _route_grpc(
        self, method: Method | None, kind: str, scope: Scope, headers: RawHeaders, receive: Receive, send: Send
    ) -> None:
        scope = deadline.restored(scope, headers)
        try:
            family, _, codec = kind.partition("+")
            if family not in {"application/grpc", "application/grpc-web"} or codec not in {"", "proto", "json"}:
                await unary.fail_http(send, http.WrongMediaTypeError(kind), None, 415)
                return
            if scope["method"] != "POST":
                await unary.fail_http(send, unary.WrongVerbError(scope["method"], "POST"), None, 405)
                return
            if method is None:
                raise errors.unimplemented(self._unknown(scope["path"], headers).message)
            plain = headers.get(b"grpc-encoding", b"identity") == b"identity"
            if method.kind is StreamKind.UNARY and family == "application/grpc" and plain:
                as_json = codec != "json" and headers.get(_CODEC) == b"json"
                await self._fast[method.path, _CODEC if as_json else kind.encode()](scope, headers, receive, send)
            else:
                await self._general(method, scope, headers, receive, send, self._guard_of(method))
        except Exception as error:  # noqa: BLE001 - the last place to answer from
            if kind.startswith("application/grpc-web"):
                await unheeded(receive, headers)
            await fail(send, error, kind)

    def _unknown(self, path: str, headers: RawHeaders) -> errors.Error:
        """That there is nothing at a path, and what there is instead. Raises what the guard does."""
        if self._guard is not None:
            self._guard.reveal(headers)
        known = sorted(method.name for method in self.methods)
        more = f" and {len(known) - 8} more" if len(known) > 8 else ""
        there = f"it has {', '.join(known[:8])}{more}" if known else "it takes no calls"
        return errors.not_found(f"{self.name} has no endpoint at {path[:200]}: {there}")


def _is_connect(method: Method, kind: str, scope: Scope, headers: RawHeaders) -> bool:
    """Whether a request is one for connectrpc: a protocol that plain HTTP does not speak.

    Raises WrongEncodingError for a Connect GET whose message is compressed with anything but gzip.
    """
    if scope["method"] == "GET":
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=None)
        safe = method.info.idempotency_level is IdempotencyLevel.NO_SIDE_EFFECTS
        if not (safe and query.get("connect") == ["v1"] and "encoding" in query):
            return False
        _known_encoding(query.get("compression", [""])[0])
        return True
    if scope["method"] != "POST":
        return False
    if method.kind is not StreamKind.UNARY:
        return kind in {"application/connect+proto", "application/connect+json"}
    encoded = headers.get(b"content-encoding", b"identity") != b"identity"
    return kind == "application/proto" or (kind == "application/json" and encoded)


def _known_encoding(name: str) -> None:
    """Raises WrongEncodingError for a compression other than gzip."""
    if name not in {"", "identity", "gzip"}:
        raise http.WrongEncodingError(name)


def _grouped(methods: Sequence[Method]) -> list[tuple[str, dict[str, Any]]]:
    found: dict[str, dict[str, Any]] = {}
    for method in methods:
        found.setdefault(method.desc.parent.type_name, {})[method.desc.name] = method
    return list(found.items())
