"""What the platform tells about itself, on its way to an events service that comes and goes."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from micro.backends.remote import announcements as remote
from micro.backends.remote.announcements import BATCH, RemoteAnnouncements
from micro.domain import errors
from micro.ports.announcements import AUTH, RUNTIME
from micro.rpc.app import Application
from micro.rpc.client import Client, Pool
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import Stream
from micro.testing.local import LocalChannel

NOON = 1_800_000_000.1234


class Kept(Stream):
    """An events service that keeps what it is given, each dedup id once.

    Attributes:
        here: cleared while it is away.
        forgetful: how many calls are taken without an answer.
        broken: a namespace whose topics cannot be reached.
        unheard: how many calls about a namespace are made before it has heard of that.
    """

    def __init__(self) -> None:
        self.topics: dict[tuple[str, str], list[pb.NewEvent]] = {}
        self.batches: list[int] = []
        self.here = asyncio.Event()
        self.here.set()
        self.unheard: dict[str, float] = {}
        self.broken = ""
        self.forgetful = 0
        self.asked = asyncio.Event()
        self._changed = asyncio.Event()

    async def publish_batch(self, request: pb.PublishBatchRequest, ctx: Any) -> pb.PublishBatchResponse:
        self.asked.set()
        if self.unheard.get(request.namespace, 0) > 0:
            self.unheard[request.namespace] -= 1
            raise errors.not_found(f"there is no namespace {request.namespace}")
        if not self.here.is_set() or request.namespace == self.broken:
            raise errors.unavailable("events is away")
        self.batches.append(len(request.events))
        topic = self.topics.setdefault((request.namespace, request.topic), [])
        known = {event.dedup_id for event in topic}
        topic += [event for event in request.events if event.dedup_id not in known]
        self._changed.set()
        if self.forgetful:
            self.forgetful -= 1
            raise errors.unavailable("the answer was lost")
        return pb.PublishBatchResponse(events=[pb.PublishResponse() for _ in request.events])

    def told(self, namespace: str = "shop", topic: str = RUNTIME) -> list[dict[str, str]]:
        return [json.loads(event.payload) for event in self.topics.get((namespace, topic), [])]

    async def until(self, count: int, namespace: str = "shop", topic: str = RUNTIME) -> list[dict[str, str]]:
        async with asyncio.timeout(30):
            while len(self.told(namespace, topic)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.told(namespace, topic)


@asynccontextmanager
async def telling(kept: Kept, most: int = 1000) -> AsyncIterator[RemoteAnnouncements]:
    pool = Pool()
    with pool.through(LocalChannel({"events": Application("events", (kept,))})):
        async with AsyncExitStack() as stack:
            announcements = RemoteAnnouncements(Client("events:1", pool=pool), most=most, now=lambda: NOON)
            await announcements.start(stack)
            yield announcements


async def test_what_happened_is_an_event_with_its_type_and_time() -> None:
    kept = Kept()
    async with telling(kept) as announcements:
        announcements.tell("shop", RUNTIME, "service.ready", {"service": "greeter", "instance": "greeter-1"})
        assert await kept.until(1) == [
            {
                "type": "service.ready",
                "time": "2027-01-15T08:00:00.123Z",
                "service": "greeter",
                "instance": "greeter-1",
            }
        ]
    [event] = kept.topics["shop", RUNTIME]
    assert (dict(event.metadata), event.key) == ({"type": "service.ready"}, "greeter")
    assert event.timestamp is not None
    assert event.timestamp.to_nanos() == 1_800_000_000_123_000_000


async def test_what_collects_goes_in_batches_in_the_order_of_each_topic() -> None:
    kept = Kept()
    async with telling(kept) as announcements:
        for number in range(500):
            announcements.tell("shop", RUNTIME, "service.ready", {"service": str(number)})
            if number % 50 == 0:
                announcements.tell("shop", AUTH, "account.created", {"account": str(number)})
                announcements.tell("rival", RUNTIME, "service.ready", {"service": str(number)})
        told = await kept.until(500)
        assert [one["service"] for one in told] == [str(number) for number in range(500)]
        assert [one["account"] for one in await kept.until(10, topic=AUTH)] == [str(n) for n in range(0, 500, 50)]
        assert len(await kept.until(10, "rival")) == 10
    assert len(kept.batches) < 10
    assert max(kept.batches) <= BATCH


async def test_nothing_is_lost_nor_told_twice_while_events_comes_and_goes() -> None:
    kept = Kept()
    kept.here.clear()
    async with telling(kept) as announcements:
        announcements.tell("shop", RUNTIME, "service.ready", {"service": "first"})
        async with asyncio.timeout(30):
            await kept.asked.wait()
        announcements.tell("shop", RUNTIME, "service.ready", {"service": "second"})
        kept.forgetful = 2  # what was taken is sent again, since nobody said that it was
        kept.here.set()
        assert [one["service"] for one in await kept.until(2)] == ["first", "second"]
        announcements.tell("shop", RUNTIME, "service.ready", {"service": "third"})
        assert [one["service"] for one in await kept.until(3)] == ["first", "second", "third"]
    assert sum(kept.batches) > 3


async def test_beyond_its_bound_the_oldest_of_who_tells_most_is_dropped_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept()
    kept.here.clear()
    with caplog.at_level(logging.WARNING, "micro"):
        async with telling(kept, most=10) as announcements:
            announcements.tell("rival", RUNTIME, "service.ready", {"service": "quiet"})
            for number in range(30):
                announcements.tell("shop", RUNTIME, "service.ready", {"service": str(number)})
            kept.here.set()
            assert [one["service"] for one in await kept.until(9)] == [str(number) for number in range(21, 30)]
            assert [one["service"] for one in await kept.until(1, "rival")] == ["quiet"]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "events cannot be reached: of what the platform tells about itself, the oldest is dropped",
        "events can be reached again: 21 of the platform's were dropped",
    ]


async def test_where_nobody_tells_more_than_the_others_somebody_is_dropped_whole() -> None:
    kept = Kept()
    kept.here.clear()
    async with telling(kept, most=2) as announcements:
        for namespace in ("a", "b", "c", "d"):
            announcements.tell(namespace, RUNTIME, "service.ready", {"service": "greeter"})
        kept.here.set()
        await kept.until(1, "d")
    assert sorted(namespace for namespace, _ in kept.topics) == ["c", "d"]
    assert 0 not in kept.batches


async def test_a_namespace_that_is_gone_is_told_nothing_and_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    kept.unheard = {"shop": math.inf, "rival": 1}
    async with telling(kept) as announcements:
        announcements.tell("shop", RUNTIME, "service.killed", {"service": "greeter"})
        announcements.tell("rival", RUNTIME, "service.ready", {"service": "greeter"})
        await kept.until(1, "rival")
    assert kept.told() == []
    assert not caplog.records


async def test_a_topic_that_cannot_be_reached_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_TURN_TRIES", 1)
    kept = Kept()
    kept.broken = "blog"
    async with telling(kept) as announcements:
        for number in range(BATCH + 1):
            announcements.tell("blog", RUNTIME, "service.ready", {"service": f"{number}"})
        announcements.tell("shop", RUNTIME, "service.ready", {"service": "greeter"})
        await kept.until(1)
        kept.broken = ""
        told = await kept.until(BATCH + 1, "blog")
    assert [one["service"] for one in told] == [str(number) for number in range(BATCH + 1)]


async def test_what_happens_last_is_told_before_the_process_ends_if_it_can() -> None:
    kept = Kept()
    async with telling(kept) as announcements:
        announcements.tell("shop", RUNTIME, "service.stopped", {"service": "greeter"})
    assert len(kept.told()) == 1

    kept.here.clear()
    async with asyncio.timeout(30), telling(kept) as announcements:
        announcements.tell("shop", RUNTIME, "service.stopped", {"service": "greeter"})
    assert len(kept.told()) == 1


async def test_a_reason_of_any_length_is_cut() -> None:
    kept = Kept()
    async with telling(kept) as announcements:
        announcements.tell("shop", RUNTIME, "service.crashed", {"service": "x" * 300, "reason": "y" * 100_000})
        [told] = await kept.until(1)
    assert (len(told["service"]), len(told["reason"])) == (300, 1000)
    assert kept.topics["shop", RUNTIME][0].key == ""
