"""Every backend of event streams does the same."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack

import pytest

from micro.backends.memory.events import MemoryEvents
from micro.backends.nats._connection import Connection
from micro.backends.nats.events import NatsEvents
from micro.ports.events import Events
from micro.testing.contracts.events import NS, OTHER, EventsContract
from micro.testing.nats import NatsChild, NatsCluster, nats_child, nats_cluster


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsChild]:
    with nats_child(tmp_path_factory.mktemp("nats")) as child:
        yield child


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with nats_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class TestMemory(EventsContract):
    @pytest.fixture
    async def events(self) -> AsyncGenerator[Events]:
        async with AsyncExitStack() as stack:
            backend = MemoryEvents()
            await backend.start(stack)
            yield backend


class TestNats(EventsContract):
    @pytest.fixture
    async def events(self, server: NatsChild) -> AsyncGenerator[Events]:
        async with AsyncExitStack() as stack:
            connection = Connection(server.address)
            await connection.start(stack)
            backend = NatsEvents(connection)
            await backend.start(stack)
            yield backend
            for namespace in (NS, OTHER, "shop-2"):
                await backend.drop(namespace)


@pytest.mark.slow
class TestNatsCluster(EventsContract):
    """Reads, too, tell at once what was acknowledged, whichever server answers."""

    @pytest.fixture
    async def events(self, cluster: NatsCluster) -> AsyncGenerator[Events]:
        async with AsyncExitStack() as stack:
            connection = Connection(cluster.address)
            await connection.start(stack)
            backend = NatsEvents(connection, replicas=3)
            await backend.start(stack)
            yield backend
            for namespace in (NS, OTHER, "shop-2"):
                await backend.drop(namespace)
