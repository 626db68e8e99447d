"""One blob as one file: its bytes, a CRC-32 of each piece of them, what is known of it, and where all that is.

So the file is the blob or is none: there is nothing beside it that could be another one's. What is read is checked
piece by piece, in a range too.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import os
import secrets
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32

from micro.ports.blobs import PIECE_BYTES, Blob, damaged

_MAGIC = b"mcrblob1"
CHECKED_BYTES = 256 << 10
"""Of a blob that have a CRC-32 of their own; PIECE_BYTES are some of these. Part of the format."""

_AHEAD_BYTES = 8 << 20
"""What a draft has the disk begin with, rather than leave all of it to the end."""

_END = struct.Struct("<8sQIIII")
"""Magic, bytes of the blob, bytes of the JSON, CRC-32s of the JSON, of the table and of these fields."""


class Draft:
    """A blob that is being written: nobody sees it before it has been renamed. Its methods block, and may be called
    from several threads; after `discard` they do nothing.

    Raises OSError, here and in all methods but `discard`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / secrets.token_hex(16)
        self.size = 0
        self._begun = 0
        self._file = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        self._digest = hashlib.sha256()
        self._table = array.array("I")
        self._crc = 0
        self._gone = False
        self._turn = threading.Lock()

    def add(self, pieces: Sequence[bytes]) -> None:
        with self._turn:
            for piece in () if self._gone else pieces:
                self._file.write(piece)
                self._digest.update(piece)
                rest = memoryview(piece)
                while rest:
                    room = CHECKED_BYTES - self.size % CHECKED_BYTES
                    self._crc = crc32(rest[:room], self._crc)
                    self.size += min(room, len(rest))
                    rest = rest[room:]
                    if self.size % CHECKED_BYTES == 0:
                        self._end_piece()
            if self.size - self._begun >= _AHEAD_BYTES and not self._gone:
                self._begin()

    def _begin(self) -> None:
        """Have what was added go to disk meanwhile. Nothing waits for it, and `seal` makes sure of it."""
        self._file.flush()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), self._begun, self.size - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self.size

    def _end_piece(self) -> None:
        self._table.append(self._crc)
        self._crc = 0

    def checksum(self) -> str:
        """SHA-256 of what was added."""
        return self._digest.hexdigest()

    def seal(self, key: str, content_type: str, metadata: Mapping[str, str], public: bool) -> Blob:
        """Write what is known of it; on disk when this returns."""
        blob = Blob(key, self.size, self.checksum(), content_type, metadata, public, time.time_ns() // 1_000_000)
        with self._turn:
            if not self._gone:
                if self.size % CHECKED_BYTES:
                    self._end_piece()
                self._file.write(_trailer(blob, self._table))
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
        return blob

    def discard(self) -> None:
        """Remove it, if it is still a draft."""
        with self._turn:
            self._gone = True
            with contextlib.suppress(OSError):  # the disk is full: what is still to be written is not wanted
                self._file.close()
            self.path.unlink(missing_ok=True)


def _little(table: array.array[int]) -> array.array[int]:
    """The table in the byte order of the file."""
    if sys.byteorder == "big":
        table = table[:]
        table.byteswap()
    return table


def _trailer(blob: Blob, table: array.array[int]) -> bytes:
    sums = _little(table).tobytes()
    head = json.dumps(
        {
            "key": blob.key,
            "checksum": blob.checksum,
            "content_type": blob.content_type,
            "metadata": dict(blob.metadata),
            "public": blob.public,
            "modified": blob.modified,
        }
    ).encode()
    fields = _END.pack(_MAGIC, blob.size, len(head), crc32(head), crc32(sums), 0)
    return sums + head + fields[:-4] + struct.pack("<I", crc32(fields[:-4]))


class BlobFile:
    """A blob's file, open to be read, whatever becomes of its name. Its methods block, and may be called from several
    threads.

    Args:
        key: whose blob it must be.

    Raises:
        FileNotFoundError: there is none.
        Error: DATA_LOSS when it is damaged.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._turn = threading.Lock()
        self._busy, self._closing = 0, False
        self._table: array.array[int] | None = None
        try:
            self._read_head(key)
        except BaseException:
            self.close()
            raise

    def _read_head(self, key: str) -> None:
        length = os.fstat(self._descriptor).st_size
        end = self._exactly(_END.size, length - _END.size, key)
        magic, size, head_size, head_crc, self._table_crc, crc = _END.unpack(end)
        self._sums_count = -(-size // CHECKED_BYTES)
        whole = size + 4 * self._sums_count + head_size + _END.size
        if magic != _MAGIC or crc32(end[:-4]) != crc or length != whole:
            raise damaged(key)
        head = self._exactly(head_size, length - _END.size - head_size, key)
        if crc32(head) != head_crc:
            raise damaged(key)
        told: dict[str, Any] = json.loads(head)
        self.blob = Blob(size=size, **told)
        if self.blob.key != key:
            raise damaged(key)

    def close(self) -> None:
        """Close it, as soon as nobody is reading."""
        with self._turn:
            self._closing = True
            self._close()

    def _close(self) -> None:
        if self._closing and not self._busy and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def piece(self, index: int) -> bytes:
        """A piece of the blob, checked: PIECE_BYTES of it, the last one what is left.

        Raises:
            Error: DATA_LOSS.
            OSError: it cannot be read.
        """
        with self._turn:
            if self._closing:
                return b""
            self._busy += 1
        try:
            start, key = index * PIECE_BYTES, self.blob.key
            table = self._sums()
            found = self._exactly(min(PIECE_BYTES, self.blob.size - start), start, key)
            first, view = start // CHECKED_BYTES, memoryview(found)
            for number, begin in enumerate(range(0, len(found), CHECKED_BYTES), first):
                if crc32(view[begin : begin + CHECKED_BYTES]) != table[number]:
                    raise damaged(key)
            return found
        finally:
            with self._turn:
                self._busy -= 1
                self._close()

    def _sums(self) -> array.array[int]:
        if self._table is None:
            sums = self._exactly(4 * self._sums_count, self.blob.size, self.blob.key)
            if crc32(sums) != self._table_crc:
                raise damaged(self.blob.key)
            self._table = _little(array.array("I", sums))
        return self._table

    def _exactly(self, count: int, start: int, key: str) -> bytes:
        if start < 0:
            raise damaged(key)
        found = os.pread(self._descriptor, count, start)
        if len(found) != count:
            raise damaged(key)
        return found
