"""HTTP/1.1 over a socket, as much of it as the command line needs.

The standard library's client takes as long to import as everything else together (it brings e-mail and TLS), and it
cannot receive while it sends, which bidirectional streams do.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from micro.domain import address

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from micro.cli.tls import Channel

MAX_HEAD = 64 * 1024
_CHUNK = 64 * 1024
_HEX = frozenset("0123456789abcdefABCDEF")

LOOK_SECONDS = 1.0
"""How often a wait for ever looks up: Ctrl-C right before it began has not interrupted it."""


class Tls(NamedTuple):
    """How a secure connection is checked, as paths of PEM files.

    Attributes:
        ca: the authorities to trust; empty means the machine's.
        cert, key: what this side shows; empty means nothing.
        pinned: the one certificate that the server must have, whatever names are in it.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    pinned: str = ""


class BadAnswerError(Exception):
    """What came is not HTTP, or ended too early."""


class Connection:
    """One connection that carries one exchange.

    Args:
        host: name or address.
        port: TCP port.
        tls: speak TLS, checked by this; None means plain text.
        timeout: seconds that any single wait for the peer may take; None means for ever.

    Raises:
        OSError: nobody listens there, the name is unknown, or a wait took too long (`TimeoutError`).
    """

    def __init__(self, host: str, port: int, *, tls: Tls | None = None, timeout: float | None = None) -> None:
        self.host = address.join(host, port)
        connected = socket.create_connection((host, port), timeout=min(timeout or 10.0, 10.0))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket | Channel
        self._reader: BinaryIO
        if tls is not None:
            from micro.cli import tls as security

            self._socket = security.wrapped(connected, host, tls, timeout)
            self._reader = cast("BinaryIO", io.BufferedReader(self._socket, _CHUNK))
            return
        connected.settimeout(timeout)
        self._socket = connected
        if timeout is None:
            self._reader = cast("BinaryIO", io.BufferedReader(_Patient(connected), _CHUNK))
        else:
            self._reader = cast("BinaryIO", connected.makefile("rb", buffering=_CHUNK))

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def stop_sending(self) -> None:
        """Tell the peer that nothing follows, and wake a thread that waits on this connection."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already, which is what was wanted

    def send_head(self, path: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a request's head, and in the same packet where it fits a body of the length that the headers tell."""
        lines = [f"POST {path} HTTP/1.1", f"host: {self.host}", *(f"{name}: {text}" for name, text in headers.items())]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8") + body)

    def send_chunk(self, chunk: bytes) -> None:
        """Send a piece of a body of unknown length; an empty one ends it."""
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    def receive_head(self) -> tuple[int, dict[str, str]]:
        """Return the status and the headers, names in lower case; interim answers are passed over."""
        while True:
            line = self._line()
            parts = line.split(" ", 2)
            if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
                raise BadAnswerError(
                    f"not HTTP: {line[:60]!r}" if line else "the connection was closed without an answer"
                )
            headers: dict[str, str] = {}
            while line := self._line():
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            if int(parts[1]) >= 200:
                return int(parts[1]), headers

    def body(self, headers: Mapping[str, str]) -> Callable[[int], bytes]:
        """Return a function that reads exactly so many bytes of the body, fewer only at its end."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return _Pieces(self._chunks()).read
        if "content-length" in headers:
            length = headers["content-length"]
            if not (length.isascii() and length.isdecimal()):
                raise BadAnswerError(f"not a length: {length[:60]!r}")
            return _Limited(self._reader.read, int(length)).read
        return lambda size: self._reader.read(size)

    def _line(self) -> str:
        line = self._reader.readline(MAX_HEAD)
        return line.decode("latin-1").rstrip("\r\n")

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size_text = self._line().partition(";")[0].strip()
            if not size_text or set(size_text) - _HEX or len(size_text) > 15:
                raise BadAnswerError("the connection was closed in the middle of an answer")
            size = int(size_text, 16)
            if size == 0:
                while self._line():
                    pass
                return
            piece = self._reader.read(size)
            if len(piece) < size:
                raise BadAnswerError("the connection was closed in the middle of an answer")
            yield piece
            self._line()


class _Patient(io.RawIOBase):
    """A socket that is read for ever, and left when Ctrl-C is pressed."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__()
        self._socket = connected

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        from select import select  # streams alone need it

        while not select([self._socket], [], [], LOOK_SECONDS)[0]:
            pass
        return self._socket.recv_into(buffer)


class _Pieces:
    """Reads exact sizes out of pieces of other sizes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        held = [self._rest]
        have = len(self._rest)
        while size < 0 or have < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            held.append(piece)
            have += len(piece)
        joined = b"".join(held)
        cut = len(joined) if size < 0 else size
        self._rest = joined[cut:]
        return joined[:cut]


class _Limited:
    """Reads up to a known length in all."""

    def __init__(self, read: Callable[[int], bytes], length: int) -> None:
        self._read = read
        self._left = length

    def read(self, size: int) -> bytes:
        want = self._left if size < 0 else min(size, self._left)
        got = self._read(want)
        self._left -= len(got)
        if len(got) < want:
            raise BadAnswerError("the connection was closed in the middle of an answer")
        return got
