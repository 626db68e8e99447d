"""A stream into one object, which is there whole or not at all, with flat memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import obstore
from obstore.store import S3Store

PART_BYTES = 8 << 20
"""What the storage is sent at a time; two parts are on their way and one is being collected."""

_BATCH_BYTES = 1 << 20
"""What is handed over at a time."""


async def upload(store: S3Store, path: str, pieces: AsyncIterator[bytes]) -> None:
    """Keep the pieces as an object. Raises what `pieces` raises, and what obstore does; then there is nothing."""
    part = await _part(pieces, PART_BYTES)
    if len(part) < PART_BYTES:
        await obstore.put_async(store, path, part)
        return
    feed: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(1)
    # A cancelled upload would leave its parts behind: it is told to fail instead, and takes them back.
    # owned: by this call, which does not return before it has ended
    putting = asyncio.get_running_loop().create_task(_put(store, path, feed), name="micro-upload")
    try:
        while part:
            await _fed(feed, part, putting)
            part = await _part(pieces, _BATCH_BYTES)
        await _fed(feed, None, putting)
        await asyncio.shield(putting)
    except BaseException as error:
        if not putting.done():
            await _failed(feed, error, putting)
        elif not putting.cancelled():
            putting.exception()
        raise


async def _put(store: S3Store, path: str, feed: asyncio.Queue[bytes | BaseException | None]) -> Any:
    async def parts() -> AsyncGenerator[bytes]:
        while (part := await feed.get()) is not None:
            if isinstance(part, BaseException):
                raise _EndedError
            yield part

    return await obstore.put_async(store, path, parts(), chunk_size=PART_BYTES, max_concurrency=2)


class _EndedError(Exception):
    """Nothing more comes, and what came is not wanted."""


async def _fed(
    feed: asyncio.Queue[bytes | BaseException | None], part: bytes | None, putting: asyncio.Task[Any]
) -> None:
    """Hand over a part. Raises what the upload has ended with."""
    # owned: by this call
    handing = asyncio.get_running_loop().create_task(feed.put(part))
    try:
        await asyncio.wait({handing, putting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        handing.cancel()
    if putting.done():
        putting.result()


async def _failed(
    feed: asyncio.Queue[bytes | BaseException | None], error: BaseException, putting: asyncio.Task[Any]
) -> None:
    """Have the upload fail, and wait until it has."""
    while not feed.empty():
        feed.get_nowait()
    feed.put_nowait(error)
    await asyncio.wait({putting})
    if not putting.cancelled():
        putting.exception()  # ours


async def _part(pieces: AsyncIterator[bytes], size: int) -> bytes:
    """The next bytes, at least so many but at the end; empty when there are none."""
    part = bytearray()
    async for piece in pieces:
        part += piece
        if len(part) >= size:
            break
    return bytes(part)
