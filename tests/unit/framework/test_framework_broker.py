"""What authors of services send and hear, over the broker's own handler on memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gen.helloworld.helloworld_pb import Request
from micro import broker, client, errors
from micro.backends.memory.broker import MemoryBroker
from micro.domain.account import Account
from micro.domain.errors import Error, Kind
from micro.domain.message import Message
from micro.rpc.app import Application
from micro.rpc.context import CURRENT, Context
from micro.rpc.gen.micro.broker.v1 import broker_pb as pb
from micro.services.broker import BrokerHandler
from micro.testing.callers import As
from micro.testing.local import LocalChannel

PATIENCE = 30.0


@dataclass
class Order:
    item: str
    count: int = 1


class Failing(BrokerHandler):
    """Ends subscriptions when it is told to, and refuses new ones as often as that is wanted."""

    def __init__(self, carrier: MemoryBroker) -> None:
        super().__init__(carrier)
        self.refusals: list[Error] = []
        self.subscribed = 0
        self.dropped = 0
        self._broken = asyncio.Event()

    def break_all(self) -> None:
        self._broken.set()
        self._broken = asyncio.Event()

    async def subscribe(self, request: pb.SubscribeRequest, ctx: Any) -> AsyncIterator[pb.SubscribeResponse]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.subscribed += 1
        answers = super().subscribe(request, ctx)
        broken = asyncio.ensure_future(self._broken.wait())  # owned: by this call
        try:
            while True:
                coming = asyncio.ensure_future(anext(answers))  # owned: by this call
                await asyncio.wait([coming, broken], return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait([coming])
                    raise errors.unavailable("gone")
                answer = coming.result()
                answer.dropped, self.dropped = self.dropped, 0
                yield answer
        finally:
            broken.cancel()


class World:
    def __init__(self) -> None:
        self.carrier = MemoryBroker()
        self.handler = Failing(self.carrier)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        app = Application("broker", (self.handler,), guard=As(Account("ann", "shop", "ann")))
        with client.pool.through(LocalChannel({"broker": app})):
            yield self


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World().running() as made:
        yield made


async def next_of(messages: broker.Subscription[Any]) -> broker.Message[Any]:
    async with asyncio.timeout(PATIENCE):
        return await anext(messages)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("sent", "as_type", "body"),
    [
        (b"\xff\0", bytes, b"\xff\0"),
        ("é", str, "é".encode()),
        ({"a": [1, None]}, dict, b'{"a":[1,null]}'),
        (Order("pen", 3), Order, b'{"item":"pen","count":3}'),
        (Request(name="Ann"), Request, Request(name="Ann").to_binary()),
        (7, int, b"7"),
    ],
)
async def test_a_message_comes_as_it_was_sent(sent: Any, as_type: Any, body: bytes) -> None:
    async with broker.subscribe("orders.*", as_type=as_type) as messages:
        await broker.publish("orders.created", sent, header={"kind": "é"})
        message = await next_of(messages)
    assert (message.topic, message.value, message.body) == ("orders.created", sent, body)
    assert dict(message.header) == {"kind": "é"}


@pytest.mark.usefixtures("world")
async def test_without_a_type_it_is_bytes_and_one_that_does_not_fit_ends_nothing() -> None:
    async with broker.subscribe("orders") as plain, broker.subscribe("orders", as_type=Order) as typed:
        for body in (b"nonsense", Order("pen")):
            await broker.publish("orders", body)
        assert (await next_of(plain)).value == b"nonsense"
        odd = await next_of(typed)
        with pytest.raises(Error, match="the message to orders is no Order") as caught:
            _ = odd.value
        assert caught.value.kind is Kind.FAILED_PRECONDITION
        assert (await next_of(typed)).value == Order("pen")


@pytest.mark.usefixtures("world")
async def test_a_queue_shares() -> None:
    async with (
        broker.subscribe("orders", queue="billing") as one,
        broker.subscribe("orders", queue="billing") as other,
        broker.subscribe("orders") as alone,
    ):
        for number in range(4):
            await broker.publish("orders", number)
        assert [(await next_of(alone)).value for _ in range(4)] == [b"0", b"1", b"2", b"3"]
        found = [(await next_of(each)).value for each in (one, other) for _ in range(2)]
    assert sorted(found) == [b"0", b"1", b"2", b"3"]


async def test_it_begins_with_the_iteration_and_ends_when_it_is_left(world: World) -> None:
    messages = broker.subscribe("orders")
    assert world.handler.subscribed == 0
    coming = asyncio.ensure_future(anext(messages))  # owned: below
    async with asyncio.timeout(PATIENCE):
        while not coming.done():
            await world.carrier.publish("shop", Message("orders", b"1", {}))
            await asyncio.sleep(0)
    assert coming.result().body == b"1"
    await messages.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_it_goes_on_when_the_broker_is_back(world: World) -> None:
    async with broker.subscribe("orders.>") as messages:
        await broker.publish("orders.eu", "1")
        assert (await next_of(messages)).body == b"1"
        world.handler.refusals += [errors.unavailable("not yet"), errors.internal("not yet either")]
        world.handler.break_all()
        coming = asyncio.ensure_future(next_of(messages))  # owned: below
        async with asyncio.timeout(PATIENCE):
            while not coming.done():
                await broker.publish("orders.eu", "2")
                await asyncio.sleep(0.01)
        assert coming.result().body == b"2"
        assert world.handler.subscribed == 2


@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        (errors.permission_denied("not you"), True),
        (errors.unavailable("away"), False),
        (errors.not_found("no namespace"), False),
    ],
    ids=["denied later", "away at first", "no namespace"],
)
async def test_what_does_not_pass_is_raised(world: World, refusal: Error, again: bool) -> None:
    async with AsyncExitStack() as stack:
        messages = broker.subscribe("orders")
        if again:
            await stack.enter_async_context(messages)
        world.handler.refusals.append(refusal)
        world.handler.break_all()
        with pytest.raises(Error) as caught:
            await next_of(messages)
    assert caught.value.kind is refusal.kind


@pytest.mark.usefixtures("world")
async def test_what_is_wrong_is_told_at_once() -> None:
    with pytest.raises(Error, match="is not a topic or a pattern"):
        await next_of(broker.subscribe("orders..eu"))
    with pytest.raises(Error, match="is not a group"):
        async with broker.subscribe("orders", queue="a b"):
            pass
    with pytest.raises(Error, match="is not a topic"):
        await broker.publish("orders.*", "1")
    with pytest.raises(TypeError, match="the message to orders cannot be kept"):
        await broker.publish("orders", object())


async def test_what_was_dropped_is_counted_and_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with broker.subscribe("orders") as messages:
        world.handler.dropped = 3
        with caplog.at_level(logging.WARNING, "micro.broker"):
            await broker.publish("orders", "1")
            await next_of(messages)
        assert messages.dropped == 3
        assert caplog.messages == ["3 messages to orders were dropped: they are read too slowly"]


@pytest.mark.usefixtures("world")
async def test_the_trace_of_the_call_goes_with_it() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = [(b"traceparent", parent.encode()), (b"tracestate", b"x=1"), (b"cookie", b"s=1")]
    ctx = Context(None, {"headers": headers}, None)  # type: ignore[arg-type]
    async with broker.subscribe("orders") as messages:
        token = CURRENT.set(ctx)
        try:
            await broker.publish("orders", "1", header={"a": "b"})
            await broker.publish("orders", "2", header={"Traceparent": "own"})
        finally:
            CURRENT.reset(token)
        assert dict((await next_of(messages)).header) == {"a": "b", "traceparent": parent, "tracestate": "x=1"}
        assert dict((await next_of(messages)).header) == {"Traceparent": "own"}
