"""Workloads and sources on disk."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.backends.files.sources import FileSources
from micro.backends.files.workloads import FileWorkloads, _decode
from micro.backends.process.archive import Limits
from micro.domain.errors import Error, Kind
from micro.domain.workload import Workload

KEY = ("micro", "hello", "latest")


async def test_workloads_are_kept_in_order_of_their_keys(tmp_path: Path) -> None:
    store = FileWorkloads(tmp_path / "w")
    assert await store.list() == []
    b = Workload("micro", "b", "latest", "./b", {"A": "1"}, 2, {"m": "n"}, 3, 4, "oh", "now")
    a = Workload("micro", "a", "latest")
    for workload in (b, a, b):
        await store.put(workload)
    assert await FileWorkloads(tmp_path / "w").list() == [a, b]
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "w").iterdir()} == {0o600}
    await store.delete(b.key)
    await store.delete(b.key)
    assert await store.list() == [a]


async def test_names_that_read_alike_do_not_collide(tmp_path: Path) -> None:
    store = FileWorkloads(tmp_path)
    alike = [Workload("a-b", "c", "v"), Workload("a", "b-c", "v"), Workload("a", "b", "c-v")]
    for workload in alike:
        await store.put(workload)
    assert await store.list() == sorted(alike, key=lambda workload: workload.key)


async def test_a_file_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    store = FileWorkloads(tmp_path)
    await store.put(Workload("micro", "a", "latest"))
    (tmp_path / "odd.json").write_text("{")
    assert [workload.name for workload in await store.list()] == ["a"]
    assert (tmp_path / "odd.json").exists()


async def test_a_store_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file where the folder should be")
    with pytest.raises(Error) as caught:
        await FileWorkloads(tmp_path / "w").put(Workload("micro", "a", "latest"))
    assert caught.value.kind is Kind.UNAVAILABLE


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_every_workload_survives_the_way_through_json(text: str, pairs: dict[str, str]) -> None:
    import json
    from dataclasses import asdict

    workload = Workload("micro", "a", "latest", text, pairs, 1, pairs, 1, 1, text, text)
    assert _decode(json.loads(json.dumps(asdict(workload)))) == workload


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


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_an_upload_becomes_a_folder_once(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    upload_id = await sources.receive(pieces(archive()[:50], b"", archive()[50:]))
    assert await sources.unpack(upload_id, KEY, 1) == sources.folder(KEY, 1)
    assert left(tmp_path) == ["services/micro/hello/latest/1/main.py"]
    with pytest.raises(Error) as caught:
        await sources.unpack(upload_id, KEY, 2)
    assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.parametrize("upload_id", ["", "..", "../../etc/passwd", "x" * 32, "\0", "0" * 32])
async def test_an_id_that_was_never_given_out_is_not_found(tmp_path: Path, upload_id: str) -> None:
    with pytest.raises(Error) as caught:
        await FileSources(tmp_path).unpack(upload_id, KEY, 1)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    sources = FileSources(tmp_path, Limits(packed=10))
    with pytest.raises(ZeroDivisionError):
        await sources.receive(pieces(b"abc", then=ZeroDivisionError()))
    with pytest.raises(Error) as large:
        await sources.receive(pieces(b"abcdef", b"abcdef"))
    with pytest.raises(Error) as empty:
        await sources.receive(pieces())
    assert (large.value.kind, empty.value.kind) == (Kind.RESOURCE_EXHAUSTED, Kind.INVALID_ARGUMENT)
    assert left(tmp_path) == []


async def test_a_bad_archive_leaves_nothing(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    with pytest.raises(Error) as caught:
        await sources.unpack(await sources.receive(pieces(b"nonsense")), KEY, 1)
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert left(tmp_path) == []


async def test_sweeping_keeps_what_is_wanted(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    for generation in (1, 2, 3):
        await sources.unpack(await sources.receive(pieces(archive())), KEY, generation)
    await sources.unpack(await sources.receive(pieces(archive())), ("micro", "gone", "latest"), 1)
    fresh = await sources.receive(pieces(archive()))
    stale = await sources.receive(pieces(archive()))
    os.utime(tmp_path / "uploads" / f"{stale}.tar.gz", (0, 0))
    await sources.sweep({KEY: 2})
    assert left(tmp_path) == ["services/micro/hello/latest/2/main.py", f"uploads/{fresh}.tar.gz"]
    assert not (tmp_path / "services/micro/gone").exists()


async def test_removing_leaves_the_neighbours(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    other = ("micro", "hello", "v2")
    for key in (KEY, other):
        await sources.unpack(await sources.receive(pieces(archive())), key, 1)
    await sources.remove(KEY)
    await sources.remove(KEY)
    assert left(tmp_path) == ["services/micro/hello/v2/1/main.py"]
    await sources.remove(other, 1)
    assert list((tmp_path / "services").iterdir()) == []


async def test_a_workload_that_cannot_be_removed_is_unavailable(tmp_path: Path) -> None:
    store = FileWorkloads(tmp_path)
    await store.put(Workload("micro", "a", "latest"))
    [file] = tmp_path.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(Error, match="a cannot be forgotten") as caught:
        await store.delete(("micro", "a", "latest"))
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_uploads_that_nobody_used_expire_with_the_next_one(tmp_path: Path) -> None:
    sources = FileSources(tmp_path)
    stale, fresh = [await sources.receive(pieces(archive())) for _ in range(2)]
    os.utime(tmp_path / "uploads" / f"{stale}.tar.gz", (0, 0))
    used = tmp_path / "uploads" / ("0" * 32 + ".taken")
    used.write_bytes(b"being unpacked")
    os.utime(used, (0, 0))
    last = await sources.receive(pieces(archive()))
    assert left(tmp_path) == sorted([f"uploads/{used.name}", f"uploads/{fresh}.tar.gz", f"uploads/{last}.tar.gz"])


async def test_uploads_that_nobody_used_have_a_limit_together(tmp_path: Path) -> None:
    sources = FileSources(tmp_path, unused=1000)
    first = await sources.receive(pieces(archive().ljust(600, b"\0")))
    with pytest.raises(Error, match="try again when they have expired") as caught:
        await sources.receive(pieces(b"x" * 600))
    assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
    assert left(tmp_path) == [f"uploads/{first}.tar.gz"]
    (tmp_path / "uploads" / f"{first}.tar.gz").unlink()
    await sources.receive(pieces(b"x" * 600))


async def test_uploads_that_come_at_the_same_time_share_the_limit(tmp_path: Path) -> None:
    sources = FileSources(tmp_path, unused=1000)

    async def overtaken() -> AsyncIterator[bytes]:
        yield b"x" * 600
        await sources.receive(pieces(b"x" * 900))

    with pytest.raises(Error) as caught:
        await sources.receive(overtaken())
    assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
