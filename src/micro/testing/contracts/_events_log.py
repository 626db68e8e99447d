"""Events that are appended and read."""

from __future__ import annotations

import asyncio
import itertools

from micro.domain.event import MAX_PAYLOAD, PAGE_BYTES, Event
from micro.ports.events import Events
from micro.ports.store import now
from micro.testing.contracts._events_world import (
    ALL_BYTES,
    NS,
    OTHER,
    TEXTS,
    TOPIC,
    absent,
    append,
    new,
    payloads,
    ready,
)


class AppendContract:
    """Order, offsets, and that what is told is what was given."""

    async def test_offsets_begin_at_one_and_grow_by_one(self, events: Events) -> None:
        await ready(events)
        first, second = new(b"1"), new(b"2")
        (a,) = await events.append(NS, TOPIC, [first])
        (b,) = await events.append(NS, TOPIC, [second])
        assert [(a.id, a.offset, a.duplicate), (b.id, b.offset, b.duplicate)] == [
            (first.id, 1, False),
            (second.id, 2, False),
        ]
        assert [(each.id, each.offset) for each in await events.read(NS, TOPIC, 1, 10)] == [
            (first.id, 1),
            (second.id, 2),
        ]

    async def test_a_batch_is_appended_in_its_order(self, events: Events) -> None:
        await ready(events)
        await append(events, b"before")
        done = await append(events, *(b"%d" % number for number in range(100)))
        assert [each.offset for each in done] == list(range(2, 102))
        assert await payloads(events) == [b"before", *(b"%d" % number for number in range(100))]

    async def test_many_at_once_have_each_an_offset_of_their_own(self, events: Events) -> None:
        await ready(events)
        done = await asyncio.gather(*(append(events, b"%d" % number) for number in range(100)))
        offsets = {each.offset: b"%d" % number for number, (each,) in enumerate(done)}
        assert sorted(offsets) == list(range(1, 101))
        assert await payloads(events) == [offsets[offset] for offset in range(1, 101)]

    async def test_batches_at_once_keep_their_order(self, events: Events) -> None:
        await ready(events)
        sent = [[b"%d-%d" % (batch, number) for number in range(20)] for batch in range(5)]
        done = await asyncio.gather(*(append(events, *batch) for batch in sent))
        for told in done:
            offsets = [each.offset for each in told]
            assert offsets == sorted(offsets)
            if events.atomic:
                assert offsets == list(range(offsets[0], offsets[0] + 20))
        assert sorted(await payloads(events)) == sorted(itertools.chain(*sent))

    async def test_everything_comes_back_as_it_was(self, events: Events) -> None:
        await ready(events)
        metadata = {text: text[::-1] for text in TEXTS} | {"empty": ""}
        given = [new(ALL_BYTES, metadata=metadata, key=text, timestamp=index) for index, text in enumerate(TEXTS, 1)]
        done = await events.append(NS, TOPIC, given)
        assert await events.read(NS, TOPIC, 1, 100) == [
            Event(one.id, told.offset, one.timestamp, one.payload, metadata, one.key)
            for one, told in zip(given, done, strict=True)
        ]

    async def test_an_event_alone_and_empty(self, events: Events) -> None:
        await ready(events)
        before = now()
        (done,) = await events.append(NS, TOPIC, [new()])
        (found,) = await events.read(NS, TOPIC, 1, 1)
        assert (found.id, found.payload, dict(found.metadata), found.key) == (done.id, b"", {}, "")
        assert before - 1000 <= found.timestamp <= now() + 1000

    async def test_the_largest_payload(self, events: Events) -> None:
        await ready(events)
        payload = (ALL_BYTES * 4096)[:MAX_PAYLOAD]
        await events.append(NS, TOPIC, [new(payload, key="k" * 255, metadata={"m": "x" * 16000})])
        (found,) = await events.read(NS, TOPIC, 1, 1)
        assert found.payload == payload
        assert found.metadata == {"m": "x" * 16000}

    async def test_a_full_batch(self, events: Events) -> None:
        await ready(events)
        done = await append(events, *(b"%d" % number for number in range(1000)))
        assert [each.offset for each in done] == list(range(1, 1001))
        assert len(await payloads(events)) == 1000

    async def test_nothing_is_appended_to_what_is_not_there(self, events: Events) -> None:
        await absent(append(events, b"1"))
        await ready(events)
        await absent(append(events, b"1", namespace=OTHER))
        await absent(append(events, b"1", b"2", topic="absent"), "absent")
        assert await events.state(NS, "absent") is None


class DedupContract:
    """An event that is sent twice."""

    async def test_a_duplicate_is_told_where_the_first_is(self, events: Events) -> None:
        await ready(events)
        first = new(b"1", dedup_id="order-1")
        await events.append(NS, TOPIC, [new(b"0"), first])
        (again,) = await events.append(NS, TOPIC, [new(b"2", dedup_id="order-1")])
        assert (again.id, again.offset, again.duplicate) == (first.id, 2, True)
        await append(events, b"3")
        assert await payloads(events) == [b"0", b"1", b"3"]

    async def test_any_text_is_a_dedup_id(self, events: Events) -> None:
        await ready(events)
        sent = [new(text.encode(), dedup_id=text, key=text, metadata={text: text}) for text in TEXTS]
        for event in sent:
            await events.append(NS, TOPIC, [event])
        for event in sent:
            (again,) = await events.append(NS, TOPIC, [new(b"again", dedup_id=event.dedup_id)])
            assert (again.id, again.duplicate) == (event.id, True)
        assert await payloads(events) == [text.encode() for text in TEXTS]

    async def test_without_an_id_nothing_is_a_duplicate(self, events: Events) -> None:
        await ready(events)
        same = new(b"1")
        await events.append(NS, TOPIC, [same])
        assert not (await events.append(NS, TOPIC, [same]))[0].duplicate
        assert await payloads(events) == [b"1", b"1"]

    async def test_topics_do_not_share_their_ids(self, events: Events) -> None:
        for namespace, topic in ((NS, TOPIC), (NS, "orders.eu"), (OTHER, TOPIC)):
            await ready(events, topic, namespace)
            (done,) = await events.append(namespace, topic, [new(b"1", dedup_id="1")])
            assert (done.offset, done.duplicate) == (1, False)

    async def test_in_a_batch(self, events: Events) -> None:
        await ready(events)
        first = new(b"a", dedup_id="a")
        await events.append(NS, TOPIC, [first])
        b = new(b"b", dedup_id="b")
        done = await events.append(NS, TOPIC, [b, new(b"a2", dedup_id="a"), new(b"b2", dedup_id="b"), new(b"c")])
        assert [(each.id, each.offset, each.duplicate) for each in done[:3]] == [
            (b.id, 2, False),
            (first.id, 1, True),
            (b.id, 2, True),
        ]
        assert (done[3].offset, done[3].duplicate) == (3, False)
        assert await payloads(events) == [b"a", b"b", b"c"]

    async def test_a_batch_that_is_sent_again(self, events: Events) -> None:
        await ready(events)
        sent = [new(b"%d" % number, dedup_id=str(number)) for number in range(10)]
        first = await events.append(NS, TOPIC, sent)
        again = await events.append(NS, TOPIC, sent)
        assert [(each.id, each.offset) for each in again] == [(each.id, each.offset) for each in first]
        assert all(each.duplicate for each in again)
        assert len(await payloads(events)) == 10

    async def test_of_many_at_once_one_is_appended(self, events: Events) -> None:
        await ready(events)
        done = await asyncio.gather(
            *(events.append(NS, TOPIC, [new(b"%d" % number, dedup_id="x")]) for number in range(20))
        )
        assert [each.offset for (each,) in done] == [1] * 20
        assert sum(not each.duplicate for (each,) in done) == 1
        (found,) = await events.read(NS, TOPIC, 1, 10)
        assert {each.id for (each,) in done} == {found.id}


class ReadContract:
    """Pages, and offsets by time."""

    async def test_pages_follow_each_other(self, events: Events) -> None:
        await ready(events)
        await append(events, *(b"%d" % number for number in range(25)))
        pages = [await events.read(NS, TOPIC, start, 10) for start in (1, 11, 21, 26, 1000)]
        assert [len(page) for page in pages] == [10, 10, 5, 0, 0]
        assert [each.offset for page in pages for each in page] == list(range(1, 26))
        assert [each.offset for each in await events.read(NS, TOPIC, 7, 1)] == [7]

    async def test_a_page_has_a_size(self, events: Events) -> None:
        await ready(events)
        for _ in range(6):
            await append(events, b"x" * (PAGE_BYTES // 4))
        page = await events.read(NS, TOPIC, 1, 100)
        assert 1 <= len(page) <= 4
        rest = await events.read(NS, TOPIC, page[-1].offset + 1, 100)
        assert rest[0].offset == page[-1].offset + 1

    async def test_of_a_topic_without_events(self, events: Events) -> None:
        await ready(events)
        assert await events.read(NS, TOPIC, 1, 10) == []
        assert await events.offset_at(NS, TOPIC, now() - 1000) == 1
        assert await events.offset_at(NS, TOPIC, 0) == 1

    async def test_what_is_not_there_cannot_be_read(self, events: Events) -> None:
        await absent(events.read(NS, TOPIC, 1, 10))
        await absent(events.offset_at(NS, TOPIC, 0))

    async def test_offset_by_the_time_of_appending(self, events: Events) -> None:
        await ready(events)
        times = []
        for number in range(3):
            times.append(now())
            await asyncio.sleep(0.01)  # the times are told apart by what passes between them
            await events.append(NS, TOPIC, [new(b"%d" % number, timestamp=1)])
            await asyncio.sleep(0.01)
        assert [await events.offset_at(NS, TOPIC, time) for time in times] == [1, 2, 3]
        assert await events.offset_at(NS, TOPIC, 0) == 1
        assert await events.offset_at(NS, TOPIC, now()) == 4
        assert await events.offset_at(NS, TOPIC, now() + 3_600_000) == 4
