"""Sources on disk."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from micro.backends.files.sources import FileSources
from micro.backends.process.archive import Limits
from micro.domain.errors import Error, Kind

KEY = ("micro", "hello", "latest")
ANN = ("micro", "micro/ann")


async def pieces(*data: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
    if then is not None:
        raise then


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("main.py"), io.BytesIO())
    return buffer.getvalue()


def upload(upload_id: str, account: str = ANN[1]) -> str:
    """Name of the file of an upload."""
    return f"{upload_id}-{hashlib.sha256(account.encode()).hexdigest()[:32]}.upload"


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_an_upload_becomes_a_folder_once(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    upload_id = await sources.receive(pieces(archive()[:50], b"", archive()[50:]), *ANN)
    assert await sources.unpack(upload_id, KEY, 1, ANN[1]) == sources.folder(KEY, 1)
    assert left(tmp_path) == ["micro/services/hello/latest/1.tar.gz", "micro/services/hello/latest/1/main.py"]
    with pytest.raises(Error) as caught:
        await sources.unpack(upload_id, KEY, 2, ANN[1])
    assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.parametrize("upload_id", ["", "..", "../../etc/passwd", "x" * 32, "\0", "0" * 32])
async def test_an_id_that_was_never_given_out_is_not_found(tmp_path: Path, upload_id: str) -> None:
    with pytest.raises(Error) as caught:
        await FileSources(tmp_path).unpack(upload_id, KEY, 1, ANN[1])
    assert caught.value.kind is Kind.NOT_FOUND


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    sources = FileSources(tmp_path, Limits(packed=10))
    with pytest.raises(ZeroDivisionError):
        await sources.receive(pieces(b"abc", then=ZeroDivisionError()), *ANN)
    with pytest.raises(Error) as large:
        await sources.receive(pieces(b"abcdef", b"abcdef"), *ANN)
    with pytest.raises(Error) as empty:
        await sources.receive(pieces(), *ANN)
    assert (large.value.kind, empty.value.kind) == (Kind.RESOURCE_EXHAUSTED, Kind.INVALID_ARGUMENT)
    assert left(tmp_path) == []


async def test_a_bad_archive_leaves_nothing(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    with pytest.raises(Error) as caught:
        await sources.unpack(await sources.receive(pieces(b"nonsense"), *ANN), KEY, 1, ANN[1])
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert left(tmp_path) == []


async def test_sweeping_keeps_what_is_wanted(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    for generation in (1, 2, 3):
        await sources.unpack(await sources.receive(pieces(archive()), *ANN), KEY, generation, ANN[1])
    await sources.unpack(await sources.receive(pieces(archive()), *ANN), ("micro", "gone", "latest"), 1, ANN[1])
    fresh = await sources.receive(pieces(archive()), *ANN)
    stale = await sources.receive(pieces(archive()), *ANN)
    os.utime(tmp_path / "micro/uploads" / upload(stale), (0, 0))
    for interrupted in ("part", "taken"):
        (tmp_path / "micro/uploads" / f"{'0' * 32}.{interrupted}").touch()
    (tmp_path / "micro/services/hello/latest/.unpack-killed").mkdir()
    await sources.sweep({KEY: 2})
    kept = ["micro/services/hello/latest/2.tar.gz", "micro/services/hello/latest/2/main.py"]
    assert left(tmp_path) == [*kept, f"micro/uploads/{upload(fresh)}"]
    assert not (tmp_path / "micro/services/gone").exists()
    assert sorted(entry.name for entry in (tmp_path / "micro/services/hello/latest").iterdir()) == ["2", "2.tar.gz"]
    await FileSources(tmp_path, foreign=True).sweep({})
    assert left(tmp_path)[:2] == kept


async def test_removing_leaves_the_neighbours(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    other = ("micro", "hello", "v2")
    for key in (KEY, other):
        await sources.unpack(await sources.receive(pieces(archive()), *ANN), key, 1, ANN[1])
    await sources.remove(KEY)
    await sources.remove(KEY)
    assert left(tmp_path) == ["micro/services/hello/v2/1.tar.gz", "micro/services/hello/v2/1/main.py"]
    await sources.remove(other, 1)
    assert list((tmp_path / "micro/services").iterdir()) == []


async def test_code_that_was_lost_is_put_back(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    code = await sources.unpack(await sources.receive(pieces(archive()), *ANN), KEY, 1, ANN[1])
    (code / "main.py").unlink()
    await FileSources(tmp_path).mend(KEY, 1)
    assert (code / "main.py").exists()
    shutil.rmtree(code)
    await sources.mend(KEY, 1)
    assert (code / "main.py").exists(), "also while it runs"


async def test_code_that_cannot_be_put_back_is_told(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    code = await sources.unpack(await sources.receive(pieces(archive()), *ANN), KEY, 1, ANN[1])
    packed = code.with_name("1.tar.gz")
    for damage, told in ((lambda: packed.write_bytes(b"!"), "cannot be read"), (packed.unlink, "is not there")):
        damage()
        await FileSources(tmp_path).mend(KEY, 1)
        code.rename(code.with_name("away"))
        with pytest.raises(Error, match=f"the code is lost, and .*{told}.*: run the service again") as caught:
            await FileSources(tmp_path).mend(KEY, 1)
        assert caught.value.kind is Kind.DATA_LOSS
        code.with_name("away").rename(code)


async def test_uploads_that_nobody_used_expire_with_the_next_one(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    stale, fresh = [await sources.receive(pieces(archive()), *ANN) for _ in range(2)]
    os.utime(tmp_path / "micro/uploads" / upload(stale), (0, 0))
    used = tmp_path / "micro/uploads" / ("0" * 32 + ".taken")
    used.write_bytes(b"being unpacked")
    os.utime(used, (0, 0))
    last = await sources.receive(pieces(archive()), *ANN)
    assert left(tmp_path) == sorted(
        [f"micro/uploads/{used.name}", f"micro/uploads/{upload(fresh)}", f"micro/uploads/{upload(last)}"]
    )
    os.utime(tmp_path / "micro/uploads" / upload(fresh), (0, 0))
    await sources.expire()
    assert left(tmp_path) == sorted([f"micro/uploads/{used.name}", f"micro/uploads/{upload(last)}"])


async def test_uploads_that_nobody_used_have_a_limit_together(tmp_path: Path) -> None:
    sources = FileSources(tmp_path, unused=1000)
    first = await sources.receive(pieces(archive().ljust(600, b"\0")), *ANN)
    with pytest.raises(Error, match="try again when they have expired") as caught:
        await sources.receive(pieces(b"x" * 600), *ANN)
    assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
    assert left(tmp_path) == [f"micro/uploads/{upload(first)}"]
    (tmp_path / "micro/uploads" / upload(first)).unlink()
    await sources.receive(pieces(b"x" * 600), *ANN)


async def test_uploads_that_come_at_the_same_time_share_the_limit(tmp_path: Path) -> None:
    sources = FileSources(tmp_path, unused=1000)

    async def overtaken() -> AsyncIterator[bytes]:
        yield b"x" * 600
        await sources.receive(pieces(b"x" * 900), *ANN)

    with pytest.raises(Error) as caught:
        await sources.receive(overtaken(), *ANN)
    assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
