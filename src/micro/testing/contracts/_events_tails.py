"""Following a topic."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from micro.domain.errors import Kind
from micro.domain.event import Retention
from micro.ports.events import Events
from micro.testing.contracts._events_world import (
    NS,
    OTHER,
    TOPIC,
    absent,
    append,
    new,
    ready,
    tailing,
)


class TailContract:
    """From the past on, live, by many, and its end."""

    async def test_what_was_and_what_comes(self, events: Events) -> None:
        await ready(events)
        await append(events, b"1", b"2")
        async with tailing(events) as tail:
            assert await tail.payloads(2) == [b"1", b"2"]
            await append(events, b"3")
            assert await tail.payloads(1) == [b"3"]
            await append(events, b"4", b"5")
            assert await tail.payloads(2) == [b"4", b"5"]
            assert tail.quiet()

    async def test_tells_what_read_tells(self, events: Events) -> None:
        await ready(events)
        await events.append(NS, TOPIC, [new(b"\0", key="é", metadata={"a\nb": "☃"}, timestamp=5), new(b"2")])
        async with tailing(events) as tail:
            assert await tail.take(2) == await events.read(NS, TOPIC, 1, 10)

    async def test_from_the_middle(self, events: Events) -> None:
        await ready(events)
        await append(events, *(b"%d" % number for number in range(1, 11)))
        async with tailing(events, 8) as tail:
            assert [each.offset for each in await tail.take(3)] == [8, 9, 10]

    async def test_from_what_comes_next(self, events: Events) -> None:
        await ready(events)
        await append(events, b"1")
        async with tailing(events, 2) as tail:
            await append(events, b"2")
            assert [each.offset for each in await tail.take(1)] == [2]

    async def test_from_what_is_far_ahead(self, events: Events) -> None:
        await ready(events)
        async with tailing(events, 4) as tail:
            await append(events, *(b"%d" % number for number in range(1, 6)))
            assert await tail.payloads(2) == [b"4", b"5"]

    async def test_a_long_past_while_it_grows(self, events: Events) -> None:
        await ready(events)
        for batch in range(3):
            await append(events, *(b"%d" % number for number in range(batch * 500 + 1, batch * 500 + 501)))
        async with tailing(events) as tail:
            grown = asyncio.gather(*(append(events, b"later") for _ in range(50)))
            assert [each.offset for each in await tail.take(1550)] == list(range(1, 1551))
            await grown

    async def test_begins_with_what_retention_left(self, events: Events) -> None:
        await ready(events, retention=Retention(age=0, bytes=0, count=3))
        await append(events, *(b"%d" % number for number in range(1, 11)))
        async with tailing(events, 2) as tail:
            found = await tail.take(1)
            while found[-1].offset < 10:
                found += await tail.take(1)
        offsets = [each.offset for each in found]
        assert offsets == sorted(set(offsets))
        assert offsets[-3:] == [8, 9, 10]

    async def test_goes_on_behind_what_retention_took(self, events: Events) -> None:
        await ready(events)
        async with AsyncExitStack() as stack:
            tail = await stack.enter_async_context(tailing(events))
            await append(events, b"1")
            assert await tail.payloads(1) == [b"1"]
            await events.configure(NS, TOPIC, Retention(age=0, bytes=0, count=2))
            for number in range(2, 30):
                await append(events, b"%d" % number)
            found = await tail.take(1)
            while found[-1].offset < 29:
                found += await tail.take(1)
        offsets = [each.offset for each in found]
        assert offsets == sorted(set(offsets))
        assert all(each.payload == b"%d" % each.offset for each in found)

    async def test_many_at_once_each_get_all(self, events: Events) -> None:
        await ready(events)
        await append(events, b"1", b"2")
        async with AsyncExitStack() as stack:
            tails = [await stack.enter_async_context(tailing(events, 1 + index % 3)) for index in range(9)]
            await append(events, b"3", b"4")
            for index, tail in enumerate(tails):
                assert await tail.payloads(4 - index % 3) == [b"1", b"2", b"3", b"4"][index % 3 :]

    async def test_of_its_own_topic_only(self, events: Events) -> None:
        places = [(NS, TOPIC), (NS, "orders.eu"), (NS, "orders-eu"), (OTHER, TOPIC)]
        async with AsyncExitStack() as stack:
            for namespace, topic in places:
                await ready(events, topic, namespace)
            tails = [
                await stack.enter_async_context(tailing(events, topic=topic, namespace=namespace))
                for namespace, topic in places
            ]
            for namespace, topic in places:
                await append(events, f"{namespace}/{topic}".encode(), topic=topic, namespace=namespace)
            for tail, (namespace, topic) in zip(tails, places, strict=True):
                assert await tail.payloads(1) == [f"{namespace}/{topic}".encode()]
            assert all(tail.quiet() for tail in tails)

    async def test_ends_with_its_topic(self, events: Events) -> None:
        await ready(events)
        await append(events, b"1")
        async with tailing(events) as first, tailing(events, 2) as second:
            assert await first.payloads(1) == [b"1"]
            await events.delete(NS, TOPIC)
            await first.ends(Kind.NOT_FOUND)
            await second.ends(Kind.NOT_FOUND)

    async def test_ends_with_its_namespace(self, events: Events) -> None:
        await ready(events)
        await append(events, b"1")
        async with tailing(events) as tail:
            assert await tail.payloads(1) == [b"1"]
            await events.drop(NS)
            await tail.ends(Kind.NOT_FOUND)

    async def test_of_what_is_not_there(self, events: Events) -> None:
        await absent(anext(events.tail(NS, TOPIC, 1)))
