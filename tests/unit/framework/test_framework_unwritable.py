"""What cannot be sent, over the true wire: whoever says it is told so, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import processes
from micro import Service, client, config, events, store
from micro.domain.errors import Error, Kind
from micro.framework.deliveries import MAX_REASON
from micro.ports.free_address import free_address
from micro.rpc.client import Channel
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import DeadLettersClient, GroupsClient
from micro.testing import platform
from micro.testing.app import started

HALF = "\ud800"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    found = free_address()
    with processes.listening(Path(__file__).resolve().with_name("memory_app.py"), found):
        yield found


@contextlib.asynccontextmanager
async def over(address: str) -> AsyncIterator[None]:
    """Calls of store and events go to the process at an address."""
    channel = Channel(address)
    with client.pool.through(channel):
        yield
    await channel.close()


@pytest.fixture
async def wire(address: str) -> AsyncIterator[None]:
    async with over(address):
        yield


@pytest.fixture(params=["a process", "micro.testing"])
async def anywhere(request: pytest.FixtureRequest, address: str) -> AsyncIterator[None]:
    async with platform.running() if request.param == "micro.testing" else over(address):
        yield


async def refused(calling: Any, says: str) -> None:
    with pytest.raises(Error, match=says) as raised:
        await calling
    assert raised.value.kind is Kind.INVALID_ARGUMENT


async def every(found: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in found]


@pytest.mark.usefixtures("anywhere")
async def test_a_store_is_asked_for_what_was_meant_or_for_nothing() -> None:
    await store.write("ann", "1")
    half = "holds a lone surrogate"
    await refused(every(store.keys(prefix=HALF)), f"options.prefix {half}")
    await refused(every(store.keys(limit=2**70)), "options.limit is out of range for int64")
    await refused(every(store.watch(HALF)), f"key {half}")
    await refused(store.page(cursor=HALF), f"options.cursor {half}")
    await refused(store.write(HALF, "1"), f"record.key {half}")
    await refused(store.write("ann", "2", metadata={"by": HALF}), half)
    await refused(store.read(HALF), f"key {half}")
    await refused(store.delete("ann", if_version=2**70), "if_version is out of range")
    with pytest.raises(TypeError, match="the value of 'ann' cannot be kept"):
        await store.write("ann", HALF)
    assert await store.get("ann") == b"1"


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("levels", [33, 100, 1000, 100_000])
async def test_metadata_may_be_nested_but_not_too_deep(levels: int) -> None:
    metadata: Any = 1
    for _ in range(levels):
        metadata = {"a": metadata}
    await refused(store.write("deep", "1", metadata=metadata), "metadata.* nested too deep")
    assert await store.get("deep") is None


async def test_a_setting_may_be_nested_but_not_too_deep() -> None:
    async with platform.running():
        for levels in (65, 1000, 100_000):
            value: Any = 1
            for _ in range(levels):
                value = [value]
            await refused(config.set("deep", value), "nested too deeply.*64 lists and objects are the most")
        with pytest.raises(TypeError, match="it holds NaN or an infinity"):
            await config.set("deep", [float("nan")])
        assert await config.get("deep") is None


@pytest.mark.usefixtures("anywhere")
async def test_an_event_that_cannot_be_sent_fails_alone() -> None:
    await refused(events.publish("orders" + HALF, "x"), "topic holds a lone surrogate")
    await refused(events.publish_batch("alone", ["x", events.New("y", key=HALF)]), r"events\[1\].key holds")
    await refused(every(events.consume("orders" + HALF)), "Stream/Consume: topic holds a lone surrogate")
    await refused(events.read("alone", start=2**70), "from_.offset is out of range")
    with pytest.raises(TypeError, match="a message for 'alone' cannot be kept"):
        await events.publish("alone", HALF)

    def publish(number: int) -> Any:
        return events.publish("alone", str(number), key=HALF if number == 5 else "k", metadata={"n": str(number)})

    told = await asyncio.gather(*map(publish, range(12)), return_exceptions=True)
    assert [str(one).partition(": ")[2] for one in told if isinstance(one, Error)] == [
        "key holds a lone surrogate, which is no character"
    ]
    assert [event.value for event in await events.read("alone", as_type=str)] == [str(n) for n in range(12) if n != 5]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise LookupError("no words")


@pytest.mark.usefixtures("wire")
async def test_the_words_of_one_failure_take_no_other_event_with_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "micro.framework.consumers")  # what pytest captures it cannot always pass on
    service, handled, released = Service("mailer"), Counter[int](), asyncio.Event()
    raised = {
        1: ValueError("no file \udcff"),
        2: LookupError(HALF + "x" * 2000),
        3: Unspeakable(),
        4: Error(Kind.NOT_FOUND, ValueError("x")),  # type: ignore[arg-type]
    }

    @service.consume("bills", start="all", max_deliver=1, ack_wait=1.0)
    async def bill(event: events.Event[int]) -> None:
        handled[event.offset] += 1
        if len(handled) == 8:
            released.set()
        await released.wait()  # so that all are told of at the same time
        if event.offset in raised:
            raise raised[event.offset]

    await events.publish_batch("bills", list(range(8)))
    groups, dead = client.of(GroupsClient), client.of(DeadLettersClient)
    async with started(service):
        async with asyncio.timeout(20):
            while [one.lag for one in (await groups.list(pb.GroupsListRequest(topic="bills"))).groups] != [0]:
                await asyncio.sleep(0.02)
        answer = await dead.list(pb.DeadLettersListRequest(topic="bills", group="mailer"))
    assert {one.event.offset: one.reason for one in answer.dead_letters if one.event} == {
        1: "ValueError: no file \ufffd",
        2: f"LookupError: \ufffd{'x' * 2000}"[:MAX_REASON],
        3: "Unspeakable",
        4: "x",
    }
    assert handled == Counter(range(1, 9))


@pytest.mark.usefixtures("wire")
async def test_a_delay_that_is_none_is_told_to_who_gives_it() -> None:
    await events.publish_batch("late", ["1", "2"])
    async with events.consume("late", group="g", start="all", manual=True) as consumer:
        taken = aiter(consumer)
        first, second = await anext(taken), await anext(taken)
        for delay in (float("nan"), -1.0, 1e6):
            await refused(first.nack(delay=delay), "delay=.* is out of range: use 0 to 86400 s")
        await second.ack()
        await first.nack(reason=ValueError(HALF), give_up=True)  # type: ignore[arg-type]
        await events.publish("late", "3")
        assert (await anext(taken)).offset == 3
