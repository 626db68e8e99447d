"""What every backend of `micro.ports.blobs` must do. Authors of a backend subclass `BlobsContract` in a test file and
give it a fixture `blobs` that yields a started, empty backend."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

import pytest

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.record import KEY_BYTES, Durability
from micro.ports.blobs import PIECE_BYTES, Blob, Blobs

DEADLINE_SECONDS = 20.0

KEYS = [
    "a",
    "a b",
    "a%20b",
    "a+",
    "a/b",
    "a/b/",
    "a//b",
    "A",
    ".",
    "..",
    "../../etc/passwd",
    "/",
    "/absolute",
    ".drafts",
    "index",
    "nul\0and\nline",
    "back\\slash",
    "~",
    "=",
    "é",
    "☃",
    "\U0010ffff",
    "x" * 79,
    "x" * 80,
    "x" * 80 + "+",
    "x" * 80 + "y",
    "x" * 81,
    "x" * 352,
    "x" * 352 + "b",
    "x" * 352 + "a",
    "x" * KEY_BYTES,
    "☃" * (KEY_BYTES // 3),
]
"""Keys that lead astray who takes them for names."""


def random_bytes(size: int) -> bytes:
    """Bytes that do not repeat."""
    return os.urandom(size)


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    """Pieces as a writer sends them."""
    for piece in pieces:
        yield piece


def cut(content: bytes, size: int) -> list[bytes]:
    """The content in pieces of a size."""
    return [content[start : start + size] for start in range(0, len(content), size)]


async def read(blobs: Blobs, key: str, start: int = 0, length: int | None = None, namespace: str = "shop") -> bytes:
    """The bytes of a blob."""
    found = b""
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(blobs.read(namespace, key, start, length)) as pieces:
        async for piece in pieces:
            assert 0 < len(piece) <= PIECE_BYTES
            found += piece
    return found


def keys(found: Iterable[Blob]) -> list[str]:
    return [blob.key for blob in found]


class BlobsContract:
    """Subclass it; see the module."""

    @pytest.fixture
    async def blobs(self) -> Blobs:
        raise NotImplementedError("give your subclass a fixture `blobs`")

    async def test_it_says_what_it_outlives(self, blobs: Blobs) -> None:
        assert isinstance(blobs.durability, Durability)
        assert blobs.healthy()

    async def test_what_is_written_is_read_with_all_that_is_known_of_it(self, blobs: Blobs) -> None:
        content = random_bytes(3 * PIECE_BYTES + 17)
        before = time.time_ns() // 1_000_000
        written = await blobs.write(
            "shop",
            "photos/ann.png",
            stream(*cut(content, 100_000)),
            content_type="image/png",
            metadata={"who": "Ann ☃", "empty": ""},
            public=True,
        )
        assert written.key == "photos/ann.png"
        assert written.size == len(content)
        assert written.checksum == hashlib.sha256(content).hexdigest()
        assert written.content_type == "image/png"
        assert written.metadata == {"who": "Ann ☃", "empty": ""}
        assert written.public
        assert before <= written.modified <= time.time_ns() // 1_000_000
        assert await blobs.stat("shop", "photos/ann.png") == written
        assert await read(blobs, "photos/ann.png") == content
        async with blobs.open("shop", "photos/ann.png") as opened:
            assert opened.blob == written

    async def test_what_is_not_said_of_it_has_its_defaults(self, blobs: Blobs) -> None:
        written = await blobs.write("shop", "k", stream(b"v"))
        assert (written.content_type, written.metadata, written.public) == ("application/octet-stream", {}, False)

    @pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES])
    async def test_any_length_comes_back(self, blobs: Blobs, size: int) -> None:
        content = random_bytes(size)
        assert (await blobs.write("shop", "k", stream(b"", content, b""))).size == size
        assert await read(blobs, "k") == content

    async def test_small_and_large_pieces_are_one_blob(self, blobs: Blobs) -> None:
        content = random_bytes(3 * PIECE_BYTES)
        pieces = [*cut(content[:1000], 1), content[1000 : 2 * PIECE_BYTES], *cut(content[2 * PIECE_BYTES :], 4099)]
        await blobs.write("shop", "k", stream(*pieces))
        assert await read(blobs, "k") == content

    async def test_several_parts_are_one_blob(self, blobs: Blobs) -> None:
        piece = random_bytes(1 << 20)
        written = await blobs.write("shop", "k", stream(*[piece] * 19, b"end"))
        assert written.size == 19 * len(piece) + 3
        assert await read(blobs, "k", 18 * len(piece)) == piece + b"end"
        assert hashlib.sha256(await read(blobs, "k")).hexdigest() == written.checksum

    async def test_a_range_is_cut_at_the_end(self, blobs: Blobs) -> None:
        content = random_bytes(2 * PIECE_BYTES + 100)
        await blobs.write("shop", "k", stream(content))
        size = len(content)
        for start, length in [
            (0, 0),
            (0, 1),
            (0, size),
            (0, size + 1),
            (1, None),
            (PIECE_BYTES - 1, 2),
            (PIECE_BYTES, PIECE_BYTES),
            (2 * PIECE_BYTES, 5),
            (size - 1, 1),
            (size - 1, 100),
            (size, 1),
            (size + 5, None),
            (100, 2 * PIECE_BYTES),
        ]:
            end = None if length is None else start + length
            assert await read(blobs, "k", start, length) == content[start:end], (start, length)

    async def test_what_is_absent_is_not_found(self, blobs: Blobs) -> None:
        assert await blobs.stat("shop", "k") is None
        assert not await blobs.delete("shop", "k")
        assert await blobs.list("shop") == []
        with pytest.raises(Error) as told:
            await read(blobs, "k")
        assert told.value.kind is Kind.NOT_FOUND
        with pytest.raises(Error) as told:
            async with blobs.open("shop", "k"):
                raise AssertionError("nothing is open")
        assert told.value.kind is Kind.NOT_FOUND

    async def test_a_new_blob_takes_the_place_of_the_old_one(self, blobs: Blobs) -> None:
        await blobs.write("shop", "k", stream(b"old and long"), metadata={"a": "1"}, public=True)
        await blobs.write("shop", "k", stream(b"new"))
        found = await blobs.stat("shop", "k")
        assert found is not None
        assert (found.size, found.metadata, found.public) == (3, {}, False)
        assert await read(blobs, "k") == b"new"
        assert len(await blobs.list("shop")) == 1

    async def test_a_writer_that_fails_leaves_what_was_there(self, blobs: Blobs) -> None:
        await blobs.write("shop", "k", stream(b"old"))

        async def broken(size: int) -> AsyncIterator[bytes]:
            for _ in range(size):
                yield bytes(1 << 20)
            raise errors.canceled("the writer left")

        for size in (0, 1, 20):
            for key in ("k", "new"):
                with pytest.raises(Error, match="the writer left"):
                    await blobs.write("shop", key, broken(size))
        assert await read(blobs, "k") == b"old"
        assert keys(await blobs.list("shop")) == ["k"]

    async def test_a_writer_that_is_cancelled_leaves_what_was_there(self, blobs: Blobs) -> None:
        await blobs.write("shop", "k", stream(b"old"))
        for size in (0, 20):
            waits = asyncio.Event()

            async def slow(size: int = size, waits: asyncio.Event = waits) -> AsyncIterator[bytes]:
                for _ in range(size):
                    yield bytes(1 << 20)
                waits.set()
                await asyncio.Event().wait()

            writing = asyncio.ensure_future(blobs.write("shop", "k", slow()))  # owned: awaited below
            await asyncio.wait_for(waits.wait(), DEADLINE_SECONDS)
            assert await read(blobs, "k") == b"old"
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        assert await read(blobs, "k") == b"old"

    async def test_more_than_is_allowed_is_not_kept(self, blobs: Blobs) -> None:
        await blobs.write("shop", "k", stream(b"12", b"34"), most=4)
        with pytest.raises(Error) as told:
            await blobs.write("shop", "k", stream(b"12", b"345"), most=4)
        assert told.value.kind is Kind.RESOURCE_EXHAUSTED
        assert await read(blobs, "k") == b"1234"

    async def test_bytes_that_are_not_those_announced_are_not_kept(self, blobs: Blobs) -> None:
        announced = hashlib.sha256(b"whole").hexdigest()
        for content in (b"who", b"whole!", b"Whole", b""):
            with pytest.raises(Error) as told:
                await blobs.write("shop", "k", stream(content), checksum=announced)
            assert told.value.kind is Kind.INVALID_ARGUMENT
        assert await blobs.stat("shop", "k") is None
        await blobs.write("shop", "k", stream(b"who", b"le"), checksum=announced.upper())
        assert await read(blobs, "k") == b"whole"

    async def test_of_several_writers_one_wins_whole(self, blobs: Blobs) -> None:
        contents = [bytes([number]) * (PIECE_BYTES + number) for number in range(8)]
        written = await asyncio.gather(
            *(blobs.write("shop", "k", stream(*cut(one, 10_000)), metadata={"n": str(one[0])}) for one in contents)
        )
        assert {blob.size for blob in written} == {len(one) for one in contents}
        found = await blobs.stat("shop", "k")
        assert found in written
        content = await read(blobs, "k")
        assert content in contents
        assert found is not None
        assert (found.size, found.metadata) == (len(content), {"n": str(content[0])})
        await blobs.write("shop", "k", stream(b"last"))
        assert await read(blobs, "k") == b"last"

    async def test_a_reader_finishes_what_it_has_opened(self, blobs: Blobs) -> None:
        old = random_bytes(4 * PIECE_BYTES)
        await blobs.write("shop", "k", stream(old))
        async with blobs.open("shop", "k") as opened:
            await blobs.write("shop", "k", stream(b"new"))
            assert await read(blobs, "k") == b"new"
            async with aclosing(opened.pieces()) as pieces:
                found = await anext(pieces)
                assert await blobs.delete("shop", "k")
                async for piece in pieces:
                    found += piece
            assert found == old
            assert opened.blob.checksum == hashlib.sha256(old).hexdigest()
            assert b"".join([piece async for piece in opened.pieces(PIECE_BYTES + 1, 5)]) == old[PIECE_BYTES + 1 :][:5]
        assert await blobs.stat("shop", "k") is None

    async def test_a_reader_may_leave(self, blobs: Blobs) -> None:
        content = random_bytes(8 * PIECE_BYTES)
        await blobs.write("shop", "k", stream(content))
        for _ in range(20):
            async with aclosing(blobs.read("shop", "k")) as pieces:
                assert content.startswith(await anext(pieces))
        assert await read(blobs, "k") == content

    async def test_keys_are_any_text_and_none_leads_out(self, blobs: Blobs) -> None:
        await asyncio.gather(*(blobs.write("shop", key, stream(key.encode())) for key in KEYS))
        await blobs.write("other", "a", stream(b"other's"))
        for key in KEYS:
            assert await read(blobs, key) == key.encode(), key
        assert keys(await blobs.list("shop")) == sorted(KEYS, key=str.encode)
        for key in KEYS:
            assert await blobs.delete("shop", key), key
            assert await blobs.stat("shop", key) is None
        assert await blobs.list("shop") == []
        assert await read(blobs, "a", namespace="other") == b"other's"

    async def test_lists_are_in_order_and_by_page(self, blobs: Blobs) -> None:
        await asyncio.gather(*(blobs.write("shop", key, stream(b"v")) for key in KEYS))
        wanted = sorted(KEYS, key=str.encode)
        for limit in (7, 1000):
            found: list[str] = []
            while page := await blobs.list("shop", after=found[-1] if found else "", limit=limit):
                assert len(page) <= limit
                found += keys(page)
            assert found == wanted
        for prefix in ("a", "a/", "x", "x" * 80, "x" * 100, "x" * 352, "x" * 400, ".", "é", "none"):
            assert keys(await blobs.list("shop", prefix)) == [key for key in wanted if key.startswith(prefix)], prefix
            after = prefix + "b"
            assert keys(await blobs.list("shop", prefix, after)) == [
                key for key in wanted if key.startswith(prefix) and key > after
            ], prefix
        assert keys(await blobs.list("shop", "x", "a")) == [key for key in wanted if key.startswith("x")]
        assert await blobs.list("shop", "a", "b") == []
        assert (await blobs.list("shop", "a", limit=1))[0] == await blobs.stat("shop", "a")

    async def test_a_namespace_goes_with_all_that_is_in_it(self, blobs: Blobs) -> None:
        for namespace in ("shop", "other"):
            await asyncio.gather(*(blobs.write(namespace, key, stream(b"v")) for key in KEYS[-5:]))
        await blobs.drop("shop")
        assert await blobs.list("shop") == []
        assert await blobs.stat("shop", KEYS[-1]) is None
        assert len(await blobs.list("other")) == 5
        await blobs.drop("shop")
        await blobs.write("shop", "k", stream(b"again"))
        assert await read(blobs, "k") == b"again"
