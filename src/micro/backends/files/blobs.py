"""Blobs as files below a folder, one a blob: `<folder>/<namespace>/<key>`, and `.drafts` for what is not whole yet.

A key is written with its special characters as %XX and cut into folders, so that no key leads out of its namespace's
folder and every one fits the file system.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import os
import secrets
import shutil
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from micro.backends.files._blob_file import BlobFile, Draft
from micro.domain import errors
from micro.domain.record import Durability
from micro.ports import private_folder
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
from micro.ports.private_file import sync_folder

T = TypeVar("T")
P = ParamSpec("P")

_DRAFTS = ".drafts"
_STEP = 80
"""Bytes of a key in one name: three times as many characters at most, which every file system bears."""

_FOLDER = "+"
"""What names of folders end with, which no name of a file does."""

_BATCH_BYTES = 1 << 20
"""What a writer collects before it goes to disk; as much again is on its way there."""

_AHEAD = 2
"""Pieces that are read while another is on its way to the reader."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Reading(Opened):
    def __init__(self, file: BlobFile) -> None:
        self.blob = file.blob
        self._file = file

    async def pieces(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        size, key = self.blob.size, self.blob.key
        end = size if length is None else min(start + length, size)
        if start >= end:
            return
        loop = asyncio.get_running_loop()
        first, last = start // PIECE_BYTES, (end - 1) // PIECE_BYTES
        # Read and checked ahead, so that disk, reader and both processors do not wait for each other.
        ahead: deque[asyncio.Future[bytes]] = deque()
        to_read = iter(range(first, last + 1))
        try:
            for index in range(first, last + 1):
                for one in islice(to_read, _AHEAD + 1 - len(ahead)):
                    ahead.append(loop.run_in_executor(None, self._file.piece, one))
                with _disk(key):
                    piece = await ahead[0]
                ahead.popleft()
                begin = index * PIECE_BYTES
                inner = begin < start or end < begin + len(piece)
                yield piece[max(start - begin, 0) : end - begin] if inner else piece
        finally:
            for waiting in ahead:
                if not waiting.cancel() and not waiting.cancelled():
                    waiting.exception()  # is nobody's any more


class FileBlobs(Blobs):
    """Blobs below a folder, which is made when it is missing. One process at a time.

    What crashed writers left is removed at start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._drafts = folder / _DRAFTS
        self._healthy = False

    @property
    def durability(self) -> Durability:
        return Durability.DISK

    async def start(self, stack: AsyncExitStack) -> None:
        with _disk(""):
            await asyncio.to_thread(self._open)
        self._healthy = True

    def healthy(self) -> bool:
        return self._healthy

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
        with self._writing(key):
            draft = await _kept(Draft.discard, Draft, self._drafts)
        try:
            await self._receive(draft, key, pieces, most)
            with self._writing(key):
                found = draft.checksum()
                if checksum and checksum.lower() != found:
                    raise other_checksum(key, checksum, found)
                blob = await asyncio.to_thread(draft.seal, key, content_type, dict(metadata or {}), public)
                await asyncio.to_thread(_publish, draft.path, self._path(namespace, key))
        finally:
            await asyncio.shield(asyncio.to_thread(draft.discard))
        return blob

    async def _receive(self, draft: Draft, key: str, pieces: AsyncIterator[bytes], most: int) -> None:
        """Write what comes; the disk has a batch while the next one arrives."""
        size = collected = 0
        batch: builtins.list[bytes] = []
        written: asyncio.Future[None] | None = None
        try:
            async for piece in pieces:
                size += len(piece)
                if most and size > most:
                    raise too_large(key, most)
                batch.append(piece)
                collected += len(piece)
                if collected < _BATCH_BYTES:
                    continue
                with self._writing(key):
                    await (written or asyncio.sleep(0))
                written = asyncio.get_running_loop().run_in_executor(None, draft.add, batch)
                batch, collected = [], 0
        finally:
            with self._writing(key):
                await (written or asyncio.sleep(0))
        with self._writing(key):
            await asyncio.to_thread(draft.add, batch)

    async def stat(self, namespace: str, key: str) -> Blob | None:
        with _disk(key):
            return await asyncio.to_thread(_head, self._path(namespace, key), key)

    @contextlib.asynccontextmanager
    async def open(self, namespace: str, key: str) -> AsyncGenerator[Opened]:
        with _disk(key):
            file = await _kept(_close, _opened, self._path(namespace, key), key)
        if file is None:
            raise absent(key)
        try:
            yield _Reading(file)
        finally:
            file.close()

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 1000) -> builtins.list[Blob]:
        with _disk(prefix):
            return await asyncio.to_thread(self._list, namespace, prefix.encode(), after.encode(), limit)

    async def delete(self, namespace: str, key: str) -> bool:
        with _disk(key):
            return await asyncio.to_thread(self._delete, namespace, key)

    async def drop(self, namespace: str) -> None:
        with _disk(""):
            await asyncio.to_thread(self._drop, namespace)

    def _open(self) -> None:
        private_folder.make(self._folder)
        shutil.rmtree(self._drafts, ignore_errors=True)
        private_folder.make(self._drafts)

    def _list(self, namespace: str, prefix: bytes, after: bytes, limit: int) -> builtins.list[Blob]:
        found: builtins.list[Blob] = []
        for key, path in _below(self._folder / _name(namespace.encode()), b"", prefix, after):
            if len(found) == limit:
                break
            blob = _head(path, key.decode())
            if blob is not None:  # else it was removed meanwhile
                found.append(blob)
        return found

    def _delete(self, namespace: str, key: str) -> bool:
        path = self._path(namespace, key)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        _sync(path.parent)
        for folder in path.parents:
            if folder == self._folder or not _removed(folder):
                break
        return True

    def _drop(self, namespace: str) -> None:
        doomed = self._drafts / secrets.token_hex(16)
        try:
            (self._folder / _name(namespace.encode())).rename(doomed)
        except FileNotFoundError:
            return
        sync_folder(self._folder)
        shutil.rmtree(doomed, ignore_errors=True)

    def _path(self, namespace: str, key: str) -> Path:
        raw = key.encode()
        steps = [_name(raw[start : start + _STEP]) for start in range(0, len(raw), _STEP)]
        folders = (step + _FOLDER for step in steps[:-1])
        return self._folder.joinpath(_name(namespace.encode()), *folders, steps[-1])

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """As `_disk`, and remembers whether the disk took it."""
        try:
            with _disk(key):
                yield
        except errors.Error as error:
            self._healthy = error.kind is not errors.Kind.UNAVAILABLE
            raise
        else:
            self._healthy = True


@contextlib.contextmanager
def _disk(key: str) -> Iterator[None]:
    """Says what a failure of the disk means."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        what = f"blob {key[:80]!r}" if key else "the blobs"
        if error.errno in _FULL:
            raise errors.resource_exhausted(f"{what} cannot be kept: {why}; nothing was") from error
        if error.errno == errno.EIO:
            raise errors.data_loss(f"{what} cannot be read: {why}") from error
        raise errors.unavailable(f"{what} cannot be reached: {why}") from error


async def _kept(release: Callable[[T], None], take: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """What `take` returns from a thread; when the caller has gone by then, `release` gets it."""
    taking = asyncio.ensure_future(asyncio.to_thread(take, *args, **options))  # owned: awaited, or released below
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.add_done_callback(lambda taken: None if taken.exception() else release(taken.result()))
        raise


def _close(file: BlobFile | None) -> None:
    if file is not None:
        file.close()


def _name(raw: bytes) -> str:
    """A file name of some bytes of a key, from which they can be told."""
    made = quote_from_bytes(raw, safe="")
    return f"%2E{made[1:]}" if made.startswith(".") else made


def _publish(draft: Path, path: Path) -> None:
    """Let the draft be the blob; on disk when this returns. Raises UNAVAILABLE and OSError."""
    for _ in range(10):
        # The last blob of a folder may be removed right now, and the folder with it.
        try:
            _make(path.parent)
            draft.rename(path)
        except FileNotFoundError:
            continue
        _sync(path.parent)
        return
    raise errors.unavailable(f"the folder of {path.name[:40]} is being removed: try again")


def _make(folder: Path) -> None:
    """Make the folder, durably. Raises FileNotFoundError where one above it was removed meanwhile."""
    if folder.is_dir():
        return
    _make(folder.parent)
    # With `exist_ok` mkdir looks again at what exists, and fails when it has been removed between the two.
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    sync_folder(folder.parent)


def _sync(folder: Path) -> None:
    """Return when what happened in a folder is on disk; where it has been removed meanwhile, that."""
    while True:
        try:
            return sync_folder(folder)
        except FileNotFoundError:
            folder = folder.parent


def _removed(folder: Path) -> bool:
    """Whether a folder was empty and is gone."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _opened(path: Path, key: str) -> BlobFile | None:
    try:
        return BlobFile(path, key)
    except FileNotFoundError:
        return None


def _head(path: Path, key: str) -> Blob | None:
    file = _opened(path, key)
    if file is None:
        return None
    file.close()
    return file.blob


def _below(folder: Path, head: bytes, prefix: bytes, after: bytes) -> Iterator[tuple[bytes, Path]]:
    """Keys and files in order of the keys' bytes; `head` is what the keys of the folder begin with."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                folded = entry.name.endswith(_FOLDER)
                raw = unquote_to_bytes(entry.name.removesuffix(_FOLDER))
                if _fits(head + raw, folded, prefix, after):
                    found.append((raw, folded, entry.name))
    except FileNotFoundError:
        return
    # A file comes before the folder of the same name: its key is the shorter one.
    for raw, folded, name in sorted(found):
        if folded:
            yield from _below(folder / name, head + raw, prefix, after)
        else:
            yield head + raw, folder / name


def _fits(key: bytes, folder: bool, prefix: bytes, after: bytes) -> bool:
    if folder:
        return (key.startswith(prefix) or prefix.startswith(key)) and key >= after[: len(key)]
    return key.startswith(prefix) and key > after
