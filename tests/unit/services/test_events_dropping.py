"""Dead letters that are dropped while one of them is handled after all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from callers import calling
from events_world import ANN, world

from micro.backends.memory.events import MemoryEvents
from micro.rpc.gen.micro.events.v1 import events_pb as pb


class Busy(MemoryEvents):
    """Takes its time with the first that is removed."""

    def __init__(self) -> None:
        super().__init__()
        self.removing, self.go = asyncio.Event(), asyncio.Event()

    async def unbury(self, namespace: str, topic: str, group: str, offsets: Sequence[int]) -> int:
        if not self.removing.is_set():
            self.removing.set()
            await self.go.wait()
        return await super().unbury(namespace, topic, group, offsets)


async def test_what_has_just_been_handled_is_not_among_what_was_dropped() -> None:
    events = Busy()
    async with world(events=events) as w:
        consumer = await w.consume(max_deliver=1)
        await w.publish(*"12")
        for event in await consumer.take(2):
            consumer.nack(event)
        await w.until(dead_letters=2)
        redrive = pb.DeadLettersRedriveRequest(topic="orders", group="g", offsets=[1])
        assert (await w.dead.redrive(redrive, calling(ANN))).count == 1
        consumer.ack(*await consumer.take(1))
        await asyncio.wait_for(events.removing.wait(), 30)
        drop = pb.DeadLettersDropRequest(topic="orders", group="g")
        assert (await w.dead.drop(drop, calling(ANN))).count == 1
        events.go.set()
        await w.until(dead_letters=0)
        assert await events.buried("micro", "orders", "g", 0, 10) == []
