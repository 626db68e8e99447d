"""The way of traffic, as the runtime moves it: the registry, and the control plane's word that all have heard."""

from __future__ import annotations

import asyncio

from micro.domain import backoff, errors
from micro.ports.runtime import Traffic
from micro.rpc.client import Client
from micro.rpc.gen.micro.network.v1.network_connect import NetworkClient
from micro.rpc.gen.micro.network.v1.network_pb import SyncRequest
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.rpc.gen.micro.registry.v1.registry_connect import RegistryClient

_THERE = (pb.WatchResponse.Action.CREATE, pb.WatchResponse.Action.UPDATE)
_TRANSIENT = (errors.Kind.UNAVAILABLE, errors.Kind.ABORTED, errors.Kind.CANCELED, errors.Kind.UNKNOWN)


class RemoteTraffic(Traffic):
    """Over the RPCs of `registry` and `network`, each at its own address."""

    def __init__(self, registry: Client, network: Client) -> None:
        self._registry = registry.of(RegistryClient, "registry")
        self._network = network.of(NetworkClient, "network")

    async def registered(self, namespace: str, name: str, node_id: str) -> int:
        request = pb.WatchRequest(namespace=namespace, name=name)
        for delay in backoff.exponential(first=0.05, cap=1.0):
            try:
                async for event in self._registry.watch(request):
                    if event.action in _THERE and event.service and event.service.nodes[0].id == node_id:
                        return event.revision
            except errors.Error as error:
                if error.kind not in _TRANSIENT:
                    raise
            await asyncio.sleep(delay)
        raise AssertionError("a backoff never ends")

    async def services(self, namespace: str) -> set[str]:
        request = pb.ListServicesRequest(namespace=namespace)
        return {found.name for found in (await self._registry.list_services(request, timeout_ms=5000)).services}

    async def deregister(self, namespace: str, name: str, node_id: str) -> int:
        request = pb.DeregisterRequest(namespace=namespace, name=name, node_id=node_id)
        return (await self._registry.deregister(request, timeout_ms=5000)).revision

    async def sync(self, revision: int) -> None:
        await self._network.sync(SyncRequest(revision=revision), timeout_ms=10_000)
