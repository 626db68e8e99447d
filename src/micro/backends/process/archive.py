"""Unpacks what strangers send: gzip-compressed tar archives of regular files and folders, and nothing else."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from micro.domain import errors
from micro.domain.errors import Error

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_HEADER = 1024 * 1024  # it is read into memory


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold at most; larger ones are refused while they are read, not after."""

    packed: int = 64 * 1024 * 1024
    """Bytes, compressed."""

    unpacked: int = 256 * 1024 * 1024
    """Bytes in all, headers included."""

    files: int = 10_000
    """Files and folders."""

    part: int = 255
    """Bytes of one part of a path."""

    depth: int = 64
    """Parts of a path."""

    path: int = 2048
    """Bytes of a whole path."""


DEFAULT = Limits()


class _Counted:
    """A stream that stops at a limit, so that a bomb is noticed while it goes off."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._left = limit
        self._limit = limit

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise errors.invalid_argument(
                f"the archive unpacks to more than {self._limit // (1024 * 1024)} MiB: leave data out of it"
            )
        return data


class _Member(tarfile.TarInfo):
    """A member whose extended header is measured before it is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors_: str) -> Self:
        member = super().frombuf(buf, encoding, errors_)
        if member.type in _EXTENDED and not 0 <= member.size <= _MAX_HEADER:
            raise errors.invalid_argument("the archive holds a header that is too large")
        return member


def unpack(archive: Path, target: Path, limits: Limits = DEFAULT) -> None:
    """Unpack the archive into the folder `target`, which must not exist yet: whole, or not at all.

    Raises:
        Error: INVALID_ARGUMENT that names the offending member or limit; ALREADY_EXISTS when the target is there.
    """
    if archive.stat().st_size > limits.packed:
        raise errors.invalid_argument(f"the archive is larger than {limits.packed // (1024 * 1024)} MiB")
    if target.exists():
        raise errors.already_exists(f"{target} is there already")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
    try:
        with _told():
            for tar, member in _members(archive, limits):
                _write(tar, member, fresh, limits)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def mend(archive: Path, target: Path, limits: Limits = DEFAULT) -> int:
    """Put back into the folder what the archive holds and was lost: what is not there, and what is not as it was though
    nobody has written it since the archive's own time. All else stays. Returns how many files and folders it was.

    Raises:
        Error: INVALID_ARGUMENT when the archive cannot be read; then nothing has changed.
    """
    written = archive.stat().st_mtime_ns
    with _told():
        lost = [
            parts
            for tar, member in _members(archive, limits)
            if not _is_there(tar, member, target.joinpath(*(parts := _parts(member.name, limits))), written)
        ]
    if lost and not target.is_dir():
        target.unlink(missing_ok=True)
        unpack(archive, target, limits)
        os.utime(archive)  # now nothing of it was written since
    elif lost:
        fresh = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
        try:
            unpack(archive, fresh / "code", limits)
            for parts in lost:
                _put_back(fresh / "code", target, parts, written)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return len(lost)


def _is_there(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, written: int) -> bool:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if member.isdir() or status.st_mtime_ns > written:
        return member.isdir() == path.is_dir()
    source = tar.extractfile(member)
    if source is None or status.st_size != member.size or not path.is_file():
        return False
    with path.open("rb") as found:
        return all(found.read(len(piece)) == piece for piece in iter(lambda: source.read(256 * 1024), b""))


def _put_back(fresh: Path, target: Path, parts: tuple[str, ...], written: int) -> None:
    for depth in range(len(parts)):
        folder = target.joinpath(*parts[:depth])
        if not folder.is_dir():
            folder.unlink(missing_ok=True)
            folder.mkdir(mode=0o755, parents=True)
    found, path = fresh.joinpath(*parts), target.joinpath(*parts)
    if path.is_dir() and not path.is_symlink() and not found.is_dir():
        shutil.rmtree(path)
    if not found.is_dir():
        os.utime(found, ns=(written, written))
        found.replace(path)
    elif not path.is_dir():
        path.unlink(missing_ok=True)
        path.mkdir(mode=0o755)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Error:
        raise
    except (tarfile.TarError, zlib.error, EOFError, ValueError, gzip.BadGzipFile) as error:
        raise errors.invalid_argument(f"the archive cannot be read as tar.gz: {error}") from error
    except OverflowError as error:
        raise errors.invalid_argument("the archive cannot be read as tar.gz: a number in it is out of range") from error


def _members(archive: Path, limits: Limits) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Of an archive, each while it can be read; the checksum is checked after the last one."""
    count = 0
    with archive.open("rb") as packed, gzip.GzipFile(fileobj=packed) as stream:
        counted = cast("IO[bytes]", _Counted(cast("IO[bytes]", stream), limits.unpacked))
        with tarfile.open(fileobj=counted, mode="r|", errorlevel=2, tarinfo=_Member) as tar:
            for member in tar:
                count += 1
                if count > limits.files:
                    raise errors.invalid_argument(f"the archive holds more than {limits.files:,} files")
                yield tar, member
        while counted.read(64 * 1024):  # the gzip checksum stands at the end
            continue
    if count == 0:
        raise errors.invalid_argument("the archive is empty")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, limits: Limits) -> None:
    path = target.joinpath(*_parts(member.name, limits))
    try:
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
            return
        if member.issym() or member.islnk():
            raise errors.invalid_argument(f"{member.name!r} is a link: an archive holds files and folders only")
        if not member.isreg() or member.sparse is not None:
            raise errors.invalid_argument(f"{member.name!r} is neither a file nor a folder")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        source = tar.extractfile(member)
        assert source is not None
        mode = 0o755 if member.mode & 0o100 else 0o644
        # Exclusive and never through a link: a second member of the same name is refused like everything odd.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as output:
            shutil.copyfileobj(source, output, 256 * 1024)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise errors.invalid_argument(f"{member.name!r} is in the archive twice") from error


def _parts(name: str, limits: Limits) -> tuple[str, ...]:
    """The parts of a member's path, each of them safe below any folder."""
    if name.startswith("/"):
        raise errors.invalid_argument(f"{name!r} is an absolute path")
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise errors.invalid_argument(f"{name!r} leads out of the archive")
    if len(parts) > limits.depth or len(os.fsencode(name)) > limits.path:
        raise errors.invalid_argument(
            f"{name[:80]!r}… is a path deeper than {limits.depth} folders or longer than {limits.path} bytes"
        )
    for part in parts:
        if "\0" in part or any(ord(char) < 32 for char in part):
            raise errors.invalid_argument(f"{name!r} holds a control character")
        if len(os.fsencode(part)) > limits.part:
            raise errors.invalid_argument(f"{part[:40]!r}… is longer than {limits.part} bytes")
    return parts
