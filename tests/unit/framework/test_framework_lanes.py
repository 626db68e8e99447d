"""Streams that are kept to publish over: for who publishes often, and never instead of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.framework import lanes
from micro.framework.lanes import LARGE, MOST, Lanes
from micro.rpc.context import CURRENT
from micro.rpc.gen.micro.events.v1 import events_pb as pb


class Server:
    """Answers publishes with their numbers."""

    def __init__(self) -> None:
        self.place: str | None = "here"
        self.refuses: Error | None = None
        self.namespaces: list[str] = []
        self.open = 0
        self.said: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.ends = asyncio.Event()
        self.lanes = Lanes(self.begin, lambda: self.place)

    async def begin(
        self, requests: AsyncIterator[pb.PublishEachRequest], namespace: str
    ) -> AsyncGenerator[pb.PublishEachResponse]:
        self.namespaces.append(namespace)
        assert CURRENT.get() is None
        if self.refuses is not None:
            raise self.refuses
        self.open += 1
        try:
            yield pb.PublishEachResponse()
            while True:
                asked, ended = asyncio.ensure_future(anext(requests)), asyncio.ensure_future(self.ends.wait())
                await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    asked.cancel()
                    return
                ended.cancel()
                request = asked.result()
                self.said.append(request.topic)
                await self.go.wait()
                if request.topic == "bad":
                    yield pb.PublishEachResponse(code="invalid_argument", message="it is bad")
                else:
                    yield pb.PublishEachResponse(events=[pb.PublishResponse(offset=len(self.said))])
        finally:
            self.open -= 1

    async def publish(
        self, topic: str = "t", size: int = 1, namespace: str = "", timeout: float | None = 5.0
    ) -> int | None:
        """Its number; None when no lane took it."""
        answer = await self.lanes.publish(pb.PublishEachRequest(topic=topic), size, namespace, timeout)
        return answer.events[0].offset if answer is not None else None

    async def warm(self, namespace: str = "") -> None:
        """Publish until a lane takes it."""
        await self.until(lambda: self.said != [], namespace)
        self.said.clear()

    async def until(self, reached: Callable[[], bool], namespace: str = "") -> None:
        async with asyncio.timeout(5):
            while not reached():
                await self.publish(namespace=namespace)
                await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    made.go.set()
    made.ends.set()
    async with asyncio.timeout(5):
        while made.open:
            await asyncio.sleep(0)


async def test_the_first_publish_opens_none_and_the_next_ones_have_one(server: Server) -> None:
    assert await server.publish() is None
    await asyncio.sleep(0)
    assert server.open == 0, "a program that publishes once is not worth a stream"
    await server.warm()
    assert [await server.publish() for _ in range(3)] == [1, 2, 3]
    assert server.open == 1


async def test_what_is_large_or_where_lanes_save_nothing_goes_another_way(server: Server) -> None:
    await server.warm()
    assert await server.publish(size=LARGE) is None
    server.place = None
    assert await server.publish() is None
    assert server.said == []


async def test_a_lane_is_busy_until_it_has_answered_and_there_are_a_few(server: Server) -> None:
    await server.until(lambda: server.open == 1)
    server.go.clear()
    under_way = []
    async with asyncio.timeout(5):
        while len(under_way) < MOST:
            one = asyncio.ensure_future(server.publish())  # owned: awaited below
            await asyncio.sleep(0)
            if not one.done():
                under_way.append(one)
            await asyncio.sleep(0)
    for _ in range(10):
        assert await server.publish() is None
        await asyncio.sleep(0)
    assert server.open == MOST
    server.go.set()
    assert None not in await asyncio.gather(*under_way)


async def test_each_namespace_and_place_has_its_own(server: Server) -> None:
    await server.warm("shop")
    assert await server.publish() is None
    server.place = "there"
    assert await server.publish(namespace="shop") is None
    assert set(server.namespaces) == {"shop"}


async def test_what_is_wrong_with_one_is_its_own(server: Server) -> None:
    await server.warm()
    with pytest.raises(Error, match="it is bad") as bad:
        await server.publish("bad")
    assert bad.value.kind is Kind.INVALID_ARGUMENT
    assert await server.publish() == 2
    assert server.open == 1


async def test_a_stream_that_ends_fails_what_is_under_way_and_nothing_else(server: Server) -> None:
    await server.warm()
    server.ends.set()
    with pytest.raises(Error, match="ended the stream") as ended:
        await server.publish()
    assert ended.value.kind is Kind.UNAVAILABLE
    assert await server.publish() is None
    await asyncio.sleep(0)
    assert server.open == 0, "not at once again"


async def test_a_lane_that_cannot_be_opened_is_tried_again_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refuses = errors.permission_denied("no")
    for _ in range(20):
        assert await server.publish() is None
        await asyncio.sleep(0)
    assert len(server.namespaces) == 1
    server.refuses = None
    clock = lanes.time.monotonic
    monkeypatch.setattr(lanes.time, "monotonic", lambda: clock() + 11)
    await server.warm()
    assert server.open == 1


async def test_a_deadline_gives_the_lane_up(server: Server) -> None:
    await server.warm()
    server.go.clear()
    with pytest.raises(Error) as late:
        await server.publish(timeout=0.01)
    assert late.value.kind is Kind.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        while server.open:
            await asyncio.sleep(0)
    assert await server.publish() is None, "its answer would be taken for another's"


async def test_who_is_cancelled_gives_the_lane_up(server: Server) -> None:
    await server.warm()
    server.go.clear()
    publishing = asyncio.ensure_future(server.publish())  # owned: cancelled below
    async with asyncio.timeout(5):
        while not server.said:
            await asyncio.sleep(0)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    async with asyncio.timeout(5):
        while server.open:
            await asyncio.sleep(0)
    server.go.set()
    await server.until(lambda: server.open == 1)
    assert server.open == 1, "it has not failed, so the next one need not wait"


async def test_a_lane_that_is_old_makes_room_for_a_new_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_LONGEST", 0.0)
    await server.until(lambda: server.open == 1)
    assert await server.publish() == 1
    assert await server.publish() is None
    await asyncio.sleep(0)
    await server.until(lambda: len(server.said) == 2)
    assert len(server.namespaces) == 2


async def test_a_lane_that_nobody_needs_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_IDLE", 0.02)
    await server.warm()
    async with asyncio.timeout(5):
        while server.open:
            await asyncio.sleep(0.005)
    assert await server.publish() is None
