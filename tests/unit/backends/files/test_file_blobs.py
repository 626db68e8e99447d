"""Blobs as files: what is damaged, cut off, killed or without room."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from micro.backends.files._blob_file import _END
from micro.backends.files.blobs import FileBlobs
from micro.domain.errors import Error, Kind
from micro.ports.blobs import PIECE_BYTES

KILLS = int(os.environ.get("MICRO_SOAK", "4"))


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def read(blobs: FileBlobs, key: str = "k", start: int = 0, length: int | None = None) -> bytes:
    async with aclosing(blobs.read("shop", key, start, length)) as pieces:
        return b"".join([piece async for piece in pieces])


@pytest.fixture
async def blobs(tmp_path: Path) -> FileBlobs:
    made = FileBlobs(tmp_path / "blobs")
    async with AsyncExitStack() as stack:
        await made.start(stack)
    return made


def open_files() -> int:
    """Of blobs: other descriptors of this process come and go."""
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += "/blobs/" in str(path.readlink())
    return count


def flipped(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


async def test_only_the_owner_reads_and_names_stay_readable(blobs: FileBlobs, tmp_path: Path) -> None:
    await blobs.write("shop", "photos/ann.png", stream(b"v"))
    await blobs.write("shop", "../out", stream(b"v"))
    await blobs.write("shop", "x" * 100, stream(b"v"))
    found = {str(path.relative_to(tmp_path / "blobs")): path for path in (tmp_path / "blobs").rglob("*")}
    assert sorted(found) == [
        ".drafts",
        "shop",
        "shop/%2E.%2Fout",
        "shop/photos%2Fann.png",
        "shop/" + "x" * 80 + "+",
        "shop/" + "x" * 80 + "+/" + "x" * 20,
    ]
    assert {path.stat().st_mode & 0o777 for path in found.values() if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in found.values() if path.is_file()} == {0o600}
    await blobs.delete("shop", "x" * 100)
    assert not (tmp_path / "blobs/shop" / ("x" * 80 + "+")).exists()


async def test_a_flipped_bit_anywhere_is_never_told_as_content(blobs: FileBlobs, tmp_path: Path) -> None:
    content = os.urandom(PIECE_BYTES + 1000)
    await blobs.write("shop", "k", stream(content), metadata={"a": "b"})
    path = tmp_path / "blobs/shop/k"
    good = path.read_bytes()
    trailer = len(content)
    for position in (0, PIECE_BYTES - 1, PIECE_BYTES, trailer - 1, *range(trailer, len(good), 7)):
        flipped(path, position)
        with pytest.raises(Error) as told:
            await read(blobs)
        assert told.value.kind is Kind.DATA_LOSS, position
        path.write_bytes(good)
    assert await read(blobs) == content


async def test_a_range_is_checked_too_and_others_are_still_told(blobs: FileBlobs, tmp_path: Path) -> None:
    content = os.urandom(3 * PIECE_BYTES)
    await blobs.write("shop", "k", stream(content))
    flipped(tmp_path / "blobs/shop/k", PIECE_BYTES + 5)
    with pytest.raises(Error) as told:
        await read(blobs, "k", PIECE_BYTES + 100, 10)
    assert told.value.kind is Kind.DATA_LOSS
    assert await read(blobs, "k", 100, 10) == content[100:110]
    assert await read(blobs, "k", 2 * PIECE_BYTES) == content[2 * PIECE_BYTES :]


async def test_a_file_that_was_cut_off_or_swapped_is_damaged(blobs: FileBlobs, tmp_path: Path) -> None:
    await blobs.write("shop", "k", stream(b"content"))
    await blobs.write("shop", "other", stream(b"content"))
    path = tmp_path / "blobs/shop/k"
    good = path.read_bytes()
    for length in (0, 1, 7, _END.size, len(good) - 1):
        path.write_bytes(good[:length])
        for asking in (read(blobs), blobs.stat("shop", "k"), blobs.list("shop")):
            with pytest.raises(Error, match="blob 'k' is damaged") as told:
                await asking
            assert told.value.kind is Kind.DATA_LOSS
    path.write_bytes((tmp_path / "blobs/shop/other").read_bytes())
    with pytest.raises(Error, match="damaged"):
        await blobs.stat("shop", "k")
    assert await blobs.delete("shop", "k")
    await blobs.write("shop", "k", stream(b"anew"))
    assert await read(blobs) == b"anew"


async def test_without_room_nothing_is_half_there(blobs: FileBlobs, tmp_path: Path) -> None:
    await blobs.write("shop", "k", stream(b"old"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(Error, match="blob 'k' cannot be kept: File too large") as told:
            await blobs.write("shop", "k", stream(*[bytes(300_000)] * 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.kind is Kind.RESOURCE_EXHAUSTED
    assert blobs.healthy()
    assert await read(blobs) == b"old"
    assert list((tmp_path / "blobs/.drafts").iterdir()) == []


async def test_a_folder_that_is_gone_is_told(blobs: FileBlobs, tmp_path: Path) -> None:
    (tmp_path / "blobs/.drafts").rmdir()
    with pytest.raises(Error, match="blob 'k' cannot be reached") as told:
        await blobs.write("shop", "k", stream(b"v"))
    assert told.value.kind is Kind.UNAVAILABLE
    assert not blobs.healthy()


async def test_what_crashed_writers_left_is_swept_at_start(blobs: FileBlobs, tmp_path: Path) -> None:
    await blobs.write("shop", "k", stream(b"v"))
    (tmp_path / "blobs/.drafts/leftover").write_bytes(b"half")
    (tmp_path / "blobs/.drafts/dropped/folder").mkdir(parents=True)
    again = FileBlobs(tmp_path / "blobs")
    async with AsyncExitStack() as stack:
        await again.start(stack)
    assert list((tmp_path / "blobs/.drafts").iterdir()) == []
    assert await read(again) == b"v"


async def test_folders_that_empty_while_others_are_written_cost_nobody_a_blob(blobs: FileBlobs) -> None:
    async def churn(key: str) -> None:
        for _ in range(50):
            await blobs.write("shop", key, stream(b"v"))
            assert await read(blobs, key) == b"v"
            assert await blobs.delete("shop", key)

    await asyncio.gather(*(churn("x" * 80 + suffix) for suffix in ("a", "b", "c")))


async def test_readers_leave_no_files_open(blobs: FileBlobs) -> None:
    await blobs.write("shop", "k", stream(bytes(20 * PIECE_BYTES)))
    before = open_files()
    for _ in range(10):
        async with aclosing(blobs.read("shop", "k")) as pieces:
            await anext(pieces)
    for _ in range(10):
        reading = asyncio.ensure_future(read(blobs))  # owned: cancelled below
        await asyncio.sleep(0.002)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    async with asyncio.timeout(30):
        while open_files() > before:
            await asyncio.sleep(0.01)


WRITER = """
import asyncio, sys
from contextlib import AsyncExitStack
from pathlib import Path
from micro.backends.files.blobs import FileBlobs

async def pieces(number):
    for _ in range(number % 7 + 1):
        yield bytes([number % 251]) * (100_000 + number % 251)

async def main():
    async with AsyncExitStack() as stack:
        blobs = FileBlobs(Path(sys.argv[1]))
        await blobs.start(stack)
        for number in range(int(sys.argv[2]), 1 << 30):
            await blobs.write("shop", "k", pieces(number), metadata={"n": str(number)})
            print(number, flush=True)

asyncio.run(main())
"""


def test_a_killed_writer_leaves_one_whole_blob(tmp_path: Path) -> None:
    """And never one that is older than what was acknowledged."""
    acknowledged = -1
    for kill in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "blobs"), str(acknowledged + 1)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(3 + kill % 5):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split(b"\n")[:-1]
        writer.wait()
        writer.stdout.close()
        acknowledged = int(rest[-1]) if rest else acknowledged

        async def found() -> tuple[int, bytes]:
            async with AsyncExitStack() as stack:
                blobs = FileBlobs(tmp_path / "blobs")
                await blobs.start(stack)
                blob = await blobs.stat("shop", "k")
                assert blob is not None
                return int(blob.metadata["n"]), await read(blobs)

        number, content = asyncio.run(found())
        assert number in (acknowledged, acknowledged + 1)
        piece = bytes([number % 251]) * (100_000 + number % 251)
        assert content == piece * (number % 7 + 1)
        assert list((tmp_path / "blobs/.drafts").iterdir()) == []
        acknowledged = number
