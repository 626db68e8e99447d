"""HTTP/1.1 as a client of streams needs it: one exchange at a time on a connection, bodies that go on, both ways at
once. Nothing waits in memory but what a slow side makes wait, within limits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

P = TypeVar("P", bound=asyncio.Protocol)

MAX_HEAD = 64 << 10
"""Bytes that the head of an answer may have, with its trailer and the words that came before; and a line between the
pieces of its body."""

_WAITING = 1 << 20
"""Bytes that may wait to be sent, or to be read, before the other side has to wait."""

_PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""Seconds of silence until the other machine is asked whether it is there, and between questions; questions."""

_AGAIN = 0.1
"""Seconds until somebody who does not listen is asked again: the mesh restarts within a second."""

_BEGIN = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_FIELD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[\t\x20-\x7e\x80-\xff]*")


class BrokenError(Exception):
    """The connection ended too early, or what came is not HTTP."""


class ForeignError(BrokenError):
    """What is there speaks no HTTP/1, so it has understood nothing of a request."""


def head(method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request. Raises ValueError for a header that would be none, or more than one."""
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in headers:
        line = f"{name}:{value}"
        if not _FIELD.fullmatch(line):
            raise ValueError(f"the header {name[:40]!r} cannot be sent: its value has characters that headers have not")
        lines.append(line)
    return "\r\n".join((*lines, "", "")).encode("latin-1")


async def connected(
    make: Callable[[], P], host: str, port: int, ended: Callable[[], bool], tls: ssl.SSLContext | None = None
) -> P:
    """A connection, as soon as somebody listens: how long to wait is the caller's to say.

    Raises:
        ssl.SSLError: somebody listens, and does not show that he is `host`.
        BrokenError: nobody needs it any more, as `ended` says.
    """
    loop = asyncio.get_running_loop()
    name = host if tls is not None else None
    while not ended():
        try:
            _, made = await loop.create_connection(make, host, port, ssl=tls, server_hostname=name)
        except ssl.SSLError:
            raise
        except OSError:
            await asyncio.sleep(_AGAIN)
        else:
            return made
    raise BrokenError("it is closed")


def pauses(version: tuple[int, int, int]) -> bool:
    """Whether asyncio's `writelines` of a release of Python has the protocol wait when too much is under way."""
    return not ((3, 12) <= version < (3, 12, 9) or (3, 13) <= version < (3, 13, 2))


class Connection(asyncio.Protocol):
    """One connection, which its loop's `create_connection` makes."""

    def __init__(self, *, gather: bool = pauses(sys.version_info[:3])) -> None:
        self._gather = gather
        self._transport: asyncio.Transport | None = None
        self._found: deque[bytes] = deque()
        self._held = 0
        self._closed = False
        self._reading = True
        self._arrived: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._full = False

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WAITING)
        if (found := transport.get_extra_info("socket")) is not None:
            _probe(found)

    def data_received(self, data: bytes) -> None:
        self._found.append(data)
        self._held += len(data)
        if self._held > _WAITING and self._reading and self._transport is not None:
            self._transport.pause_reading()
            self._reading = False
        _wake(self._arrived)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._room)

    def eof_received(self) -> None:
        # The transport ends once it has sent what waits. Whoever says no more may not read that either, ever.
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        _wake(self._arrived)
        _wake(self._room)

    # What the exchange calls.

    @property
    def free(self) -> bool:
        """Whether it can carry another exchange, once one is over."""
        return not (self._closed or self._found or self._transport is None or self._transport.is_closing())

    def abort(self) -> None:
        """End it now, with what is under way."""
        if self._transport is not None:
            self._transport.abort()

    async def send(self, parts: Sequence[bytes]) -> None:
        """Send what is one after the other; returns once there is room for more. Raises BrokenError."""
        if self._closed or self._transport is None:
            raise BrokenError("the connection ended")
        # An empty one among them would never count as sent.
        if not (parts := [part for part in parts if part]):
            return
        if self._gather:
            self._transport.writelines(parts)
        else:
            self._transport.write(b"".join(parts))
        if self._full:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
            if self._closed:
                raise BrokenError("the connection ended")

    async def some(self) -> bytes:
        """Some bytes that arrived. Raises BrokenError."""
        if not self._found:
            if not self._closed:
                self._arrived = asyncio.get_running_loop().create_future()
                await self._arrived
            if not self._found:
                raise BrokenError("the connection ended before the answer did")
        found = self._found.popleft()
        self._held -= len(found)
        # Before it is waited for: a connection that is kept has to hear that the other side hung up.
        if not self._found and not self._reading and self._transport is not None and not self._closed:
            self._transport.resume_reading()
            self._reading = True
        return found


class Answer:
    """The answer to one request, told from the bytes as they arrive. Pure.

    Attributes:
        status, headers: of its head, names in lower case; the status is below 200 until it is there.
        trailers: fields that follow its body.
        ended: whether all of it has arrived.
        last: whether the connection carries no other.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.ended = False
        self.last = False
        self._held = b""
        self._at = 0
        self._left = 0
        self._heads = 0
        self._chunked = False
        self._step: Callable[[], memoryview | None] = self._head

    def feed(self, data: bytes) -> list[memoryview]:
        """What of the body is in the next bytes that arrived. Raises BrokenError for what is not HTTP."""
        self._held, self._at = self._held[self._at :] + data, 0
        found: list[memoryview] = []
        while not self.ended and self._at < len(self._held):
            before, step = self._at, self._step
            if (piece := step()) is not None:
                found.append(piece)
            elif self._at == before and self._step == step:
                break  # the rest of a line is missing
        if self.ended and self._at < len(self._held):
            raise BrokenError("more came than the answer has")
        return found

    def _line(self, end: bytes, most: int = MAX_HEAD) -> bytes | None:
        at = self._held.find(end, self._at)
        if (at if at >= 0 else len(self._held) - len(end) + 1) - self._at > most:
            raise BrokenError("the head of the answer is too long")
        if at < 0:
            return None
        line, self._at = self._held[self._at : at], at + len(end)
        return line

    def _lines(self, end: bytes) -> bytes | None:
        """Of a head or a trailer, which have one limit together."""
        if (line := self._line(end, MAX_HEAD - self._heads)) is not None:
            self._heads += len(line)
        return line

    def _head(self) -> None:
        begin = self._held[self._at : self._at + len(_BEGIN)]
        if not _BEGIN.startswith(begin):
            raise ForeignError("what answers does not speak HTTP")
        if (head := self._lines(b"\r\n\r\n")) is None:
            return
        first, *lines = head.split(b"\r\n")
        if (found := _STATUS.fullmatch(first)) is None:
            raise BrokenError("what answers does not speak HTTP")
        headers = _fields(lines)
        if (status := int(found[2])) < 200:
            if status == 101:
                raise BrokenError("the answer goes on in a protocol that nobody asked for")
            return  # only a word meanwhile
        self.headers, self.status = headers, status
        self.last = found[1] == b"0" or "close" in _listed(headers.get("connection", "").lower())
        self._body(headers.get("transfer-encoding"), headers.get("content-length"))

    def _body(self, encoding: str | None, told: str | None) -> None:
        """How its end is told: one way, and once."""
        length, *others = set(_listed(told or ""))
        self._chunked = encoding is not None and encoding.lower() == "chunked" and told is None
        if self._chunked:
            self._step = self._size
        elif encoding is None and not others and length.isascii() and length.isdigit() and len(length) < 19:
            self._left, self.ended, self._step = int(length), int(length) == 0, self._bytes
        else:
            raise BrokenError("the answer does not say where it ends")

    def _size(self) -> None:
        if (line := self._line(b"\r\n")) is None:
            return
        digits = line.partition(b";")[0].strip()
        if not _SIZE.fullmatch(digits):
            raise BrokenError("a piece of the answer does not say how long it is")
        self._left = int(digits, 16)
        self._step = self._bytes if self._left else self._trailer

    def _bytes(self) -> memoryview:
        piece = memoryview(self._held)[self._at : self._at + self._left]
        self._at += len(piece)
        self._left -= len(piece)
        if not self._left:
            self._step, self.ended = self._after, not self._chunked
        return piece

    def _after(self) -> None:
        if (line := self._line(b"\r\n")) is None:
            return
        if line:
            raise BrokenError("a piece of the answer is longer than it said")
        self._step = self._size

    def _trailer(self) -> None:
        if (line := self._lines(b"\r\n")) is None:
            return
        if line:
            _add(self.trailers, line)
        self.ended = not line


def _fields(lines: Iterable[bytes]) -> dict[str, str]:
    """Values by name, those of one name in a list. Raises BrokenError for a line that is no field."""
    found: dict[str, str] = {}
    for line in lines:
        _add(found, line)
    return found


def _add(found: dict[str, str], line: bytes) -> None:
    name, value = _field(line)
    found[name] = f"{found[name]}, {value}" if name in found else value


@functools.lru_cache(maxsize=128)  # one answer's head is much like another's
def _field(line: bytes) -> tuple[str, str]:
    text = line.decode("latin-1")
    if not _FIELD.fullmatch(text):
        raise BrokenError("a line in the head of the answer is no header")
    name, _, value = text.partition(":")
    return name.lower(), value.strip("\t ")


def _listed(value: str) -> list[str]:
    return [one.strip("\t ") for one in value.split(",")]


def _probe(found: socket.socket) -> None:
    """Have a machine that vanished noticed. Where the system has no such option, its own times hold."""
    with contextlib.suppress(OSError):  # of a connection that has ended already
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES:
            if (option := getattr(socket, name, None)) is not None:
                found.setsockopt(socket.IPPROTO_TCP, option, value)


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
