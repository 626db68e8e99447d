"""The topics of all namespaces: who may do what with them, how much they may take, and the groups that are at work."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from weakref import WeakValueDictionary

from micro.domain import errors, topic
from micro.domain.errors import Error, Kind
from micro.domain.event import Appended, New, Progress, Retention, TopicState
from micro.domain.namespace import Quota
from micro.domain.progress import clipped
from micro.domain.terms import Terms
from micro.ports import identity
from micro.ports.announcements import AUTH, TOPICS
from micro.ports.background import OwnedTasks, log, spawn
from micro.ports.events import Events, no_topic
from micro.ports.store import Now, now
from micro.services import _auth_core as core_accounts
from micro.services import _caller as caller
from micro.services._events_groups import Group, Place, Seat
from micro.services._events_messages import Where

MEASURE_SECONDS = 3.0
"""How often it is looked how much a namespace keeps, while it publishes."""

PLATFORM = Retention(bytes=64 << 20)
"""How long what the platform tells is kept, unless somebody says otherwise."""

PURGED_SECONDS = 10.0
"""How long the platform tells nothing in a namespace of which everything was removed."""

MOST_GROUPS = 1000
"""Of one topic."""

MOST_CONSUMERS = 1000
"""Of one namespace at a time: streams, with a group or alone."""

_MEASURE_SHARE = 20
"""A look may take one part in so many of the time."""


class Topics:
    """What the handlers of `micro.events.v1` work on.

    Args:
        events: where events are kept; started with this.
        exists: whether there is such a namespace.
        quota: the limits of a namespace; None where it is not known.
        clock: milliseconds since 1970.
    """

    def __init__(
        self,
        events: Events,
        exists: Callable[[str], bool] = lambda namespace: True,
        *,
        quota: Callable[[str], Quota | None] = lambda namespace: None,
        clock: Now = now,
    ) -> None:
        self.events = events
        self._exists = exists
        self._quota = quota
        self._clock = clock
        self._groups: dict[Place, Group] = {}
        self._alone: set[Group] = set()
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._makes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = OwnedTasks()
        self._stopping = False
        self._published: set[str] = set()
        self._full: dict[str, Error] = {}
        self._purged: dict[str, float] = {}
        self._consumers: Counter[str] = Counter()

    async def start(self, stack: AsyncExitStack) -> None:
        """Open what keeps the events."""
        await self.events.start(stack)
        await self._tasks.start(stack)
        spawn(stack, self._measure(), "what namespaces keep")
        stack.push_async_callback(self._stop)

    def healthy(self) -> bool:
        """Whether events can be reached, as far as is known."""
        return self.events.healthy()

    def namespace(self, ctx: Any, asked: str) -> str:
        """The namespace that a call is about; the caller's own for an empty name.

        Raises PERMISSION_DENIED when the caller does not belong there, NOT_FOUND when there is no such namespace.
        """
        namespace = caller.namespace(ctx, asked)
        if not self._exists(namespace):
            raise identity.no_namespace(namespace)
        return namespace

    # Publishing.

    def check_publisher(self, ctx: Any, namespace: str, name: str) -> None:
        """Raises PERMISSION_DENIED for a topic of the platform's that somebody else publishes to, and
        RESOURCE_EXHAUSTED when the namespace keeps all it may."""
        if topic.platforms(name):
            if not core_accounts.is_core(caller.account(ctx)):
                raise errors.permission_denied(
                    f"topic {name} is told by the platform itself: publish to one that does not begin with "
                    f'"{topic.PLATFORM}."'
                )
            if time.monotonic() < self._purged.get(namespace, 0.0):
                raise identity.no_namespace(namespace)
            return
        if self._full and (full := self._full.get(namespace)) is not None:
            raise full
        self._published.add(namespace)

    def check_reader(self, ctx: Any, namespace: str, name: str) -> None:
        """Raises PERMISSION_DENIED for a topic that tells what only admins may list."""
        if name == AUTH and not caller.account(ctx).administers(namespace):
            raise errors.permission_denied(
                f"topic {name} is for admins of namespace {namespace}: it tells of accounts and rules"
            )

    async def append(self, namespace: str, name: str, events: Sequence[New]) -> list[Appended]:
        """Append to a topic, which is made where there is none. Raises RESOURCE_EXHAUSTED."""
        try:
            return await self.events.append(namespace, name, events)
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
        await self.made(namespace, name)
        return await self.events.append(namespace, name, events)

    async def made(self, namespace: str, name: str, retention: Retention | None = None) -> TopicState:
        """The state of a topic, which is made where there is none, or is given another retention. Raises
        RESOURCE_EXHAUSTED when the namespace has as many as it may."""
        if retention is None and (found := await self.events.state(namespace, name)) is not None:
            return found
        turns = self._makes.setdefault(namespace, asyncio.Lock())
        async with turns:
            found = await self.events.state(namespace, name)
            if found is not None and retention is None:
                return found
            if found is None and not topic.platforms(name):
                await self._check_room(namespace)
            elif found is None and name not in TOPICS:  # no quota counts them
                raise errors.not_found(f"there is no topic {name}: the platform tells {', '.join(TOPICS)}")
            usual = PLATFORM if topic.platforms(name) else Retention()
            return await self.events.configure(namespace, name, retention or usual)

    async def state(self, namespace: str, name: str) -> TopicState:
        """Raises NOT_FOUND."""
        found = await self.events.state(namespace, name)
        if found is None:
            raise no_topic(name)
        return found

    async def offset(self, namespace: str, name: str, where: Where) -> int:
        """The offset of a place, that of the next event for one behind all. Raises NOT_FOUND."""
        if where.time is not None:
            return await self.events.offset_at(namespace, name, where.time)
        end = (await self.state(namespace, name)).last + 1
        return end if where.offset is None else min(where.offset, end)

    # Groups.

    async def join(self, place: Place, terms: Terms, start: Where, *, auto_ack: bool) -> Seat:
        """Become a member of a group, which is made where there is none, with its topic; or consume alone."""
        async with self._turn(place):
            state = await self.made(place.namespace, place.topic)
            if not place.group:
                offset = await self.offset(place.namespace, place.topic, start)
                alone = Group(self.events, place, Progress(offset - 1), self._clock, self._emptied)
                self._alone.add(alone)
                return self._seat(alone, terms, auto_ack=auto_ack, begin=True)
            group = self._groups.get(place)
            if group is not None and group.error is None:
                return self._seat(group, terms, auto_ack=auto_ack, begin=False)
            progress = await self.events.progress(*place)
            if progress is None:
                await self._check_groups(place)
                progress = Progress(await self.offset(place.namespace, place.topic, start) - 1)
                await self.events.advance(*place, progress)
            elif (come := clipped(progress, state.last)) is not progress:
                log.warning("%s had come further than event %d, the topic's last: it was set back", place, state.last)
                progress = come
                await self.events.advance(*place, progress)
            group = self._groups[place] = Group(self.events, place, progress, self._clock, self._emptied)
            return self._seat(group, terms, auto_ack=auto_ack, begin=True)

    def _seat(self, group: Group, terms: Terms, *, auto_ack: bool, begin: bool) -> Seat:
        if self._stopping:
            raise errors.unavailable("events is stopping: consume again")
        seat = group.join(terms, auto_ack=auto_ack)
        if begin:
            group.begin()
        return seat

    def at_work(self, namespace: str, name: str) -> Mapping[str, Group]:
        """The groups of a topic that have members now."""
        found = [group for place, group in self._groups.items() if place[:2] == (namespace, name)]
        return {group.place.group: group for group in found if group.error is None}

    async def progress(self, place: Place) -> Progress:
        """How far a group has come. Raises NOT_FOUND when there is no such group or topic."""
        group = self._groups.get(place)
        if group is not None and group.error is None:
            return group.delivery.progress()
        found = await self.events.progress(*place)
        if found is None:
            await self.state(place.namespace, place.topic)
            raise errors.not_found(
                f"there is no group {place.group} of topic {place.topic}: it is made when it first consumes"
            )
        return found

    async def reset(self, place: Place, where: Where) -> Progress:
        """Let a group go on from another place. Raises NOT_FOUND."""
        async with self._turn(place):
            await self.progress(place)
            progress = Progress(await self.offset(place.namespace, place.topic, where) - 1)
            await self._end(place, errors.aborted(f"{place} has been reset: consume again"))
            await self.events.advance(*place, progress)
            return progress

    async def forget(self, place: Place) -> bool:
        """Remove a group; returns whether there was one."""
        async with self._turn(place):
            await self._end(place, errors.aborted(f"{place} has been removed"))
            return await self.events.forget(*place)

    async def redrive(self, place: Place, offsets: Sequence[int]) -> int:
        """Have dead letters delivered again; returns how many."""
        async with self._turn(place):
            progress = await self.progress(place)
            group = self._groups.get(place)
            if group is None or group.error is not None:
                group = Group(self.events, place, progress, self._clock, lambda group: None)
            count = group.delivery.redrive(offsets)
            await group.flush()
            group.turn()
            return count

    async def drop(self, place: Place, offsets: Sequence[int]) -> int:
        """Remove dead letters; returns how many there were. Those that have just been handled are none any more."""
        async with self._turn(place):
            progress = await self.progress(place)
            group = self._groups.get(place)
            if group is not None and group.error is None:
                handled = group.delivery.finished
                offsets = [offset for offset in offsets if offset not in handled]
                group.delivery.drop(offsets)
                group.turn()
            elif not set(offsets).isdisjoint(progress.redriven):
                rest = tuple(sorted(set(progress.redriven).difference(offsets)))
                left = {at: count for at, count in progress.failures.items() if at not in offsets or at in rest}
                await self.events.advance(*place, Progress(progress.floor, progress.done, left, rest))
            return await self.events.unbury(*place, offsets) if offsets else 0

    async def delete(self, namespace: str, name: str) -> bool:
        """Remove a topic; returns whether there was one."""
        async with self._turn(Place(namespace, name, "")):
            await self._end_all(lambda place: place[:2] == (namespace, name), f"topic {name} has been removed")
            return await self.events.delete(namespace, name)

    async def purge(self, namespace: str) -> None:
        """Remove all topics of a namespace."""
        await self._end_all(lambda place: place.namespace == namespace, f"namespace {namespace} has been removed")
        # What is still told of its end comes too late: who gets the name next must not find it.
        self._purged[namespace] = time.monotonic() + PURGED_SECONDS
        await self.events.drop(namespace)
        self._full.pop(namespace, None)

    # Within.

    def _turn(self, place: Place) -> asyncio.Lock:
        """One at a time changes which groups of a topic there are."""
        return self._turns.setdefault((place.namespace, place.topic), asyncio.Lock())

    def _emptied(self, group: Group) -> None:
        if not self._stopping:
            self._tasks.spawn(self._close(group), f"end of {group.place}")

    async def _close(self, group: Group) -> None:
        if group in self._alone:
            self._alone.discard(group)
            await group.close()
            return
        async with self._turn(group.place):
            if not group.delivery.members:
                await group.close()
                if self._groups.get(group.place) is group:
                    del self._groups[group.place]

    async def _end(self, place: Place, error: Error) -> None:
        group = self._groups.pop(place, None)
        if group is not None:
            await group.end(error)

    async def _end_all(self, wanted: Callable[[Place], bool], why: str) -> None:
        for place in [place for place in self._groups if wanted(place)]:
            await self._end(place, errors.aborted(why))
        for group in [group for group in self._alone if wanted(group.place)]:
            await group.end(errors.aborted(why))

    async def _stop(self) -> None:
        """Keep what has happened; what is in hand is to be handed out again as if it had not been."""
        self._stopping = True
        every = [*self._groups.values(), *self._alone]
        for group in every:
            group.freeze()
        await asyncio.gather(*(group.close() for group in every))

    async def _own(self, namespace: str) -> list[TopicState]:
        """The topics that quotas count: not the platform's, which are bounded by themselves."""
        return [state for state in await self.events.topics(namespace) if not topic.platforms(state.name)]

    async def _check_room(self, namespace: str) -> None:
        quota = self._quota(namespace)
        if quota is None or not quota.topics:
            return
        there = await self._own(namespace)
        if len(there) >= quota.topics:
            raise errors.resource_exhausted(
                f"namespace {namespace} has {len(there):,} topics, as many as its quota says: delete some with "
                f"`micro events delete`, or have topics raised with `micro namespace quota`"
            )

    async def _check_groups(self, place: Place) -> None:
        if len(await self.events.group_names(place.namespace, place.topic)) >= MOST_GROUPS:
            raise errors.resource_exhausted(
                f"topic {place.topic} has {MOST_GROUPS:,} groups: delete some that are not needed, or consume without "
                "one"
            )

    @contextmanager
    def consuming(self, namespace: str) -> Iterator[None]:
        """Count a consumer. Raises RESOURCE_EXHAUSTED when the namespace has as many as it may."""
        if self._consumers[namespace] >= MOST_CONSUMERS:
            raise errors.resource_exhausted(
                f"namespace {namespace} has {MOST_CONSUMERS:,} consumers: end some that are not needed"
            )
        self._consumers[namespace] += 1
        try:
            yield
        finally:
            self._consumers[namespace] -= 1
            if not self._consumers[namespace]:
                del self._consumers[namespace]

    async def _measure(self) -> None:
        """Look, every few seconds, what the namespaces keep that publish."""
        pause = MEASURE_SECONDS
        while True:
            await asyncio.sleep(pause)
            begun = time.monotonic()
            asked, self._published = self._published | set(self._full), set()
            for namespace in asked:
                try:
                    await self._measure_one(namespace)
                except Error as error:
                    log.warning("what namespace %s keeps is not to be told now: %s", namespace, error)
            pause = max(MEASURE_SECONDS, (time.monotonic() - begun) * _MEASURE_SHARE)

    async def _measure_one(self, namespace: str) -> None:
        quota = self._quota(namespace)
        limit = quota.events if quota is not None else 0
        kept = sum(state.bytes for state in await self._own(namespace)) if limit else 0
        if limit and kept >= limit:
            self._full[namespace] = errors.resource_exhausted(
                f"namespace {namespace} keeps {kept:,} bytes of events, as many as its quota says ({limit:,}): delete "
                f"topics or give them a shorter retention, or have events raised with `micro namespace quota`"
            )
        else:
            self._full.pop(namespace, None)
