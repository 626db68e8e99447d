"""Uploads and the code of services, below one folder: `uploads/` and `services/<namespace>/<name>/<version>/<n>/`."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from micro.backends.process import archive
from micro.backends.process.archive import Limits
from micro.domain import errors
from micro.domain.workload import Key
from micro.ports.runtime import Sources

_STALE = 3600.0
_UNUSED = 1024 * 1024 * 1024
_ID = re.compile(r"[0-9a-f]{32}")


class FileSources(Sources):
    """Sources below a folder, which is made when it is missing.

    Args:
        limits: of one archive.
        unused: bytes of all uploads together that nobody has made a service of yet; each is kept for an hour.
    """

    def __init__(self, folder: Path, limits: Limits = archive.DEFAULT, unused: int = _UNUSED) -> None:
        self._uploads = folder / "uploads"
        self._services = folder / "services"
        self._limits = limits
        self._unused = unused

    async def receive(self, pieces: AsyncIterator[bytes]) -> str:
        self._uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        upload_id = secrets.token_hex(16)
        partial = self._uploads / f"{upload_id}.part"
        held = await asyncio.to_thread(self._expire)
        size = 0
        try:
            with partial.open("xb") as file:
                async for piece in pieces:
                    size += len(piece)
                    if size > self._limits.packed:
                        allowed = self._limits.packed // (1024 * 1024)
                        raise errors.resource_exhausted(f"the archive is larger than {allowed} MiB: leave data out")
                    self._check_unused(held + size)
                    file.write(piece)
            if not size:
                raise errors.invalid_argument("the archive is empty")
            self._check_unused(await asyncio.to_thread(self._expire))  # with what came at the same time
            partial.rename(self._upload(upload_id))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise errors.unavailable(f"the archive cannot be kept: {error.strerror or error}") from error
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return upload_id

    async def unpack(self, upload_id: str, key: Key, generation: int) -> Path:
        taken = self._uploads / f"{upload_id}.taken"
        try:
            if not _ID.fullmatch(upload_id):
                raise FileNotFoundError(upload_id)
            self._upload(upload_id).rename(taken)
        except FileNotFoundError:
            raise errors.not_found(f"there is no upload {upload_id[:40]!r}: upload the source again") from None
        target = self.folder(key, generation)
        try:
            await self.remove(key, generation)  # what an interrupted attempt left
            await asyncio.to_thread(archive.unpack, taken, target, self._limits)
        except OSError as error:
            raise errors.unavailable(f"the source cannot be unpacked: {error.strerror or error}") from error
        finally:
            taken.unlink(missing_ok=True)
        return target

    def folder(self, key: Key, generation: int) -> Path:
        return self._services.joinpath(*key) / str(generation)

    async def remove(self, key: Key, generation: int | None = None) -> None:
        target = self._services.joinpath(*key) if generation is None else self.folder(key, generation)
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        self._prune(target.parent)

    async def sweep(self, wanted: dict[Key, int]) -> None:
        await asyncio.to_thread(self._sweep, {self.folder(key, generation) for key, generation in wanted.items()})

    def _sweep(self, wanted: set[Path]) -> None:
        self._expire(("*",))
        for folder in self._services.glob("*/*/*/*"):
            if folder not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
                self._prune(folder.parent)

    def _expire(self, patterns: tuple[str, ...] = ("*.part", "*.tar.gz")) -> int:
        """Remove uploads older than an hour; return the bytes of the others. One that is being unpacked is in use."""
        before, held = time.time() - _STALE, 0
        for upload in (found for pattern in patterns for found in self._uploads.glob(pattern)):
            try:
                seen = upload.stat()
                if seen.st_mtime < before:
                    upload.unlink()
                else:
                    held += seen.st_size
            except FileNotFoundError:
                continue  # used or given up meanwhile
        return held

    def _check_unused(self, held: int) -> None:
        if held > self._unused:
            raise errors.resource_exhausted(
                f"the uploads that no service was made of exceed {self._unused // (1024 * 1024)} MiB: "
                f"try again when they have expired, within an hour"
            )

    def _prune(self, folder: Path) -> None:
        """Remove folders that have become empty."""
        while folder != self._services and folder.is_relative_to(self._services):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _upload(self, upload_id: str) -> Path:
        return self._uploads / f"{upload_id}.tar.gz"
