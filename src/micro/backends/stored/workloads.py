"""Workloads as records of a store; their environment, which may hold secrets, is sealed."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from micro.backends.stored._records import Records, encoded
from micro.backends.stored._sealed import Sealed
from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.record import Delete, Put, Query, Record
from micro.domain.workload import Key, Workload
from micro.ports.runtime import WorkloadStore
from micro.ports.sealing import Sealing
from micro.ports.store import Store

DATABASE = "runtime"

WORKLOADS = "workloads"
"""NAMESPACE/NAME/VERSION."""

ACCOUNTS = "accounts"
"""The same: what services log in with."""

_log = logging.getLogger(__name__)


class RuntimeRecords:
    """The runtime's database: what is to run, and what services log in with."""

    def __init__(self, store: Store, sealing: Sealing) -> None:
        self._records = Records(store, DATABASE)
        self._sealed = Sealed(self._records, sealing, DATABASE)

    async def start(self, stack: AsyncExitStack) -> None:
        await self._records.start(stack)
        await self.open()

    async def open(self) -> None:
        """The rest of `start`, for a store that somebody else has started."""
        await self._sealed.start()

    def healthy(self) -> bool:
        return self._records.healthy()

    async def write(self, table: str, key: Key, clear: dict[str, Any], secret: object) -> None:
        """Keep both under the key, the secret sealed."""
        place = "/".join(key)
        sealed = self._sealed.seal(f"{table}/{place}", json.dumps(secret))
        await self._records.commit([Put(table, place, encoded({**clear, "sealed": sealed}))])

    async def read(self, table: str, key: Key) -> tuple[dict[str, Any], Any] | None:
        found = await self._records.record(table, "/".join(key))
        return None if found is None else self._opened(table, found)

    async def remove(self, table: str, key: Key) -> None:
        await self._records.commit([Delete(table, "/".join(key))])

    async def keys(self, table: str) -> list[Key]:
        """All, sorted."""
        found = self._records.scan(table, Query(keys_only=True))
        return sorted([_key(record.key) async for record in found])

    async def all(self, table: str) -> list[tuple[dict[str, Any], Any]]:
        """All, without those that are damaged: they are logged and left alone."""
        found = []
        async for record in self._records.scan(table, Query()):
            try:
                found.append(self._opened(table, record))
            except Error as error:
                if error.kind is not Kind.DATA_LOSS:
                    raise
                _log.error("%s of %s cannot be read and is left alone: %s", record.key, table, error)
        return found

    async def purge(self, namespace: str) -> None:
        """Remove all of a namespace, whatever it is."""
        for table in (WORKLOADS, ACCOUNTS):
            await self._records.remove_below(table, f"{namespace}/")

    def _opened(self, table: str, record: Record) -> tuple[dict[str, Any], Any]:
        kept = self._records.decoded(table, record)
        try:
            sealed = kept.pop("sealed")
        except (AttributeError, KeyError, TypeError):
            raise errors.data_loss(f"{record.key!r} of {table} has nothing of ours in it") from None
        return kept, json.loads(self._sealed.open(f"{table}/{record.key}", sealed))


class StoredWorkloads(WorkloadStore):
    """Workloads in the runtime's database, which somebody else starts."""

    def __init__(self, records: RuntimeRecords) -> None:
        self._records = records

    async def put(self, workload: Workload) -> None:
        clear = asdict(workload)
        env = clear.pop("env")
        await _told(f"{workload} cannot be stored", self._records.write(WORKLOADS, workload.key, clear, env))

    async def delete(self, key: Key) -> None:
        await _told(f"{key[1]} cannot be forgotten", self._records.remove(WORKLOADS, key))

    async def purge(self, namespace: str) -> None:
        await _told(f"what is kept of namespace {namespace} cannot be removed", self._records.purge(namespace))

    async def list(self) -> list[Workload]:
        found = [Workload(**clear, env=env) for clear, env in await self._records.all(WORKLOADS)]
        return sorted(found, key=lambda workload: workload.key)

    async def keys(self) -> builtins.list[Key]:
        return await self._records.keys(WORKLOADS)


async def _told(what: str, work: Awaitable[None]) -> None:
    """Do it. Raises UNAVAILABLE with what could not be done: it may be tried again, whatever the reason."""
    try:
        await work
    except Error as error:
        raise errors.unavailable(f"{what}: {error.message}") from error


def _key(place: str) -> Key:
    namespace, name, version = place.split("/")
    return namespace, name, version
