"""`from micro import blobs`, over the platform in this process."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from micro import blobs
from micro.domain.errors import Error, Kind
from micro.testing import platform


@pytest.fixture(autouse=True)
async def running() -> AsyncGenerator[None]:
    async with platform.running():
        yield


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


async def collected(told: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in told])


async def test_bytes_come_back_whole_and_in_part() -> None:
    content = bytes(range(256)) * 5000
    written = await blobs.write("a/b.bin", content, content_type="x/y", metadata={"who": "Ann"}, public=True)
    assert written.checksum == hashlib.sha256(content).hexdigest()
    assert await blobs.stat("a/b.bin") == written
    assert (written.content_type, written.metadata, written.public) == ("x/y", {"who": "Ann"}, True)
    assert await blobs.get("a/b.bin") == content
    assert await collected(blobs.read("a/b.bin")) == content
    assert await collected(blobs.read("a/b.bin", 255, 3)) == content[255:258]
    assert await collected(blobs.read("a/b.bin", 255, 0)) == b""
    assert await collected(blobs.read("a/b.bin", len(content) - 1)) == b"\xff"


async def test_a_stream_of_pieces_is_one_blob() -> None:
    await blobs.write("k", pieces(b"a" * 1_000_000, b"", b"b"))
    assert await blobs.get("k") == b"a" * 1_000_000 + b"b"


async def test_what_fails_while_it_is_written_is_told_and_not_kept() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise LookupError("the source broke")

    await blobs.write("k", b"old")
    with pytest.raises(LookupError, match="the source broke"):
        await blobs.write("k", broken())
    assert await blobs.get("k") == b"old"


async def test_more_than_was_asked_for_is_not_collected() -> None:
    await blobs.write("k", b"12345")
    with pytest.raises(Error, match=r"read it in pieces with blobs\.read") as told:
        await blobs.get("k", most=4)
    assert told.value.kind is Kind.RESOURCE_EXHAUSTED
    assert await blobs.get("k", most=5) == b"12345"


async def test_lists_go_on_over_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro.services.blobs.PAGE", 2)
    for key in ("a/1", "a/2", "a/3", "b"):
        await blobs.write(key, key.encode())
    assert [blob.key async for blob in blobs.list("a/")] == ["a/1", "a/2", "a/3"]
    assert [blob.key async for blob in blobs.list(after="a/2")] == ["a/3", "b"]
    assert await blobs.delete("b")
    assert not await blobs.delete("b")
    assert [blob.size async for blob in blobs.list("b")] == []


@pytest.mark.parametrize(
    ("key", "options", "kind"),
    [
        ("", {}, Kind.INVALID_ARGUMENT),
        ("x" * 1025, {}, Kind.INVALID_ARGUMENT),
        ("k", {"content_type": "none"}, Kind.INVALID_ARGUMENT),
        ("k", {"content_type": "text/html\r\nset-cookie: a=b"}, Kind.INVALID_ARGUMENT),
        ("k", {"checksum": "abc"}, Kind.INVALID_ARGUMENT),
        ("k", {"checksum": "0" * 64}, Kind.INVALID_ARGUMENT),
        ("k", {"metadata": {"k": "v" * 20_000}}, Kind.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_kept_is_refused(key: str, options: dict[str, str], kind: Kind) -> None:
    with pytest.raises(Error) as told:
        await blobs.write(key, b"v", **options)  # type: ignore[arg-type]
    assert told.value.kind is kind
    assert [blob.key async for blob in blobs.list()] == []


async def test_what_is_not_there_is_not_found() -> None:
    for asking in (blobs.get("k"), blobs.stat("k"), collected(blobs.read("k")), collected(blobs.read("k", 0, 0))):
        with pytest.raises(Error) as told:
            await asking
        assert told.value.kind is Kind.NOT_FOUND


async def test_a_range_is_one() -> None:
    await blobs.write("k", b"v")
    with pytest.raises(Error, match="offset -1 is below 0"):
        await collected(blobs.read("k", -1))


async def test_as_many_blobs_go_at_a_time_as_may_and_one_that_ends_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro.services.blobs.STREAMS", 2)
    begun, going_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * (1 << 20)
        begun.release()
        await going_on.wait()

    writing = [asyncio.ensure_future(blobs.write(key, slow())) for key in ("one", "other")]
    for _ in writing:
        await begun.acquire()

    async def refused() -> None:
        while True:  # until the service has heard of both
            await blobs.write("more", b"y")

    with pytest.raises(Error, match="2 blobs of namespace micro are being read and written") as told:
        async with asyncio.timeout(30):
            await refused()
    assert told.value.kind is Kind.RESOURCE_EXHAUSTED
    going_on.set()
    await asyncio.gather(*writing)
    await blobs.write("more", b"y")
