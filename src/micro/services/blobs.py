"""Bytes of any length, kept and told as streams."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from micro.domain import errors
from micro.domain.record import METADATA_BYTES, check_key
from micro.ports.blobs import CONTENT_TYPE, Blob, Blobs, absent
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.gen.micro.store.v1.store_connect import BlobStore
from micro.services._store_databases import Databases

BLOB_BYTES = 1 << 40
"""Bytes of one blob at most."""

STREAMS = 128
"""Blobs of a namespace that are read and written at a time: each holds some megabytes when its caller is slow."""

PAGE = 1000
"""Blobs that one answer lists at most."""

_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(?:;[\x20-\x7e]{0,200})?")
_CHECKSUM = re.compile(r"[0-9a-fA-F]{64}")


class BlobHandler(BlobStore):
    """The handler of `micro.store.v1.BlobStore`.

    Args:
        blobs: where they are kept.
        databases: which namespaces there are, and which of them are being removed.
        most: bytes of one blob.
    """

    def __init__(self, blobs: Blobs, databases: Databases, *, most: int = BLOB_BYTES) -> None:
        self._blobs = blobs
        self._databases = databases
        self._most = most
        self._streams: Counter[str] = Counter()

    async def read(self, request: pb.BlobStoreReadRequest, ctx: Any) -> AsyncIterator[pb.BlobStoreReadResponse]:
        namespace = self._databases.of(ctx, request.namespace)
        check_key(request.key)
        for name, number in (("offset", request.offset), ("length", request.length)):
            if number < 0:
                raise errors.invalid_argument(f"{name} {number} is below 0")
        with self._streaming(namespace):
            async with self._blobs.open(namespace, request.key) as opened:
                yield pb.BlobStoreReadResponse(blob=_message(opened.blob))
                async with aclosing(opened.pieces(request.offset, request.length or None)) as pieces:
                    async for piece in pieces:
                        yield pb.BlobStoreReadResponse(data=piece)

    async def write(self, request: AsyncIterator[pb.BlobStoreWriteRequest], ctx: Any) -> pb.BlobStoreWriteResponse:
        sent = aiter(request)
        first = await anext(sent, None)
        if first is None:
            raise errors.invalid_argument("the stream is empty: its first message names the key")
        options = first.options or pb.BlobOptions()
        namespace, key = self._databases.of(ctx, options.namespace), first.key
        check_key(key)
        _check_options(options)
        if self._databases.closed(namespace):
            raise errors.failed_precondition(f"everything of namespace {namespace} is being removed: try again later")

        with self._streaming(namespace), contextlib.ExitStack() as committing:

            async def pieces() -> AsyncIterator[bytes]:
                yield first.data
                async for message in sent:
                    if message.options is not None or message.key not in ("", key):
                        raise errors.invalid_argument("key and options are for the first message: nothing was kept")
                    yield message.data
                # A namespace that is being removed waits for what follows, not for writers that may be slow.
                committing.enter_context(self._databases.changing(namespace))

            blob = await self._blobs.write(
                namespace,
                key,
                pieces(),
                content_type=options.content_type or CONTENT_TYPE,
                metadata=dict(options.metadata),
                public=options.public,
                checksum=options.checksum,
                most=self._most,
            )
        return pb.BlobStoreWriteResponse(blob=_message(blob))

    @contextlib.contextmanager
    def _streaming(self, namespace: str) -> Iterator[None]:
        """Count a stream. Raises RESOURCE_EXHAUSTED when there are as many as may be."""
        if self._streams[namespace] >= STREAMS:
            raise errors.resource_exhausted(
                f"{STREAMS} blobs of namespace {namespace} are being read and written, as many as may be at a time: "
                "try again when some have ended"
            )
        self._streams[namespace] += 1
        try:
            yield
        finally:
            self._streams[namespace] -= 1
            if not self._streams[namespace]:
                del self._streams[namespace]

    async def stat(self, request: pb.BlobStoreStatRequest, ctx: Any) -> pb.BlobStoreStatResponse:
        namespace = self._databases.of(ctx, request.namespace)
        check_key(request.key)
        blob = await self._blobs.stat(namespace, request.key)
        if blob is None:
            raise absent(request.key)
        return pb.BlobStoreStatResponse(blob=_message(blob))

    async def list(self, request: pb.BlobStoreListRequest, ctx: Any) -> pb.BlobStoreListResponse:
        namespace = self._databases.of(ctx, request.namespace)
        for text in (request.prefix, request.after):
            if text:
                check_key(text)
        if request.limit < 0:
            raise errors.invalid_argument(f"limit {request.limit} is below 0")
        limit = min(request.limit or PAGE, PAGE)
        found = await self._blobs.list(namespace, request.prefix, request.after, limit)
        more = found[-1].key if len(found) == limit else ""
        return pb.BlobStoreListResponse(blobs=[_message(blob) for blob in found], cursor=more)

    async def delete(self, request: pb.BlobStoreDeleteRequest, ctx: Any) -> pb.BlobStoreDeleteResponse:
        namespace = self._databases.of(ctx, request.namespace)
        check_key(request.key)
        with self._databases.changing(namespace):
            return pb.BlobStoreDeleteResponse(deleted=await self._blobs.delete(namespace, request.key))


def _check_options(options: pb.BlobOptions) -> None:
    """Raises INVALID_ARGUMENT. What is not checked here would be sent to browsers as it is."""
    if options.content_type and not _CONTENT_TYPE.fullmatch(options.content_type):
        raise errors.invalid_argument(f"content type {options.content_type[:80]!r} is none: write it as image/png")
    if options.checksum and not _CHECKSUM.fullmatch(options.checksum):
        raise errors.invalid_argument("the checksum is no SHA-256: write its 64 hexadecimal digits")
    if _size(options.metadata) > METADATA_BYTES:
        raise errors.invalid_argument(f"the metadata is too large: {METADATA_BYTES:,} bytes are allowed")


def _size(pairs: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in pairs.items())


def _message(blob: Blob) -> pb.Blob:
    return pb.Blob(
        key=blob.key,
        size=blob.size,
        checksum=blob.checksum,
        content_type=blob.content_type,
        metadata=dict(blob.metadata),
        public=blob.public,
        modified=blob.modified,
    )
