"""Calls of one ASGI application over its true path, answers of endless streams included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import unquote

from micro.domain.errors import Error, Kind
from micro.rpc import errors as wire
from micro.rpc.app import Application
from micro.rpc.method import Method

Headers = Sequence[tuple[str, str]]
Enough = Callable[[list[Any]], bool]


class Reply:
    """What came back: messages, and the error that the call ended with."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.error: Error | None = None
        self.raw = b""


async def invoke(
    app: Application, method: Method, requests: Sequence[Any], headers: Headers, enough: Enough | None = None
) -> Reply:
    """Call a method of any kind by gRPC. A stream is left as soon as its answers are `enough`."""
    bodies = [message.to_binary() for message in requests]
    waiting = [len(body).to_bytes(5, "big") + body for body in bodies]
    sent: list[dict[str, Any]] = []
    left = asyncio.Event()
    reply = Reply()

    async def receive() -> dict[str, Any]:
        if waiting:
            piece = waiting.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(waiting)}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        reply.raw += message.get("body", b"") if message["type"] == "http.response.body" else b""
        reply.messages = list(_messages(reply.raw, method))
        if enough is not None and enough(reply.messages):
            left.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "method": "POST",
        "scheme": "http",
        "path": method.path,
        "raw_path": method.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (key.encode(), value.encode())
            for key, value in (("content-type", "application/grpc"), ("te", "trailers"), *headers)
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {"http.response.trailers": {}},
    }
    async with asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            call = group.create_task(app(scope, receive, send))
            leaving = group.create_task(left.wait())
            await asyncio.wait((call, leaving), return_when=asyncio.FIRST_COMPLETED)
            call.cancel()
            leaving.cancel()
    reply.error = None if left.is_set() else _error(sent, reply.raw)
    return reply


def _messages(raw: bytes, method: Method) -> Any:
    while len(raw) >= 5:
        size = int.from_bytes(raw[1:5], "big")
        if len(raw) < 5 + size:
            return
        yield method.desc.output.type.from_binary(raw[5 : 5 + size])
        raw = raw[5 + size :]


def _error(sent: list[dict[str, Any]], raw: bytes) -> Error | None:
    status, pairs = 0, {}
    for message in sent:
        status = message.get("status", status)
        pairs.update({key.decode().lower(): value.decode() for key, value in message.get("headers", ())})
    if "grpc-status" not in pairs:
        return wire.from_value({"message": raw.decode("latin-1")}, status)
    found = int(pairs["grpc-status"])
    return Error(Kind(found), unquote(pairs.get("grpc-message", ""))) if found else None


class Direct:
    """In the place of `micro.rpc.client.Client`: calls of services of this process, as somebody."""

    def __init__(self, apps: dict[str, Application], headers: Callable[[], Any], before: Callable[[], None]) -> None:
        self._apps = apps
        self._headers = headers
        self._before = before

    def of(self, typed: type, service: str) -> Any:
        """What answers to the methods of a generated client class."""
        return _Stub(self, typed.__name__.removesuffix("Client"), service)

    async def unary(self, service: str, path: str, request: Any) -> Any:
        headers = await self._headers()
        self._before()
        app = self._apps[service]
        method = app.resolve(path)
        assert method is not None, path
        reply = await invoke(app, method, [request], headers)
        if reply.error is not None:
            raise reply.error
        return reply.messages[0]


class _Stub:
    def __init__(self, client: Direct, contract: str, service: str) -> None:
        self._client = client
        self._contract = contract
        self._service = service

    def __getattr__(self, name: str) -> Any:
        path = f"/micro.{self._service}.v1.{self._contract}/{''.join(part.title() for part in name.split('_'))}"

        async def call(request: Any, **_: Any) -> Any:
            return await self._client.unary(self._service, path, request)

        return call


async def stream_of(*messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message


def outcome(error: Error | None) -> str:
    """What a caller was told: "ok", how who calls was refused, "404" for what is hidden from it, else the error."""
    kinds = {Kind.UNAUTHENTICATED: "401", Kind.PERMISSION_DENIED: "403", Kind.NOT_FOUND: "404"}
    return "ok" if error is None else kinds.get(error.kind, repr(error))
