"""Whatever is asked of event streams: an answer, or an error that says what is wrong, and then nothing has changed.

Over memory, and over NATS, which has limits and words of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from callers import calling
from events_world import ANN, SHOP, World, world
from hypothesis import given, settings
from hypothesis import strategies as some

from micro.backends.nats._connection import Connection
from micro.backends.nats.events import NatsEvents
from micro.domain.errors import Error, Kind
from micro.ports.events import no_topic
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.wkt import Timestamp, oneof
from micro.testing.nats import NatsChild, nats_child

Worlds = Callable[[], AbstractAsyncContextManager[World]]
REFUSED = {Kind.INVALID_ARGUMENT, Kind.NOT_FOUND, Kind.PERMISSION_DENIED}
INT32, INT64 = some.integers(-(2**31), 2**31 - 1), some.integers(-(2**63), 2**63 - 1)
names = some.one_of(
    some.sampled_from(
        ["orders", "absent", "orders.*", ">", "", ".", "a..b", "micro.auth", "a" * 256, "späť", "a b", "x\n"]
    ),
    some.text(max_size=8),
)
groups = some.one_of(some.sampled_from(["g", "g.h", "", "*", "g" * 64]), some.text(max_size=4))
seconds = some.one_of(some.floats(), some.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324]))
stamps = some.builds(lambda s, n: Timestamp(seconds=s, nanos=n), INT64, INT32)
starts = some.one_of(
    some.none(),
    some.just(pb.Start()),
    some.booleans().map(lambda on: pb.Start(at=oneof("new", on))),
    some.booleans().map(lambda on: pb.Start(at=oneof("all", on))),
    INT64.map(lambda offset: pb.Start(at=oneof("offset", offset))),
    stamps.map(lambda stamp: pb.Start(at=oneof("time", stamp))),
)
new = some.builds(
    pb.NewEvent,
    payload=some.sampled_from([b"", b"x", b"x" * (2**20 + 1)]),
    metadata=some.dictionaries(some.text(max_size=3), some.text(max_size=3), max_size=3),
    timestamp=some.none() | stamps,
    key=some.sampled_from(["", "k", "k" * 256]) | some.text(max_size=4),
    dedup_id=some.sampled_from(["", "d", "ä" * 128]),
)
offsets = some.lists(INT64, max_size=4)
reads = some.one_of(
    some.builds(pb.ReadRequest, topic=names, from_=starts, limit=INT32),
    some.builds(pb.TopicsInfoRequest, topic=names),
    some.builds(pb.GroupsListRequest, topic=names),
    some.builds(pb.DeadLettersListRequest, topic=names, group=groups, limit=INT32, after=INT64),
    some.builds(pb.DeadLettersRedriveRequest, topic=names, group=groups, offsets=offsets),
    some.builds(pb.DeadLettersDropRequest, topic=names, group=groups, offsets=offsets),
)
writes = some.one_of(
    some.builds(lambda topic, one: _publish(topic, one), names, new),
    some.builds(pb.PublishBatchRequest, topic=names, events=some.lists(new, max_size=3)),
    some.builds(
        pb.TopicsConfigureRequest,
        topic=names,
        retention=some.none() | some.builds(pb.Retention, age=seconds, bytes=INT64, count=INT64),
    ),
    some.builds(pb.TopicsDeleteRequest, topic=names),
    some.builds(pb.GroupsResetRequest, topic=names, group=groups, to=starts),
    some.builds(pb.GroupsDeleteRequest, topic=names, group=groups),
)
firsts = some.builds(
    pb.ConsumeRequest,
    topic=names,
    group=groups,
    from_=starts,
    auto_ack=some.booleans(),
    ack_wait=seconds,
    max_deliver=INT32,
    backoff=some.lists(seconds, max_size=3),
    max_in_flight=INT32,
    acks=some.lists(INT64, max_size=2),
)
nexts = some.builds(
    pb.ConsumeRequest,
    acks=offsets,
    nacks=some.lists(
        some.builds(
            pb.Nack, delivery=INT64, delay=some.none() | seconds, reason=some.text(max_size=9), release=some.booleans()
        ),
        max_size=3,
    ),
    drain=some.booleans(),
)


def _publish(topic: str, one: pb.NewEvent) -> pb.PublishRequest:
    return pb.PublishRequest(
        topic=topic,
        payload=one.payload,
        metadata=one.metadata,
        timestamp=one.timestamp,
        key=one.key,
        dedup_id=one.dedup_id,
    )


def handler(w: World, request: Any) -> Callable[..., Awaitable[Any]]:
    found: dict[type, Callable[..., Awaitable[Any]]] = {
        pb.ReadRequest: w.reads.read,
        pb.TopicsInfoRequest: w.logs.info,
        pb.GroupsListRequest: w.groups.list,
        pb.DeadLettersListRequest: w.dead.list,
        pb.DeadLettersRedriveRequest: w.dead.redrive,
        pb.DeadLettersDropRequest: w.dead.drop,
        pb.PublishRequest: w.stream.publish,
        pb.PublishBatchRequest: w.stream.publish_batch,
        pb.TopicsConfigureRequest: w.logs.configure,
        pb.TopicsDeleteRequest: w.logs.delete,
        pb.GroupsResetRequest: w.groups.reset,
        pb.GroupsDeleteRequest: w.groups.delete,
    }
    return found[type(request)]


async def state(w: World) -> Any:
    """All that there is."""
    topics = await w.events.topics("shop")
    groups = {state.name: dict(await w.events.groups("shop", state.name)) for state in topics}
    return topics, groups


async def refused(w: World, act: Callable[[], Awaitable[Any]]) -> bool:
    """Whether it was refused, in one line, and changed nothing."""
    before, found = await state(w), None
    try:
        await act()
    except Error as error:
        found = error
    if found is not None:
        assert found.kind in REFUSED, found
        assert found.message
        assert "\n" not in found.message
        assert len(found.message) < 400
        assert "events' state" not in found.message  # those are a backend's words
        assert await state(w) == before
    return found is not None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsChild]:
    with nats_child(tmp_path_factory.mktemp("nats")) as child:
        yield child


def over(server: NatsChild) -> Worlds:
    """Worlds over NATS, each of which finds nothing there."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[World]:
        async with AsyncExitStack() as stack:
            connection = Connection(server.address)
            await connection.start(stack)
            events = NatsEvents(connection)
            stack.push_async_callback(events.drop, "shop")
            yield await stack.enter_async_context(world(events=events))

    return opened


async def _all(worlds: Worlds, requests: list[Any]) -> None:
    async with worlds() as w:
        await w.publish("1")
        for request in requests:
            await refused(w, lambda request=request: handler(w, request)(request, calling(ANN)))


@settings(max_examples=150, deadline=None)
@given(some.lists(reads | writes, min_size=1, max_size=4))
def test_any_request_is_answered_or_refused(requests: list[Any]) -> None:
    asyncio.run(_all(world, requests))


@settings(max_examples=100, deadline=None)
@given(requests=some.lists(reads | writes, min_size=1, max_size=8))
def test_any_request_is_answered_or_refused_over_nats(server: NatsChild, requests: list[Any]) -> None:
    asyncio.run(_all(over(server), requests))


async def _consume(worlds: Worlds, first: pb.ConsumeRequest, said: list[pb.ConsumeRequest]) -> None:
    async with worlds() as w:
        await w.publish("1", "2")
        consumer = w.open()
        consumer._said.get_nowait()
        for request in (first, *said, None):
            consumer._said.put_nowait(request)

        async def read() -> None:
            assert await consumer.begin() >= 1
            with contextlib.suppress(Error):  # acknowledgements of what was not delivered
                while await consumer.frame() is not None:
                    pass

        await refused(w, read)


@settings(max_examples=100, deadline=None)
@given(firsts, some.lists(nexts, max_size=2))
def test_any_consumer_is_served_or_refused(first: pb.ConsumeRequest, said: list[pb.ConsumeRequest]) -> None:
    first.auto_ack = False
    asyncio.run(_consume(world, first, said))


@settings(max_examples=60, deadline=None)
@given(first=firsts, said=some.lists(nexts, max_size=2))
def test_any_consumer_is_served_or_refused_over_nats(
    server: NatsChild, first: pb.ConsumeRequest, said: list[pb.ConsumeRequest]
) -> None:
    first.auto_ack = False
    asyncio.run(_consume(over(server), first, said))


PLACES = [("new", True), ("all", True), ("offset", 1), ("offset", 7), ("time", Timestamp(seconds=1)), None]
STARTS = [pb.Start(at=oneof(*place)) if place else None for place in PLACES]


@pytest.mark.parametrize("backend", ["memory", "nats"])
async def test_whatever_is_asked_of_a_topic_that_is_not_there_has_one_answer(server: NatsChild, backend: str) -> None:
    named = {"topic": "nothing", "group": "g"}
    asked = [
        *(pb.ReadRequest(topic="nothing", from_=start) for start in STARTS),
        *(pb.GroupsResetRequest(to=start, **named) for start in STARTS if start is not None),
        pb.TopicsInfoRequest(topic="nothing"),
        pb.GroupsListRequest(topic="nothing"),
        pb.DeadLettersListRequest(**named),
        pb.DeadLettersRedriveRequest(offsets=[1], **named),
        pb.DeadLettersRedriveRequest(**named),
        pb.DeadLettersDropRequest(offsets=[1], **named),
        pb.DeadLettersDropRequest(**named),
    ]
    async with (world if backend == "memory" else over(server))() as w:
        for _ in range(2):  # and of one that was there
            for request in asked:
                with pytest.raises(Error) as caught:
                    await handler(w, request)(request, calling(ANN))
                assert caught.value.kind is Kind.NOT_FOUND
                assert caught.value.message == no_topic("nothing").message, request
            for request in (pb.GroupsDeleteRequest(**named), pb.TopicsDeleteRequest(topic="nothing")):
                assert not (await handler(w, request)(request, calling(ANN))).deleted
            assert not await w.events.topics("shop")
            await w.publish("1", topic="nothing")
            await (await w.consume("nothing")).close()
            assert (await w.logs.delete(pb.TopicsDeleteRequest(topic="nothing"), calling(ANN))).deleted


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.PublishRequest(topic="orders", payload=b"x" * (2**20 + 1)), "blob"),
        (pb.PublishRequest(topic="orders.*"), "not a topic"),
        (pb.PublishRequest(topic="orders", timestamp=Timestamp(seconds=-1)), "1970"),
        (pb.PublishBatchRequest(topic="orders"), "the batch is empty"),
        (
            pb.PublishBatchRequest(topic="orders", events=[pb.NewEvent(), pb.NewEvent(key="k" * 256)]),
            "event 2: the key",
        ),
        (pb.ReadRequest(topic="orders", from_=pb.Start(at=oneof("offset", -1))), "offset -1 is out of range"),
        (pb.ReadRequest(topic="orders", limit=1001), "limit 1001"),
        (pb.ReadRequest(topic="nothing"), "there is no topic nothing"),
        (pb.GroupsResetRequest(topic="orders", group="g"), "the place is missing"),
        (pb.DeadLettersListRequest(topic="orders", group="nobody"), "there is no group nobody of topic orders"),
        (pb.DeadLettersRedriveRequest(topic="orders", group="g", offsets=[0]), "offset 0 is out of range"),
        (pb.TopicsConfigureRequest(topic="orders", retention=pb.Retention(age=math.nan)), "retention age"),
    ],
)
async def test_what_is_wrong_is_named(request_: Any, message: str) -> None:
    async with world() as w:
        await w.publish("1")
        with pytest.raises(Error, match=message):
            await handler(w, request_)(request_, calling(SHOP))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"ack_wait": math.nan}, "ack_wait=nan s"),
        ({"ack_wait": 3601.0}, "use 0.01 to 3600 s"),
        ({"max_deliver": -2}, "max_deliver=-2"),
        ({"max_in_flight": 1025}, "max_in_flight=1025"),
        ({"backoff": [1.0, math.inf]}, "backoff=inf s"),
        ({"group": "a b"}, "is not a group"),
        ({"topic": "micro.*"}, "is not a topic"),
        ({"namespace": "nowhere"}, "nowhere"),
    ],
)
async def test_terms_that_cannot_be_kept_to(terms: dict[str, Any], message: str) -> None:
    async with world() as w:
        with pytest.raises(Error, match=message):
            await w.consume(**{"topic": "orders", **terms})
        assert not await w.events.topics("shop")
