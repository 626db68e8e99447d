"""Topics, what they are called, how long they keep events, and who sees them."""

from __future__ import annotations

import pytest

from micro.domain.event import Progress, Retention
from micro.ports.events import Events
from micro.ports.store import now
from micro.testing.contracts._events_world import (
    FOR_EVER,
    NS,
    OTHER,
    TOPIC,
    absent,
    append,
    eventually,
    new,
    normal,
    payloads,
    ready,
)

LONGEST = ".".join(["a" * 63] * 4)
NAMES = sorted(["a", "A", "7", "-", "_", "a.b", "a-b", "a_b", "a.b.c", "micro.auth", LONGEST, LONGEST[:-1] + "b"])


class TopicsContract:
    """That they are made, told and removed."""

    async def test_made_and_told(self, events: Events) -> None:
        assert await events.state(NS, TOPIC) is None
        before = now()
        keep = Retention(age=3600, bytes=1 << 20, count=100)
        made = await events.configure(NS, TOPIC, keep)
        assert (made.name, made.retention, made.count, made.first, made.last) == (TOPIC, keep, 0, 1, 0)
        assert before - 1000 <= made.created <= now() + 1000
        assert await events.state(NS, TOPIC) == made

    async def test_grows(self, events: Events) -> None:
        await ready(events)
        await append(events, b"x" * 1000, b"y" * 1000)
        state = await events.state(NS, TOPIC)
        assert state is not None
        assert (state.count, state.first, state.last) == (2, 1, 2)
        assert state.bytes >= 2000

    async def test_another_retention_leaves_all_else(self, events: Events) -> None:
        made = await events.configure(NS, TOPIC, Retention())
        assert made.retention == Retention()
        await append(events, b"1")
        changed = await events.configure(NS, TOPIC, FOR_EVER)
        assert (changed.retention, changed.created, changed.last) == (FOR_EVER, made.created, 1)
        assert await payloads(events) == [b"1"]
        again = await events.configure(NS, TOPIC, FOR_EVER)
        assert again == changed

    async def test_all_shapes_of_names(self, events: Events) -> None:
        for name in NAMES:
            await ready(events, name)
            await append(events, name.encode(), topic=name)
        assert [each.name for each in await events.topics(NS)] == NAMES
        for name in NAMES:
            assert await payloads(events, name) == [name.encode()]

    async def test_namespaces_know_nothing_of_each_other(self, events: Events) -> None:
        for namespace in (NS, OTHER, "shop-2"):
            await ready(events, TOPIC, namespace)
            await append(events, namespace.encode(), namespace=namespace)
        await ready(events, "alone", OTHER)
        assert [each.name for each in await events.topics(NS)] == [TOPIC]
        assert [each.name for each in await events.topics(OTHER)] == ["alone", TOPIC]
        assert await events.topics("absent") == []
        assert await payloads(events) == [b"shop"]
        await events.drop(NS)
        assert await events.topics(NS) == []
        await absent(append(events, b"1"))
        assert await payloads(events, namespace="shop-2") == [b"shop-2"]

    async def test_deleted_with_all_that_belongs_to_it(self, events: Events) -> None:
        await ready(events)
        await ready(events, "orders.eu")
        await append(events, b"1", b"2")
        await append(events, b"eu", topic="orders.eu")
        await events.advance(NS, TOPIC, "billing", Progress(1))
        assert await events.delete(NS, TOPIC)
        assert not await events.delete(NS, TOPIC)
        assert await events.state(NS, TOPIC) is None
        assert dict(await events.groups(NS, TOPIC)) == {}
        for call in (events.read(NS, TOPIC, 1, 10), events.offset_at(NS, TOPIC, 0), append(events, b"3")):
            await absent(call)
        await absent(events.advance(NS, TOPIC, "billing", Progress(1)))
        await absent(anext(events.tail(NS, TOPIC, 1)))
        assert await payloads(events, "orders.eu") == [b"eu"]

    async def test_made_anew_it_begins_anew(self, events: Events) -> None:
        await ready(events)
        await events.append(NS, TOPIC, [new(b"1", dedup_id="1")])
        await events.advance(NS, TOPIC, "billing", Progress(1))
        await events.delete(NS, TOPIC)
        await ready(events)
        (done,) = await events.append(NS, TOPIC, [new(b"2", dedup_id="1")])
        assert (done.offset, done.duplicate) == (1, False)
        assert await events.progress(NS, TOPIC, "billing") is None
        assert await payloads(events) == [b"2"]

    async def test_dropping_what_is_not_there(self, events: Events) -> None:
        await events.drop("absent")
        assert not await events.delete("absent", TOPIC)

    async def test_it_is_healthy(self, events: Events) -> None:
        assert events.healthy()


class RetentionContract:
    """The oldest go."""

    async def test_by_count(self, events: Events) -> None:
        await ready(events, retention=Retention(age=0, bytes=0, count=5))
        await append(events, *(b"%d" % number for number in range(1, 21)))

        async def fits() -> bool:
            state = await events.state(NS, TOPIC)
            return state is not None and state.count <= 5

        await eventually(fits)
        state = await events.state(NS, TOPIC)
        assert state is not None
        assert (state.first, state.last, state.count) == (16, 20, 5)
        found = await events.read(NS, TOPIC, 1, 100)
        assert [each.offset for each in found] == [16, 17, 18, 19, 20]

    async def test_by_bytes(self, events: Events) -> None:
        keep = 64 << 10
        await ready(events, retention=Retention(age=0, bytes=keep, count=0))
        for _ in range(10):
            await append(events, *([b"x" * 1000] * 20))

        async def fits() -> bool:
            state = await events.state(NS, TOPIC)
            return state is not None and state.bytes <= keep

        await eventually(fits)
        found = await events.read(NS, TOPIC, 1, 1000)
        assert 20 <= len(found) <= 65
        assert [each.offset for each in found] == list(range(201 - len(found), 201))

    async def test_by_age(self, events: Events) -> None:
        await ready(events, retention=Retention(age=1, bytes=0, count=0))
        await append(events, b"1", b"2")

        async def gone() -> bool:
            return not await events.read(NS, TOPIC, 1, 10)

        await eventually(gone)
        state = await events.state(NS, TOPIC)
        assert state is not None
        assert (state.count, state.first, state.last) == (0, 3, 2)
        assert [each.offset for each in await append(events, b"3")] == [3]

    async def test_less_is_kept_when_it_is_said_so(self, events: Events) -> None:
        await ready(events)
        await append(events, *(b"%d" % number for number in range(1, 11)))
        await events.configure(NS, TOPIC, Retention(age=0, bytes=0, count=2))

        async def fits() -> bool:
            return await payloads(events) == [b"9", b"10"]

        await eventually(fits)
        assert [each.offset for each in await append(events, b"11")] == [11]

    @pytest.mark.parametrize("time", [0, 1 << 40])
    async def test_offset_of_a_time_that_is_not_kept(self, events: Events, time: int) -> None:
        await ready(events, retention=Retention(age=0, bytes=0, count=2))
        await append(events, *(b"%d" % number for number in range(1, 6)))

        async def fits() -> bool:
            return len(await payloads(events)) == 2

        await eventually(fits)
        assert await events.offset_at(NS, TOPIC, time) == 4

    async def test_progress_stays_where_it_is(self, events: Events) -> None:
        await ready(events, retention=Retention(age=0, bytes=0, count=1))
        await append(events, b"1")
        await events.advance(NS, TOPIC, "billing", Progress(0, failures={1: 2}))
        await append(events, b"2", b"3")
        assert normal(await events.progress(NS, TOPIC, "billing")) == Progress(0, (), {1: 2}, ())
