"""What event streams do when there is too much of something, or something that should not be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence

import pytest
from callers import calling, robot
from events_world import ALL, ANN, world

from micro.backends.memory.events import MemoryEvents
from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.event import Event, Progress
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.services import _events_groups, _events_topics


async def test_a_topic_has_so_many_groups_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events_topics, "MOST_GROUPS", 2)
    async with world() as w:
        for name in ("a", "b"):
            await w.consume(group=name)
        with pytest.raises(errors.Error, match="topic orders has 2 groups: delete some") as caught:
            await w.consume(group="c")
        assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
        await w.consume(group="a")
        await w.consume(group="")
        await w.consume(topic="other", group="c")
        assert sorted(await w.events.groups("shop", "orders")) == ["a", "b"]


async def test_a_namespace_has_so_many_consumers_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events_topics, "MOST_CONSUMERS", 2)
    async with world() as w:
        one, _ = await w.consume(), await w.consume(group="")
        with pytest.raises(errors.Error, match="namespace shop has 2 consumers") as caught:
            await w.consume(topic="other")
        assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
        assert await w.events.state("shop", "other") is None
        await w.consume(by=robot("spy", "blog"))
        await one.vanish()
        await w.consume(topic="other")


async def test_a_group_with_all_the_dead_letters_it_may_have_waits_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_events_groups, "MOST_DEAD", 2)
    monkeypatch.setattr(_events_groups, "FULL_SECONDS", 0.01)
    async with world() as w:
        consumer = await w.consume(max_deliver=1)
        await w.publish(*"1234")
        for event in await consumer.take(3):
            consumer.nack(event)
        consumer.ack(*await consumer.take(1))
        await w.until(dead_letters=2, lag=1)
        async with asyncio.timeout(30):
            while "has 2 dead letters and waits" not in caplog.text:
                await asyncio.sleep(0.001)
        # One of them is handled after all, which makes room.
        await w.dead.redrive(pb.DeadLettersRedriveRequest(topic="orders", group="g", offsets=[1]), calling(ANN))
        [again] = await consumer.take(1)
        assert again.offset == 1
        consumer.ack(again)
        await w.until(dead_letters=2, lag=0)
        assert [dead.event.offset for dead in await w.dead_letters() if dead.event] == [2, 3]
        assert caplog.text.count("and waits") == 1


async def test_a_group_that_was_further_than_its_topic_goes_on_with_what_comes() -> None:
    """NATS was set back to an earlier state of the topic: its next events have offsets that were handled before."""
    async with world() as w:
        await w.publish(*"12")
        await w.events.advance("shop", "orders", "g", Progress(5, ((7, 9),), {6: 1}))
        consumer = await w.consume()
        await w.publish(*"345")
        assert [event.payload for event in await consumer.take(3)] == [b"3", b"4", b"5"]


class _Broken(MemoryEvents):
    """What reads a topic fails in a way that nobody has thought of, once."""

    broken = True

    async def tail(self, namespace: str, topic: str, start: int) -> AsyncGenerator[Sequence[Event]]:
        if self.broken:
            self.broken = False
            raise KeyError("seq")
        async for events in super().tail(namespace, topic, start):
            yield events


async def test_a_group_that_fails_says_so_and_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    async with world(events=_Broken()) as w:
        await w.publish("1")
        consumer = await w.consume(from_=ALL)
        with pytest.raises(errors.Error, match="group g of topic orders has failed: consume again") as caught:
            await consumer.frame()
        assert caught.value.kind is Kind.INTERNAL
        assert [record.levelno for record in caplog.records if "begins anew" in record.message] == [logging.ERROR]
        [event] = await (await w.consume()).take(1)
        assert event.payload == b"1"
