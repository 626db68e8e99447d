"""A registry service to try out: over a state in memory, a clock that the test holds, and clients that watch it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from callers import calling

from micro.backends.memory.registry import MemoryRegistry
from micro.domain import errors
from micro.ports.announcements import Announcements
from micro.ports.registry import Registry as State
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.services.registry import RegistryService
from micro.testing.clock import FakeClock

Action = pb.WatchResponse.Action
CTX = calling()


def service(
    node: str = "a", name: str = "greeter", version: str = "latest", address: str | None = None, namespace: str = ""
) -> pb.Service:
    return pb.Service(
        name=name,
        version=version,
        namespace=namespace,
        nodes=[pb.Node(id=node, address=address or f"127.0.0.1:{4000 + sum(node.encode())}", metadata={"k": node})],
        endpoints=[pb.Endpoint(name="Greeter.Hello", path="/greeter.Greeter/Hello", kind="unary")],
        descriptors=b"descriptors",
    )


class Client:
    """A watcher as they are: it keeps what it was told, and where it was."""

    def __init__(self, **request: Any) -> None:
        self._request = request
        self.revision = 0
        self.nodes: dict[tuple[str, str, str], pb.Service] = {}
        self.events: list[tuple[Any, str]] = []

    async def read(self, stream: AsyncIterator[pb.WatchResponse]) -> pb.WatchResponse:
        async with asyncio.timeout(5):
            event = await anext(stream)
        if event.action == Action.RESET:
            self.nodes.clear()
        self.revision = event.revision or self.revision
        if event.service is not None:
            node = event.service.nodes[0]
            self.events.append((event.action, node.id))
            key = (event.service.namespace, event.service.name, node.id)
            if event.action in (Action.CREATE, Action.UPDATE):
                self.nodes[key] = event.service
            else:
                self.nodes.pop(key, None)
        return event

    def watch(self, registry: RegistryService) -> Any:
        return registry.watch(pb.WatchRequest(revision=self.revision, **self._request), CTX)

    async def until(self, stream: AsyncIterator[pb.WatchResponse], action: Any, node: str = "") -> pb.WatchResponse:
        while True:
            event = await self.read(stream)
            if event.action == action and (not node or event.service.nodes[0].id == node):
                return event

    def addresses(self) -> dict[tuple[str, str, str], tuple[str, str]]:
        return {key: (entry.version, entry.nodes[0].address) for key, entry in self.nodes.items()}


@asynccontextmanager
async def running(
    state: State | None = None,
    clock: FakeClock | None = None,
    history: int = 4096,
    announcements: Announcements | None = None,
) -> AsyncIterator[tuple[RegistryService, FakeClock]]:
    clock = clock or FakeClock()
    async with AsyncExitStack() as stack:
        registry = RegistryService(state or MemoryRegistry(), clock=clock, history=history, announcements=announcements)
        await registry.start(stack)
        yield registry, clock


async def register(registry: RegistryService, entry: pb.Service, ttl: float = 0) -> int:
    return (await registry.register(pb.RegisterRequest(service=entry, ttl=ttl), CTX)).revision


async def nodes(registry: RegistryService, namespace: str = "micro") -> dict[tuple[str, str, str], tuple[str, str]]:
    response = await registry.list_services(pb.ListServicesRequest(namespace=namespace), CTX)
    return {
        (entry.namespace, entry.name, node.id): (entry.version, node.address)
        for entry in response.services
        for node in entry.nodes
    }


async def refusal(call: Any) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        await call
    return caught.value
