"""The registry's port over every backend that we ship."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack

import pytest

from micro.backends.memory.registry import MemoryRegistry
from micro.backends.nats._connection import Connection
from micro.backends.nats.registry import NatsRegistry
from micro.ports.registry import Registry
from micro.testing.contracts.registry import RegistryContract
from micro.testing.nats import NatsChild, nats_child


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsChild]:
    with nats_child(tmp_path_factory.mktemp("nats")) as child:
        yield child


class TestMemory(RegistryContract):
    @pytest.fixture
    async def registry(self) -> AsyncGenerator[Registry]:
        async with AsyncExitStack() as stack:
            backend = MemoryRegistry()
            await backend.start(stack)
            yield backend


class TestNats(RegistryContract):
    @pytest.fixture
    async def registry(self, server: NatsChild, request: pytest.FixtureRequest) -> AsyncGenerator[Registry]:
        async with AsyncExitStack() as stack:
            connection = Connection(server.address)
            await connection.start(stack)
            backend = NatsRegistry(connection, bucket=request.node.name)
            await backend.start(stack)
            yield backend
