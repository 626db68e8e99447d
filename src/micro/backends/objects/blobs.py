"""Blobs in storage that speaks S3's protocol, over obstore.

A blob's bytes go into an object of their own, in parts; when all of them are there, one small object is replaced that
says so. Bytes that nothing points to any more are removed a minute later, so that readers finish, and those of crashed
writers by the sweep after the next start. Parts of an upload whose writer was killed are the storage's to remove: give
the bucket a rule that ends unfinished uploads after a day.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import hashlib
import json
import logging
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from micro.backends.objects import _names as names
from micro.backends.objects._upload import PART_BYTES, upload
from micro.domain import errors
from micro.domain.record import Durability
from micro.ports.background import OwnedTasks, spawn
from micro.ports.blobs import (
    CONTENT_TYPE,
    PIECE_BYTES,
    Blob,
    Blobs,
    Opened,
    absent,
    damaged,
    other_checksum,
    too_large,
)

log = logging.getLogger("micro.store")

_MOST = 9_999 * PART_BYTES
"""Bytes of one blob: S3 takes 10,000 parts."""

_AT_ONCE = 32


class _Reading(Opened):
    def __init__(self, store: S3Store, blob: Blob, data: str) -> None:
        self.blob = blob
        self._store = store
        self._data = data

    async def pieces(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        size, key = self.blob.size, self.blob.key
        end = size if length is None else min(start + length, size)
        if start >= end:
            return
        whole = hashlib.sha256() if (start, end) == (0, size) else None
        left = end - start
        try:
            with _storage(key):
                found = await obstore.get_async(self._store, self._data, options={"range": (start, end)})
                stream = aiter(found.stream(PIECE_BYTES))
            while left:
                with _storage(key):
                    got = await anext(stream, None)
                if got is None or len(got) > left:
                    raise damaged(key)
                left -= len(got)
                if whole is not None:
                    whole.update(got)
                    if not left and whole.hexdigest() != self.blob.checksum:
                        raise damaged(key)
                for first in range(0, len(got), PIECE_BYTES):
                    yield bytes(got[first : first + PIECE_BYTES])
        except FileNotFoundError:
            raise damaged(key) from None


class ObjectBlobs(Blobs):
    """Blobs in a bucket.

    Ranges are believed to be what the storage keeps, which checks it by itself; whole blobs are checked.

    Args:
        url: s3://BUCKET/PREFIX, with ?endpoint=URL for storage that is not Amazon's and &region=NAME. Who asks is read
            from the variables that S3's own tools read: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and so on.
        grace: seconds that replaced and removed bytes are kept for those who read them.
        abandoned: how old bytes are that nothing points to, at least, when they are nobody's any more.

    Raises:
        Error: INVALID_ARGUMENT for what is no such URL.
    """

    def __init__(self, url: str, *, grace: float = 60.0, abandoned: timedelta = timedelta(hours=1)) -> None:
        self._store = _store(url)
        self._grace = grace
        self._abandoned = abandoned
        self._healthy = False
        self._beside = OwnedTasks()
        self._doomed: deque[tuple[float, str]] = deque()
        self._locks: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = weakref.WeakValueDictionary()

    @property
    def durability(self) -> Durability:
        return Durability.SERVER

    async def start(self, stack: AsyncExitStack) -> None:
        """Opens nothing: while the storage cannot be reached, only what needs it fails."""
        try:
            with self._watched(""):
                async for _ in obstore.list(self._store, names.indexes(), chunk_size=1):
                    break
        except errors.Error as error:
            log.warning("%s", error)
        spawn(stack, self._bury(), "micro-blobs-bury")
        await self._beside.start(stack)
        self._beside.spawn(self._sweep(), "micro-blobs-sweep")

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
        digest, size = hashlib.sha256(), 0
        most = min(most or _MOST, _MOST)

        async def checked() -> AsyncGenerator[bytes]:
            nonlocal size
            async for piece in pieces:
                size += len(piece)
                if size > most:
                    raise too_large(key, most)
                digest.update(piece)
                yield piece
            if checksum and checksum.lower() != digest.hexdigest():
                raise other_checksum(key, checksum, digest.hexdigest())

        data = names.data(namespace, key)
        with self._watched(key):
            async with contextlib.aclosing(checked()) as source:
                await upload(self._store, data, source)
        blob = Blob(
            key, size, digest.hexdigest(), content_type, dict(metadata or {}), public, time.time_ns() // 1_000_000
        )
        async with self._lock(namespace, key):
            with self._watched(key):
                before = await self._look(namespace, key)
                content = json.dumps({**asdict(blob), "data": data}).encode()
                await obstore.put_async(self._store, names.index(namespace, key), content)
            if before is not None:
                self._doom(before[1])
        return blob

    async def stat(self, namespace: str, key: str) -> Blob | None:
        with self._watched(key):
            found = await self._look(namespace, key)
        return None if found is None else found[0]

    @contextlib.asynccontextmanager
    async def open(self, namespace: str, key: str) -> AsyncGenerator[Opened]:
        with self._watched(key):
            found = await self._look(namespace, key)
        if found is None:
            raise absent(key)
        yield _Reading(self._store, *found)

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 1000) -> builtins.list[Blob]:
        """Each blob costs a request, some at a time."""
        told: builtins.list[Blob] = []
        with self._watched(prefix):
            async for some in _together(self._named(namespace, prefix, after), min(limit, _AT_ONCE)):
                found = await asyncio.gather(*(self._index(name) for group in some for name in group))
                blobs = sorted((one[0] for one in found if one is not None), key=lambda blob: blob.key)
                told += [blob for blob in blobs if blob.key.startswith(prefix) and blob.key > after]
                if len(told) >= limit:
                    break
        return told[:limit]

    async def delete(self, namespace: str, key: str) -> bool:
        async with self._lock(namespace, key):
            with self._watched(key):
                before = await self._look(namespace, key)
                if before is not None:
                    await obstore.delete_async(self._store, names.index(namespace, key))
            if before is not None:
                self._doom(before[1])
        return before is not None

    async def drop(self, namespace: str) -> None:
        with self._watched(""):
            for prefix in (names.indexes(namespace), names.bodies(namespace)):
                async for some in obstore.list(self._store, prefix, chunk_size=1000):
                    await obstore.delete_async(self._store, [one["path"] for one in some])

    async def _look(self, namespace: str, key: str) -> tuple[Blob, str] | None:
        return await self._index(names.index(namespace, key))

    async def _index(self, name: str) -> tuple[Blob, str] | None:
        """What an index says: the blob, and the object that holds it."""
        try:
            found = await obstore.get_async(self._store, name)
            told: dict[str, Any] = json.loads(bytes(await found.bytes_async()))
            data = told.pop("data")
            return Blob(**told), data
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise damaged(names.key(name) or name) from None

    async def _named(self, namespace: str, prefix: str, after: str) -> AsyncGenerator[builtins.list[str]]:
        """Names of indexes in order, those together whose order the names do not tell."""
        group: builtins.list[str] = []
        first = names.before(namespace, prefix, after) or None
        async for some in obstore.list(self._store, names.indexes(namespace), offset=first, chunk_size=1000):
            for one in some:
                name = one["path"]
                key = names.key(name)
                if group and (key is not None or names.head(name) != names.head(group[0])):
                    yield group
                    group = []
                if key is None:
                    group.append(name)
                elif key.startswith(prefix):
                    yield [name]
                elif key > prefix:
                    return
        if group:
            yield group

    def _lock(self, namespace: str, key: str) -> asyncio.Lock:
        """Taken by who replaces an index, so that the bytes it pointed to are removed by one of them."""
        return self._locks.setdefault((namespace, key), asyncio.Lock())

    def _doom(self, data: str) -> None:
        self._doomed.append((time.monotonic() + self._grace, data))

    async def _bury(self) -> None:
        """Remove the bytes that nothing points to any more, when their readers have had their time."""
        while True:
            await asyncio.sleep(min(self._grace, 1.0))
            while self._doomed and self._doomed[0][0] <= time.monotonic():
                try:
                    with self._watched(""):
                        await obstore.delete_async(self._store, self._doomed[0][1])
                except errors.Error:
                    break  # the next round tries again
                self._doomed.popleft()

    async def _sweep(self) -> None:
        """Remove the bytes that no blob is made of, and that are too old to become one's."""
        try:
            with self._watched(""):
                removed = await self._swept(datetime.now(UTC) - self._abandoned)
        except errors.Error as error:
            log.warning("blobs that nobody finished could not be looked for: %s", error)
        else:
            if removed:
                log.info("removing %d objects that no blob is made of", removed)

    async def _swept(self, before: datetime) -> int:
        removed = 0
        bodies: builtins.list[Any] = []
        async for some in obstore.list(self._store, names.bodies()):
            for one in some:
                if bodies and names.index_of(one["path"]) != names.index_of(bodies[0]["path"]):
                    removed += await self._swept_of(bodies, before)
                    bodies = []
                bodies.append(one)
        return removed + (await self._swept_of(bodies, before) if bodies else 0)

    async def _swept_of(self, bodies: builtins.list[Any], before: datetime) -> int:
        """Remove those of one key's objects that are not its blob."""
        old = [one["path"] for one in bodies if one["last_modified"] < before]
        if not old:
            return 0
        found = await self._index(names.index_of(old[0]))
        unused = [path for path in old if found is None or path != found[1]]
        for path in unused:
            self._doom(path)
        return len(unused)

    @contextlib.contextmanager
    def _watched(self, key: str) -> Iterator[None]:
        """As `_storage`, and remembers whether the storage answered."""
        try:
            with _storage(key):
                yield
        except errors.Error as error:
            self._healthy = error.kind is not errors.Kind.UNAVAILABLE
            raise
        else:
            self._healthy = True


def _store(url: str) -> S3Store:
    """Raises INVALID_ARGUMENT."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    prefix = parts.path.strip("/")
    wrong = (
        "has no bucket"
        if not parts.netloc or parts.scheme != "s3"
        else "names an account: put it into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if "@" in parts.netloc
        else f"has a prefix of more than {names.PREFIX_CHARACTERS} characters"
        if len(prefix) > names.PREFIX_CHARACTERS
        else f"sets {', '.join(unknown)}"
        if (unknown := sorted(set(given) - {"endpoint", "region"}))
        else ""
    )
    if wrong:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise errors.invalid_argument(f"{shown} {wrong}: use s3://BUCKET/PREFIX?endpoint=URL&region=NAME")
    endpoint = given.get("endpoint")
    settings: dict[str, Any] = {"region": given.get("region") or None, "endpoint": endpoint}
    return S3Store(
        parts.netloc,
        prefix=prefix or None,
        client_options={"allow_http": bool(endpoint and endpoint.startswith("http://")), "connect_timeout": "5s"},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
        **{name: value for name, value in settings.items() if value},
    )


@contextlib.contextmanager
def _storage(key: str) -> Iterator[None]:
    """Says what a failure of the storage means, but for an object that is not there."""
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise errors.unavailable(
            "the storage of blobs lets nobody in with these AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (BaseError, TimeoutError) as error:
        what = f"blob {key[:80]!r}" if key else "the storage of blobs"
        # The first line names the request; what follows it is for programmers.
        raise errors.unavailable(f"{what} cannot be reached: {str(error).splitlines()[0][:300]}") from error


async def _together(
    groups: AsyncIterator[builtins.list[str]], count: int
) -> AsyncGenerator[builtins.list[builtins.list[str]]]:
    """Groups, `count` at a time."""
    some: builtins.list[builtins.list[str]] = []
    async for group in groups:
        some.append(group)
        if len(some) >= count:
            yield some
            some = []
    if some:
        yield some
