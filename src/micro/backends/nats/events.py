"""Event streams in JetStream: a stream for each topic, whose sequences are the offsets.

A batch is all or nothing, also when the server is killed in the middle of it. One that has a duplicate in it NATS
refuses as a whole; it is then appended event by event, as is every batch before NATS 2.12.1, and a failure may leave a
part of it.

Dedup ids are remembered for DEDUP_SECONDS, or for as long as a topic keeps events where that is shorter.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time as clock
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

import nats.errors

from micro.backends.nats import _topics
from micro.backends.nats._appends import Appends, Outgoing, Stored
from micro.backends.nats._connection import Connection
from micro.backends.nats._follow import Follow
from micro.backends.nats._groups import Groups, prefix_of
from micro.backends.nats._streams import ID_NAME, Info, Streams
from micro.backends.nats._tail import TailBrokenError
from micro.backends.nats._trim import Trim
from micro.domain import backoff, errors
from micro.domain.event import (
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
from micro.ports import background
from micro.ports.events import Events, no_topic

log = logging.getLogger("micro.nats")

PATIENCE_SECONDS = 10.0
"""Longer than NATS takes to restart."""

SUBJECT = "events' state"
_KNOWN_SECONDS = 5.0
_KNOWN = 20_000
_AT_ONCE = 16
_SHORT = 10
"""How often a cluster may say that a stream ends in front of what was read: a new leader may not know all at once."""

_DEAD_BYTES = 8 << 10
"""What a dead letter has more than its event: above all why it was given up."""


class NatsEvents(Events):
    """The port over NATS.

    Args:
        connection: started by whoever made it.
        replicas: how many servers of a NATS cluster keep each stream; 1, 3 or 5.
        patience: how many seconds a call goes on trying while NATS is away.
    """

    def __init__(self, connection: Connection, *, replicas: int = 1, patience: float = PATIENCE_SECONDS) -> None:
        self._connection = connection
        self._replicas = replicas
        self._streams = Streams(connection, SUBJECT, patience)
        self._appends = Appends(connection, self._streams, SUBJECT, patience)
        self._groups = Groups(self._streams, self._appends, replicas)
        self._trim = Trim(self._streams)
        self._follows: dict[str, set[Follow]] = {}
        self._known: dict[tuple[str, str], tuple[str, float]] = {}
        self._marks = secrets.token_urlsafe(9)
        self._count = 0

    @property
    def durability(self) -> Durability:
        return self._connection.durability(self._replicas)

    @property
    def atomic(self) -> bool:
        return self._appends.atomic

    async def start(self, stack: AsyncExitStack) -> None:
        await self._appends.start(stack)
        await self._trim.start(stack)
        await self._groups.start()
        if not self._connection.address.synced:  # our own is one server alone
            tasks = background.OwnedTasks()
            await tasks.start(stack)
            tasks.spawn(self._replicate(), "having topics kept by as many servers as they should be")

    def healthy(self) -> bool:
        return self._connection.connected

    async def configure(self, namespace: str, topic: str, retention: Retention) -> TopicState:
        self._known.pop((namespace, topic), None)
        state = _topics.state_of(await self._ensure(namespace, topic, retention))
        if not 0 < retention.bytes < state.bytes:
            return state
        await self._trim.trim(_topics.stream_of(namespace, topic))
        return await self._state(namespace, topic)

    async def topics(self, namespace: str) -> list[TopicState]:
        found = await self._streams.having(_topics.all_of(namespace))
        return sorted((_topics.state_of(each) for each in found if _topics.is_topic(each)), key=lambda each: each.name)

    async def state(self, namespace: str, topic: str) -> TopicState | None:
        info = await self._looked_at(namespace, topic)
        return _topics.state_of(info) if info is not None else None

    async def delete(self, namespace: str, topic: str) -> bool:
        self._known.pop((namespace, topic), None)
        gone = await self._remove(_topics.stream_of(namespace, topic))
        await self._groups.clear(prefix_of(namespace, topic))
        return gone

    async def drop(self, namespace: str) -> None:
        streams = [str(info["config"]["name"]) for info in await self._streams.having(_topics.all_of(namespace))]
        for first in range(0, len(streams), _AT_ONCE):
            await asyncio.gather(*map(self._remove, streams[first : first + _AT_ONCE]))
        for place in [each for each in self._known if each[0] == namespace]:
            del self._known[place]
        await self._groups.clear(prefix_of(namespace))

    async def append(self, namespace: str, topic: str, events: Sequence[New]) -> list[Appended]:
        stream, subject = _topics.stream_of(namespace, topic), _topics.subject_of(namespace, topic)
        first: dict[str, int] = {}
        sent: list[Outgoing] = []
        places: list[int] = []
        marks: list[str] = []
        for event in events:
            place = first.setdefault(event.dedup_id, len(sent)) if event.dedup_id else len(sent)
            places.append(place)
            if place == len(sent):
                self._count += 1
                marks.append(f"{self._marks}.{self._count:x}")
                sent.append(Outgoing(subject, *_topics.encode(event, marks[-1])))
        with _named(topic):
            stored, retried = await self._appends.append(stream, sent, _DEAD_BYTES)
        self._trim.grown(stream, sum(event.size for event in events), len(sent))
        done: list[Appended] = []
        told: dict[int, Appended] = {}
        for event, place in zip(events, places, strict=True):
            if place in told:
                done.append(replace(told[place], duplicate=True))
                continue
            told[place] = await self._appended(stream, event, stored[place], marks[place] if retried else "")
            done.append(told[place])
        return done

    async def _appended(self, stream: str, event: New, stored: Stored, mark: str) -> Appended:
        """What is told of an event; of a duplicate, whose it is: `mark` says that we may have sent it ourselves."""
        if not stored.duplicate or not event.dedup_id:
            return Appended(event.id, stored.sequence)
        found = await self._streams.message(stream, stored.sequence)
        identity, marked = _topics.identity(found[0]) if found is not None else ("", "")
        ours = bool(mark) and marked == mark
        return Appended(identity or event.id, stored.sequence, duplicate=not ours)

    async def read(self, namespace: str, topic: str, start: int, limit: int) -> list[Event]:
        stream, start, limit = _topics.stream_of(namespace, topic), max(start, 1), min(limit, PAGE_EVENTS)
        delays = backoff.exponential(first=0.01, cap=0.2)
        while True:
            # What the leader has, where another server that has not heard of it yet may answer the read.
            state = await self._state(namespace, topic) if self._replicas > 1 else None
            query = {"seq": start, "batch": limit, "max_bytes": PAGE_BYTES}
            with _named(topic):
                messages, more = await self._streams.direct(stream, query)
            page = [_event(each.headers or {}, each.data) for each in messages]
            reached = page[-1].offset if page else start - 1
            if state is None or not state.count or more or len(page) >= limit or reached >= state.last:
                return page
            await asyncio.sleep(next(delays))

    async def offset_at(self, namespace: str, topic: str, time: int) -> int:
        query = {"start_time": _topics.rfc3339(time), "batch": 1}
        delays = backoff.exponential(first=0.01, cap=0.2)
        while True:
            info = await self._info(namespace, topic)
            state = _topics.state_of(info)
            if not state.count or _topics.milliseconds(info["state"]["last_ts"]) < time:
                return state.last + 1
            with _named(topic):
                messages, _ = await self._streams.direct(_topics.stream_of(namespace, topic), query)
            if messages:
                return int((messages[0].headers or {})["Nats-Sequence"])
            # It went meanwhile, or another server answered that has not heard of it yet.
            await asyncio.sleep(next(delays))

    async def tail(self, namespace: str, topic: str, start: int) -> AsyncGenerator[Sequence[Event]]:
        stream, cursor, identity = _topics.stream_of(namespace, topic), max(start, 1), ""
        read = short = 0
        delays = backoff.exponential(first=0.02, cap=0.5)
        while True:
            follow = Follow(self._connection, stream, cursor)
            self._follows.setdefault(stream, set()).add(follow)
            try:
                info = await self._info(namespace, topic)
                now = info["config"]["metadata"][ID_NAME]
                if identity not in ("", now):
                    raise errors.not_found(f"topic {topic} was deleted, and made anew")
                short = short + 1 if info["state"]["last_seq"] < read else 0
                if short and (self._replicas == 1 or short > _SHORT):
                    # Its next events will have offsets that were read before.
                    raise errors.not_found(f"topic {topic} has lost events that were read: NATS was set back")
                if short:
                    raise TailBrokenError(f"it ends in front of {read}")
                identity = now
                async with follow:
                    while True:
                        found = await follow.next()
                        batch = [_topics.decode(raw.headers, raw.data, at, ms) for at, ms, raw in found if at >= cursor]
                        if batch:
                            read, cursor = batch[-1].offset, batch[-1].offset + 1
                            delays = backoff.exponential(first=0.02, cap=0.5)
                            yield batch
            except (TailBrokenError, nats.errors.Error, OSError, errors.Error) as error:
                if isinstance(error, errors.Error) and error.kind is not errors.Kind.UNAVAILABLE:
                    raise
                log.debug("tail of %s goes on from %d: %s", stream, cursor, error)
            finally:
                self._follows[stream].discard(follow)
                if not self._follows[stream]:
                    del self._follows[stream]
            await asyncio.sleep(next(delays))

    async def groups(self, namespace: str, topic: str) -> Mapping[str, Progress]:
        identity = await self._identity(namespace, topic)
        return await self._groups.all(prefix_of(namespace, topic), identity) if identity else {}

    async def group_names(self, namespace: str, topic: str) -> Sequence[str]:
        identity = await self._identity(namespace, topic)
        return await self._groups.names(prefix_of(namespace, topic), identity) if identity else []

    async def group_counts(self, namespace: str, topics: Sequence[str]) -> list[int]:
        found = await self._groups.counts(_topics.token(namespace))
        counts = []
        for topic in topics:
            ids = found.get(_topics.token(topic), {})
            # Several: something is left of one of its name that was deleted.
            counts.append(sum(ids.values()) if len(ids) < 2 else len(await self.group_names(namespace, topic)))
        return counts

    async def progress(self, namespace: str, topic: str, group: str) -> Progress | None:
        identity = await self._identity(namespace, topic)
        return await self._groups.one(prefix_of(namespace, topic), identity, group) if identity else None

    async def advance(self, namespace: str, topic: str, group: str, progress: Progress) -> None:
        identity = await self._there(namespace, topic)
        await self._groups.keep(prefix_of(namespace, topic), identity, group, progress)

    async def forget(self, namespace: str, topic: str, group: str) -> bool:
        identity = await self._identity(namespace, topic)
        return bool(identity) and await self._groups.forget(prefix_of(namespace, topic), identity, group)

    async def bury(self, namespace: str, topic: str, group: str, dead: DeadLetter) -> None:
        identity = await self._there(namespace, topic)
        await self._groups.bury(prefix_of(namespace, topic), identity, group, dead)

    async def buried(self, namespace: str, topic: str, group: str, after: int, limit: int) -> list[DeadLetter]:
        identity = await self._identity(namespace, topic)
        if not identity:
            return []
        return await self._groups.buried(prefix_of(namespace, topic), identity, group, after, limit)

    async def unbury(self, namespace: str, topic: str, group: str, offsets: Sequence[int]) -> int:
        identity = await self._identity(namespace, topic)
        return await self._groups.unbury(prefix_of(namespace, topic), identity, group, offsets) if identity else 0

    async def dead(self, namespace: str, topic: str, group: str) -> int:
        identity = await self._identity(namespace, topic)
        return await self._groups.dead(prefix_of(namespace, topic), identity, group) if identity else 0

    async def _replicate(self) -> None:
        """After the setting has changed; the servers move what they hold while it is used."""
        try:
            for info in await self._streams.having(f"{_topics.SUBJECTS}.>"):
                config = info["config"]
                if _topics.is_topic(info) and (config.get("num_replicas") or 1) != self._replicas:
                    await self._streams.change(config["name"], num_replicas=self._replicas)
        except errors.Error as error:
            log.warning("some topics stay on as many servers as they were until the next start: %s", error)

    async def _remove(self, stream: str) -> bool:
        gone = await self._streams.remove(stream)
        self._trim.forget(stream)
        for follow in self._follows.get(stream, ()):
            # The server tells only those whose pull waits in that moment.
            follow.wake("its topic was deleted")
        return gone

    async def _ensure(self, namespace: str, topic: str, retention: Retention) -> Info:
        config = _topics.config(namespace, topic, retention, self._replicas, atomic=self.atomic)
        with _named(topic):
            return await self._streams.ensure(config)

    async def _info(self, namespace: str, topic: str) -> Info:
        info = await self._looked_at(namespace, topic)
        if info is None:
            raise no_topic(topic)
        return info

    async def _looked_at(self, namespace: str, topic: str) -> Info | None:
        """A topic's stream. What was known of another one with its name is forgotten."""
        info = await self._streams.info(_topics.stream_of(namespace, topic))
        known = self._known.get((namespace, topic))
        if known is not None and (info is None or info["config"]["metadata"].get(ID_NAME) != known[0]):
            self._known.pop((namespace, topic), None)
        return info

    async def _state(self, namespace: str, topic: str) -> TopicState:
        return _topics.state_of(await self._info(namespace, topic))

    async def _there(self, namespace: str, topic: str) -> str:
        identity = await self._identity(namespace, topic)
        if not identity:
            raise no_topic(topic)
        return identity

    async def _identity(self, namespace: str, topic: str) -> str:
        """What tells a topic from one of its name that was deleted; empty when there is none.

        Looked up again every few seconds, as another process may delete it; then, too, it is brought to what this
        release and its settings want.
        """
        known, until = self._known.get((namespace, topic), ("", 0.0))
        if clock.monotonic() < until:
            return known
        info = await self._streams.info(_topics.stream_of(namespace, topic))
        if info is None:
            self._known.pop((namespace, topic), None)
            return ""
        info = await self._ensure(namespace, topic, _topics.state_of(info).retention)
        identity = str(info["config"]["metadata"][ID_NAME])
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[namespace, topic] = (identity, clock.monotonic() + _KNOWN_SECONDS)
        return identity


@contextmanager
def _named(topic: str) -> Iterator[None]:
    """Have a stream that there is none of told by the name of its topic."""
    try:
        yield
    except errors.Error as error:
        if error.kind is not errors.Kind.NOT_FOUND:
            raise
        raise no_topic(topic) from error


def _event(headers: Mapping[str, str], data: bytes) -> Event:
    return _topics.decode(
        headers, data, int(headers["Nats-Sequence"]), _topics.milliseconds(headers["Nats-Time-Stamp"])
    )
