"""Connect's envelopes: a stream of messages in one body, cut again from whatever pieces it arrives in. Pure."""

from __future__ import annotations

from collections import deque

from micro.domain import errors
from micro.rpc.frames import PREFIX, too_large

COMPRESSED, END = 0x01, 0x02
"""Flags of an envelope: its message is compressed; it is the last one, and tells how the stream ended."""

KIND = "application/connect+proto"
"""Media type of a stream of protobuf messages."""


def prefix(size: int, flags: int = 0) -> bytes:
    """What stands before a message of `size` bytes."""
    return bytes((flags,)) + size.to_bytes(PREFIX - 1, "big")


_SMALL = 4096
"""Bytes below which pieces are put together."""


class Envelopes:
    """Cuts the messages out of a body. Copies nothing but prefixes.

    Args:
        limit: bytes that one message may have.
        flags: those that are known; others are a mistake.
    """

    def __init__(self, limit: int, flags: int = 0) -> None:
        self._limit = limit
        self._unknown = ~flags
        self._pieces: deque[memoryview] = deque()
        self._small = bytearray()
        self._size = 0
        self._flags, self._length = 0, -1

    def feed(self, piece: bytes | memoryview) -> None:
        """Take a piece of the body."""
        self._size += len(piece)
        if len(piece) < _SMALL:
            self._small += piece
        else:
            self._gather()
            self._pieces.append(memoryview(piece))

    def next(self) -> tuple[int, list[memoryview]] | None:
        """Flags and bytes of the next message, in the pieces that they came in; None until more is fed.

        Raises:
            Error: RESOURCE_EXHAUSTED for one that is too long, as soon as its length is known; INVALID_ARGUMENT for
                unknown flags.
        """
        if self._length < 0:
            if self._size < PREFIX:
                return None
            prefix = b"".join(self._cut(PREFIX))
            self._flags, self._length = prefix[0], int.from_bytes(prefix[1:], "big")
            if self._flags & self._unknown:
                raise errors.invalid_argument("protocol error: invalid envelope flags")
            if self._length > self._limit:
                raise too_large(self._limit)
        if self._size < self._length:
            return None
        message, self._length = self._cut(self._length), -1
        return self._flags, message

    def end(self) -> None:
        """The body has ended. Raises INVALID_ARGUMENT when that is within a message."""
        if self._length >= 0:
            raise errors.invalid_argument(
                f"protocol error: promised {self._length} bytes in enveloped message, got {self._size} bytes"
            )
        if self._size:
            raise errors.invalid_argument("protocol error: incomplete envelope: unexpected EOF")

    def _cut(self, size: int) -> list[memoryview]:
        """So many bytes from the front."""
        self._gather()
        found: list[memoryview] = []
        self._size -= size
        while size:
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            found.append(piece)
            size -= len(piece)
        return found

    def _gather(self) -> None:
        """Small pieces become one: a sender of single bytes would otherwise have each of them cost a hundred."""
        if self._small:
            self._pieces.append(memoryview(self._small))
            self._small = bytearray()
