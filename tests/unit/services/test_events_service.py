"""Event streams: publishing, reading, and sharing the events among consumers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from callers import ROOT, admin, calling, robot
from events_world import ALL, ANN, NEW, SHOP, World, at, world

from micro.backends.memory.events import MemoryEvents
from micro.domain import errors
from micro.domain.delivery import GONE
from micro.domain.errors import Error, Kind
from micro.domain.event import Progress, Retention
from micro.domain.namespace import Quota
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.wkt import Timestamp, oneof
from micro.services import _auth_core, _events_groups, _events_silence, _events_topics

CORE = _auth_core.account("runtime")


async def told(events: list[pb.Event]) -> list[str]:
    return [event.payload.decode() for event in events]


async def test_what_is_published_is_read_again_byte_for_byte() -> None:
    async with world() as w:
        when = Timestamp(seconds=1_700_000_000, nanos=5_000_000)
        request = pb.PublishRequest(topic="orders", payload=b"\0\xff", metadata={"a": "b"}, key="k", timestamp=when)
        answer = await w.stream.publish(request, calling(ANN))
        assert (answer.offset, len(answer.id), answer.duplicate) == (1, 32, False)
        await w.publish("two")
        page = await w.reads.read(pb.ReadRequest(topic="orders"), calling(SHOP))
        first, second = page.events
        expected = pb.Event(
            id=answer.id, topic="orders", offset=1, timestamp=when, metadata={"a": "b"}, key="k", payload=b"\0\xff"
        )
        assert first == expected
        assert second.timestamp is not None
        assert second.timestamp.seconds > 1_700_000_000
        assert page.next == 3
        page = await w.reads.read(pb.ReadRequest(topic="orders", from_=at(2), limit=1), calling(SHOP))
        assert [event.offset for event in page.events] == [2]
        empty = await w.reads.read(pb.ReadRequest(topic="orders", from_=NEW), calling(SHOP))
        assert (list(empty.events), empty.next) == ([], 3)


async def test_a_duplicate_is_told_where_the_first_one_is() -> None:
    async with world() as w:
        request = pb.PublishRequest(topic="orders", payload=b"x", dedup_id="once")
        first = await w.stream.publish(request, calling(ANN))
        again = await w.stream.publish(request, calling(ANN))
        assert (again.id, again.offset, again.duplicate) == (first.id, 1, True)


async def test_a_batch_is_one_behind_the_other() -> None:
    async with world() as w:
        batch = pb.PublishBatchRequest(topic="orders", events=[pb.NewEvent(payload=b"%d" % n) for n in range(3)])
        answer = await w.stream.publish_batch(batch, calling(ANN))
        assert [one.offset for one in answer.events] == [1, 2, 3]


async def test_a_stream_of_publishes_answers_each_and_outlives_what_is_wrong_with_one() -> None:
    said: asyncio.Queue[pb.PublishEachRequest | None] = asyncio.Queue()

    async def saying() -> AsyncIterator[pb.PublishEachRequest]:
        while (request := await said.get()) is not None:
            yield request

    async with world() as w:
        answers = w.stream.publish_each(saying(), calling(ANN))
        assert await anext(answers) == pb.PublishEachResponse(), "it is open before anything was said"

        async def publish(*events: pb.NewEvent, topic: str = "orders") -> pb.PublishEachResponse:
            said.put_nowait(pb.PublishEachRequest(topic=topic, events=list(events)))
            return await anext(answers)

        two = await publish(pb.NewEvent(payload=b"1"), pb.NewEvent(payload=b"2", dedup_id="second"))
        assert [one.offset for one in two.events] == [1, 2]
        bad = await publish(pb.NewEvent(payload=b"x"), topic="no topic")
        assert (bad.code, list(bad.events)) == ("invalid_argument", [])
        assert "no topic" in bad.message
        again = await publish(pb.NewEvent(payload=b"2", dedup_id="second"))
        assert [(one.offset, one.duplicate) for one in again.events] == [(2, True)]
        with pytest.raises(Error, match=r"topic micro.auth") as refused:
            await publish(pb.NewEvent(payload=b"x"), topic="micro.auth")
        assert refused.value.kind is Kind.PERMISSION_DENIED


async def test_each_event_of_a_group_goes_to_one_member() -> None:
    async with world() as w:
        one, other = await w.consume(max_in_flight=2), await w.consume(max_in_flight=2)
        await w.publish("1", "2", "3", "4")
        mine, yours = await one.take(2), await other.take(2)
        assert sorted(event.offset for event in [*mine, *yours]) == [1, 2, 3, 4]
        assert (await w.group()).in_flight == 4
        one.ack(*mine)
        other.ack(*yours)
        await w.until(lag=0, in_flight=0, next=5, members=2)


async def test_without_a_group_everybody_gets_all() -> None:
    async with world() as w:
        await w.publish("0")
        consumers = [await w.consume(group=""), await w.consume(group="", auto_ack=True), w.open(group="", from_=ALL)]
        assert await consumers[2].begin() == 1
        await w.publish("1", "2")
        for consumer, wanted in zip(consumers, (["1", "2"], ["1", "2"], ["0", "1", "2"]), strict=True):
            assert await told(await consumer.take(len(wanted))) == wanted
        assert not (await w.groups.list(pb.GroupsListRequest(topic="orders"), calling(ANN))).groups


async def test_a_group_begins_where_it_says_and_then_goes_on_where_it_was() -> None:
    async with world() as w:
        await w.publish("1", "2", "3")
        consumer = w.open(from_=at(2))
        assert await consumer.begin() == 2
        [two, three] = await consumer.take(2)
        consumer.ack(two)
        await w.until(lag=1)
        consumer.say(nacks=[pb.Nack(delivery=three.delivery, release=True)])
        consumer.say(drain=True)
        while await consumer.frame() is not None:
            pass
        later = w.open(from_=ALL)
        await later.begin()
        [again] = await later.take(1)
        assert (again.offset, again.attempt) == (3, 1)


async def test_from_a_time() -> None:
    async with world() as w:
        await w.publish("1")
        consumer = w.open(group="", from_=pb.Start(at=oneof("time", Timestamp(seconds=4_000_000_000))))
        assert await consumer.begin() == 2
        page = await w.reads.read(
            pb.ReadRequest(topic="orders", from_=pb.Start(at=oneof("time", Timestamp(seconds=1)))), calling(ANN)
        )
        assert [event.offset for event in page.events] == [1]


async def test_what_fails_too_often_is_a_dead_letter_and_can_be_tried_again() -> None:
    async with world() as w:
        consumer = await w.consume(max_deliver=2)
        await w.publish("good", "bad")
        good, bad = await consumer.take(2)
        consumer.ack(good)
        consumer.nack(bad, "no")
        [bad] = await consumer.take(1)
        assert bad.attempt == 2
        consumer.nack(bad, "never")
        await w.until(dead_letters=1, lag=0)
        [dead] = await w.dead_letters()
        assert dead.event is not None
        assert (dead.event.payload, dead.event.attempt, dead.reason) == (b"bad", 2, "never")
        redrive = pb.DeadLettersRedriveRequest(topic="orders", group="g")
        assert (await w.dead.redrive(redrive, calling(ANN))).count == 1
        [again] = await consumer.take(1)
        assert (again.offset, again.attempt) == (2, 1)
        assert not await w.dead_letters()
        consumer.nack(again)
        [again] = await consumer.take(1)
        consumer.nack(again, "still not")
        await w.until(dead_letters=1)
        assert [dead.reason for dead in await w.dead_letters()] == ["still not"]
        await w.dead.redrive(redrive, calling(ANN))
        consumer.ack(*await consumer.take(1))
        await w.until(in_flight=0)
        async with asyncio.timeout(30):
            while await w.events.dead("shop", "orders", "g"):
                await asyncio.sleep(0.001)
        await w.until(dead_letters=0)


async def test_dead_letters_are_listed_a_page_at_a_time_and_dropped() -> None:
    async with world() as w:
        consumer = await w.consume(max_deliver=1)
        await w.publish(*"12345")
        for event in await consumer.take(5):
            consumer.nack(event)
        await w.until(dead_letters=5)
        request = pb.DeadLettersListRequest(topic="orders", group="g", limit=3)
        page = await w.dead.list(request, calling(ANN))
        assert ([dead.event.offset for dead in page.dead_letters if dead.event], page.next) == ([1, 2, 3], 3)
        request.after = page.next
        page = await w.dead.list(request, calling(ANN))
        assert ([dead.event.offset for dead in page.dead_letters if dead.event], page.next) == ([4, 5], 0)
        drop = pb.DeadLettersDropRequest(topic="orders", group="g", offsets=[2, 4, 9])
        assert (await w.dead.drop(drop, calling(ANN))).count == 2
        consumer.say(drain=True)
        assert await consumer.frame() is None
        redrive = pb.DeadLettersRedriveRequest(topic="orders", group="g", offsets=[1, 2, 5])
        assert (await w.dead.redrive(redrive, calling(ANN))).count == 2
        await w.until(members=0, dead_letters=1)
        drop.offsets = [5]
        assert (await w.dead.drop(drop, calling(ANN))).count == 1
        later = await w.consume()
        assert [event.offset for event in await later.take(1)] == [1]
        drop.offsets = []
        assert (await w.dead.drop(drop, calling(ANN))).count == 2
        await w.until(dead_letters=0)


async def test_who_vanishes_has_failed_and_the_others_have_its_events_at_once() -> None:
    async with world() as w:
        one = await w.consume()
        await w.publish("1")
        await one.take(1)
        other = await w.consume()
        await one.vanish()
        [again] = await other.take(1)
        assert again.attempt == 2


async def test_who_falls_silent_has_failed_and_who_says_anything_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events_silence, "GRACE_SECONDS", 0.01)
    async with world() as w:
        frozen, other = await w.consume(max_in_flight=1, silence=0.05), await w.consume(max_in_flight=1, silence=5.0)
        await w.publish("1", "2")
        mine, yours = await frozen.take(1), await other.take(1)
        assert await frozen.frame() is None, "it is not waited for"
        await w.until(members=1)
        other.ack(*yours)
        [again] = await other.take(1)
        assert (again.offset, again.attempt) == (mine[0].offset, 2)
        beating = await w.consume(silence=0.2)
        for _ in range(20):
            beating.say()
            await asyncio.sleep(0.02)
        assert (await w.group()).members == 2
        with pytest.raises(Error, match="silence=-1 s is out of range"):
            await w.consume(silence=-1.0)


async def test_a_process_that_stood_still_itself_hears_what_was_said_meanwhile() -> None:
    fallen: list[bool] = []
    silence = _events_silence.Silence(0.01, lambda: fallen.append(True))
    time.sleep(0.05)
    await asyncio.sleep(0)
    silence.heard()
    await asyncio.sleep(0.02)
    silence.end()
    assert fallen == []


async def test_who_says_no_more_cannot_acknowledge() -> None:
    async with world() as w:
        await w.publish("1", "2")
        one, alone = await w.consume(from_=ALL), await w.consume(group="", from_=ALL, auto_ack=True)
        await one.take(2)
        one.half_close()
        alone.half_close()
        assert await one.frame() is None
        assert await told(await alone.take(2)) == ["1", "2"]
        await w.publish("3")
        assert await told(await alone.take(1)) == ["3"]


async def test_a_delivery_that_takes_too_long_is_told_and_made_again() -> None:
    async with world() as w:
        consumer = await w.consume(ack_wait=0.01, backoff=[0.0])
        await w.publish("1")
        [first] = await consumer.take(1)
        [again] = await consumer.take(1)
        assert (first.delivery in consumer.expired, again.attempt) == (True, 2)


async def test_auto_ack_in_a_group_remembers_what_was_sent() -> None:
    async with world() as w:
        consumer = await w.consume(auto_ack=True, max_in_flight=1)
        await w.publish("1", "2", "3")
        assert await told(await consumer.take(2)) == ["1", "2"]
        assert (await w.group()).lag <= 2
        await consumer.take(1)
        consumer.say(drain=True)
        assert await consumer.frame() is None
        await w.until(lag=0, members=0)


async def test_strangers_deliveries_end_the_stream_and_change_nothing() -> None:
    async with world() as w:
        one, other = await w.consume(max_in_flight=1), await w.consume(max_in_flight=1)
        await w.publish("1")
        [event] = await one.take(1)
        other.ack(event)
        with pytest.raises(errors.Error, match="was not made here") as caught:
            await other.frame()
        assert caught.value.kind is Kind.INVALID_ARGUMENT
        one.say(acks=[event.delivery, 7])
        with pytest.raises(errors.Error, match="delivery 7"):
            await one.frame()
        assert (await w.group()).lag == 1


async def test_a_reset_ends_the_members_and_begins_elsewhere() -> None:
    async with world() as w:
        consumer = await w.consume()
        await w.publish("1", "2", "3")
        consumer.ack(*await consumer.take(3))
        await w.until(lag=0)
        answer = await w.groups.reset(pb.GroupsResetRequest(topic="orders", group="g", to=at(2)), calling(ANN))
        assert answer.group is not None
        assert (answer.group.lag, answer.group.next) == (2, 2)
        with pytest.raises(errors.Error, match="has been reset") as caught:
            await consumer.frame()
        assert caught.value.kind is Kind.ABORTED
        assert await told(await (await w.consume()).take(2)) == ["2", "3"]


@pytest.mark.parametrize("what", ["group", "topic", "namespace"])
async def test_the_end_of_what_is_consumed_ends_the_stream(what: str) -> None:
    async with world() as w:
        consumers = [await w.consume()] if what == "group" else [await w.consume(), await w.consume(group="")]
        if what == "group":
            assert (await w.groups.delete(pb.GroupsDeleteRequest(topic="orders", group="g"), calling(ANN))).deleted
        elif what == "topic":
            assert (await w.logs.delete(pb.TopicsDeleteRequest(topic="orders"), calling(ANN))).deleted
        else:
            await w.logs.purge(pb.TopicsPurgeRequest(namespace="shop"), calling(ROOT))
        for consumer in consumers:
            with pytest.raises(errors.Error, match="removed") as caught:
                await consumer.frame()
            assert caught.value.kind is Kind.ABORTED
        assert not (await w.groups.delete(pb.GroupsDeleteRequest(topic="orders", group="g"), calling(ANN))).deleted


async def test_a_restart_goes_on_from_what_was_kept_and_counts_no_failure() -> None:
    kept = MemoryEvents()
    async with world(events=kept) as w:
        consumer = await w.consume(max_deliver=1)
        await w.publish("1", "2", "3")
        one, *_ = await consumer.take(3)
        consumer.ack(one)
        await w.until(lag=2)
        waiting = asyncio.ensure_future(consumer.frame())  # owned: awaited below
        await asyncio.sleep(0)
    with pytest.raises(errors.Error) as caught:
        await waiting
    assert caught.value.kind is Kind.UNAVAILABLE
    async with world(events=kept) as w:
        again = await (await w.consume(max_deliver=1)).take(2)
        assert [(event.offset, event.attempt) for event in again] == [(2, 1), (3, 1)]


async def test_what_was_handled_long_ago_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events_groups, "FAR", 10)
    async with world() as w:
        await w.publish(*(str(number) for number in range(1, 1001)))
        await w.events.advance("shop", "orders", "g", Progress(0, ((3, 500), (502, 999))))
        consumer = await w.consume()
        assert [event.offset for event in await consumer.take(4)] == [1, 2, 501, 1000]


async def test_topics_tell_of_themselves() -> None:
    async with world() as w:
        await w.publish("1", "2")
        await w.publish("x", topic="others")
        await w.consume(from_=ALL)
        answer = await w.logs.info(pb.TopicsInfoRequest(topic="orders"), calling(ANN))
        assert answer.topic is not None
        assert (answer.topic.first, answer.topic.last, answer.topic.count, answer.topic.groups) == (1, 2, 2, 1)
        assert [(group.name, group.lag, group.members) for group in answer.groups] == [("g", 2, 1)]
        listed = await w.logs.list(pb.TopicsListRequest(), calling(ANN))
        assert [topic.name for topic in listed.topics] == ["orders", "others"]
        keep = pb.TopicsConfigureRequest(topic="orders", retention=pb.Retention(age=60, count=1))
        changed = (await w.logs.configure(keep, calling(ANN))).topic
        assert changed is not None
        assert changed.retention == pb.Retention(age=60, count=1)


async def test_only_the_platform_tells_its_own_topics() -> None:
    async with world(Quota(topics=1)) as w:
        await w.publish("1")
        with pytest.raises(errors.Error, match="told by the platform itself"):
            await w.publish("forged", topic="micro.auth")
        with pytest.raises(errors.Error, match="told by the platform itself"):
            await w.publish("forged", topic="micro", by=robot("runtime", "micro"))
        await w.publish("true", topic="micro.runtime", by=CORE, namespace="shop")
        consumer = await w.consume("micro.runtime", "audit", from_=ALL)
        assert await told(await consumer.take(1)) == ["true"]
        with pytest.raises(errors.Error, match=r"the platform tells micro\.runtime, "):
            await w.consume("micro.else", "audit")


async def test_what_is_told_of_accounts_is_for_admins() -> None:
    async with world() as w:
        await w.publish("true", topic="micro.auth", by=CORE, namespace="shop")
        read, dead = pb.ReadRequest(topic="micro.auth"), pb.DeadLettersListRequest(topic="micro.auth", group="g")
        for act in (
            w.consume("micro.auth", by=SHOP),
            w.reads.read(read, calling(ANN)),
            w.dead.list(dead, calling(ANN)),
            w.logs.configure(
                pb.TopicsConfigureRequest(topic="micro.auth", retention=pb.Retention(count=1)), calling(ANN)
            ),
        ):
            with pytest.raises(errors.Error, match=r"topic micro\.auth .* admins of namespace shop") as caught:
                await act
            assert caught.value.kind is Kind.PERMISSION_DENIED
        assert await told(await (await w.consume("micro.auth", by=admin("ada"), from_=ALL)).take(1)) == ["true"]


async def test_the_platform_tells_nothing_more_where_everything_was_removed() -> None:
    async with world() as w:
        await w.publish("1", topic="micro.registry", by=CORE, namespace="shop")
        await w.logs.purge(pb.TopicsPurgeRequest(namespace="shop"), calling(ROOT))
        with pytest.raises(errors.Error, match="shop") as caught:
            await w.publish("late", topic="micro.registry", by=CORE, namespace="shop")
        assert caught.value.kind is Kind.NOT_FOUND
        assert not (await w.logs.list(pb.TopicsListRequest(), calling(ANN))).topics
        await w.publish("1", topic="micro.registry", by=CORE, namespace="rival")


async def test_quotas_name_what_is_full_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events_topics, "MEASURE_SECONDS", 0.01)
    async with world(Quota(topics=2, events=2000)) as w:
        await w.publish("1", topic="a")
        await w.consume("b")
        for act in (w.publish("1", topic="c"), w.consume("d")):
            with pytest.raises(errors.Error, match="has 2 topics, as many as its quota says") as caught:
                await act
            assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
        async with asyncio.timeout(30):
            while (refusal := await _refusal(w)) is None:
                await asyncio.sleep(0.001)
        assert refusal.kind is Kind.RESOURCE_EXHAUSTED
        assert "micro namespace quota" in refusal.message
        await w.events.configure("shop", "a", Retention(count=1))
        async with asyncio.timeout(30):
            while await _refusal(w):
                await asyncio.sleep(0.01)


async def _refusal(w: World) -> errors.Error | None:
    try:
        await w.publish("x" * 500, topic="a")
    except errors.Error as error:
        return error
    return None


async def test_many_events_are_shared_out_completely() -> None:
    async with world() as w:
        members = [await w.consume(max_in_flight=10) for _ in range(5)]
        handled: list[int] = []
        done = asyncio.Event()

        async def work(number: int) -> None:
            consumer = members[number]
            while (frame := await consumer.frame()) is not None:
                consumer.ack(*frame.events)
                handled.extend(event.offset for event in frame.events)
                if len(handled) >= 2000:
                    done.set()

        async with asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(work(number))  # owned: by the group
            for _n in range(4):
                batch = [pb.NewEvent(payload=b"x", key=f"k{m % 7}" if m % 2 else "") for m in range(500)]
                await w.stream.publish_batch(pb.PublishBatchRequest(topic="orders", events=batch), calling(ANN))
            async with asyncio.timeout(30):
                await done.wait()
            for member in members:
                member.say(drain=True)
        assert sorted(handled) == list(range(1, 2001))
        await w.until(lag=0, members=0)


async def test_an_event_whose_last_try_fails_as_nobody_is_left_is_a_dead_letter() -> None:
    async with world() as w:
        consumer = await w.consume(max_deliver=1)
        await w.publish("1", "2")
        one, _ = await consumer.take(2)
        consumer.nack(one, "no")
        await consumer.vanish()
        await w.until(dead_letters=2, lag=0)
        assert [(dead.event.offset, dead.reason) for dead in await w.dead_letters()] == [(1, "no"), (2, GONE)]
        await w.publish("3")
        assert [event.offset for event in await (await w.consume()).take(1)] == [3]
