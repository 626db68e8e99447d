"""A service called in process, over its true path and without a socket.

async with app.connect(main.app) as service:
    answer = await service.call("Helloworld.Call", Request(name="Ann"))
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload
from urllib.parse import unquote

from micro.domain import errors
from micro.domain.account import Account
from micro.domain.errors import Error, Kind
from micro.rpc import binary, outgoing
from micro.rpc import errors as wire
from micro.rpc.app import Application
from micro.rpc.guard import Guard
from micro.rpc.outgoing import Call
from micro.testing.callers import As

M = TypeVar("M")


@dataclass(slots=True)
class Answer:
    """What came back over HTTP.

    Attributes:
        chunks: the body, piece by piece as it was sent.
        complete: whether the answer was sent to its end.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)


async def http(
    app: Any,
    verb: str,
    path: str,
    *,
    query: bytes = b"",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    chunks: Iterable[bytes] | None = None,
    left: asyncio.Event | None = None,
) -> Answer:
    """Send one request to an ASGI application and return its answer.

    Args:
        chunks: the body in pieces, instead of `body`.
        left: set it and the caller is gone.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "method": verb,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query,
        "headers": [(key.lower().encode("latin-1"), value.encode("utf-8", "surrogateescape")) for key, value in pairs],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {"http.response.trailers": {}},
    }
    answer, done = Answer(), left or asyncio.Event()
    pieces = list(chunks) if chunks is not None else [body]
    waiting = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        _take(answer, message)

    await app(scope, receive, send)
    return answer


def _take(answer: Answer, message: dict[str, Any]) -> None:
    if answer.complete:
        raise RuntimeError(f"{message['type']} after the end of the answer")
    pairs = {key.decode(): value.decode() for key, value in message.get("headers", ())}
    if message["type"] == "http.response.start":
        answer.status, answer.headers = message["status"], pairs
        answer.trailers = {"": ""} if message.get("trailers") else {}
    elif message["type"] == "http.response.body":
        if message.get("body"):
            answer.chunks.append(message["body"])
        answer.complete = not message.get("more_body", False) and not answer.trailers
    else:
        answer.trailers = pairs
        answer.complete = not message.get("more_trailers", False)


class Connection:
    """Calls of one service that runs in this process."""

    def __init__(self, app: Application, caller: As) -> None:
        self.app = app
        self._caller = caller

    @property
    def account(self) -> Account | None:
        """Who calls, where the connection was opened with `account`; None for a caller without one. May be set."""
        return self._caller.account

    @account.setter
    def account(self, account: Account | None) -> None:
        self._caller.account = account

    @overload
    async def call(
        self, endpoint: str, request: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
    ) -> dict[str, Any]: ...

    @overload
    async def call(self, endpoint: str, request: Any, *, metadata: Mapping[str, str] | None = None) -> Any: ...

    async def call(self, endpoint: str, request: Any, *, metadata: Mapping[str, str] | None = None) -> Any:
        """Call an endpoint ("Helloworld.Call") that answers with one message.

        Args:
            request: a message, answered with one; or a dict, answered with one.
            metadata: headers of the call.

        Raises:
            Error: what the service answered with.
        """
        path = "/" + "/".join((self.app.name, *endpoint.split(".")))
        method = self.app.resolve(path)
        if method is None:
            raise errors.not_found(f"{self.app.name} has no endpoint {endpoint}")
        as_json = isinstance(request, Mapping)
        encode = outgoing.to_json if as_json else binary.encode
        body = Call("unary_unary", method.path, encode, json.loads).written(request)
        kind = "application/grpc+json" if as_json else "application/grpc"
        answer = await http(
            self.app,
            "POST",
            method.path,
            headers={"content-type": kind, "te": "trailers", **(metadata or {})},
            body=len(body).to_bytes(5, "big") + body,
        )
        _check(answer)
        return json.loads(answer.body[5:]) if as_json else method.output.from_binary(answer.body[5:])

    async def http(self, verb: str, path: str, body: Any = None, *, query: str = "") -> Answer:
        """Send a request as curl would, `body` as JSON."""
        headers = {} if body is None else {"content-type": "application/json"}
        sent = b"" if body is None else json.dumps(body).encode()
        return await http(self.app, verb, path, query=query.encode(), headers=headers, body=sent)


def _check(answer: Answer) -> None:
    if "grpc-status" not in answer.trailers:
        raise wire.from_value(json.loads(answer.body or b"{}"), answer.status)
    status = int(answer.trailers["grpc-status"])
    if status:
        raise Error(Kind(status), unquote(answer.trailers.get("grpc-message", "")))


@asynccontextmanager
async def connect(
    app: Application, *, account: Account | None = None, guard: Guard | None = None
) -> AsyncIterator[Connection]:
    """Start the service's hooks, yield a connection to it, and stop it again.

    Args:
        account: who calls, as handlers see it in `ctx.account`; every call is let in.
        guard: who is let in, instead; what the service has by default.

    Raises:
        Exception: what a hook raised.
    """
    caller, before = As(account), app.guard
    if guard is not None or account is not None:
        app.guard = guard or caller
    try:
        async with started(app):
            yield Connection(app, caller)
    finally:
        app.guard = before


@asynccontextmanager
async def started(app: Application) -> AsyncIterator[None]:
    """Run the service from its start to its stop."""
    stop, started = asyncio.Event(), asyncio.Event()
    told: list[dict[str, Any]] = [{"type": "lifespan.startup"}]

    async def receive() -> dict[str, Any]:
        if told:
            return told.pop()
        await stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.startup.complete":
            started.set()

    # Not a TaskGroup: what the block raises is to reach the test as it is.
    running = asyncio.get_running_loop().create_task(app({"type": "lifespan"}, receive, send))  # owned: awaited below
    running.add_done_callback(lambda _: started.set())
    await started.wait()
    if running.done():
        await running
    try:
        yield
    finally:
        stop.set()
        await running
