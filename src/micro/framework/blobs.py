"""Bytes of any length that outlive the service: `from micro import blobs`, then `await blobs.write("photo.png", data)`.

Works at once, in a service as well as in a script that has `MICRO_*` set; nothing needs to be opened. Keys are UTF-8 of
1 to 1,024 bytes; the blobs are those of the own namespace. Memory does not grow with a blob's length, but for `get`.

Everything may raise `errors.Error`: INVALID_ARGUMENT for what no storage takes, RESOURCE_EXHAUSTED when there is no
room, UNAVAILABLE when the storage cannot be reached.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing

from micro.domain import errors
from micro.framework import client
from micro.ports.blobs import PIECE_BYTES, Blob
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.gen.micro.store.v1.store_connect import BlobStoreClient

__all__ = ["Blob", "delete", "get", "list", "read", "stat", "write"]

MOST = 64 << 20
"""Bytes that `get` returns by default, at most."""


async def write(
    key: str,
    data: bytes | AsyncIterable[bytes],
    *,
    content_type: str = "",
    metadata: Mapping[str, str] | None = None,
    public: bool = False,
    checksum: str = "",
) -> Blob:
    """Keep the bytes as one blob, in place of what is there. Whole and on disk when it returns; until then, and when
    it raises (what `data` raises, too), readers see what was there.

    Args:
        data: all of it, or pieces as they come, of any size.
        content_type: what it is; "application/octet-stream" by default.
        metadata: pairs of your own, up to 16 KiB.
        public: whether everybody may read it at `/blob/NAMESPACE/KEY` on the HTTP gateway.
        checksum: SHA-256 that the bytes must have, in hexadecimal, else INVALID_ARGUMENT; empty for any.
    """
    if isinstance(data, bytes):
        checksum = checksum or hashlib.sha256(data).hexdigest()
    options = pb.BlobOptions(content_type=content_type, metadata=dict(metadata or {}), public=public, checksum=checksum)

    async def messages() -> AsyncIterator[pb.BlobStoreWriteRequest]:
        yield pb.BlobStoreWriteRequest(key=key, options=options)
        async for piece in _pieces(data):
            yield pb.BlobStoreWriteRequest(data=piece)

    return _blob((await _client().write(messages())).blob)


async def read(key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
    """The bytes, a piece at a time, of the blob that is there when the iteration begins.

    Args:
        offset: of the first byte.
        length: how many bytes; by default to the end, where a longer range is cut too.

    Raises NOT_FOUND; DATA_LOSS when what is kept is not what was written, before the last piece is told.
    """
    async with aclosing(_messages(key, offset, length)) as messages:
        async for message in messages:
            if message.data:
                yield message.data


async def get(key: str, *, most: int = MOST) -> bytes:
    """All bytes of a blob.

    Args:
        most: RESOURCE_EXHAUSTED for a blob of more bytes: it is to be read in pieces.

    Raises NOT_FOUND, DATA_LOSS.
    """
    found = bytearray()
    async with aclosing(_messages(key, 0, None)) as messages:
        async for message in messages:
            if message.blob is not None and message.blob.size > most:
                raise errors.resource_exhausted(
                    f"blob {key[:80]!r} has {message.blob.size:,} bytes, more than the {most:,} that were asked for: "
                    "read it in pieces with blobs.read"
                )
            found += message.data
    return bytes(found)


async def stat(key: str) -> Blob:
    """What is known of a blob without its bytes. Raises NOT_FOUND."""
    return _blob((await _client().stat(pb.BlobStoreStatRequest(key=key))).blob)


async def list(prefix: str = "", *, after: str = "") -> AsyncIterator[Blob]:  # noqa: A001 - read as blobs.list
    """The blobs whose keys begin with `prefix` and come after `after`, in order of the keys' bytes."""
    while True:
        page = await _client().list(pb.BlobStoreListRequest(prefix=prefix, after=after))
        for one in page.blobs:
            yield _blob(one)
        after = page.cursor
        if not after:
            return


async def delete(key: str) -> bool:
    """Remove a blob; whether there was one. Readers that have begun finish."""
    return (await _client().delete(pb.BlobStoreDeleteRequest(key=key))).deleted


def _client() -> BlobStoreClient:
    return client.of(BlobStoreClient, bulk=True)


async def _messages(key: str, offset: int, length: int | None) -> AsyncGenerator[pb.BlobStoreReadResponse]:
    if length is not None and length <= 0:
        await stat(key)
        return
    request = pb.BlobStoreReadRequest(key=key, offset=offset, length=length or 0)
    answers = _client().read(request)
    try:
        async for message in answers:
            yield message
    finally:
        if isinstance(answers, AsyncGenerator):
            await answers.aclose()


async def _pieces(data: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Of what may be sent at a time."""
    if isinstance(data, bytes):
        for start in range(0, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]
        return
    async for piece in data:
        for start in range(0, len(piece), PIECE_BYTES):
            yield piece[start : start + PIECE_BYTES]


def _blob(told: pb.Blob | None) -> Blob:
    assert told is not None
    return Blob(told.key, told.size, told.checksum, told.content_type, dict(told.metadata), told.public, told.modified)
