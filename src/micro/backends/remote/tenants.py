"""What other core services hold of a namespace, as auth counts and removes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from micro.domain import backoff, errors, topic
from micro.domain.errors import Error, Kind
from micro.rpc.client import Client
from micro.rpc.gen.micro.config.v1 import config_pb
from micro.rpc.gen.micro.config.v1.config_connect import ConfigClient
from micro.rpc.gen.micro.events.v1 import events_pb
from micro.rpc.gen.micro.events.v1.events_connect import TopicsClient
from micro.rpc.gen.micro.registry.v1 import registry_pb
from micro.rpc.gen.micro.registry.v1.registry_connect import RegistryClient
from micro.rpc.gen.micro.runtime.v1 import runtime_pb
from micro.rpc.gen.micro.runtime.v1.runtime_connect import RuntimeClient
from micro.rpc.gen.micro.store.v1 import store_pb
from micro.rpc.gen.micro.store.v1.store_connect import BackupClient, BlobStoreClient, StoreClient

T = TypeVar("T")

_PATIENCE_MS = 5000
_FORGET_SECONDS = 60.0
_PURGE_MS = 300_000
"""Services finish what is in flight first."""

_SILENT = (Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.CANCELED)


class RemoteTenants:
    """Over the RPCs of `runtime`, `registry`, `store`, `config` and `events`, each at its own address; calls need the
    admin scope of "micro"."""

    def __init__(self, runtime: Client, registry: Client, store: Client, config: Client, events: Client) -> None:
        self._runtime = runtime.of(RuntimeClient, "runtime")
        self._registry = registry.of(RegistryClient, "registry")
        self._store = store.of(StoreClient, "store")
        self._blobs = store.of(BlobStoreClient, "store")
        self._backup = store.of(BackupClient, "store")
        self._config = config.of(ConfigClient, "config")
        self._topics = events.of(TopicsClient, "events")

    async def count(self, namespace: str) -> int:
        """How many services there are, each version counted: run by the runtime, or registered by hand."""
        run, registered = await asyncio.gather(self._run(namespace), self._registered(namespace))
        return len(run | {(service.name, service.version) for service in registered})

    async def tables(self, namespace: str) -> int:
        """How many tables with records there are."""
        request = store_pb.TablesRequest(database=namespace)
        answer = await _found(namespace, self._store.tables(request, timeout_ms=_PATIENCE_MS))
        return len(answer.tables) if answer else 0

    async def blobs(self, namespace: str) -> int:
        """How many blobs there are, a thousand for more."""
        request = store_pb.BlobStoreListRequest(namespace=namespace)
        answer = await _found(namespace, self._blobs.list(request, timeout_ms=_PATIENCE_MS))
        return len(answer.blobs) if answer else 0

    async def settings(self, namespace: str) -> int:
        """How many values its config has."""
        answer = await _found(
            namespace, self._config.list(config_pb.ListRequest(namespace=namespace), timeout_ms=_PATIENCE_MS)
        )
        return len(answer.entries) if answer else 0

    async def topics(self, namespace: str) -> int:
        """How many topics of event streams there are, but for those that the platform itself tells."""
        request = events_pb.TopicsListRequest(namespace=namespace)
        answer = await _found(namespace, self._topics.list(request, timeout_ms=_PATIENCE_MS))
        return sum(not topic.platforms(found.name) for found in answer.topics) if answer else 0

    async def end(self, namespace: str) -> None:
        """End and remove all services, with their code and output, then what they and users have stored and set; return
        when that is gone."""
        purge = runtime_pb.PurgeRequest(namespace=namespace)
        await _found(namespace, self._runtime.purge(purge, timeout_ms=_PURGE_MS))
        # What is left was registered by others than the runtime.
        for service in await self._registered(namespace):
            for node in service.nodes:
                gone = registry_pb.DeregisterRequest(name=service.name, namespace=namespace, node_id=node.id)
                await _found(namespace, self._registry.deregister(gone, timeout_ms=_PATIENCE_MS))
        stored, settings = store_pb.PurgeRequest(namespace=namespace), config_pb.PurgeRequest(namespace=namespace)
        await self._forget(namespace, lambda: self._backup.purge(stored, timeout_ms=_PURGE_MS))
        await self._forget(namespace, lambda: self._config.purge(settings, timeout_ms=_PURGE_MS))
        topics = events_pb.TopicsPurgeRequest(namespace=namespace)
        await self._forget(namespace, lambda: self._topics.purge(topics, timeout_ms=_PURGE_MS))

    async def _forget(self, namespace: str, purge: Callable[[], Awaitable[object]]) -> None:
        """Have what is kept removed, tried again for a while: who starts anew is soon back."""
        end = time.monotonic() + _FORGET_SECONDS
        for delay in backoff.exponential(first=0.1, cap=5.0):
            try:
                await _found(namespace, purge())
                return
            except Error as error:
                if error.kind is not Kind.UNAVAILABLE or time.monotonic() + delay > end:
                    raise
            await asyncio.sleep(delay)

    async def _run(self, namespace: str) -> set[tuple[str, str]]:
        request = runtime_pb.ReadRequest(namespace=namespace)
        answer = await _found(namespace, self._runtime.read(request, timeout_ms=_PATIENCE_MS))
        return {(service.name, service.version) for service in answer.services} if answer else set()

    async def _registered(self, namespace: str) -> list[registry_pb.Service]:
        request = registry_pb.ListServicesRequest(namespace=namespace)
        answer = await _found(namespace, self._registry.list_services(request, timeout_ms=_PATIENCE_MS))
        return list(answer.services) if answer else []


async def _found(namespace: str, call: Awaitable[T]) -> T | None:
    """The answer; None from who has not heard of the namespace, and so holds nothing of it.

    Raises UNAVAILABLE that says what it was about when there is no answer."""
    try:
        return await call
    except Error as error:
        if error.kind is Kind.NOT_FOUND:
            return None
        if error.kind in _SILENT:
            raise errors.unavailable(
                f"what namespace {namespace} holds is not to be told now: {error.message}"
            ) from None
        raise
