"""What every backend of `micro.ports.broker` must do. Authors of a backend subclass `BrokerContract` in a test file and
give it a fixture `broker` that yields the backend started; nothing may be left of what earlier tests subscribed to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from micro.domain.message import MAX_BODY, Message
from micro.ports.broker import Broker

NS, OTHER = "shop", "other"
PATIENCE = 30.0
"""Seconds for what should come at once."""

LAST = "the.last"
TEXTS = ("plain", "é ☃ \U00010348", "a\0b", "two\r\nlines: x", " spaces ", '"\\', "￿", "%41=+&;,", "Nats-Msg-Id")


class Inbox:
    """What came to a subscriber."""

    def __init__(self, also: asyncio.Event | None = None) -> None:
        self.messages: list[Message] = []
        self._came = asyncio.Event()
        self._also = also

    def deliver(self, message: Message) -> None:
        self.messages.append(message)
        self._came.set()
        if self._also is not None:
            self._also.set()

    @property
    def bodies(self) -> list[bytes]:
        return [each.body for each in self.messages]

    async def until(self, count: int) -> list[Message]:
        """All that came, once these are that many."""
        async with asyncio.timeout(PATIENCE):
            while len(self.messages) < count:
                self._came.clear()
                await self._came.wait()
        return self.messages


class Members:
    """Those of one queue."""

    def __init__(self) -> None:
        self._came = asyncio.Event()
        self._inboxes: list[Inbox] = []

    @asynccontextmanager
    async def joined(self, broker: Broker, pattern: str, queue: str = "billing") -> AsyncGenerator[Inbox]:
        """One more of them."""
        inbox = Inbox(self._came)
        self._inboxes.append(inbox)
        async with broker.subscribe(NS, pattern, inbox.deliver, queue):
            yield inbox

    async def until(self, count: int) -> list[bytes]:
        """What came to any of them, once these are that many."""
        async with asyncio.timeout(PATIENCE):
            while sum(len(each.messages) for each in self._inboxes) < count:
                self._came.clear()
                await self._came.wait()
        return [body for each in self._inboxes for body in each.bodies]


@asynccontextmanager
async def subscribed(broker: Broker, pattern: str, queue: str = "", namespace: str = NS) -> AsyncGenerator[Inbox]:
    inbox = Inbox()
    async with broker.subscribe(namespace, pattern, inbox.deliver, queue):
        yield inbox


async def publish(broker: Broker, topic: str, body: bytes = b"", namespace: str = NS, **header: str) -> None:
    await broker.publish(namespace, Message(topic, body, header))


class BrokerContract:
    """All of it."""

    async def test_what_is_published_comes(self, broker: Broker) -> None:
        async with subscribed(broker, "orders.created") as inbox:
            await publish(broker, "orders.created", b"1", kind="new")
            (message,) = await inbox.until(1)
            assert (message.topic, message.body, dict(message.header)) == ("orders.created", b"1", {"kind": "new"})

    async def test_everything_comes_back_as_it_was(self, broker: Broker) -> None:
        header = {text: text[::-1] for text in TEXTS} | {"empty": "", "Case": "1", "case": "2"}
        body = bytes(range(256))
        async with subscribed(broker, "orders") as inbox:
            await broker.publish(NS, Message("orders", body, header))
            await broker.publish(NS, Message("orders", b"", {}))
            first, second = await inbox.until(2)
        assert (first.body, dict(first.header)) == (body, header)
        assert (second.body, dict(second.header)) == (b"", {})

    async def test_the_largest(self, broker: Broker) -> None:
        body = b"\xff" * MAX_BODY
        async with subscribed(broker, "orders") as inbox:
            await broker.publish(NS, Message("orders", body, {"h": "x" * 16_000}))
            (message,) = await inbox.until(1)
        assert (message.body, message.header["h"]) == (body, "x" * 16_000)

    async def test_in_the_order_of_the_publisher(self, broker: Broker) -> None:
        async with subscribed(broker, "orders.>") as inbox:
            for number in range(500):
                await publish(broker, f"orders.{number % 7}", b"%d" % number)
            await inbox.until(500)
            assert inbox.bodies == [b"%d" % number for number in range(500)]

    async def test_each_subscriber_gets_all(self, broker: Broker) -> None:
        async with AsyncExitStack() as stack:
            inboxes = [await stack.enter_async_context(subscribed(broker, "orders")) for _ in range(5)]
            for number in range(10):
                await publish(broker, "orders", b"%d" % number)
            for inbox in inboxes:
                await inbox.until(10)
                assert inbox.bodies == [b"%d" % number for number in range(10)]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("orders", ["orders"]),
            ("orders.*", ["orders.eu", "orders.us"]),
            ("orders.>", ["orders.eu", "orders.us", "orders.eu.paid"]),
            ("*.eu", ["orders.eu"]),
            ("*.eu.*", ["orders.eu.paid"]),
            ("*", ["orders", "lines"]),
            (">", ["orders", "lines", "orders.eu", "orders.us", "orders.eu.paid", "order-s.eu_1", LAST]),
            ("*.*.>", ["orders.eu.paid"]),
            ("ORDERS", []),
        ],
    )
    async def test_patterns(self, broker: Broker, pattern: str, expected: list[str]) -> None:
        topics = ["orders", "lines", "orders.eu", "orders.us", "orders.eu.paid", "order-s.eu_1", LAST]
        async with subscribed(broker, pattern) as inbox, subscribed(broker, LAST) as last:
            for topic in topics:
                await publish(broker, topic)
            await last.until(1)
            await inbox.until(len(expected))
            assert [each.topic for each in inbox.messages] == expected

    async def test_the_longest_names(self, broker: Broker) -> None:
        topic, queue = ".".join(["a" * 63] * 4), "q" * 63
        async with subscribed(broker, topic) as inbox, subscribed(broker, "*." + topic[64:], queue) as other:
            await publish(broker, topic, b"1")
            await inbox.until(1)
            await other.until(1)

    async def test_a_queue_shares(self, broker: Broker) -> None:
        async with AsyncExitStack() as stack:
            billing = Members()
            members = [await stack.enter_async_context(billing.joined(broker, "orders")) for _ in range(3)]
            other = await stack.enter_async_context(subscribed(broker, "orders", "mail"))
            alone = await stack.enter_async_context(subscribed(broker, "orders"))
            sent = [b"%d" % number for number in range(60)]
            for body in sent:
                await publish(broker, "orders", body)
            await alone.until(60)
            await other.until(60)
            assert sorted(await billing.until(60)) == sorted(sent)
            assert other.bodies == alone.bodies == sent
            assert sum(bool(each.messages) for each in members) > 1

    async def test_a_queue_is_one_whatever_its_patterns(self, broker: Broker) -> None:
        billing = Members()
        async with (
            billing.joined(broker, "orders.*"),
            billing.joined(broker, "orders.>"),
            subscribed(broker, "orders.eu") as alone,
        ):
            for number in range(20):
                await publish(broker, "orders.eu", b"%d" % number)
            await alone.until(20)
            assert sorted(await billing.until(20)) == sorted(alone.bodies)

    async def test_a_member_that_left_misses_nothing_for_the_others(self, broker: Broker) -> None:
        async with subscribed(broker, "orders", "billing") as stays:
            async with subscribed(broker, "orders", "billing"):
                pass
            for number in range(10):
                await publish(broker, "orders", b"%d" % number)
            await stays.until(10)
            assert stays.bodies == [b"%d" % number for number in range(10)]

    async def test_nothing_comes_after_the_end(self, broker: Broker) -> None:
        async with subscribed(broker, "orders") as stays:
            async with subscribed(broker, "orders") as left:
                await publish(broker, "orders", b"1")
                await left.until(1)
            await publish(broker, "orders", b"2")
            await stays.until(2)
            assert left.bodies == [b"1"]

    async def test_nothing_is_kept(self, broker: Broker) -> None:
        await publish(broker, "orders", b"early")
        async with subscribed(broker, "orders") as inbox:
            await publish(broker, "orders", b"late")
            await inbox.until(1)
            assert inbox.bodies == [b"late"]

    async def test_namespaces_know_nothing_of_each_other(self, broker: Broker) -> None:
        async with AsyncExitStack() as stack:
            spaces = [NS, OTHER, "shop-2"]
            inboxes = [
                await stack.enter_async_context(subscribed(broker, pattern, queue, namespace))
                for namespace in spaces
                for pattern, queue in ((">", ""), ("*", "billing"))
            ]
            for namespace in spaces:
                await publish(broker, "orders", namespace.encode(), namespace)
                await publish(broker, namespace, namespace.encode(), namespace)
            for namespace, inbox in zip([each for each in spaces for _ in range(2)], inboxes, strict=True):
                await inbox.until(2)
                assert inbox.bodies == [namespace.encode()] * 2

    async def test_many_subscriptions(self, broker: Broker) -> None:
        async with AsyncExitStack() as stack:
            inboxes = [await stack.enter_async_context(subscribed(broker, f"topic.{number}")) for number in range(200)]
            for number in range(200):
                await publish(broker, f"topic.{number}", b"%d" % number)
            for number, inbox in enumerate(inboxes):
                await inbox.until(1)
                assert inbox.bodies == [b"%d" % number]

    async def test_it_is_healthy(self, broker: Broker) -> None:
        assert broker.healthy()
