"""Streams of large messages, and of messages in a hurry: Connect over HTTP/1.1, a connection for each stream that is
under way.

HTTP/2 cuts everything into frames of 16 KiB, which each process on the way takes apart and makes anew; and `grpc.aio`
wakes threads of its own for each message. Here bytes go on as they come, and the event loop reads them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from micro.domain import address, errors
from micro.domain.errors import Error, Kind
from micro.rpc import binary, envelopes, http1, outgoing, tls
from micro.rpc import errors as wire
from micro.rpc.client import DEFAULT_TIMEOUT, Channel, Metadata, silent
from micro.rpc.envelopes import END, KIND, Envelopes
from micro.rpc.exchanges import RefusedError
from micro.rpc.guard import REFUSED
from micro.rpc.outgoing import Call

T = TypeVar("T")

MOST = 64 << 20
"""Bytes that one message of an answer may have."""

_IDLE = 4
"""Connections that are kept for the next stream."""

_FRESH = 60.0
"""Seconds that they are kept; far less than the mesh keeps them."""

_FAILED = 64 << 10
"""Bytes that are read of an answer that is no stream."""


class BulkChannel(Channel):
    """Connections to one address, in one event loop, for methods that stream protobuf messages.

    Raises FAILED_PRECONDITION when what MICRO_CA, MICRO_CERT and MICRO_KEY name cannot be used.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        bare = target.removeprefix("https://")
        self._host, self._port = address.split(bare)
        self._authority = bare
        self._tls = None if bare == target else tls.context()
        self._kept: list[tuple[float, http1.Connection]] = []
        self._closed = False
        self._both: set[_Exchange] = set()
        # With TLS there may be a load balancer on the way that waits for the end of what it hands on.
        self.hurried = self._tls is None

    async def close(self) -> None:
        """End the connections that wait, and streams of both directions, which may have no end; others have one."""
        self._closed = True
        for exchange in self._both:
            exchange.connection.abort()
        while self._kept:
            self._kept.pop()[1].abort()

    def make(self, kind: str, path: str, encode: Callable[[Any], bytes], decode: Callable[[Any], Any]) -> Call:
        bound: Any = decode  # of the class of the answers
        return Call(kind, path, binary.parts, partial(binary.decode, bound.__self__))

    async def unary(self, call: Call, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        async with contextlib.aclosing(self.stream(call, request, timeout, metadata)) as answers:
            found = [answer async for answer in answers]
        if len(found) != 1:
            raise errors.internal(f"{call.path} answered with {len(found)} messages instead of one")
        return found[0]

    async def stream(
        self, call: Call, request: Any, timeout: float | None, metadata: Metadata
    ) -> AsyncGenerator[Any, None]:
        until = None if timeout is None else time.monotonic() + timeout
        sent, head = call.sent(request), self._head(call, timeout, metadata)
        exchange = _Exchange(call, await self._connected(until), until)
        if call.kind == "stream_stream":
            self._both.add(exchange)
        try:
            answers = exchange.answers(head, sent)
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    yield answer
        except http1.BrokenError as error:
            self.hurried &= not isinstance(error, http1.ForeignError)
            raise errors.unavailable(f"the connection to {self.target} failed: {error}") from None
        finally:
            self._both.discard(exchange)
            self._left(exchange)

    def _head(self, call: Call, timeout: float | None, metadata: Metadata) -> bytes:
        headers = [("host", self._authority), ("content-type", KIND), ("connect-protocol-version", "1"), *metadata]
        headers.append(("transfer-encoding", "chunked"))
        if timeout is not None:
            headers.append(("connect-timeout-ms", str(max(1, min(int(timeout * 1000), 9_999_999_999)))))
        try:
            return http1.head("POST", call.path, headers)
        except ValueError as error:
            raise errors.invalid_argument(str(error)) from None

    async def _connected(self, until: float | None) -> http1.Connection:
        """A connection. Raises UNAVAILABLE after 10 s; DEADLINE_EXCEEDED where the deadline comes first."""
        while self._kept:
            since, kept = self._kept.pop()
            if kept.free and time.monotonic() - since < _FRESH:
                return kept
            kept.abort()
        patience = time.monotonic() + DEFAULT_TIMEOUT
        try:
            async with asyncio.timeout((patience if until is None else min(patience, until)) - time.monotonic()):
                return await http1.connected(http1.Connection, self._host, self._port, lambda: self._closed, self._tls)
        except ssl.SSLError:
            raise silent(self.target) from None
        except http1.BrokenError as error:
            raise errors.unavailable(f"the connection to {self.target} failed: {error}") from None
        except TimeoutError:
            if until is not None and until < patience:
                raise errors.deadline_exceeded(
                    f"the deadline passed before {self.target} answered: is `micro server` running?"
                ) from None
            raise silent(self.target) from None

    def _left(self, exchange: _Exchange) -> None:
        """Keep its connection for another one, or end it with what is under way."""
        connection = exchange.connection
        if exchange.ended and connection.free and not self._closed and len(self._kept) < _IDLE:
            self._kept.append((time.monotonic(), connection))
        else:
            connection.abort()


class _Exchange:
    """One stream.

    Attributes:
        ended: whether both sides have said all and it went well, so that nobody hangs up.
    """

    def __init__(self, call: Call, connection: http1.Connection, until: float | None) -> None:
        self.connection = connection
        self.ended = False
        self._call = call
        self._until = until
        self._envelopes = Envelopes(MOST, END)
        self._answer = http1.Answer()

    async def answers(self, head: bytes, sent: Any) -> AsyncGenerator[Any, None]:
        """The messages of the answer, while those of the request are sent. Raises what their iterator does."""
        sending = asyncio.create_task(self._send(head, sent))  # owned: by this exchange, which ends it
        try:
            await self._in_time(self._begin())
            while (message := await self._in_time(self._next())) is not None:
                yield self._call.read(message)
            self.ended = not self._answer.last and sending.done()
        except http1.BrokenError:
            if sending.done() and not sending.cancelled() and (failure := sending.exception()):
                raise failure from None
            raise
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            if not sending.cancelled() and sending.exception():
                self.ended = False

    async def _in_time(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Raises DEADLINE_EXCEEDED."""
        if self._until is None:
            return await waiting
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                return await waiting
        except TimeoutError:
            raise errors.deadline_exceeded("the deadline passed before the service had answered") from None

    async def _send(self, head: bytes, sent: Any) -> None:
        parts = [head]
        try:
            if self._call.kind == "stream_stream":  # there may be an answer before the first message
                await self.connection.send(parts)
                parts = []
            async for message in outgoing.each(sent):
                prefix = envelopes.prefix(sum(map(len, message)))
                parts += (b"%x\r\n" % (len(prefix) + sum(map(len, message))), prefix, *message)
                await self.connection.send(parts)
                parts = [b"\r\n"]
            await self.connection.send((*parts, b"0\r\n\r\n"))
        except BaseException:
            self.connection.abort()  # so that the other side knows, and whoever waits for its answer
            raise

    async def _begin(self) -> None:
        """Raises what an answer that is no stream tells."""
        answer, found = self._answer, bytearray()
        while answer.status < 200:
            found += b"".join(answer.feed(await self.connection.some()))
        if answer.status == 200 and answer.headers.get("content-type", "") == envelopes.KIND:
            self._envelopes.feed(bytes(found))
            return
        while not answer.ended and len(found) < _FAILED:
            found += b"".join(answer.feed(await self.connection.some()))
        try:
            told = json.loads(found)
        except ValueError:
            told = None
        raise wire.from_value(told, answer.status)

    async def _next(self) -> list[memoryview] | None:
        """The next message; None at the end. Raises what the end tells."""
        answer = self._answer
        while (found := self._envelopes.next()) is None:
            if answer.ended:
                raise http1.BrokenError("the answer has no end")
            for piece in answer.feed(await self.connection.some()):
                self._envelopes.feed(piece)
        flags, message = found
        if not flags:
            return message
        while not answer.ended:
            answer.feed(await self.connection.some())
        if (failure := _failure(b"".join(message))) is not None:
            raise failure
        return None


def _failure(end: bytes) -> Error | None:
    """What the end of a stream tells; None for a good one."""
    try:
        told = json.loads(end)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return errors.internal("the end of the answer cannot be read")
    if "error" not in told:
        return None
    found, metadata = wire.from_value(told["error"]), told.get("metadata")
    refused = metadata.get(REFUSED.decode()) if isinstance(metadata, dict) else None
    if found.kind is Kind.UNAUTHENTICATED and isinstance(refused, list) and refused:
        return RefusedError(found, str(refused[0]))
    return found
