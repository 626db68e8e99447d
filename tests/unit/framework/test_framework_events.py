"""Events as authors of services use them: published, consumed, given back, and through ways that break."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from typing import Any

import pytest
from frail import Frail

from gen.helloworld.helloworld_pb import Request
from micro import client, events
from micro.domain.errors import Error, Kind
from micro.framework import deliveries
from micro.framework.deliveries import Deliveries, Outbox, Wanted
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import GroupsClient, TopicsClient
from micro.testing import platform

THEN = dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)


@dataclass
class Order:
    id: str
    lines: list[int]


@pytest.mark.parametrize(
    ("message", "as_type"),
    [
        (b"\x00\xff", bytes),
        ("grün", str),
        ({"a": [1, None]}, dict),
        (7, int),
        (Order("7", [1, 2]), Order),
        (Request(name="Ann"), Request),
    ],
)
async def test_a_message_comes_back_as_what_it_was(message: Any, as_type: Any) -> None:
    async with platform.running():
        told = await events.publish("orders", message, key="k", metadata={"by": "ann"}, timestamp=THEN)
        [read] = await events.read("orders", as_type=as_type)
        async with events.consume("orders", start="all", as_type=as_type) as consumer:
            consumed = await anext(aiter(consumer))
        for event in (read, consumed):
            assert (event.value, event.key, dict(event.metadata)) == (message, "k", {"by": "ann"})
            assert (event.id, event.offset, event.timestamp, event.topic) == (told.id, told.offset, THEN, "orders")
        assert (read.attempt, consumed.attempt) == (0, 1)


async def test_a_batch_lies_in_order_and_a_duplicate_is_told() -> None:
    topic = events.topic("orders", as_type=Order)
    async with platform.running():
        made = await topic.publish_batch([Order("1", []), events.New(Order("2", []), key="2", dedup_id="second")])
        assert [one.offset for one in made] == [1, 2]
        again = await topic.publish(Order("2", []), dedup_id="second")
        assert (again.id, again.offset, again.duplicate) == (made[1].id, 2, True)
        assert [event.value.id for event in await topic.read(start=2)] == ["2"]
        assert [event.offset for event in await topic.read(start=THEN, limit=1)] == [1]


async def test_reading_goes_on_over_pages() -> None:
    async with platform.running():
        for _ in range(3):
            await events.publish_batch("many", [b"x"] * 700)
        assert [event.offset for event in await events.read("many", limit=2050)] == list(range(1, 2051))
        assert await events.read("many", start="new", limit=5) == []


async def test_the_loop_acknowledges_and_gives_back_what_it_was_left_with() -> None:
    async with platform.running() as running:
        await events.publish_batch("orders", [b"1", b"2", b"3"])
        async for event in events.consume("orders", group="billing", start="all"):
            if event.offset == 2:
                break
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with events.consume("orders", group="billing") as consumer:
                async for event in consumer:
                    assert (event.offset, event.attempt) == (2, 1)  # leaving the loop was no failure
                    raise ZeroDivisionError("nothing\nto share")
        seen = []
        async with events.consume("orders", group="billing", max_deliver=2) as consumer:
            async for event in consumer:
                seen.append((event.offset, event.attempt))
                if event.offset == 2:
                    await event.nack(reason="too late")
                if len(seen) == 2:
                    await running.handled("orders", "billing", upto=2)
                    break
        assert sorted(seen) == [(2, 2), (3, 1)]
        async with events.consume("orders", group="billing") as consumer:
            assert (await anext(aiter(consumer))).offset == 3
        [dead] = await running.dead_letters("orders", "billing")
        assert (dead.event.offset, dead.attempts, dead.reason) == (2, 2, "too late")


async def test_by_hand_nothing_is_acknowledged_but_what_is() -> None:
    async with platform.running() as running:
        await events.publish("orders", b"1")
        async with events.consume("orders", group="g", start="all", manual=True, max_deliver=3) as consumer:
            seen = aiter(consumer)
            await (await anext(seen)).release()  # counts for nothing
            for attempt in (1, 2, 3):
                event = await anext(seen)
                assert event.attempt == attempt
                await event.nack(delay=0, reason="x" * 2000)
            await running.handled("orders", "g")
        [dead] = await running.dead_letters("orders", "g")
        assert (dead.attempts, dead.reason) == (3, "x" * 1024)


async def test_a_payload_of_another_type_is_a_dead_letter_and_not_seen() -> None:
    async with platform.running() as running:
        await events.publish_batch("orders", [b"nonsense", Order("7", [])])
        async with events.consume("orders", group="g", start="all", as_type=Order, max_deliver=2) as consumer:
            seen = aiter(consumer)
            assert (await anext(seen)).value == Order("7", [])
            following = asyncio.ensure_future(anext(seen))
            await running.handled("orders", "g", upto=1)
            following.cancel()
            await asyncio.wait({following})
        [dead] = await running.dead_letters("orders", "g")
        assert dead.reason == "event 1 of orders is no Order: it is not JSON"


@dataclass
class Positive:
    amount: int

    def __post_init__(self) -> None:
        if self.amount <= 0:
            raise LookupError(f"no amount: {self.amount}")


async def test_an_event_that_its_class_does_not_like_is_a_dead_letter_and_the_loop_goes_on() -> None:
    async with platform.running() as running:
        await events.publish_batch("orders", [{"amount": -1}, {"amount": 1}])
        async with events.consume("orders", group="g", start="all", as_type=Positive, max_deliver=1) as consumer:
            assert (await anext(aiter(consumer))).value == Positive(1)
            await running.handled("orders", "g", upto=1)
        [dead] = await running.dead_letters("orders", "g")
        assert dead.reason == "LookupError: no amount: -1"


async def test_sent_is_handled_where_that_was_asked_for() -> None:
    async with platform.running() as running:
        for _ in range(3):
            await events.publish_batch("orders", [b"x"] * 1000)
        offsets = []
        async with events.consume("orders", group="g", start="all", auto_ack=True) as consumer:
            async for event in consumer:
                offsets.append(event.offset)
                if event.offset == 3000:
                    break
        assert offsets == list(range(1, 3001))
        await running.handled("orders", "g")


async def test_without_a_group_nothing_is_lost_and_nothing_comes_twice() -> None:
    async with platform.running() as running:
        with client.pool.through(frail := Frail(running.services)):
            offsets = []
            async with events.consume("orders", max_in_flight=7) as consumer:
                for number in range(90):
                    await events.publish("orders", b"", key=f"{number % 5}")
                async for event in consumer:
                    offsets.append(event.offset)
                    if len(offsets) in (3, 17, 40, 41):
                        frail.cut()
                        await asyncio.sleep(0)
                    if len(offsets) == 90:
                        break
        assert sorted(offsets) == list(range(1, 91))
        assert [offset for offset in offsets if offset % 5 == 0] == list(range(5, 91, 5))
        assert frail.streams == 5


async def test_with_a_group_what_was_acknowledged_does_not_come_again() -> None:
    async with platform.running() as running:
        with client.pool.through(frail := Frail(running.services)):
            await events.publish_batch("orders", [b""] * 60)
            offsets = []
            async for event in events.consume("orders", group="g", start="all", max_in_flight=8, max_deliver=-1):
                offsets.append(event.offset)
                if len(offsets) in (3, 30):
                    frail.cut()
                    await asyncio.sleep(0)
                if len(offsets) == 60:
                    await event.ack()
                    break
            assert sorted(offsets) == list(range(1, 61))
            await running.handled("orders", "g")


async def test_an_event_in_hand_stays_there_when_its_stream_breaks() -> None:
    async with platform.running() as running:
        with client.pool.through(frail := Frail(running.services)):
            await events.publish_batch("orders", [b"", b""])
            wanted = Wanted("orders", "g", events.at("all"), max_in_flight=1)
            deliveries = Deliveries(wanted)
            deliveries.start()
            first = await deliveries.take()
            assert first is not None
            frail.cut()
            await deliveries.join()
            while first.number == 0:
                await asyncio.sleep(0)
            first.ack()
            second = await deliveries.take()
            assert second is not None
            assert (first.told.offset, second.told.offset, second.told.attempt) == (1, 2, 1)
            second.ack()
            await running.handled("orders", "g")
            await deliveries.close()


async def test_a_consumer_with_nothing_to_say_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_BEAT", 0.01)
    outbox = Outbox(0.02)
    told = outbox.messages(Wanted("orders", ack_wait=900.0).request(None))
    first = await anext(told)
    assert first.silence > 900, "code that lets nothing else run has as long for an event as it asked for"
    async with asyncio.timeout(5):
        assert [await anext(told) for _ in range(2)] == [pb.ConsumeRequest()] * 2


async def test_acknowledgements_go_together_while_there_is_other_work_and_at_once_without() -> None:
    outbox = Outbox(pause=3600.0)
    messages = outbox.messages(pb.ConsumeRequest(topic="orders"))
    assert (await anext(messages)).topic == "orders"
    for number in range(1, 31):
        outbox.ack(number, waiting=60 - number)
    told = await anext(messages)
    assert list(told.acks) == list(range(1, 31)), "half of them are handled: new ones are to come"
    outbox.ack(31, waiting=0)
    assert list((await anext(messages)).acks) == [31], "nobody else waits"
    outbox.ack(32, waiting=7)
    outbox.touches.append(40)
    outbox.wake.set()
    told = await anext(messages)
    assert (list(told.acks), list(told.touches)) == ([32], [40]), "what is in a hurry takes them along"
    await outbox.aclose()

    soon = Outbox(pause=0.001)
    messages = soon.messages(pb.ConsumeRequest(topic="orders"))
    await anext(messages)
    soon.ack(1, waiting=7)
    assert list((await anext(messages)).acks) == [1], "the time is over"
    await soon.aclose()


async def test_a_topic_that_is_made_anew_is_consumed_from_its_beginning() -> None:
    async with platform.running(), events.consume("orders") as consumer:
        seen = aiter(consumer)
        await events.publish_batch("orders", [b"old"] * 3)
        assert [(await anext(seen)).value for _ in range(3)] == [b"old"] * 3
        await client.of(TopicsClient).delete(pb.TopicsDeleteRequest(topic="orders"))
        await events.publish("orders", b"new")
        event = await anext(seen)
        assert (event.offset, event.value) == (1, b"new")


async def test_a_group_that_is_reset_hands_out_again_what_was_acknowledged() -> None:
    async with platform.running() as running:
        await events.publish_batch("orders", [b"1", b"2"])
        async with events.consume("orders", group="g", start="all") as consumer:
            seen = aiter(consumer)
            assert [(await anext(seen)).offset for _ in range(2)] == [1, 2]
            await running.handled("orders", "g", upto=1)
            request = pb.GroupsResetRequest(topic="orders", group="g", to=events.at("all"))
            await client.of(GroupsClient).reset(request)
            assert [(await anext(seen)).offset for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("topic", "group", "said"),
    [("not a topic", "", "is not a topic"), ("orders", "no/group", "is not a group")],
)
async def test_what_cannot_be_mended_is_raised(topic: str, group: str, said: str) -> None:
    async with platform.running():
        with pytest.raises(Error, match=said) as raised:
            async for _ in events.consume(topic, group=group):
                pass
        assert raised.value.kind is Kind.INVALID_ARGUMENT


async def test_what_is_refused_says_why() -> None:
    async with platform.running():
        with pytest.raises(Error) as denied:
            await events.publish("micro.auth", b"")
        assert denied.value.kind is Kind.PERMISSION_DENIED
        with pytest.raises(Error, match="blob") as large:
            await events.publish("orders", bytes((1 << 20) + 1))
        assert large.value.kind is Kind.INVALID_ARGUMENT
        with pytest.raises(Error) as unknown:
            await events.read("nothing")
        assert unknown.value.kind is Kind.NOT_FOUND
        with pytest.raises(TypeError, match="none of bytes, str, message"):
            await events.publish("orders", object())
        wrong: Any = {"n": 1}
        with pytest.raises(TypeError, match="pairs of strings"):
            await events.publish("orders", b"", metadata=wrong)


def test_what_makes_no_sense_is_told_at_once() -> None:
    wrong: Any = "old"
    with pytest.raises(TypeError, match="no place in a topic"):
        events.consume("orders", start=wrong)
    with pytest.raises(TypeError, match="exclude each other"):
        events.consume("orders", auto_ack=True, manual=True)


async def test_events_that_were_never_there_are_an_error_and_those_that_come_are_waited_for() -> None:
    async with platform.running() as running:
        with client.pool.through(frail := Frail(running.services)):
            frail.away = True
            impatient = Deliveries(Wanted("orders"), patience=0.0)
            with pytest.raises(Error) as raised:
                await impatient.join()
            assert raised.value.kind is Kind.UNAVAILABLE
            await impatient.close()
            told: list[Error | None] = []
            patient = Deliveries(Wanted("orders"), patience=None, heard=told.append)
            patient.start()
            await patient.tried.wait()
            frail.away = False
            await patient.join()
            assert told[0] is not None
            assert told[-1] is None
            await patient.close()
