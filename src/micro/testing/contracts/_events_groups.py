"""How far groups have come, and what they gave up."""

from __future__ import annotations

import pytest

from micro.domain.event import DeadLetter, Event, Progress
from micro.ports.events import Events
from micro.testing.contracts._events_world import (
    ALL_BYTES,
    NS,
    OTHER,
    TEXTS,
    TOPIC,
    absent,
    append,
    normal,
    payloads,
    ready,
)

GROUPS = sorted(["billing", "Billing", "billing.eu", "billing-eu", "billing_eu", "-", "1", "g" * 63])


def dead(offset: int, reason: str = "no stock", payload: bytes = ALL_BYTES) -> DeadLetter:
    event = Event(f"id-{offset}", offset, 1_700_000_000_000 + offset, payload, {text: text for text in TEXTS}, "é\n")
    return DeadLetter(event, 3, reason, 1_800_000_000_000 + offset)


class ProgressContract:
    """One for each group."""

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(),
            Progress(7),
            Progress(1 << 40),
            Progress(3, ((5, 5), (7, 9)), {4: 1, 6: 4}, (1, 2)),
            Progress(0, tuple((each, each) for each in range(2, 2000, 2)), dict.fromkeys(range(1, 2000, 2), 1)),
        ],
        ids=["new", "floor", "far", "all", "many"],
    )
    async def test_is_kept_as_it_was_given(self, events: Events, progress: Progress) -> None:
        await ready(events)
        await events.advance(NS, TOPIC, "billing", progress)
        assert normal(await events.progress(NS, TOPIC, "billing")) == normal(progress)

    async def test_in_place_of_the_one_before(self, events: Events) -> None:
        await ready(events)
        assert await events.progress(NS, TOPIC, "billing") is None
        for floor in (3, 50, 0):
            await events.advance(NS, TOPIC, "billing", Progress(floor))
            assert normal(await events.progress(NS, TOPIC, "billing")).floor == floor
        assert list(await events.groups(NS, TOPIC)) == ["billing"]

    async def test_all_shapes_of_names(self, events: Events) -> None:
        await ready(events)
        for floor, group in enumerate(GROUPS):
            await events.advance(NS, TOPIC, group, Progress(floor))
        found = await events.groups(NS, TOPIC)
        assert sorted(found) == GROUPS
        assert list(await events.group_names(NS, TOPIC)) == GROUPS
        assert await events.group_counts(NS, ["none", TOPIC]) == [0, len(GROUPS)]
        assert [normal(found[group]).floor for group in GROUPS] == list(range(len(GROUPS)))

    async def test_of_its_own_topic_only(self, events: Events) -> None:
        places = [(NS, TOPIC), (NS, "orders.billing"), (OTHER, TOPIC)]
        for floor, (namespace, topic) in enumerate(places):
            await ready(events, topic, namespace)
            await events.advance(namespace, topic, "billing", Progress(floor))
        for floor, (namespace, topic) in enumerate(places):
            found = await events.groups(namespace, topic)
            assert {name: each.floor for name, each in found.items()} == {"billing": floor}
        await events.forget(NS, "orders.billing", "billing")
        assert normal(await events.progress(NS, TOPIC, "billing")).floor == 0

    async def test_groups_are_no_events(self, events: Events) -> None:
        await ready(events)
        await append(events, b"1")
        await events.advance(NS, TOPIC, "billing", Progress(1))
        await events.bury(NS, TOPIC, "billing", dead(1))
        assert [each.offset for each in await append(events, b"2")] == [2]
        assert await payloads(events) == [b"1", b"2"]
        assert [each.name for each in await events.topics(NS)] == [TOPIC]

    async def test_forgotten(self, events: Events) -> None:
        await ready(events)
        for group in ("billing", "billing.eu"):
            await events.advance(NS, TOPIC, group, Progress(1))
            await events.bury(NS, TOPIC, group, dead(1))
        assert await events.forget(NS, TOPIC, "billing")
        assert not await events.forget(NS, TOPIC, "billing")
        assert await events.progress(NS, TOPIC, "billing") is None
        assert await events.dead(NS, TOPIC, "billing") == 0
        assert list(await events.groups(NS, TOPIC)) == ["billing.eu"]
        assert await events.dead(NS, TOPIC, "billing.eu") == 1

    async def test_of_what_is_not_there(self, events: Events) -> None:
        await absent(events.advance(NS, TOPIC, "billing", Progress()))
        assert await events.progress(NS, TOPIC, "billing") is None
        assert dict(await events.groups(NS, TOPIC)) == {}
        assert list(await events.group_names(NS, TOPIC)) == []
        assert not await events.forget(NS, TOPIC, "billing")


class DeadLettersContract:
    """Whole copies, by group and offset."""

    async def test_come_back_as_they_were(self, events: Events) -> None:
        await ready(events)
        letter = dead(1, reason="".join(TEXTS))
        await events.bury(NS, TOPIC, "billing", letter)
        assert await events.buried(NS, TOPIC, "billing", 0, 10) == [letter]
        assert await events.dead(NS, TOPIC, "billing") == 1

    async def test_the_largest(self, events: Events) -> None:
        await ready(events)
        letter = dead(1, reason="x" * 1000, payload=b"\xff" * (1 << 20))
        await events.bury(NS, TOPIC, "billing", letter)
        assert await events.buried(NS, TOPIC, "billing", 0, 10) == [letter]

    async def test_in_order_and_in_pages(self, events: Events) -> None:
        await ready(events)
        for offset in (5, 100, 3, 20, 1):
            await events.bury(NS, TOPIC, "billing", dead(offset))

        async def offsets(after: int, limit: int) -> list[int]:
            return [each.event.offset for each in await events.buried(NS, TOPIC, "billing", after, limit)]

        assert await offsets(0, 100) == [1, 3, 5, 20, 100]
        assert await offsets(0, 2) == [1, 3]
        assert await offsets(3, 2) == [5, 20]
        assert await offsets(20, 100) == [100]
        assert await offsets(100, 100) == []

    async def test_the_same_offset_again(self, events: Events) -> None:
        await ready(events)
        await events.bury(NS, TOPIC, "billing", dead(1, "first"))
        await events.bury(NS, TOPIC, "billing", dead(1, "second"))
        assert [each.reason for each in await events.buried(NS, TOPIC, "billing", 0, 10)] == ["second"]
        assert await events.dead(NS, TOPIC, "billing") == 1

    async def test_removed(self, events: Events) -> None:
        await ready(events)
        for offset in (1, 2, 3):
            await events.bury(NS, TOPIC, "billing", dead(offset))
        assert await events.unbury(NS, TOPIC, "billing", [1, 3, 17]) == 2
        assert await events.unbury(NS, TOPIC, "billing", [1, 3]) == 0
        assert [each.event.offset for each in await events.buried(NS, TOPIC, "billing", 0, 10)] == [2]
        assert await events.dead(NS, TOPIC, "billing") == 1

    async def test_of_their_own_group_and_topic_only(self, events: Events) -> None:
        places = [
            (NS, TOPIC, "a"),
            (NS, TOPIC, "a.b"),
            (NS, "orders.a", "b"),
            (NS, "orders.a.b", "b"),
            (OTHER, TOPIC, "a"),
        ]
        for number, (namespace, topic, group) in enumerate(places):
            await ready(events, topic, namespace)
            await events.bury(namespace, topic, group, dead(1, str(number)))
        for number, (namespace, topic, group) in enumerate(places):
            found = await events.buried(namespace, topic, group, 0, 10)
            assert [each.reason for each in found] == [str(number)]
        await events.delete(NS, "orders.a")
        assert await events.dead(NS, "orders.a", "b") == 0
        assert [await events.dead(*place) for place in (places[0], places[1], places[3], places[4])] == [1, 1, 1, 1]

    async def test_are_gone_with_their_topic(self, events: Events) -> None:
        await ready(events)
        await events.bury(NS, TOPIC, "billing", dead(1))
        await events.delete(NS, TOPIC)
        await ready(events)
        assert await events.buried(NS, TOPIC, "billing", 0, 10) == []

    async def test_of_what_is_not_there(self, events: Events) -> None:
        assert await events.buried(NS, TOPIC, "billing", 0, 10) == []
        assert await events.dead(NS, TOPIC, "billing") == 0
        assert await events.unbury(NS, TOPIC, "billing", [1]) == 0
        await absent(events.bury(NS, TOPIC, "billing", dead(1)))
