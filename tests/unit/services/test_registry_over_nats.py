"""The registry as it runs: its state in NATS, which is killed now and then."""

import shutil
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
from registry_world import Action, Client, nodes, register, service

from micro.backends.nats._connection import Connection
from micro.backends.nats.registry import NatsRegistry
from micro.domain import errors
from micro.services.registry import RegistryService
from micro.testing.nats import NatsChild, nats_child


async def start(stack: AsyncExitStack, child: NatsChild) -> RegistryService:
    connection = Connection(child.address)
    await connection.start(stack)
    registry = RegistryService(NatsRegistry(connection))
    await registry.start(stack)
    return registry


async def test_registrations_outlive_nats_and_the_registry(tmp_path: Path) -> None:
    client = Client()
    with nats_child(tmp_path) as child:
        async with AsyncExitStack() as stack:
            registry = await start(stack, child)
            await register(registry, service("before"))
            async with aclosing(client.watch(registry)) as stream:
                await client.until(stream, Action.SYNCED)
                child.kill()
                assert len(await nodes(registry)) == 1, "reads need no NATS"
                await register(registry, service("before"))
                child.spawn()
                await register(registry, service("during"))
                await client.until(stream, Action.CREATE, "during")
            assert registry.healthy()
        async with AsyncExitStack() as stack:
            registry = await start(stack, child)
            assert {key[2] for key in await nodes(registry)} == {"before", "during"}
            async with aclosing(client.watch(registry)) as stream:
                assert (await client.read(stream)).action == Action.SYNCED, "resumed, not begun anew"


async def test_when_the_state_is_lost_watchers_begin_anew_and_heartbeats_bring_it_back(tmp_path: Path) -> None:
    client = Client()
    with nats_child(tmp_path) as child:
        async with AsyncExitStack() as stack:
            registry = await start(stack, child)
            await register(registry, service("a"))
            async with aclosing(client.watch(registry)) as stream:
                await client.until(stream, Action.SYNCED)
                child.kill()
                shutil.rmtree(tmp_path / "data")
                child.spawn()
                await client.until(stream, Action.RESET)
                await client.until(stream, Action.SYNCED)
                assert client.nodes == {}
                await register(registry, service("a"))
                await client.until(stream, Action.CREATE, "a")
            assert client.addresses() == await nodes(registry)


async def test_a_registry_without_its_state_does_not_start(tmp_path: Path) -> None:
    child = NatsChild(tmp_path)
    async with AsyncExitStack() as stack:
        connection = Connection(child.address, connect_seconds=0.2)
        with pytest.raises(errors.Error, match="cannot be reached"):
            await connection.start(stack)
