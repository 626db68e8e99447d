"""What event streams in NATS do beyond their contract: lost answers, other settings, long names, a server that goes."""

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from micro.backends.nats import _appends, _follow, _groups, _topics
from micro.backends.nats._connection import Connection
from micro.backends.nats.events import NatsEvents
from micro.domain import errors
from micro.domain.event import DeadLetter, Event, New, Progress, Retention
from micro.domain.record import Durability
from micro.testing.contracts.events import NS, TOPIC, append, new, ready, refused
from micro.testing.nats import NatsChild, nats_child

FOR_EVER = Retention(age=0, bytes=0, count=0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsChild]:
    with nats_child(tmp_path_factory.mktemp("nats")) as child:
        yield child


@pytest.fixture
def child(tmp_path: Path) -> Iterator[NatsChild]:
    """For who kills it."""
    with nats_child(tmp_path / "nats") as child:
        yield child


@asynccontextmanager
async def connected(child: NatsChild, **options: Any) -> AsyncIterator[NatsEvents]:
    async with AsyncExitStack() as stack:
        connection = Connection(child.address)
        await connection.start(stack)
        events = NatsEvents(connection, **options)
        await events.start(stack)
        yield events


@pytest.fixture
async def events(shared: NatsChild) -> AsyncGenerator[NatsEvents]:
    async with connected(shared) as events:
        yield events
        await events.drop(NS)


async def asked(events: NatsEvents, name: str, body: dict[str, Any] | None = None) -> Any:
    return await events._streams.call(name, body)


@pytest.mark.parametrize("dedup", [False, True], ids=["plain", "dedup"])
@pytest.mark.parametrize("count", [1, 5])
async def test_what_is_sent_again_as_the_answer_was_lost_is_there_once(
    events: NatsEvents, count: int, dedup: bool
) -> None:
    """And is told as what it is: no duplicate."""
    await ready(events)
    sent = [new(b"%d" % each, dedup_id=f"d{each}" if dedup else "") for each in range(count)]
    told: list[Any] = []

    def answered(message: Any) -> None:
        told.append(message)
        events._appends._lost()

    client = events._connection.client
    [number] = [each for each, heard in client._heard.items() if heard == events._appends._answered]
    client._heard[number] = answered
    appending = asyncio.create_task(events.append(NS, TOPIC, sent))
    async with asyncio.timeout(30):
        while not told:
            await asyncio.sleep(0)
    client._heard[number] = events._appends._answered
    done = await appending
    assert [(each.id, each.offset, each.duplicate) for each in done] == [
        (event.id, offset, False) for offset, event in enumerate(sent, 1)
    ]
    assert [each.id for each in await events.read(NS, TOPIC, 1, 100)] == [each.id for each in sent]
    again = await events.append(NS, TOPIC, sent)
    assert [(each.offset, each.duplicate) for each in again] == [
        (offset if dedup else offset + count, dedup) for offset in range(1, count + 1)
    ]


async def test_a_full_batch_of_the_largest_and_one_event_too_many_for_one_message(events: NatsEvents) -> None:
    await ready(events)
    large = b"x" * (1 << 20)
    assert [each.offset for each in await append(events, *[large] * 4)] == [1, 2, 3, 4]
    with pytest.raises(errors.Error) as caught:
        await append(events, b"x" * (9 << 20))
    assert caught.value.kind is errors.Kind.RESOURCE_EXHAUSTED
    assert [each.offset for each in await append(events, b"5")] == [5]


async def test_metadata_that_no_header_holds(events: NatsEvents) -> None:
    await ready(events)
    metadata = {"control": "\x01" * (16 << 10), "é": "☃" * 100}
    await events.append(NS, TOPIC, [new(b"{payload}", metadata=metadata)])
    (found,) = await events.read(NS, TOPIC, 1, 1)
    assert (found.metadata, found.payload) == (metadata, b"{payload}")


async def test_names_too_long_for_a_file(events: NatsEvents) -> None:
    long = ["a." * 127 + "b", "a." * 127 + "c", "a" * 255, "a" * 254]
    for name in long:
        assert len(_topics.stream_of("n" * 63, name)) < 240
        await ready(events, name)
        await append(events, name.encode(), topic=name)
    assert [each.name for each in await events.topics(NS)] == sorted(long)
    for name in long:
        assert [each.payload for each in await events.read(NS, name, 1, 10)] == [name.encode()]


async def test_more_topics_than_one_answer_lists(events: NatsEvents) -> None:
    names = [f"t{number:03}" for number in range(260)]
    await asyncio.gather(*(ready(events, name) for name in names))
    assert [each.name for each in await events.topics(NS)] == names


async def test_no_room_is_set_aside_for_what_may_come(events: NatsEvents) -> None:
    for number in range(3):
        await ready(events, f"t{number}", retention=Retention(bytes=1 << 50))
    assert {each.retention.bytes for each in await events.topics(NS)} == {1 << 50}


async def test_a_topic_that_somebody_changed_is_brought_back(events: NatsEvents) -> None:
    await ready(events)
    stream = _topics.stream_of(NS, TOPIC)
    config = (await asked(events, f"STREAM.INFO.{stream}"))["config"]
    await asked(events, f"STREAM.UPDATE.{stream}", {**config, "duplicate_window": 10**9, "allow_atomic": False})
    await events.advance(NS, TOPIC, "billing", Progress(1))
    now = (await asked(events, f"STREAM.INFO.{stream}"))["config"]
    assert (now["duplicate_window"], now["allow_atomic"]) == (120 * 10**9, True)
    assert now["metadata"]["micro.id"] == config["metadata"]["micro.id"]


async def test_a_topic_of_a_newer_release_is_left_alone(events: NatsEvents) -> None:
    await ready(events)
    stream = _topics.stream_of(NS, TOPIC)
    config = (await asked(events, f"STREAM.INFO.{stream}"))["config"]
    config["metadata"]["micro.format"] = "2"
    await asked(events, f"STREAM.UPDATE.{stream}", config)
    await refused(errors.Kind.FAILED_PRECONDITION, events.configure(NS, TOPIC, Retention()))
    await refused(errors.Kind.FAILED_PRECONDITION, events.advance(NS, TOPIC, "billing", Progress(1)))


async def test_what_others_have_published_there_is_an_event(events: NatsEvents) -> None:
    await ready(events)
    await events._connection.jetstream.publish(_topics.subject_of(NS, TOPIC), b"bare")
    (found,) = await events.read(NS, TOPIC, 1, 10)
    assert (found.payload, found.offset, dict(found.metadata)) == (b"bare", 1, {})


async def test_groups_that_were_left_behind_are_not_those_of_the_new_topic(
    shared: NatsChild, events: NatsEvents
) -> None:
    """Another process has deleted the topic and made it anew, and a late save of its group comes in between."""
    await ready(events)
    await events.advance(NS, TOPIC, "billing", Progress(1))
    async with connected(shared) as other:
        await other.delete(NS, TOPIC)
        await events.advance(NS, TOPIC, "billing", Progress(2))
        await ready(other)
        assert await other.progress(NS, TOPIC, "billing") is None
        assert dict(await other.groups(NS, TOPIC)) == {}


async def test_a_topic_that_somebody_else_made_anew_begins_without_groups(
    shared: NatsChild, events: NatsEvents
) -> None:
    """And who looks at it knows so at once, however short a time ago it had another one's progress kept."""
    await ready(events)
    await events.advance(NS, TOPIC, "billing", Progress(1000))
    await asked(events, f"STREAM.DELETE.{_topics.stream_of(NS, TOPIC)}")
    async with connected(shared) as other:
        await ready(other)
        state = await events.state(NS, TOPIC)
        assert state is not None
        assert state.last == 0
        assert await events.progress(NS, TOPIC, "billing") is None


async def test_nothing_is_read_ahead_that_nobody_takes(events: NatsEvents) -> None:
    await ready(events)
    for _ in range(4):
        await append(events, *[b"x" * 100_000] * 40)
    client = events._connection.client
    before = client.stats["in_bytes"]
    async with aclosing(events.tail(NS, TOPIC, 1)) as batches:
        taken = len(await anext(batches))
        for _ in range(20):
            await events.state(NS, TOPIC)
        assert client.stats["in_bytes"] - before <= 2 * _follow.PULL_BYTES + 200_000
        async with asyncio.timeout(30):
            while taken < 160:
                taken += len(await anext(batches))


async def test_a_million_bytes_are_enough(events: NatsEvents) -> None:
    """Events of very different sizes: the newest are kept, as many as fit."""
    await ready(events, retention=Retention(age=0, bytes=1 << 20, count=0))
    for number in range(60):
        await append(events, b"x" * (100_000 if number % 10 == 0 else 10_000))
        if number == 30:
            await append(events, *[b"y"] * 100)
    async with asyncio.timeout(30):
        while (state := await events.state(NS, TOPIC)) is None or state.bytes > (1 << 20) * 17 // 16:
            await asyncio.sleep(0.01)
    assert state.last == 160
    assert state.count >= 20


async def test_while_nats_is_away_calls_are_unavailable_after_a_while(child: NatsChild) -> None:
    async with connected(child, patience=0.3) as events:
        await ready(events)
        await append(events, b"1")
        await events.progress(NS, TOPIC, "billing")
        child.kill()
        calls = (
            append(events, b"2"),
            append(events, b"3", b"4"),
            events.read(NS, TOPIC, 1, 1),
            events.topics(NS),
            events.advance(NS, TOPIC, "billing", Progress()),
        )
        await asyncio.gather(*(refused(errors.Kind.UNAVAILABLE, call) for call in calls))
        assert not events.healthy()
        await child.start()
        async with asyncio.timeout(30):
            while not events.healthy():
                await asyncio.sleep(0.01)
        assert (await append(events, b"5"))[0].offset >= 2
        assert events.durability is Durability.DISK


async def test_without_batches_events_are_appended_one_by_one_and_that_is_known(
    shared: NatsChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a NATS that does not know them: nothing is sent as if it did. After an update a topic takes them."""
    async with connected(shared) as events:
        assert events.atomic
    monkeypatch.setattr(_appends, "WITH_BATCHES", (99, 1, 0))
    async with connected(shared) as events:
        assert not events.atomic
        await ready(events)
        info = await asked(events, f"STREAM.INFO.{_topics.stream_of(NS, TOPIC)}")
        assert not info["config"].get("allow_atomic")
        sent = [new(b"%d" % number, dedup_id=str(number)) for number in range(20)]
        await events.append(NS, TOPIC, sent[:7])
        done = await events.append(NS, TOPIC, sent)
        assert [(each.offset, each.duplicate) for each in done] == [(at, at <= 7) for at in range(1, 21)]
        assert [each.payload for each in await events.read(NS, TOPIC, 1, 100)] == [each.payload for each in sent]
    monkeypatch.undo()
    async with connected(shared) as events:
        assert [each.offset for each in await append(events, b"21", b"22")] == [21, 22]
        info = await asked(events, f"STREAM.INFO.{_topics.stream_of(NS, TOPIC)}")
        assert info["config"]["allow_atomic"]
        await events.drop(NS)


async def test_a_topic_that_is_made_while_nats_is_away_takes_batches(child: NatsChild) -> None:
    async with connected(child) as events:
        child.kill()
        making = asyncio.create_task(ready(events))  # owned: by this test
        async with asyncio.timeout(30):
            while events.healthy():
                await asyncio.sleep(0.01)
            assert events.atomic
            await child.start()
            await making
        info = await asked(events, f"STREAM.INFO.{_topics.stream_of(NS, TOPIC)}")
        assert info["config"]["allow_atomic"]


async def test_a_tail_ends_when_the_data_is_lost(child: NatsChild) -> None:
    async with connected(child) as events:
        await ready(events)
        await append(events, b"1")
        async with aclosing(events.tail(NS, TOPIC, 1)) as batches:
            assert len(await anext(batches)) == 1
            child.kill()
            shutil.rmtree(child.server.config.parent / "data")
            await child.start()
            await refused(errors.Kind.NOT_FOUND, anext(batches))


async def test_groups_go_on_with_a_nats_that_has_lost_everything(child: NatsChild) -> None:
    async with connected(child) as events:
        await ready(events)
        await append(events, b"1")
        child.kill()
        shutil.rmtree(child.server.config.parent / "data")
        await child.start()
        await ready(events)
        assert await events.progress(NS, TOPIC, "billing") is None
        dead = DeadLetter((await read_after(events, b"1"))[0], 1, "no", 1)
        for keep in (events.bury(NS, TOPIC, "billing", dead), events.advance(NS, TOPIC, "billing", Progress(1))):
            await keep
        for stream in (_groups.DEAD, _groups.GROUPS):
            await asked(events, f"STREAM.DELETE.{stream}")
        assert await events.dead(NS, TOPIC, "billing") == 0
        assert await events.buried(NS, TOPIC, "billing", 0, 10) == []
        assert dict(await events.groups(NS, TOPIC)) == {}
        await events.advance(NS, TOPIC, "billing", Progress(1))
        assert list(await events.group_names(NS, TOPIC)) == ["billing"]


async def read_after(events: NatsEvents, payload: bytes) -> list[Event]:
    await append(events, payload)
    return await events.read(NS, TOPIC, 1, 10)


async def test_a_tail_ends_when_nats_is_set_back_to_an_earlier_state(child: NatsChild, tmp_path: Path) -> None:
    """Else it would pass over what is appended next, which has offsets that it has had."""
    data = child.server.config.parent / "data"
    async with connected(child) as events:
        await ready(events)
        await append(events, b"1")
        child.kill()
        shutil.copytree(data, tmp_path / "earlier")
        await child.start()
        await append(events, b"2", b"3")
        async with aclosing(events.tail(NS, TOPIC, 1)) as batches:
            async with asyncio.timeout(30):
                while (await anext(batches))[-1].offset < 3:
                    pass
            child.kill()
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "earlier", data)
            await child.start()
            await refused(errors.Kind.NOT_FOUND, anext(batches))
        assert [each.offset for each in await append(events, b"other")] == [2]


async def test_what_is_taken_has_room_to_be_given_up(child: NatsChild) -> None:
    """A NATS that takes no more than a MiB, as it does where nobody has set it: a dead letter is larger than its event,
    and one that could not be kept would hold up its group for ever."""
    child.kill()
    config = child.server.config.read_text()
    child.server.config.write_text(re.sub(r"max_payload: .*", "max_payload: 1MB", config))
    await child.start()
    async with connected(child) as events:
        await ready(events)
        room = events._connection.client.max_payload
        assert room == 1 << 20
        await refused(errors.Kind.RESOURCE_EXHAUSTED, append(events, b"x" * (room - 1500)))
        await append(events, b"x" * (room - 9000))
        (event,) = await events.read(NS, TOPIC, 1, 10)
        worst = DeadLetter(event, 2**31, "\0" * 1024, 2**45)
        await events.bury(NS, TOPIC, "g" * 63, worst)
        assert await events.buried(NS, TOPIC, "g" * 63, 0, 10) == [worst]


async def test_a_batch_is_refused_whole_where_the_topic_is_not(events: NatsEvents) -> None:
    await refused(errors.Kind.NOT_FOUND, append(events, *[b"x"] * 50))


async def test_many_batches_at_once_with_duplicates_among_them(events: NatsEvents) -> None:
    """Each event once, each told where it is; the others of the same flight are not held up."""
    await ready(events)
    sent: list[list[New]] = [
        [new(json.dumps([batch, each]).encode(), dedup_id=f"{(batch * 3 + each) % 40}") for each in range(5)]
        for batch in range(30)
    ]
    done = await asyncio.gather(*(events.append(NS, TOPIC, batch) for batch in sent))
    found = {each.offset: each for each in await events.read(NS, TOPIC, 1, 1000)}
    assert len(found) == 40
    assert sorted(found) == list(range(1, 41))
    for event, told in zip(itertools.chain(*sent), itertools.chain(*done), strict=True):
        assert found[told.offset].id == told.id
        assert (told.id == event.id) is not told.duplicate
    assert sum(not told.duplicate for told in itertools.chain(*done)) == 40


async def test_a_stream_that_does_not_say_its_limit_is_named_and_can_be_removed(events: NatsEvents) -> None:
    await ready(events)
    await append(events, b"1")
    name = _topics.stream_of(NS, TOPIC)
    config = (await asked(events, f"STREAM.INFO.{name}"))["config"]
    del config["metadata"][_topics._BYTES]
    await asked(events, f"STREAM.UPDATE.{name}", config)
    for call in (events.state(NS, TOPIC), events.topics(NS), events.groups(NS, TOPIC)):
        with pytest.raises(errors.Error, match=rf"stream {name} is of an early .* micro events delete {TOPIC} --force"):
            await call
    assert await events.delete(NS, TOPIC)
    assert await events.topics(NS) == []
