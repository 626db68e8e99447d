"""Blobs in memory: for tests, and for what may be lost."""

from __future__ import annotations

import bisect
import builtins
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from itertools import accumulate

from micro.domain.record import Durability
from micro.ports.blobs import (
    CONTENT_TYPE,
    PIECE_BYTES,
    Blob,
    Blobs,
    Opened,
    absent,
    other_checksum,
    too_large,
)


class _Kept(Opened):
    def __init__(self, blob: Blob, pieces: tuple[bytes, ...]) -> None:
        self.blob = blob
        self._pieces = pieces
        self._ends = list(accumulate(map(len, pieces)))

    async def pieces(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        end = self.blob.size if length is None else min(start + length, self.blob.size)
        index = bisect.bisect_right(self._ends, start)
        while start < end:
            piece = self._pieces[index]
            first = start - (self._ends[index] - len(piece))
            told = piece[first : min(len(piece), first + PIECE_BYTES, first + end - start)]
            yield told
            start += len(told)
            index += start == self._ends[index]


class MemoryBlobs(Blobs):
    """Lost with the process."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, _Kept]] = {}

    @property
    def durability(self) -> Durability:
        return Durability.MEMORY

    async def start(self, stack: AsyncExitStack) -> None:
        """Nothing to open."""

    def healthy(self) -> bool:
        return True

    async def write(
        self,
        namespace: str,
        key: str,
        pieces: AsyncIterator[bytes],
        *,
        content_type: str = CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        public: bool = False,
        checksum: str = "",
        most: int = 0,
    ) -> Blob:
        kept, size, digest = [], 0, hashlib.sha256()
        async for piece in pieces:
            if not piece:
                continue
            size += len(piece)
            if most and size > most:
                raise too_large(key, most)
            digest.update(piece)
            kept.append(bytes(piece))
        found = digest.hexdigest()
        if checksum and checksum.lower() != found:
            raise other_checksum(key, checksum, found)
        blob = Blob(key, size, found, content_type, dict(metadata or {}), public, time.time_ns() // 1_000_000)
        self._kept.setdefault(namespace, {})[key] = _Kept(blob, tuple(kept))
        return blob

    async def stat(self, namespace: str, key: str) -> Blob | None:
        kept = self._kept.get(namespace, {}).get(key)
        return None if kept is None else kept.blob

    @contextlib.asynccontextmanager
    async def open(self, namespace: str, key: str) -> AsyncGenerator[Opened]:
        kept = self._kept.get(namespace, {}).get(key)
        if kept is None:
            raise absent(key)
        yield kept

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 1000) -> builtins.list[Blob]:
        kept = self._kept.get(namespace, {})
        return [kept[key].blob for key in sorted(kept) if key.startswith(prefix) and key > after][:limit]

    async def delete(self, namespace: str, key: str) -> bool:
        return self._kept.get(namespace, {}).pop(key, None) is not None

    async def drop(self, namespace: str) -> None:
        self._kept.pop(namespace, None)
