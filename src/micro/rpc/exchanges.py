"""Unary calls as gRPC has them, over HTTP/1.1: a connection has one call at a time, and is kept for the next one.

A call in HTTP/2 by way of `grpc.aio` wakes three threads and costs several times the processor time of the same bytes
in HTTP/1.1 from the event loop (`python -m bench mesh`). The proxy that is asked hands calls on in HTTP/2 all the same.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections import deque
from typing import cast

from micro.domain import address, errors
from micro.domain.errors import Error, Kind
from micro.rpc import errors as wire
from micro.rpc import http1
from micro.rpc.guard import REFUSED
from micro.rpc.http1 import BrokenError, ForeignError

MOST = 256
"""Connections at a time; further calls are to go another way."""

FRESH = 60.0
"""Seconds that a connection is kept without a call; far less than the other side keeps it."""

PATIENCE = 10.0
"""Seconds that a call without a deadline waits until somebody listens."""

_HEADS = 512
"""Heads of requests that are kept: most calls of a process differ in their messages only."""

_DAY = 86_400.0

_LATE = "the deadline passed before the service had answered"

_REFUSED = REFUSED.decode()

Metadata = tuple[tuple[str, str], ...]


class NobodyError(Exception):
    """Nobody has listened for as long as the call could wait."""


class OtherWayError(Exception):
    """What is called has no HTTP/1.1, and the call came to nothing."""


class RefusedError(Error):
    """A callee's guard says that a token does not hold; `header` is the one that it came in."""

    def __init__(self, cause: Error, header: str) -> None:
        super().__init__(cause.kind, cause.message, cause.details)
        self.header = header


def refused(found: Error, header: str | None) -> Error:
    """An error as it arrived; `header` is what a guard said besides."""
    return RefusedError(found, header) if header and found.kind is Kind.UNAUTHENTICATED else found


class Exchanges:
    """Connections without TLS to one address, HOST:PORT, in one event loop."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._host, self._port = address.split(target)
        self._kept: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._opening = 0
        self._heads: dict[tuple[str, Metadata], bytes] = {}
        self._closed = False
        self._passable = True
        self._pruning: asyncio.TimerHandle | None = None

    @property
    def room(self) -> bool:
        """Whether a call can go this way: there is room for one more, and calls have not shown that they cannot."""
        return self._passable and (bool(self._kept) or len(self._open) + self._opening < MOST)

    def close(self) -> None:
        """End all connections, and with UNAVAILABLE the calls that are under way; later calls fail at once."""
        self._closed = True
        self._kept.clear()
        if self._pruning is not None:
            self._pruning.cancel()
        for connection in list(self._open):
            connection.abort()

    async def call(self, path: str, message: bytes, timeout: float | None, metadata: Metadata) -> bytes:
        """Send a message to a path, and return the one that answers it.

        Args:
            timeout: seconds; None to wait for as long as it takes.

        Raises:
            Error: what was answered; DEADLINE_EXCEEDED; UNAVAILABLE when the connection fails, INTERNAL for an answer
                that is none of gRPC's.
            NobodyError: nobody listens.
            OtherWayError: there is no HTTP/1.1.
        """
        until = None if timeout is None else time.monotonic() + timeout
        head = self._heads.get((path, metadata)) or self._head(path, metadata)
        connection = self._idle() or await self._connected(until)
        if until is not None:
            head += b"grpc-timeout: %s\r\n" % _timeout(until - time.monotonic())
        try:
            answer, body = await connection.exchange(
                b"%scontent-length: %d\r\n\r\n\0%s" % (head, 5 + len(message), len(message).to_bytes(4, "big")),
                message,
                until,
            )
        except BrokenError as error:
            connection.abort()
            if isinstance(error, ForeignError) and not connection.since:
                self._passable = False
                raise OtherWayError from None
            raise errors.unavailable(f"the connection to {self.target} failed: {error}") from None
        except BaseException:
            connection.abort()  # the other side hears that nobody waits any more
            raise
        if answer.last or self._closed:
            connection.abort()
        else:
            self._keep(connection)
        return self._message(answer, body)

    def _message(self, answer: http1.Answer, body: bytes) -> bytes:
        """The message of an answer. Raises the Error that it tells instead."""
        told = answer.trailers if "grpc-status" in answer.trailers else answer.headers
        status = told.get("grpc-status")
        if status == "0":
            if len(body) < 5 or int.from_bytes(body[:5], "big") != len(body) - 5:
                raise errors.internal("the answer is not one message")
            return body[5:]
        if status is not None:
            raise refused(wire.from_trailers(told), told.get(_REFUSED))
        if answer.status != 200:
            raise wire.from_value(None, answer.status)
        # Proxies of others may drop what stands behind the body.
        self._passable = False
        raise errors.unavailable(f"what stands at {self.target} has dropped the end of the answer: try again")

    def _head(self, path: str, metadata: Metadata) -> bytes:
        """What all calls of a path with the same headers begin with."""
        headers = [("host", self.target), ("content-type", "application/grpc"), ("te", "trailers")]
        headers += [(name, _binary(value) if name.endswith("-bin") else value) for name, value in metadata]
        try:
            head = http1.head("POST", path, headers)[:-2]
        except ValueError as error:
            raise errors.invalid_argument(str(error)) from None
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        self._heads[path, metadata] = head
        return head

    def _idle(self) -> _Connection | None:
        while self._kept:
            # The latest: those that are not needed grow old.
            connection = self._kept.pop()
            if connection.free and time.monotonic() - connection.since < FRESH:
                return connection
            connection.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        connection.since = time.monotonic()
        self._kept.append(connection)
        if self._pruning is None:
            self._pruning = asyncio.get_running_loop().call_later(FRESH, self._prune)

    def _prune(self) -> None:
        """End those that nobody has needed for long, after a burst of calls most of them."""
        self._pruning, now = None, time.monotonic()
        while self._kept and now - self._kept[0].since >= FRESH:
            self._kept.popleft().abort()
        if self._kept:
            due = self._kept[0].since + FRESH - now
            self._pruning = asyncio.get_running_loop().call_later(due, self._prune)

    async def _connected(self, until: float | None) -> _Connection:
        patience = time.monotonic() + PATIENCE if until is None else until
        self._opening += 1
        try:
            async with asyncio.timeout(patience - time.monotonic()):
                return await http1.connected(
                    lambda: _Connection(self._open), self._host, self._port, lambda: self._closed
                )
        except TimeoutError:
            raise NobodyError from None
        except BrokenError as error:
            raise errors.unavailable(f"the connection to {self.target} failed: {error}") from None
        finally:
            self._opening -= 1


class _Connection(asyncio.Protocol):
    """One connection, which its loop's `create_connection` makes.

    Args:
        all_: those that are open, it among them while it is.

    Attributes:
        since: when its last call ended, in monotonic seconds; 0 while it has had none.
    """

    def __init__(self, all_: set[_Connection]) -> None:
        self.since = 0.0
        self._all = all_
        self._transport: asyncio.Transport | None = None
        self._answer = http1.Answer()
        self._body: list[memoryview] = []
        self._waiting: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.abort()  # nobody has asked for anything
            return
        try:
            self._body += self._answer.feed(data)
        except BrokenError as error:
            self._waiting.set_exception(error)
        else:
            if self._answer.ended:
                self._waiting.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._all.discard(self)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BrokenError("it ended before the answer did"))

    @property
    def free(self) -> bool:
        """Whether it can carry a call, once none is under way."""
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """End it now, with what is under way."""
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, head: bytes, message: bytes, until: float | None) -> tuple[http1.Answer, bytes]:
        """Send a request and return its answer. Raises DEADLINE_EXCEEDED, BrokenError."""
        if self._transport is None:
            raise BrokenError("it ended before the request was sent")
        self._answer, self._body = http1.Answer(), []
        waiting = self._waiting = self._loop.create_future()
        timer = None
        if until is not None:
            timer = self._loop.call_later(until - time.monotonic(), _late, waiting)
        try:
            self._transport.write(head + message)
            await waiting
        finally:
            if timer is not None:
                timer.cancel()
            self._waiting = None
        return self._answer, b"".join(self._body)


def _late(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_exception(errors.deadline_exceeded(_LATE))


def _timeout(seconds: float) -> bytes:
    """As gRPC writes it: at most eight digits and a unit; never less than there is."""
    micros = int(seconds * 1e6) + 1
    if micros < 1:
        return b"1u"
    if micros < 100_000_000:
        return b"%du" % micros
    return b"%dm" % (int(seconds * 1e3) + 1) if seconds < _DAY else b"%dS" % min(int(seconds) + 1, 99_999_999)


def _binary(value: str) -> str:
    return b64encode(value.encode()).rstrip(b"=").decode()
