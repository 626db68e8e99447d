"""Event streams to try out, over memory or another backend: the handlers, and consumers that talk to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from callers import calling, robot, user

from micro.backends.memory.events import MemoryEvents
from micro.domain.account import Account
from micro.domain.namespace import Quota
from micro.ports.events import Events
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.wkt import oneof
from micro.services._events_topics import Topics
from micro.services.events import DeadLettersHandler, EventsHandler, GroupsHandler, StreamHandler, TopicsHandler

ANN, SHOP = user("ann"), robot("shop")
ALL, NEW = pb.Start(at=oneof("all", True)), pb.Start(at=oneof("new", True))


def at(offset: int) -> pb.Start:
    return pb.Start(at=oneof("offset", offset))


class Consumer:
    """A stream of `Consume`, as its client sees it."""

    def __init__(self, handler: StreamHandler, first: pb.ConsumeRequest, by: Account) -> None:
        self._said: asyncio.Queue[pb.ConsumeRequest | Exception | None] = asyncio.Queue()
        self._said.put_nowait(first)
        self._stream: Any = handler.consume(self._requests(), calling(by))
        self._ahead: list[pb.Event] = []
        self.expired: list[int] = []

    async def _requests(self) -> AsyncIterator[pb.ConsumeRequest]:
        while (said := await self._said.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield said

    async def begin(self) -> int:
        """Where it begins."""
        async with asyncio.timeout(30):
            first: pb.ConsumeResponse = await anext(self._stream)
        assert not first.events
        return first.next

    async def frame(self) -> pb.ConsumeResponse | None:
        """What comes next; None at the end."""
        async with asyncio.timeout(30):
            found: pb.ConsumeResponse | None = await anext(self._stream, None)
        return found

    async def take(self, count: int) -> list[pb.Event]:
        """The next events."""
        while len(self._ahead) < count:
            frame = await self.frame()
            assert frame is not None
            self._ahead += frame.events
            self.expired += frame.expired
        taken, self._ahead = self._ahead[:count], self._ahead[count:]
        return taken

    def ack(self, *events: pb.Event) -> None:
        self.say(acks=[event.delivery for event in events])

    def nack(self, event: pb.Event, reason: str = "", delay: float | None = 0.0) -> None:
        self.say(nacks=[pb.Nack(delivery=event.delivery, reason=reason, delay=delay)])

    def say(self, **what: Any) -> None:
        self._said.put_nowait(pb.ConsumeRequest(**what))

    def half_close(self) -> None:
        self._said.put_nowait(None)

    async def vanish(self) -> None:
        """The connection breaks."""
        self._said.put_nowait(ConnectionError("gone"))
        async for _ in self._stream:
            pass

    async def close(self) -> None:
        await self._stream.aclose()


class World:
    def __init__(self, quota: Quota | None = None, events: Events | None = None) -> None:
        self.events: Any = events or MemoryEvents()
        self.topics = Topics(self.events, lambda namespace: namespace != "nowhere", quota=lambda namespace: quota)
        self.stream, self.reads = StreamHandler(self.topics), EventsHandler(self.topics)
        self.logs, self.groups = TopicsHandler(self.topics), GroupsHandler(self.topics)
        self.dead = DeadLettersHandler(self.topics)
        self._stack = AsyncExitStack()

    async def publish(self, *payloads: str, topic: str = "orders", by: Account = ANN, **rest: Any) -> list[int]:
        found = []
        for payload in payloads:
            request = pb.PublishRequest(topic=topic, payload=payload.encode(), **rest)
            found.append((await self.stream.publish(request, calling(by))).offset)
        return found

    async def consume(self, topic: str = "orders", group: str = "g", by: Account = SHOP, **terms: Any) -> Consumer:
        consumer = self.open(topic, group, by, **terms)
        await consumer.begin()
        return consumer

    def open(self, topic: str = "orders", group: str = "g", by: Account = SHOP, **terms: Any) -> Consumer:
        consumer = Consumer(self.stream, pb.ConsumeRequest(topic=topic, group=group, **terms), by)
        self._stack.push_async_callback(consumer.close)
        return consumer

    async def group(self, topic: str = "orders") -> pb.Group:
        answer = await self.groups.list(pb.GroupsListRequest(topic=topic), calling(ANN))
        return answer.groups[0]

    async def until(self, **wanted: int) -> None:
        """Return when the group says so of itself."""
        async with asyncio.timeout(30):
            while True:
                group = await self.group()
                if all(getattr(group, name) == value for name, value in wanted.items()):
                    return
                await asyncio.sleep(0.001)

    async def dead_letters(self, **options: Any) -> Sequence[pb.DeadLetter]:
        request = pb.DeadLettersListRequest(topic="orders", group="g", **options)
        return (await self.dead.list(request, calling(ANN))).dead_letters


@asynccontextmanager
async def world(quota: Quota | None = None, events: Events | None = None) -> AsyncIterator[World]:
    made = World(quota, events)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(made._stack.aclose)
        await made.topics.start(stack)
        yield made
