"""Workloads as JSON files: one a workload, below a folder a namespace, replaced whole, readable by their owner only
(they may hold secrets)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from micro.backends.files import naming
from micro.domain import errors
from micro.domain.workload import Key, Workload
from micro.ports import private_file, private_folder
from micro.ports.runtime import WorkloadStore

_log = logging.getLogger(__name__)


class FileWorkloads(WorkloadStore):
    """Workloads in `<folder>/<namespace>/workloads/`, which are made when they are missing."""

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
        file = self._file(workload.key)
        private_folder.make(file.parent)
        private_file.write(file, json.dumps(asdict(workload), indent=1))

    def _delete(self, key: Key) -> None:
        file = self._file(key)
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            private_file.sync_folder(file.parent)

    def _read_all(self) -> Sequence[Workload]:
        found = []
        for file in self._folder.glob("*/workloads/*.json"):
            try:
                workload = _decode(json.loads(file.read_text()))
                if self._file(workload.key) != file:
                    raise ValueError(f"it is about {workload} of namespace {workload.namespace}")
                found.append(workload)
            except (OSError, ValueError, TypeError, KeyError) as error:
                _log.error("%s cannot be read and is left alone: %s", file, error)
        return sorted(found, key=lambda workload: workload.key)

    def _file(self, key: Key) -> Path:
        return self._folder / key[0] / "workloads" / naming.file_name(key)


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
        owner=found.get("owner", ""),  # nobody's, where it was made before there were accounts
    )
