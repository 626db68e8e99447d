"""What the platform tells about itself, published as events by `events`."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from micro.domain import backoff, event
from micro.domain.errors import Error, Kind
from micro.ports import background
from micro.ports.announcements import Announcements
from micro.rpc import wkt
from micro.rpc.client import Client
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import StreamClient

log = logging.getLogger("micro")

MOST = 4000
"""Events that wait at most."""

BATCH = 200
"""Events of one call at most."""

VALUE_CHARACTERS = 1000
"""Of one value that are told."""

LAST_SECONDS = 0.2
"""How long what is still untold may take when the process ends."""

_AT_ONCE = 100
"""One part in so many of what waits is dropped at once."""

_CALL_MS = 5000
_NEW_TRIES = 3
"""How often it is tried while there is no such namespace: of a new one `events` may not have heard yet."""

_TURN_TRIES = 6
"""How often it is tried before the others have their turn: one topic that cannot be reached holds up no other."""

_AGAIN = (Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.CANCELED, Kind.ABORTED, Kind.UNAUTHENTICATED, Kind.UNKNOWN)

_Topic = tuple[str, str]


class RemoteAnnouncements(Announcements):
    """Over the RPCs of `events`, which only accounts of the platform may publish these topics with.

    What is told waits in memory, and is sent by one task, one topic after the other, each in order: several events in
    one call where they have collected. A call that fails is made again until it is answered; the dedup ids say what
    was taken already.

    Args:
        events: the way to `events`, as one of the platform's own.
        most: events that wait at most; then the oldest of the topic with the most of them is dropped.
        now: seconds since 1970.
    """

    def __init__(self, events: Client, *, most: int = MOST, now: Callable[[], float] = time.time) -> None:
        self._stream = events.of(StreamClient, "events")
        self._most = most
        self._now = now
        self._waiting: dict[_Topic, deque[pb.NewEvent]] = {}
        self._count = 0
        self._dropped = 0
        self._failing: set[_Topic] = set()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._process = secrets.token_hex(8)
        self._number = 0

    async def start(self, stack: AsyncExitStack) -> None:
        """Begin to send; what is untold when the stack unwinds gets a moment more."""
        background.spawn(stack, self._send(), "telling events of the platform")
        stack.push_async_callback(self._finish)

    def tell(self, namespace: str, topic: str, type_: str, data: Mapping[str, str]) -> None:
        self._waiting.setdefault((namespace, topic), deque()).append(self._event(type_, data))
        self._count += 1
        self._idle.clear()
        self._more.set()
        if self._count > self._most:
            self._drop()

    def _event(self, type_: str, data: Mapping[str, str]) -> pb.NewEvent:
        self._number += 1
        milliseconds = int(self._now() * 1000)
        shown = {name: _cut(value) for name, value in data.items()}
        subject = next(iter(shown.values()), "")
        return pb.NewEvent(
            payload=json.dumps({"type": type_, "time": _rfc3339(milliseconds), **shown}, ensure_ascii=False).encode(),
            metadata={"type": type_},
            timestamp=wkt.Timestamp.from_nanos(milliseconds * 1_000_000),
            key=subject if len(subject.encode()) <= event.MAX_KEY else "",
            dedup_id=f"{self._process}-{self._number}",
        )

    def _drop(self) -> None:
        """Let go of the oldest events of the topic that has the most: one that tells a lot costs the others nothing.
        A few at once, since looking for it takes time."""
        if not self._dropped:
            log.warning("events cannot be reached: of what the platform tells about itself, the oldest is dropped")
        fewer = self._count - self._most // _AT_ONCE - 1
        for topic in sorted(self._waiting, key=lambda each: len(self._waiting[each]), reverse=True):
            waiting = self._waiting[topic]
            while waiting and self._count > fewer:
                waiting.popleft()
                self._count -= 1
                self._dropped += 1
            if not waiting:
                del self._waiting[topic]
            if self._count == fewer:
                return

    async def _send(self) -> None:
        while True:
            while self._waiting:
                await self._publish(*self._next())
            self._idle.set()
            self._more.clear()
            await self._more.wait()

    def _next(self) -> tuple[_Topic, list[pb.NewEvent]]:
        """The oldest events of the topic whose turn it is."""
        topic = next(iter(self._waiting))
        waiting = self._waiting.pop(topic)
        batch = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
        self._count -= len(batch)
        if waiting:
            self._waiting[topic] = waiting  # behind the others
        return topic, batch

    async def _publish(self, topic: _Topic, batch: list[pb.NewEvent]) -> None:
        """Return when they are kept, or never will be, or wait again as it is the others' turn."""
        request = pb.PublishBatchRequest(topic=topic[1], events=batch, namespace=topic[0])
        for attempt, delay in enumerate(backoff.exponential(first=0.1, cap=5.0), 1):
            try:
                await self._stream.publish_batch(request, timeout_ms=_CALL_MS)
                break
            except Error as error:
                if error.kind not in _AGAIN and not (error.kind is Kind.NOT_FOUND and attempt < _NEW_TRIES):
                    self._refused(topic, error)
                    return
            await asyncio.sleep(delay)
            if attempt >= _TURN_TRIES and self._waiting.keys() - {topic}:
                later = self._waiting.pop(topic, ())
                self._waiting[topic] = deque([*batch, *later])  # behind the others
                self._count += len(batch)
                return
        self._failing.discard(topic)
        if self._dropped:
            log.warning("events can be reached again: %d of the platform's were dropped", self._dropped)
            self._dropped = 0

    def _refused(self, topic: _Topic, error: Error) -> None:
        """Say so, once until it is taken again. A namespace that is gone is told nothing, as it should be."""
        if error.kind is not Kind.NOT_FOUND and topic not in self._failing:
            self._failing.add(topic)
            log.warning("events of %s are not told in namespace %s: %s", topic[1], topic[0], error)

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            log.info("some of what happened last was not told: events cannot be reached")


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


def _rfc3339(milliseconds: int) -> str:
    told = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")
