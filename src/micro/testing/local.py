"""Calls between services of one process: over their true paths, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from micro.domain import errors
from micro.domain.errors import Error
from micro.rpc import errors as wire
from micro.rpc import outgoing
from micro.rpc.app import Application
from micro.rpc.client import Channel, Metadata
from micro.rpc.outgoing import Call

CALLER = "micro-test-caller"
"""Header: which of the services in this process makes the call; none for the test itself."""

_WAITING = 8
"""Pieces of an answer that wait until the caller takes them."""

_SERVES: contextvars.ContextVar[str] = contextvars.ContextVar("micro_test_serves", default="")


@contextlib.contextmanager
def serving(service: str) -> Iterator[None]:
    """Have the calls that are made in the block be those of a service of this process, and those of its tasks."""
    token = _SERVES.set(service)
    try:
        yield
    finally:
        _SERVES.reset(token)


class LocalChannel(Channel):
    """Leads to services that run in this process, by their names.

    Args:
        services: which there are. They are started and stopped by whoever made them.
    """

    def __init__(self, services: Mapping[str, Application]) -> None:
        self.target = "this process"
        self._services = services

    async def close(self) -> None:
        """Nothing to close."""

    def make(self, kind: str, path: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> Call:
        outgoing.check_path(path)
        return Call(kind, path, encode, decode)

    async def unary(self, call: Call, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        try:
            async with asyncio.timeout(timeout), aclosing(self.stream(call, request, timeout, metadata)) as answers:
                found = [answer async for answer in answers]
        except TimeoutError:
            raise errors.deadline_exceeded("the deadline passed before the service had answered") from None
        if len(found) != 1:
            raise errors.internal(f"{call.path} answered with {len(found)} messages instead of one")
        return found[0]

    async def stream(
        self, call: Call, request: Any, timeout: float | None, metadata: Metadata
    ) -> AsyncGenerator[Any, None]:
        headers = {**dict(metadata), "content-type": "application/grpc", "te": "trailers", CALLER: _SERVES.get()}
        if timeout is not None:
            headers["grpc-timeout"] = f"{max(1, int(timeout * 1000))}m"
        app = self._services.get(headers["micro-service"])
        if app is None:
            known = ", ".join(sorted(self._services))
            raise errors.unavailable(f"no service {headers['micro-service']!r} in this process: there are {known}")
        sent = call.sent(request)
        exchange = _Exchange(call.path, headers, outgoing.each(sent))
        context = contextvars.Context()
        context.run(_SERVES.set, app.name)
        # owned: by this call
        serving = asyncio.create_task(exchange.serve(app), context=context)
        try:
            async for message in exchange.messages():
                yield call.read(message)
        except Error:
            if not outgoing.failed(sent):
                raise
        finally:
            exchange.leave()
            serving.cancel()
            await asyncio.wait([serving])
        if failure := outgoing.failed(sent):
            raise failure
        if not serving.cancelled() and (broken := serving.exception()):
            raise broken


class _Exchange:
    """One request and its answer, between ASGI and whoever calls."""

    def __init__(self, path: str, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> None:
        self._left = asyncio.Event()
        self._heard = True
        self._body: AsyncIterator[bytes] | None = body
        self._piece: asyncio.Task[bytes | None] | None = None
        self._sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_WAITING)
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {"http.response.trailers": {}},
        }

    async def serve(self, app: Application) -> None:
        try:
            await app(self._scope, self._receive, self._sent.put)
        finally:
            if self._heard:
                await self._sent.put(None)

    def leave(self) -> None:
        """The caller is gone."""
        self._heard = False
        self._left.set()
        if self._piece is not None:
            self._piece.cancel()

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            # A task of its own: whoever gives up waiting for a piece may ask again, and gets that one.
            if self._piece is None:
                self._piece = asyncio.create_task(self._next(self._body))  # owned: by this exchange; `leave` ends it
            await asyncio.wait([self._piece])
            done, self._piece = self._piece, None
            if not (done.cancelled() or done.exception()):  # else there is no request any more, and the caller knows
                piece = done.result()
                if piece is None:
                    self._body = None
                return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}
            self._left.set()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _next(self, body: AsyncIterator[bytes]) -> bytes | None:
        message = await anext(body, None)
        return None if message is None else b"\0" + len(message).to_bytes(4, "big") + message

    async def messages(self) -> AsyncIterator[bytes]:
        """The messages of the answer. Raises what it ends with."""
        held, status = bytearray(), 200
        pairs: dict[str, str] = {}
        while (sent := await self._sent.get()) is not None:
            pairs |= {name.decode().lower(): value.decode() for name, value in sent.get("headers", ())}
            status = sent.get("status", status)
            held += sent.get("body", b"")
            while status == 200 and len(held) >= 5 and len(held) - 5 >= (size := int.from_bytes(held[1:5], "big")):
                yield bytes(held[5 : 5 + size])
                del held[: 5 + size]
            if "grpc-status" in pairs and not (sent.get("more_body") or sent["type"].endswith(".start")):
                break
        if status != 200:
            raise wire.from_value({}, status)
        if pairs.get("grpc-status", "14") != "0":
            raise wire.from_grpc(_Failure(pairs))


class _Failure:
    """An answer's end, as the client library tells it."""

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self._pairs = pairs

    def code(self) -> Any:
        return _Code((int(self._pairs.get("grpc-status", "14")),))

    def details(self) -> str:
        from urllib.parse import unquote

        return unquote(self._pairs.get("grpc-message", "the service ended without an answer"))

    def trailing_metadata(self) -> Iterable[tuple[str, Any]]:
        return self._pairs.items()


class _Code(NamedTuple):
    value: tuple[int]
