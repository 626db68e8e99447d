"""The registry as an instance sees it: a place to announce itself."""

from __future__ import annotations

from typing import Protocol

from micro.domain.service import Registration
from micro.rpc import convert
from micro.rpc.client import Client
from micro.rpc.gen.micro.registry.v1.registry_connect import RegistryClient
from micro.rpc.gen.micro.registry.v1.registry_pb import DeregisterRequest, RegisterRequest


class Registrar(Protocol):
    """Announces an instance, and takes it back."""

    async def register(self, registration: Registration, ttl: float) -> None:
        """Add the instance or renew its lease, for `ttl` seconds. Raises Error."""
        ...

    async def deregister(self, registration: Registration) -> None:
        """Remove the instance at once; absent is fine. Raises Error."""
        ...


class RemoteRegistrar(Registrar):
    """The registry service, reached by RPC."""

    def __init__(self, client: Client) -> None:
        self._registry = client.of(RegistryClient, "registry")

    async def register(self, registration: Registration, ttl: float) -> None:
        service = convert.to_service(registration)
        await self._registry.register(RegisterRequest(service=service, ttl=ttl), timeout_ms=5000)

    async def deregister(self, registration: Registration) -> None:
        request = DeregisterRequest(
            name=registration.name, namespace=registration.namespace, node_id=registration.node.id
        )
        await self._registry.deregister(request, timeout_ms=2000)
