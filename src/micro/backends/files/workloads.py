"""Workloads as JSON files: one a workload, replaced whole, readable by their owner only (they may hold secrets)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from micro.domain import errors
from micro.domain.workload import Key, Workload
from micro.ports.runtime import WorkloadStore

_log = logging.getLogger(__name__)


class FileWorkloads(WorkloadStore):
    """Workloads below a folder, which is made when it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, workload: Workload) -> None:
        try:
            await asyncio.to_thread(self._write, workload)
        except OSError as error:
            raise errors.unavailable(f"{workload} cannot be stored: {error.strerror or error}") from error

    async def delete(self, key: Key) -> None:
        try:
            await asyncio.to_thread(self._delete, key)
        except OSError as error:
            raise errors.unavailable(f"{key[1]} cannot be forgotten: {error.strerror or error}") from error

    async def list(self) -> list[Workload]:
        return list(await asyncio.to_thread(self._read_all))

    def _write(self, workload: Workload) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._file(workload.key)
        fresh = file.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as output:
            json.dump(asdict(workload), output, indent=1)
            output.flush()
            os.fsync(output.fileno())
        fresh.replace(file)
        _sync_folder(self._folder)

    def _delete(self, key: Key) -> None:
        self._file(key).unlink(missing_ok=True)
        if self._folder.is_dir():
            _sync_folder(self._folder)

    def _read_all(self) -> Sequence[Workload]:
        found = []
        for file in self._folder.glob("*.json"):
            try:
                found.append(_decode(json.loads(file.read_text())))
            except (OSError, ValueError, TypeError, KeyError) as error:
                _log.error("%s cannot be read and is left alone: %s", file, error)
        return sorted(found, key=lambda workload: workload.key)

    def _file(self, key: Key) -> Path:
        # A readable name, made unique by a digest: two namespaces may differ in nothing but where a hyphen stands.
        digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]
        return self._folder / f"{'-'.join(key)[:180]}-{digest}.json"


def _decode(found: dict[str, Any]) -> Workload:
    return Workload(
        namespace=found["namespace"],
        name=found["name"],
        version=found["version"],
        source=found["source"],
        env=dict(found["env"]),
        instances=int(found["instances"]),
        metadata=dict(found["metadata"]),
        generation=int(found["generation"]),
        revision=int(found["revision"]),
        error=found["error"],
        updated=found["updated"],
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
