"""Archives of strangers: whatever is in them, nothing leaves the folder, and nothing is left when they are refused."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro.backends.process import archive
from micro.backends.process.archive import Limits
from micro.domain.errors import Error, Kind

Member = tuple[str, bytes, bytes, str, int]
"""Name, type, content, link target, mode."""


def pack(*members: Member, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tar_format) as tar:
        for name, kind, content, link, mode in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, mode
            info.size = len(content) if kind in tarfile.REGULAR_TYPES else 0
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> Member:
    return (name, tarfile.REGTYPE, content, "", mode)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    def run(data: bytes, limits: Limits = archive.DEFAULT) -> Path:
        (tmp_path / "a.tar.gz").write_bytes(data)
        archive.unpack(tmp_path / "a.tar.gz", tmp_path / "in" / "code", limits)
        return tmp_path / "in" / "code"

    return run


def test_files_and_folders_come_out_as_they_went_in(unpack: Callable[..., Path]) -> None:
    folder = ("proto", tarfile.DIRTYPE, b"", "", 0o755)
    code = unpack(pack(file("main.py", b"app = 1"), folder, file("./a/b/run.sh", b"#!", 0o777)))
    assert everything(code) == ["a", "a/b", "a/b/run.sh", "main.py", "proto"]
    assert (code / "main.py").read_bytes() == b"app = 1"
    assert stat.S_IMODE((code / "a/b/run.sh").stat().st_mode) & 0o777 in (0o755, 0o700)
    assert not (code / "main.py").stat().st_mode & stat.S_ISUID
    assert not (code / "main.py").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ([file("/etc/passwd")], "absolute"),
        ([file("../x")], "leads out"),
        ([file("a/../../x")], "leads out"),
        ([("link", tarfile.SYMTYPE, b"", "/etc", 0o777)], "link"),
        ([("link", tarfile.SYMTYPE, b"", "main.py", 0o777)], "link"),
        ([file("a"), ("hard", tarfile.LNKTYPE, b"", "a", 0o777)], "link"),
        ([("pipe", tarfile.FIFOTYPE, b"", "", 0o777)], "neither"),
        ([("device", tarfile.CHRTYPE, b"", "", 0o777)], "neither"),
        ([file("a"), file("a")], "twice"),
        ([file("a"), file("a/b")], "twice"),
        ([file("a\nb")], "control character"),
        ([file("x" * 256)], "longer than 255 bytes"),
        ([file("é" * 128)], "longer than 255 bytes"),
        ([file("a/" * 65 + "x")], "deeper than 64"),
        ([file("/".join(["x" * 250] * 10))], "longer than 2048 bytes"),
        ([], "empty"),
    ],
)
def test_what_is_not_allowed_is_named_and_nothing_is_left(
    unpack: Callable[..., Path], tmp_path: Path, members: list[Member], word: str
) -> None:
    with pytest.raises(Error, match=word) as caught:
        unpack(pack(file("good.py"), *members) if members else pack())
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert everything(tmp_path / "in") == []


def test_a_bomb_stops_at_the_limit(unpack: Callable[..., Path], tmp_path: Path) -> None:
    data = pack(file("zeros", bytes(20 * 1024 * 1024)))
    assert len(data) < 100_000
    with pytest.raises(Error, match="unpacks to more than 1 MiB"):
        unpack(data, Limits(unpacked=1024 * 1024))
    assert everything(tmp_path / "in") == []


def test_a_bomb_behind_the_end_of_the_archive_stops_too(unpack: Callable[..., Path]) -> None:
    with pytest.raises(Error, match="unpacks to more than 1 MiB"):
        unpack(pack(file("a")) + gzip.compress(bytes(20 * 1024 * 1024)), Limits(unpacked=1024 * 1024))


def test_a_sparse_file_is_refused_before_it_grows(unpack: Callable[..., Path]) -> None:
    info = tarfile.TarInfo("holes")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"00000000000\0"  # one hole of
    header[398:410] = b"00000000000\0"  # nothing,
    header[483:495] = b"77777777777\0"  # then 8 GiB of it
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(Error, match="neither") as caught:
        unpack(gzip.compress(bytes(header) + bytes(1024)))
    assert caught.value.kind is Kind.INVALID_ARGUMENT


def test_a_huge_header_is_refused_before_it_is_read(unpack: Callable[..., Path]) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 200 * 1024 * 1024
    with pytest.raises(Error, match="header that is too large"):
        unpack(gzip.compress(info.tobuf() + bytes(1024)))


def test_too_many_files_and_too_many_bytes_are_refused(unpack: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Error, match="more than 3 files"):
        unpack(pack(*(file(f"f{i}") for i in range(4))), Limits(files=3))
    with pytest.raises(Error, match="larger than"):
        unpack(pack(file("a", os.urandom(3000))), Limits(packed=1000))
    assert not (tmp_path / "in").exists() or everything(tmp_path / "in") == []


@pytest.mark.parametrize("cut", [0, 1, 10, 40, -1, -8, -20])
def test_a_damaged_archive_leaves_nothing(unpack: Callable[..., Path], tmp_path: Path, cut: int) -> None:
    data = pack(file("a", os.urandom(2000)))
    with pytest.raises(Error) as caught:
        unpack(data[:cut])
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert everything(tmp_path / "in") == []


def test_what_is_there_is_not_touched(unpack: Callable[..., Path]) -> None:
    code = unpack(pack(file("a", b"1")))
    with pytest.raises(Error) as caught:
        unpack(pack(file("a", b"2")))
    assert caught.value.kind is Kind.ALREADY_EXISTS
    assert (code / "a").read_bytes() == b"1"


_NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", "/", "a\\b", "~", "C:", "\x00", "é", "x" * 300, "a/..", "../..", "/tmp"])
    | st.text(max_size=8),
    max_size=6,
).map("/".join)
_KINDS = st.sampled_from(
    [
        *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE),
        *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"Z"),
    ]
)


def test_what_was_lost_is_put_back_and_what_was_written_stays(unpack: Callable[..., Path], tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    names = ("gone", "cut", "rotten", "written", "a/gone", "a/link", "b/c/gone", "folder", "same")
    code = unpack(pack(*(file(name, name.encode()) for name in names), ("empty", tarfile.DIRTYPE, b"", "", 0o755)))
    os.utime(packed)
    assert archive.mend(packed, code) == 0
    for name in ("gone", "a/gone", "a/link", "folder"):
        (code / name).unlink()
    shutil.rmtree(code / "b")
    (code / "b").write_text("a file in the place of a folder")
    (code / "empty").rmdir()
    (code / "folder").mkdir()
    (code / "a/link").symlink_to(tmp_path / "nowhere")
    written = packed.stat().st_mtime_ns
    for name, content in (("cut", b""), ("rotten", b"r0tten")):
        (code / name).write_bytes(content)
        os.utime(code / name, ns=(written, written))
    for name in ("written", "own"):
        (code / name).write_bytes(b"by the service")
        os.utime(code / name, ns=(written + 1, written + 1))
    os.utime(code / "folder", ns=(written, written))
    assert archive.mend(packed, code) == 8
    assert {name: (code / name).read_text() for name in names} == {name: name for name in names} | {
        "written": "by the service"
    }
    assert (code / "own").read_bytes() == b"by the service"
    assert (code / "empty").is_dir()
    assert sorted(entry.name for entry in code.parent.iterdir()) == ["code"]
    assert archive.mend(packed, code) == 0
    shutil.rmtree(code)
    assert archive.mend(packed, code) > 0
    assert (code / "b/c/gone").read_text() == "b/c/gone"
    assert archive.mend(packed, code) == 0


def test_a_damaged_archive_changes_nothing(unpack: Callable[..., Path], tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    code = unpack(pack(file("a", os.urandom(9000)), file("b")))
    (code / "a").unlink()
    (code / "b").unlink()
    packed.write_bytes(packed.read_bytes()[:-4])
    with pytest.raises(Error, match="cannot be read") as caught:
        archive.mend(packed, code)
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert everything(code.parent) == ["code"]


_MEMBERS = st.lists(
    st.tuples(_NAMES, _KINDS, st.binary(max_size=40), _NAMES, st.integers(0, 0o7777)), min_size=1, max_size=6
)


def unpacked_within(data: bytes) -> None:
    """Unpack in a folder that is all there is, and look whether anything else changed."""
    with tempfile.TemporaryDirectory() as name:
        world = Path(name)
        (world / "a.tar.gz").write_bytes(data)
        (world / "bystander").write_text("untouched")
        refused = None
        try:
            archive.unpack(world / "a.tar.gz", world / "in" / "code")
        except Error as error:
            refused = error.kind
        assert refused in (None, Kind.INVALID_ARGUMENT)
        assert refused is None or not (world / "in").exists() or everything(world / "in") == []
        for path in (world / "in").rglob("*"):
            assert not path.is_symlink()
            assert path.is_dir() or (path.is_file() and path.stat().st_nlink == 1)
        assert sorted(entry.name for entry in world.iterdir() if entry.name != "in") == ["a.tar.gz", "bystander"]
        assert (world / "bystander").read_text() == "untouched"


@settings(max_examples=150, deadline=None)
@given(_MEMBERS, st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_whatever_the_members_nothing_leaves_the_folder(members: list[Member], tar_format: int) -> None:
    try:
        data = pack(*members, tar_format=tar_format)
    except (ValueError, UnicodeError):  # this format cannot say that
        return
    unpacked_within(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_whatever_the_bytes_nothing_leaves_the_folder(data: bytes) -> None:
    unpacked_within(data)
    unpacked_within(gzip.compress(data))


@settings(max_examples=50, deadline=None)
@given(_MEMBERS, st.data())
def test_an_archive_with_flipped_bytes_does_no_harm(members: list[Member], data: st.DataObject) -> None:
    try:
        tar = bytearray(gzip.decompress(pack(*members, tar_format=tarfile.GNU_FORMAT)))
    except (ValueError, UnicodeError):
        return
    for _ in range(data.draw(st.integers(1, 5))):
        tar[data.draw(st.integers(0, min(len(tar), 2048) - 1))] = data.draw(st.integers(0, 255))
    unpacked_within(gzip.compress(bytes(tar)))
