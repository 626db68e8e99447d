"""No acknowledged event is lost, moved, doubled or told twice when NATS is killed while there are publishers."""

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from micro.backends.nats._connection import Connection
from micro.backends.nats.events import NatsEvents
from micro.domain.event import Appended, Event, New, Progress
from micro.testing.contracts.events import NS, TOPIC, new, ready
from micro.testing.nats import NatsChild, nats_child

ROUNDS = int(os.environ.get("MICRO_SOAK", "2"))
ALONE, TOGETHER = 24, 3
"""Publishers of single events and of batches."""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[NatsChild]:
    with nats_child(tmp_path / "nats") as child:
        yield child


@dataclass
class World:
    """What the publishers and the reader know."""

    events: NatsEvents
    acknowledged: dict[int, str] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)
    progress: int = 0
    stopping: bool = False
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, worker: int) -> None:
        """One after the other, with a dedup id now and then, batches by the last workers."""
        choose = random.Random(worker)
        number = 0
        while not self.stopping:
            size = 1 if worker < ALONE else choose.randint(2, 60)
            dedup = choose.random() < 0.3
            batch: list[New] = []
            for index in range(size):
                number += 1
                name = f"{worker}:{number}"
                batch.append(new(b"%d/%d" % (index, size), id=name, key=str(worker), dedup_id=name if dedup else ""))
            self.note(batch, await self.events.append(NS, TOPIC, batch))

    def note(self, batch: list[New], done: list[Appended]) -> None:
        assert [each.id for each in done] == [each.id for each in batch]
        assert not any(each.duplicate for each in done), "what was sent again is no duplicate"
        offsets = [each.offset for each in done]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), "a batch is in one piece"
        for each in done:
            assert each.offset not in self.acknowledged, "two have one offset"
            self.acknowledged[each.offset] = each.id
        self.enough.set()

    async def save(self) -> None:
        while not self.stopping:
            await self.events.advance(NS, TOPIC, "billing", Progress(self.progress + 1))
            self.progress += 1

    async def follow(self) -> None:
        async with aclosing(self.events.tail(NS, TOPIC, 1)) as batches:
            async for batch in batches:
                self.told += batch

    async def some_more(self, count: int) -> None:
        until = len(self.acknowledged) + count
        while len(self.acknowledged) < until:
            self.enough.clear()
            await self.enough.wait()


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ROUNDS)
async def test_what_was_acknowledged_is_there_once_through_every_kill(child: NatsChild) -> None:
    choose = random.Random()  # no seed: other moments each time
    async with AsyncExitStack() as stack:
        connection = Connection(child.address)
        await connection.start(stack)
        events = NatsEvents(connection, patience=30.0)
        await events.start(stack)
        await ready(events)
        world = World(events)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(world.follow())
            work = [tasks.create_task(world.publish(worker)) for worker in range(ALONE + TOGETHER)]
            work.append(tasks.create_task(world.save()))
            for _ in range(ROUNDS):
                await world.some_more(choose.randint(1, 400))
                child.kill()
                await child.start()
            await world.some_more(1)
            world.stopping = True
            await asyncio.wait(work)
            state = await events.state(NS, TOPIC)
            assert state is not None
            async with asyncio.timeout(30):
                while len(world.told) < state.last:
                    await asyncio.sleep(0.01)
            following.cancel()
        progress = await events.progress(NS, TOPIC, "billing")
    assert [each.offset for each in world.told] == list(range(1, state.last + 1)), "each once, in order"
    assert all(world.told[offset - 1].id == name for offset, name in world.acknowledged.items()), "none lost or moved"
    assert len({each.id for each in world.told}) == len(world.told), "none twice"
    assert len(world.acknowledged) == state.last
    for event in world.told:
        index, size = map(int, event.payload.split(b"/"))
        first = event.offset - index
        assert [each.payload for each in world.told[first - 1 : first - 1 + size]] == [
            b"%d/%d" % (at, size) for at in range(size)
        ], "a batch is there whole"
    assert progress == Progress(world.progress)
