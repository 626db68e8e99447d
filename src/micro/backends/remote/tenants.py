"""What other core services hold of a namespace, as auth counts and removes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.rpc.client import Client
from micro.rpc.gen.micro.registry.v1 import registry_pb
from micro.rpc.gen.micro.registry.v1.registry_connect import RegistryClient
from micro.rpc.gen.micro.runtime.v1 import runtime_pb
from micro.rpc.gen.micro.runtime.v1.runtime_connect import RuntimeClient

T = TypeVar("T")

_PATIENCE_MS = 5000
_PURGE_MS = 300_000
"""Services finish what is in flight first."""

_SILENT = (Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.CANCELED)


class RemoteTenants:
    """Over the RPCs of `runtime` and `registry`, each at its own address; calls need the admin scope of "micro"."""

    def __init__(self, runtime: Client, registry: Client) -> None:
        self._runtime = runtime.of(RuntimeClient, "runtime")
        self._registry = registry.of(RegistryClient, "registry")

    async def count(self, namespace: str) -> int:
        """How many services there are, each version counted: run by the runtime, or registered by hand."""
        run, registered = await asyncio.gather(self._run(namespace), self._registered(namespace))
        return len(run | {(service.name, service.version) for service in registered})

    async def end(self, namespace: str) -> None:
        """End and remove all services, with their code and output; return when they are gone."""
        purge = runtime_pb.PurgeRequest(namespace=namespace)
        await _found(namespace, self._runtime.purge(purge, timeout_ms=_PURGE_MS))
        # What is left was registered by others than the runtime.
        for service in await self._registered(namespace):
            for node in service.nodes:
                gone = registry_pb.DeregisterRequest(name=service.name, namespace=namespace, node_id=node.id)
                await _found(namespace, self._registry.deregister(gone, timeout_ms=_PATIENCE_MS))

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
