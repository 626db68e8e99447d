"""The broker's port over every backend that we ship, and over NATS that is killed."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from micro.backends.memory.broker import MemoryBroker
from micro.backends.nats._connection import Connection
from micro.backends.nats.broker import NatsBroker
from micro.domain import errors
from micro.domain.errors import Kind
from micro.ports.broker import Broker
from micro.testing.contracts.broker import PATIENCE, BrokerContract, Inbox, publish, subscribed
from micro.testing.nats import NatsChild, nats_child


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsChild]:
    with nats_child(tmp_path_factory.mktemp("nats")) as child:
        yield child


class TestMemory(BrokerContract):
    @pytest.fixture
    async def broker(self) -> AsyncGenerator[Broker]:
        async with AsyncExitStack() as stack:
            backend = MemoryBroker()
            await backend.start(stack)
            yield backend


async def connected(server: NatsChild, stack: AsyncExitStack) -> Broker:
    connection = Connection(server.address)
    await connection.start(stack)
    backend = NatsBroker(connection, patience=PATIENCE)
    await backend.start(stack)
    return backend


class TestNats(BrokerContract):
    @pytest.fixture
    async def broker(self, server: NatsChild) -> AsyncGenerator[Broker]:
        async with AsyncExitStack() as stack:
            yield await connected(server, stack)


async def sent(broker: Broker, topic: str, body: bytes) -> None:
    """Publish when that can be done."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await publish(broker, topic, body)
            except errors.Error as error:
                if error.kind is not Kind.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


async def until_comes(broker: Broker, body: bytes, *inboxes: Inbox) -> None:
    """Publish again and again, until all have it."""
    async with asyncio.timeout(PATIENCE):
        while not all(body in each.bodies for each in inboxes):
            await sent(broker, "orders.eu", body)
            await asyncio.sleep(0.05)


async def test_what_one_process_publishes_comes_to_another(server: NatsChild) -> None:
    async with AsyncExitStack() as stack:
        one, other = await connected(server, stack), await connected(server, stack)
        async with subscribed(one, "orders") as inbox, subscribed(other, "orders", "q") as queued:
            await publish(one, "orders", b"1")
            await publish(other, "orders", b"2")
            assert sorted(each.body for each in await inbox.until(2)) == [b"1", b"2"]
            await queued.until(2)


async def test_a_subscription_is_known_to_the_server_when_it_has_begun(
    server: NatsChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server is asked is answered after it has heard of the subscription, whoever is busy meanwhile."""
    async with AsyncExitStack() as stack:
        connection = Connection(server.address)
        await connection.start(stack)
        transport, written = connection.client._transport, bytearray()
        assert transport is not None
        write, write_all = transport.write, transport.writelines

        def seen(data: bytes) -> None:
            written.extend(data)
            write(data)

        def all_seen(data: list[bytes]) -> None:
            written.extend(b"".join(data))
            write_all(data)

        monkeypatch.setattr(transport, "write", seen)
        monkeypatch.setattr(transport, "writelines", all_seen)
        for queue in ("", "q"):
            written.clear()
            async with NatsBroker(connection).subscribe("micro", "orders", lambda _: None, queue):
                assert 0 <= written.find(b"SUB ") < written.find(b"PING"), written


async def test_subscriptions_outlive_a_killed_server(tmp_path: Path) -> None:
    with nats_child(tmp_path) as server:
        async with AsyncExitStack() as stack:
            one, other = await connected(server, stack), await connected(server, stack)
            async with (
                subscribed(one, "orders.*") as shared,
                subscribed(one, "orders.*") as beside,
                subscribed(one, "orders.>", "billing") as queued,
                subscribed(one, "orders.eu", namespace="elsewhere") as elsewhere,
            ):
                for number in range(2):
                    await until_comes(other, b"before %d" % number, shared, beside, queued)
                    server.kill()
                    async with asyncio.timeout(PATIENCE):
                        while one.healthy() or other.healthy():
                            await asyncio.sleep(0.01)
                    with pytest.raises(errors.Error) as caught:
                        await publish(other, "orders.eu", b"nowhere")
                    assert caught.value.kind is Kind.UNAVAILABLE
                    await server.start()
                await until_comes(other, b"after", shared, beside, queued)
                assert not elsewhere.messages
                assert b"nowhere" not in shared.bodies


async def test_who_subscribes_while_the_server_is_away_waits_for_it(tmp_path: Path) -> None:
    with nats_child(tmp_path) as server:
        async with AsyncExitStack() as stack:
            broker = await connected(server, stack)
            server.kill()
            async with asyncio.timeout(PATIENCE):
                while broker.healthy():
                    await asyncio.sleep(0.01)
            waiting = asyncio.create_task(stack.enter_async_context(subscribed(broker, "orders.eu")))  # owned: below
            await asyncio.sleep(0)
            await server.start()
            await until_comes(broker, b"1", await waiting)


async def test_without_a_server_nobody_is_subscribed(tmp_path: Path) -> None:
    with nats_child(tmp_path) as server:
        async with AsyncExitStack() as stack:
            connection = Connection(server.address)
            await connection.start(stack)
            broker = NatsBroker(connection, patience=0.1)
            server.kill()
            async with asyncio.timeout(PATIENCE):
                while broker.healthy():
                    await asyncio.sleep(0.01)
            with pytest.raises(errors.Error) as caught:
                await stack.enter_async_context(subscribed(broker, "orders"))
            assert caught.value.kind is Kind.UNAVAILABLE
