"""Uploads and the code of services, below one folder a namespace, which nobody else enters:
`<namespace>/uploads/` and `<namespace>/services/<name>/<version>/<n>/`, with its archive beside it as `<n>.tar.gz`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from micro.backends.process import archive
from micro.backends.process.archive import Limits
from micro.domain import errors
from micro.domain.workload import Key
from micro.ports import private_file, private_folder
from micro.ports.runtime import Sources

_STALE = 3600.0
_UNUSED = 1024 * 1024 * 1024
_ID = re.compile(r"[0-9a-f]{32}")
_PACKED = ".tar.gz"

_log = logging.getLogger(__name__)


class FileSources(Sources):
    """Sources below a folder, which is made when it is missing.

    Args:
        limits: of one archive.
        unused: bytes of all uploads of a namespace that nobody has made a service of yet; each is kept for an hour.
        foreign: whether code here may be of services that others know of: then a sweep removes none.
    """

    def __init__(
        self, folder: Path, limits: Limits = archive.DEFAULT, unused: int = _UNUSED, *, foreign: bool = False
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._unused = unused
        self._foreign = foreign
        self._whole: set[Path] = set()
        """Folders that were looked at, or unpacked, by this process."""
        self._mending = asyncio.Lock()

    async def receive(self, pieces: AsyncIterator[bytes], namespace: str, account: str, most: int = 0) -> str:
        upload_id = secrets.token_hex(16)
        upload = self._upload(upload_id, namespace, account)
        partial = upload.with_suffix(".part")
        size = 0
        try:
            await asyncio.to_thread(private_folder.make, upload.parent)
            held = await asyncio.to_thread(_expire, upload.parent)
            with partial.open("xb") as file:
                async for piece in pieces:
                    size += len(piece)
                    self._check_size(size, namespace, most)
                    self._check_unused(held + size)
                    file.write(piece)
            if not size:
                raise errors.invalid_argument("the archive is empty")
            self._check_unused(await asyncio.to_thread(_expire, upload.parent))  # with what came at the same time
            partial.rename(upload)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise errors.unavailable(f"the archive cannot be kept: {error.strerror or error}") from error
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return upload_id

    async def unpack(self, upload_id: str, key: Key, generation: int, account: str) -> Path:
        try:
            if not _ID.fullmatch(upload_id):
                raise FileNotFoundError(upload_id)
            upload = self._upload(upload_id, key[0], account)
            taken = upload.rename(upload.with_suffix(".taken"))
        except FileNotFoundError:
            raise errors.not_found(f"there is no upload {upload_id[:40]!r}: upload the source again") from None
        target = self.folder(key, generation)
        try:
            await self.remove(key, generation)  # what an interrupted attempt left
            await asyncio.to_thread(private_folder.make, target.parent)
            await asyncio.to_thread(archive.unpack, taken, target, self._limits)
            await asyncio.to_thread(_keep, taken, _archive(target))
        except OSError as error:
            raise errors.unavailable(f"the source cannot be unpacked: {error.strerror or error}") from error
        finally:
            taken.unlink(missing_ok=True)
        self._whole.add(target)
        return target

    async def mend(self, key: Key, generation: int) -> None:
        folder = self.folder(key, generation)
        if not self._is_whole(folder):
            async with self._mending:
                if not self._is_whole(folder):
                    await asyncio.to_thread(self._mend, folder)
                    self._whole.add(folder)

    def _is_whole(self, folder: Path) -> bool:
        return folder in self._whole and folder.is_dir()

    def _mend(self, folder: Path) -> None:
        packed, cause = _archive(folder), ""
        try:
            if lost := archive.mend(packed, folder, self._limits):
                _log.warning("%s: %d files and folders that were lost are back", folder, lost)
        except FileNotFoundError:
            cause = "its archive is not there"
        except errors.Error as error:
            cause = error.message
        except OSError as error:
            raise errors.unavailable(f"the code in {folder} cannot be looked at: {error.strerror or error}") from error
        if cause and not folder.is_dir():
            raise errors.data_loss(f"the code is lost, and {cause}: run the service again from its source")
        if cause and packed.exists():
            _log.error("%s: %s: should any of the code be lost, it cannot be put back", folder, cause)

    def folder(self, key: Key, generation: int) -> Path:
        return self._services(key) / str(generation)

    async def remove(self, key: Key, generation: int | None = None) -> None:
        target = self._services(key) if generation is None else self.folder(key, generation)
        self._whole = {folder for folder in self._whole if not folder.is_relative_to(target)}
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        if generation is not None:
            _archive(target).unlink(missing_ok=True)
        self._prune(target.parent)

    async def keys(self) -> list[Key]:
        found = await asyncio.to_thread(lambda: list(self._folder.glob("*/services/*/*")))
        return sorted((path.parts[-4], path.parts[-2], path.parts[-1]) for path in found)

    async def sweep(self, wanted: Mapping[Key, int | None]) -> None:
        whole = {self._services(key) for key, generation in wanted.items() if generation is None}
        kept = {self.folder(key, generation) for key, generation in wanted.items() if generation is not None}
        await asyncio.to_thread(self._sweep, kept, whole)

    async def expire(self) -> None:
        for uploads in await asyncio.to_thread(self._uploads):
            await asyncio.to_thread(_expire, uploads)

    async def purge(self, namespace: str) -> None:
        folder = self._folder / namespace
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if folder.exists():
            raise errors.unavailable(f"what is kept of namespace {namespace} cannot all be removed: try again")

    def _sweep(self, wanted: set[Path], whole: set[Path]) -> None:
        for uploads in self._uploads():
            for interrupted in (*uploads.glob("*.part"), *uploads.glob("*.taken")):
                interrupted.unlink(missing_ok=True)
            _expire(uploads)
        for folder in () if self._foreign else self._folder.glob("*/services/*/*/*"):
            of = folder.with_name(folder.name.removesuffix(_PACKED))
            if of not in wanted and folder.parent not in whole:
                if of != folder:
                    folder.unlink(missing_ok=True)
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                self._prune(folder.parent)

    def _check_size(self, size: int, namespace: str, most: int) -> None:
        if most and size > most:
            raise errors.resource_exhausted(
                f"the archive is larger than the {most} bytes that quota upload of namespace {namespace} allows: leave "
                f"data out, or see `micro namespace quota {namespace}`"
            )
        if size > self._limits.packed:
            allowed = self._limits.packed // (1024 * 1024)
            raise errors.resource_exhausted(f"the archive is larger than {allowed} MiB: leave data out")

    def _check_unused(self, held: int) -> None:
        if held > self._unused:
            raise errors.resource_exhausted(
                f"the uploads that no service was made of exceed {self._unused // (1024 * 1024)} MiB: "
                f"try again when they have expired, within an hour"
            )

    def _prune(self, folder: Path) -> None:
        """Remove folders that have become empty, up to the namespace's `services`."""
        while len(folder.relative_to(self._folder).parts) > len(("namespace", "services")):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _services(self, key: Key) -> Path:
        namespace, name, version = key
        return self._folder / namespace / "services" / name / version

    def _uploads(self) -> list[Path]:
        return list(self._folder.glob("*/uploads"))

    def _upload(self, upload_id: str, namespace: str, account: str) -> Path:
        # Another account's id leads to a file that is not there.
        owner = hashlib.sha256(account.encode()).hexdigest()[:32]
        return self._folder / namespace / "uploads" / f"{upload_id}-{owner}.upload"


def _archive(folder: Path) -> Path:
    """What a folder of code was unpacked from."""
    return folder.with_name(f"{folder.name}{_PACKED}")


def _keep(taken: Path, packed: Path) -> None:
    """Keep an archive that was unpacked, on disk when this returns: the code itself may still be on its way there."""
    with taken.open("rb") as file:
        os.fsync(file.fileno())
    os.utime(taken)  # what was unpacked is older, and what the service writes is newer
    taken.rename(packed)
    private_file.sync_folder(packed.parent)


def _expire(uploads: Path) -> int:
    """Remove uploads older than an hour; return the bytes of the others. One that is being unpacked is in use."""
    before, held = time.time() - _STALE, 0
    for upload in (*uploads.glob("*.part"), *uploads.glob("*.upload")):
        try:
            seen = upload.stat()
            if seen.st_mtime < before:
                upload.unlink()
            else:
                held += seen.st_size
        except FileNotFoundError:
            continue  # used or given up meanwhile
    return held
