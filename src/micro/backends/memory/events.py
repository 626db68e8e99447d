"""Event streams in dicts: the reference that other backends are compared with, and what tests and scripts work on."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from micro.domain.event import (
    DEDUP_SECONDS,
    PAGE_BYTES,
    PAGE_EVENTS,
    Appended,
    DeadLetter,
    Event,
    New,
    Progress,
    Retention,
    TopicState,
)
from micro.domain.record import Durability
from micro.ports import store
from micro.ports.events import Events, no_topic
from micro.ports.store import Now

_AT_ONCE = 256
_AT_ONCE_BYTES = 1 << 20
"""What a tail hands over at once."""

_OVERHEAD = 64
"""Bytes that an event takes beside what is in it, about."""


@dataclass(frozen=True, slots=True)
class _Kept:
    event: Event
    appended: int
    size: int


@dataclass(slots=True)
class _Topic:
    name: str
    retention: Retention
    created: int
    log: dict[int, _Kept] = field(default_factory=dict)
    first: int = 1
    last: int = 0
    bytes: int = 0
    seen: dict[str, tuple[Appended, int]] = field(default_factory=dict)
    """By dedup id: where its event is, and when it was appended; in that order."""
    groups: dict[str, Progress] = field(default_factory=dict)
    dead: dict[str, dict[int, DeadLetter]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    deleted: bool = False

    def append(self, new: New, now: int) -> Appended:
        if new.dedup_id and (found := self.seen.get(new.dedup_id)) is not None:
            return replace(found[0], duplicate=True)
        self.last += 1
        event = Event(new.id, self.last, new.timestamp or now, new.payload, dict(new.metadata), new.key)
        size = _size(event)
        self.log[self.last] = _Kept(event, now, size)
        self.bytes += size
        done = Appended(new.id, self.last)
        if new.dedup_id:
            self.seen[new.dedup_id] = done, now
        return done

    def tidy(self, now: int) -> None:
        """Let go what is older or more than is to be kept."""
        keep = self.retention
        before = now - int(keep.age * 1000)
        while self.log and (
            (keep.count and len(self.log) > keep.count)
            or (keep.bytes and self.bytes > keep.bytes)
            or (keep.age and self.log[self.first].appended <= before)
        ):
            self.bytes -= self.log.pop(self.first).size
            self.first += 1
        forgotten = now - int(DEDUP_SECONDS * 1000)
        while self.seen:
            name = next(iter(self.seen))
            if self.seen[name][1] > forgotten:
                break
            del self.seen[name]

    def page(self, start: int, limit: int, most_bytes: int) -> list[Event]:
        found: list[Event] = []
        size = 0
        begin = max(start, self.first)
        for offset in range(begin, min(self.last + 1, begin + limit)):
            kept = self.log[offset]
            size += kept.size
            if found and size > most_bytes:
                break
            found.append(kept.event)
        return found

    def state(self) -> TopicState:
        return TopicState(self.name, self.retention, self.bytes, len(self.log), self.first, self.last, self.created)

    def wake(self) -> None:
        """Let those that wait look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryEvents(Events):
    """Everything is lost with the process. Retention is kept to whenever a topic is looked at.

    Args:
        clock: milliseconds since 1970.
    """

    def __init__(self, *, clock: Now = store.now) -> None:
        self._clock = clock
        self._topics: dict[str, dict[str, _Topic]] = {}

    @property
    def durability(self) -> Durability:
        return Durability.MEMORY

    @property
    def atomic(self) -> bool:
        return True

    async def start(self, stack: AsyncExitStack) -> None:
        return

    def healthy(self) -> bool:
        return True

    async def configure(self, namespace: str, topic: str, retention: Retention) -> TopicState:
        topics = self._topics.setdefault(namespace, {})
        if (found := topics.get(topic)) is None:
            found = topics[topic] = _Topic(topic, retention, self._clock())
        found.retention = retention
        found.tidy(self._clock())
        return found.state()

    async def topics(self, namespace: str) -> list[TopicState]:
        names = sorted(self._topics.get(namespace, ()))
        return [found.state() for name in names if (found := self._find(namespace, name)) is not None]

    async def state(self, namespace: str, topic: str) -> TopicState | None:
        found = self._find(namespace, topic)
        return None if found is None else found.state()

    async def delete(self, namespace: str, topic: str) -> bool:
        found = self._topics.get(namespace, {}).pop(topic, None)
        if found is None:
            return False
        found.deleted = True
        found.wake()
        return True

    async def drop(self, namespace: str) -> None:
        for name in list(self._topics.get(namespace, ())):
            await self.delete(namespace, name)
        self._topics.pop(namespace, None)

    async def append(self, namespace: str, topic: str, events: Sequence[New]) -> list[Appended]:
        found, now = self._there(namespace, topic), self._clock()
        if found.log:
            now = max(now, found.log[found.last].appended)  # a clock that goes back leaves them in order
        done = [found.append(new, now) for new in events]
        found.tidy(now)
        found.wake()
        return done

    async def read(self, namespace: str, topic: str, start: int, limit: int) -> list[Event]:
        return self._there(namespace, topic).page(start, min(limit, PAGE_EVENTS), PAGE_BYTES)

    async def offset_at(self, namespace: str, topic: str, time: int) -> int:
        found = self._there(namespace, topic)
        offsets = range(found.first, found.last + 1)
        return found.first + bisect_left(offsets, time, key=lambda offset: found.log[offset].appended)

    async def tail(self, namespace: str, topic: str, start: int) -> AsyncGenerator[Sequence[Event]]:
        found = self._there(namespace, topic)
        while not found.deleted:
            changed = found.changed
            found.tidy(self._clock())
            if page := found.page(start, _AT_ONCE, _AT_ONCE_BYTES):
                start = page[-1].offset + 1
                yield page
            else:
                await changed.wait()
        raise no_topic(topic)

    async def groups(self, namespace: str, topic: str) -> Mapping[str, Progress]:
        found = self._find(namespace, topic)
        return {} if found is None else dict(sorted(found.groups.items()))

    async def group_names(self, namespace: str, topic: str) -> Sequence[str]:
        found = self._find(namespace, topic)
        return [] if found is None else sorted(found.groups)

    async def group_counts(self, namespace: str, topics: Sequence[str]) -> list[int]:
        return [len(await self.group_names(namespace, topic)) for topic in topics]

    async def progress(self, namespace: str, topic: str, group: str) -> Progress | None:
        found = self._find(namespace, topic)
        return None if found is None else found.groups.get(group)

    async def advance(self, namespace: str, topic: str, group: str, progress: Progress) -> None:
        self._there(namespace, topic).groups[group] = Progress(
            progress.floor, tuple(progress.done), dict(progress.failures), tuple(progress.redriven)
        )

    async def forget(self, namespace: str, topic: str, group: str) -> bool:
        if (found := self._find(namespace, topic)) is None:
            return False
        found.dead.pop(group, None)
        return found.groups.pop(group, None) is not None

    async def bury(self, namespace: str, topic: str, group: str, dead: DeadLetter) -> None:
        self._there(namespace, topic).dead.setdefault(group, {})[dead.event.offset] = dead

    async def buried(self, namespace: str, topic: str, group: str, after: int, limit: int) -> list[DeadLetter]:
        letters = self._letters(namespace, topic, group)
        found: list[DeadLetter] = []
        size = 0
        for offset in sorted(each for each in letters if each > after)[: min(limit, PAGE_EVENTS)]:
            size += _size(letters[offset].event)
            if found and size > PAGE_BYTES:
                break
            found.append(letters[offset])
        return found

    async def unbury(self, namespace: str, topic: str, group: str, offsets: Sequence[int]) -> int:
        letters = self._letters(namespace, topic, group)
        return sum(letters.pop(offset, None) is not None for offset in offsets)

    async def dead(self, namespace: str, topic: str, group: str) -> int:
        return len(self._letters(namespace, topic, group))

    def _find(self, namespace: str, topic: str) -> _Topic | None:
        found = self._topics.get(namespace, {}).get(topic)
        if found is not None:
            found.tidy(self._clock())
        return found

    def _there(self, namespace: str, topic: str) -> _Topic:
        if (found := self._find(namespace, topic)) is None:
            raise no_topic(topic)
        return found

    def _letters(self, namespace: str, topic: str, group: str) -> dict[int, DeadLetter]:
        found = self._find(namespace, topic)
        return {} if found is None else found.dead.get(group, {})


def _size(event: Event) -> int:
    pairs = sum(len(name.encode()) + len(value.encode()) for name, value in event.metadata.items())
    return _OVERHEAD + len(event.id) + len(event.payload) + len(event.key.encode()) + pairs
