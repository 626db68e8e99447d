"""A consumer group at work: one reader of its topic, one keeper of its progress, and the streams of its members."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from micro.domain import backoff, errors
from micro.domain.delivery import Delivered, Delivery, Member
from micro.domain.errors import Error, Kind
from micro.domain.event import DeadLetter, Progress
from micro.domain.terms import Terms
from micro.ports.background import OwnedTasks
from micro.ports.events import Events
from micro.ports.store import Now
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.services import _events_messages as messages

_log = logging.getLogger(__name__)

FRAME_EVENTS = 256
FRAME_BYTES = 1 << 20
"""What is sent at once, at most; one event is always sent."""

PAUSE_SECONDS = 0.05
"""Between one keeping of the progress and the next."""

GRACE_SECONDS = 0.25
"""How long what a broken stream had in hand waits: when this process is about to stop, it has not failed."""

LAST_SECONDS = 5.0
"""How long a group that nobody is in any more tries to have its progress kept."""

FAR = 5000
"""Events that are done already and follow each other: more are passed over without being read."""

CALM_SECONDS = 30.0
"""After so long without a failure the next one is the first."""

MOST_DEAD = 10_000
"""Dead letters of one group: with as many it gives up no other event, and waits when its window is full of those."""

FULL_SECONDS = 2.0
"""How often it is looked then whether there is room again."""

_LOADED = 100


class Place(NamedTuple):
    """Which group it is; one without a name is a consumer that is alone."""

    namespace: str
    topic: str
    group: str

    def __str__(self) -> str:
        return f"group {self.group} of topic {self.topic}" if self.group else f"topic {self.topic}"


class Seat:
    """The stream of one member."""

    def __init__(self, group: Group, terms: Terms, *, auto_ack: bool) -> None:
        self._group = group
        self._auto_ack = auto_ack
        self.member: Member = group.delivery.join(terms)
        self.wake = asyncio.Event()
        self._error: Error | None = None
        self._ended = False
        self._sent: list[Delivered] = []

    @property
    def next(self) -> int:
        """The offset of the first event that nobody of the group has had yet."""
        return self._group.delivery.next

    async def frame(self) -> tuple[Sequence[Delivered], Sequence[int]] | None:
        """What is to be sent next: events, and deliveries that are not this member's any more; None at the end.

        What it told before has been sent when it is called again. Raises what ends the stream."""
        member, group = self.member, self._group
        if self._auto_ack and self._sent:
            for one in self._sent:
                group.delivery.ack(member, one.number)
            group.turn()
        while True:
            self.wake.clear()
            if (error := self._error or group.error) is not None:
                raise error
            if self._ended or member.finished:
                return None
            if member.stalled:
                group.turn()
            taken = group.delivery.take(member, group.now(), FRAME_EVENTS, FRAME_BYTES)
            self._sent = taken
            if taken or member.expired:
                expired, member.expired = member.expired, []
                group.turn()
                return taken, expired
            await self.wake.wait()

    def hear(self, request: pb.ConsumeRequest) -> None:
        """Take acknowledgements, all of a message or none. Raises INVALID_ARGUMENT."""
        member, group = self.member, self._group
        if group.frozen:
            return
        delivery = group.delivery
        for number in request.acks:
            delivery.check(member, number)
        for nack in request.nacks:
            delivery.check(member, nack.delivery)
            messages.seconds("delay", nack.delay)
        for number in request.touches:
            delivery.check(member, number)
        for number in request.acks:
            delivery.ack(member, number)
        now = group.now()
        for nack in request.nacks:
            if nack.release:
                delivery.release(member, nack.delivery)
            else:
                delay = nack.delay if nack.has_field("delay") else None
                delivery.nack(member, nack.delivery, now, delay, nack.reason, last=nack.give_up)
        for number in request.touches:
            delivery.touch(member, number, now)
        if request.drain:
            delivery.drain(member)
        if member.finished:
            self.wake.set()
        group.turn()

    def fail(self, error: Error) -> None:
        """End the stream with an error."""
        self._error = error
        self.wake.set()

    def silent(self) -> None:
        """Nothing will be heard any more: without an acknowledgement nothing that is sent would ever be handled."""
        if not self._auto_ack:
            self._ended = True
            self.wake.set()

    def gone(self) -> None:
        """Nobody is there any more."""
        self._ended = True
        self.wake.set()

    def leave(self) -> None:
        """The stream has ended."""
        self._group.leave(self)


class Group:
    """One group, while it has members. All its changes are those of the one event loop it lives in.

    Args:
        progress: where it begins.
        clock: milliseconds since 1970, for when events are given up.
        emptied: is called when the last member has left.

    Attributes:
        delivery: who gets what.
        error: what its members are told when it has ended.
        frozen: whether the process is about to stop: nothing that happens to members counts.
    """

    def __init__(
        self, events: Events, place: Place, progress: Progress, clock: Now, emptied: Callable[[Group], None]
    ) -> None:
        self.place = place
        self.delivery = Delivery(progress, keeps=bool(place.group))
        self.error: Error | None = None
        self.frozen = False
        self._events = events
        self._clock = clock
        self._emptied = emptied
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._seats: dict[Member, Seat] = {}
        self._parted: dict[Member, asyncio.TimerHandle] = {}
        self._tasks = OwnedTasks()
        self._turning = False
        self._timer: asyncio.TimerHandle | None = None
        self._room, self._changed, self._work = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._keeping = asyncio.Lock()
        self._kept = progress
        self._kept_version = 0
        self._dead, self._told = -1, False

    def begin(self) -> None:
        """Read the topic, and keep what becomes of it."""
        self._tasks.spawn(self._for_ever(self._read), f"reader of {self.place}")
        if self.place.group:
            self._tasks.spawn(self._for_ever(self._keep), f"keeper of {self.place}")
            self._tasks.spawn(self._for_ever(self._tend), f"dead letters of {self.place}")
            self._work.set()

    def join(self, terms: Terms, *, auto_ack: bool) -> Seat:
        seat = Seat(self, terms, auto_ack=auto_ack)
        self._seats[seat.member] = seat
        self._part_now()  # one that ends takes nobody in
        self.turn()
        return seat

    def leave(self, seat: Seat) -> None:
        if self._seats.pop(seat.member, None) is None:
            return
        if seat.member.draining or not seat.member.hands or self.frozen:
            self._left(seat.member)
        else:
            # A process that is told to stop loses its streams first, and hears of it afterwards.
            self.delivery.part(seat.member)
            self._parted[seat.member] = self._loop.call_later(GRACE_SECONDS, self._left, seat.member)
            self.turn()

    def _part_now(self) -> None:
        for member, timer in list(self._parted.items()):
            timer.cancel()
            self._left(member)

    def _left(self, member: Member) -> None:
        self._parted.pop(member, None)
        self.delivery.leave(member, self.now(), failed=not self.frozen)
        self.turn()
        if not self._seats and not self._parted:
            self._emptied(self)

    async def flush(self) -> None:
        """Have what has happened by now kept. Raises UNAVAILABLE, and NOT_FOUND when the topic is gone."""
        async with self._keeping:
            version = self.delivery.version
            if version == self._kept_version or (self.error is not None and not self.frozen):
                return
            progress = self.delivery.progress()
            if progress != self._kept:
                await self._events.advance(*self.place, progress)
            self._kept, self._kept_version = progress, version

    async def end(self, error: Error) -> None:
        """Tell the members, and stop without keeping anything more."""
        self._fail(error)
        await self._stop()

    async def close(self) -> None:
        """Nobody is here any more: bury and keep what is to be kept, and stop."""
        await self._stop()
        if self.place.group and (self.error is None or self.frozen):
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self._settle()
                    await self.flush()
            except (Error, TimeoutError) as error:
                _log.warning("the last progress of %s is not kept, some events come again: %s", self.place, error)
        self._fail(errors.unavailable(f"{self.place} has nobody left: consume again"))
        self._still()

    def freeze(self) -> None:
        """The process is about to stop: what is in the members' hands counts as not tried."""
        self.frozen = True
        self._part_now()
        self._fail(errors.unavailable("events is stopping: consume again"))

    def turn(self) -> None:
        """Share out what there is, once for all that happens by then."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self.error is not None or self.frozen:
            return
        delivery, now = self.delivery, self.now()
        for member in delivery.expire(now):
            if member in self._seats:
                self._seats[member].wake.set()
        for member in delivery.deal(now):
            self._seats[member].wake.set()
        if delivery.wants:
            self._room.set()
        self._changed.set()
        if delivery.given_up() or delivery.handled() or delivery.to_load():
            self._work.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due := delivery.wake_at()) is not None:
            self._timer = self._loop.call_at(due + 0.001, self._turn)

    async def _read(self) -> None:
        """Offer the topic's events, as far as there is room."""
        place, delivery = self.place, self.delivery
        while True:
            async with aclosing(self._events.tail(place.namespace, place.topic, delivery.start)) as tail:
                async for events in tail:
                    delivery.offer(events)
                    self._turn()  # they have come together already
                    while not delivery.wants:
                        self._room.clear()
                        await self._room.wait()
                    if delivery.start - delivery.read > FAR:
                        break  # what was done long ago, behind something that is not, is not read again

    async def _keep(self) -> None:
        """Keep the progress, one after the other, at short intervals while it changes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.flush()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _tend(self) -> None:
        """Bury what was given up, remove what was handled after all, load what is to be tried anew."""
        delivery, place = self.delivery, self.place
        while True:
            await self._work.wait()
            self._work.clear()
            await self._settle()
            while first := delivery.to_load():
                found = await self._events.buried(*place, first - 1, _LOADED)
                delivery.load(first, [dead.event for dead in found])
                self.turn()

    async def _settle(self) -> None:
        """Remove what was handled after all, bury what was given up, as far as there is room for it."""
        delivery, place = self.delivery, self.place
        while offset := delivery.handled():
            await self._events.unbury(*place, (offset,))
            delivery.removed(offset)
            self.turn()
        while (item := delivery.given_up()) is not None:
            if not item.redriven and await self._full():
                self._loop.call_later(FULL_SECONDS, self._work.set)
                return
            await self._events.bury(*place, DeadLetter(item.event, item.failures, item.reason, self._clock()))
            self._dead += 1
            delivery.buried(item)
            self.turn()

    async def _full(self) -> bool:
        """Whether there are as many dead letters as may be."""
        if 0 <= self._dead < MOST_DEAD:
            return False
        self._dead = await self._events.dead(*self.place)
        told, self._told = self._told, self._dead >= MOST_DEAD
        if self._told and not told:
            _log.warning("%s has %d dead letters and waits: redrive or drop some", self.place, self._dead)
        return self._told

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Go on with some work after the state could not be reached, until the topic is gone."""
        delays = backoff.exponential(first=0.1, cap=5.0)
        while True:
            begun = self.now()
            try:
                await work()
            except Error as error:
                if error.kind is Kind.NOT_FOUND:
                    self._fail(errors.aborted(f"{self.place} has been removed"))
                    return
                _log.warning("%s waits: %s", self.place, error)
            except Exception:  # noqa: BLE001 - told, and not silent
                # Members that come again begin with what was kept: better than a group that does nothing.
                _log.exception("%s has failed, and begins anew", self.place)
                self._fail(errors.internal(f"{self.place} has failed: consume again"))
                return
            if self.now() - begun > CALM_SECONDS:
                delays = backoff.exponential(first=0.1, cap=5.0)
            await asyncio.sleep(next(delays))
            for event in (self._changed, self._work):
                event.set()

    def _fail(self, error: Error) -> None:
        self.error = self.error or error
        for seat in self._seats.values():
            seat.wake.set()

    async def _stop(self) -> None:
        self._still()
        await self._tasks.cancel()

    def _still(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
