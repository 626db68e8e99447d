"""One consumer's deliveries, over as many streams as it takes: what is in hand, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from micro.domain import backoff, errors, text
from micro.domain.errors import Error, Kind
from micro.framework import client
from micro.rpc import wkt
from micro.rpc.context import CURRENT
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import StreamClient

log = logging.getLogger(__name__)

PATIENCE = 15.0
"""Seconds that events may be away when a consumer begins, before that is an error."""

_PASSING = (
    Kind.UNAVAILABLE, Kind.CANCELED, Kind.INTERNAL, Kind.UNKNOWN, Kind.DEADLINE_EXCEEDED, Kind.ABORTED, Kind.NOT_FOUND,
)  # fmt: skip
"""What a stream ends with when its server does, or the way there, or when its group is set elsewhere; and what is told
of a server that is not back yet."""

ACK_WAIT = 30.0
"""Seconds in which an event has to be acknowledged, by default."""

_REFUSALS = 3
"""How often in a row a token that is not taken is tried anew: the one that ended a stream had run out."""

_DOUBT = 2.0
"""Seconds before a stream broke in which acknowledgements may have been lost with it."""

_REMEMBERED = 60.0
"""Seconds that those are remembered."""

MAX_REASON = 1024
"""Characters of why an event was not handled."""

MAX_DELAY = 86400.0
"""Seconds that a try may have to wait."""

_MOST_ABOVE = 4096
"""Offsets above a gap that are remembered: more than events reads ahead."""

_TOGETHER = 0.05
"""Seconds that an acknowledgement waits for others at most: as often is kept how far a group has come."""

_BEAT = 10.0
"""Seconds after which something is said, however little there is to say."""

_SILENCE = 40.0
"""Seconds of silence after which events are to give a consumer up: code that lets nothing else run may be busy with one
for as long as it has for it."""

_ROOM = 1024
"""Events that wait here when nobody has to acknowledge them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a consumer asks for; see `micro.events.v1.ConsumeRequest`."""

    topic: str
    group: str = ""
    start: pb.Start | None = None
    auto_ack: bool = False
    ack_wait: float = 0.0
    max_deliver: int = 0
    backoff: tuple[float, ...] = ()
    max_in_flight: int = 0

    def request(self, start: pb.Start | None) -> pb.ConsumeRequest:
        return pb.ConsumeRequest(
            topic=self.topic, group=self.group, from_=start, auto_ack=self.auto_ack, ack_wait=self.ack_wait,
            max_deliver=self.max_deliver, backoff=list(self.backoff), max_in_flight=self.max_in_flight,
            silence=min(max(_SILENCE, self.ack_wait + _BEAT), MAX_DELAY),
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.topic}/{self.group}" if self.group else self.topic


class Outbox:
    """What one stream is still to be told. What comes while a message is being sent goes with the next one.

    While other events wait here to be handled, acknowledgements are in no hurry: they go together, before half of what
    was in hand is handled, so that new ones come in time.

    Args:
        pause: how many seconds they wait for each other at most.
    """

    def __init__(self, pause: float) -> None:
        self.acks: list[int] = []
        self.nacks: list[pb.Nack] = []
        self.touches: list[int] = []
        self.drain = False
        self.broken = False
        self.ended = False
        self.wake = asyncio.Event()
        self._pause = pause
        self._due: asyncio.TimerHandle | None = None

    def ack(self, number: int, waiting: int) -> None:
        """An event is handled, and so many others wait here."""
        self.acks.append(number)
        if len(self.acks) >= waiting:
            self.wake.set()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._pause, self.wake.set)

    async def messages(self, first: pb.ConsumeRequest) -> AsyncIterator[pb.ConsumeRequest]:
        yield first
        while True:
            beat = asyncio.get_running_loop().call_later(_BEAT, self.wake.set)
            try:
                await self.wake.wait()
            finally:
                beat.cancel()
            self.wake.clear()
            self._calm()
            if self.ended:
                return
            acks, self.acks, nacks, self.nacks = self.acks, [], self.nacks, []
            touches, self.touches = self.touches, []
            yield pb.ConsumeRequest(acks=acks, nacks=nacks, touches=touches, drain=self.drain)

    async def aclose(self) -> None:
        """The stream is over: whoever still waits for more to send is let go."""
        self.ended = True
        self._calm()
        self.wake.set()

    def _calm(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class Delivery:
    """An event in hand."""

    __slots__ = ("_outbox", "_owner", "done", "number", "since", "taken", "told")

    def __init__(self, owner: Deliveries, told: pb.Event, outbox: Outbox) -> None:
        self.told = told
        self.number = told.delivery
        self.taken = self.done = False
        self.since = time.monotonic()
        self._owner = owner
        self._outbox = outbox

    def again(self, told: pb.Event, outbox: Outbox) -> None:
        """It was delivered again while it is in hand: what becomes of it is told of the new delivery."""
        self.number, self._outbox = told.delivery, outbox

    def ack(self) -> None:
        """It is handled."""
        if self.done:
            return
        self.done = True
        if self._owner.handled(self, self._outbox):
            self._outbox.ack(self.number, self._owner.waiting)

    def nack(self, reason: str, delay: float | None = None, *, give_up: bool = False) -> None:
        """It is not handled, and this try counts; `give_up` when no other one would help.

        Raises INVALID_ARGUMENT for a delay that is none. Events takes the whole of a message or nothing: one that it
        refused would end the stream, and what else it says would be lost.
        """
        if delay is not None and not 0 <= delay <= MAX_DELAY:  # which not-a-number is not either
            raise errors.invalid_argument(f"delay={delay:g} s is out of range: use 0 to {MAX_DELAY:g} s")
        told = text.well_formed(str(reason))[:MAX_REASON]
        self._give(pb.Nack(delivery=self.number, delay=delay, reason=told, give_up=bool(give_up)))

    def touch(self) -> None:
        """Its time begins anew."""
        if not (self.done or self._outbox.broken):
            self._outbox.touches.append(self.number)
            self._outbox.wake.set()

    def release(self) -> None:
        """It is given back as if it had never come."""
        self._give(pb.Nack(delivery=self.number, release=True))

    def _give(self, nack: pb.Nack) -> None:
        if self.done:
            return
        self.done = True
        if self._owner.given_back(self, self._outbox):
            self._outbox.nacks.append(nack)
            self._outbox.wake.set()


class Deliveries:
    """Keeps a consumer connected: it goes on by itself where it was when events, or the way there, was away.

    With a group the service knows where that is. Without one it is known here: the next stream begins behind all that
    has been handled, and what was handled further on is passed over. An event that is in hand when its stream breaks
    stays there, and is not taken a second time when it is delivered again; one whose acknowledgement may have been lost
    is acknowledged again.

    Args:
        patience: seconds that events may be away at first; None for as long as it takes.
        heard: called with None whenever events is heard of, and with the error when it is not.
    """

    def __init__(
        self, wanted: Wanted, *, patience: float | None = PATIENCE, heard: Callable[[Error | None], None] | None = None
    ) -> None:
        self.wanted = wanted
        self.tried = asyncio.Event()
        """Set once the first answer has come, or the first failure."""
        self.joined = False
        self._patience = patience
        self._heard = heard or (lambda _: None)
        self._stream = client.of(StreamClient, bulk=True)
        self._patient = wanted.ack_wait or ACK_WAIT
        self._outbox = self._new_outbox()
        self._outbox.broken = True
        self._ready: deque[Delivery] = deque()
        self._held: dict[int, Delivery] = {}
        self._numbers: dict[int, Delivery] = {}
        self._turn = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: Error | None = None
        self._ended = False
        self._lost = False
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        self._touching: asyncio.Task[None] | None = None
        self._taken_at = time.monotonic()
        # With a group: acknowledged lately, and those of them that the service may not know of.
        self._recent: deque[tuple[float, str]] = deque()
        self._doubtful: dict[str, float] = {}
        # Without one: all up to the floor is handled, and these above it.
        self._floor: int | None = None
        self._above: set[int] = set()

    def start(self) -> None:
        """Begin; `close` ends it."""
        if self._task is None:
            # owned: by this object; `close` ends it
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"consumer of {self.wanted}")
            if not self.wanted.auto_ack:
                # owned: by this object; `_run` ends it
                self._touching = asyncio.get_running_loop().create_task(self._touch())

    async def take(self) -> Delivery | None:
        """The next event; None once there will be none because of `drain`. Raises what cannot be mended."""
        while True:
            while self._ready:
                found = self._ready.popleft()
                self._room.set()
                if not found.done:
                    found.taken = True
                    self._taken_at = time.monotonic()
                    if not self.wanted.auto_ack and self._taken_at - found.since > self._patient / 20:
                        found.touch()
                    return found
            if self._failure is not None:
                raise Error(self._failure.kind, self._failure.message)
            if self._ended or self._draining:
                return None
            self._turn.clear()
            await self._turn.wait()

    async def join(self) -> None:
        """Return once events has answered: what is published from then on comes. Raises what cannot be mended."""
        self.start()
        while not self.joined and self._failure is None:
            self._turn.clear()
            await self._turn.wait()
        if self._failure is not None:
            raise Error(self._failure.kind, self._failure.message)

    def drain(self) -> None:
        """Take no more. What waits here is given back; what was taken is still to be settled."""
        self._draining = True
        if not self.wanted.auto_ack:
            for one in self._ready:
                one.release()
            self._ready.clear()
        self._outbox.drain = True
        self._outbox.wake.set()
        self._turn.set()

    async def close(self, seconds: float = 2.0) -> None:
        """Give back what is in hand, and leave; waits at most so long for events to have heard it."""
        if self._task is None:
            return
        self.drain()
        for one in list(self._held.values()):
            one.release()
        if not self._outbox.broken:
            await asyncio.wait([self._task], timeout=seconds)
        self._task.cancel()
        await asyncio.wait([self._task])

    @property
    def waiting(self) -> int:
        """Events that have come and are not taken yet."""
        return len(self._ready)

    def handled(self, one: Delivery, outbox: Outbox) -> bool:
        """An event has been acknowledged. Whether its stream is to be told."""
        if not self._forget(one):
            return not (outbox.broken or self.wanted.auto_ack)
        if not self.wanted.group:
            self._mark(one.told.offset)
        now = time.monotonic()
        if outbox.broken:
            self._doubtful[one.told.id] = now
        elif self.wanted.group:
            self._recent.append((now, one.told.id))
            while self._recent[0][0] < now - _DOUBT:
                self._recent.popleft()
        return not outbox.broken

    def given_back(self, one: Delivery, outbox: Outbox) -> bool:
        """An event has not been handled. Whether its stream is to be told."""
        self._forget(one)
        return not (outbox.broken or self.wanted.auto_ack)

    def _forget(self, one: Delivery) -> bool:
        """It is not in hand any more; returns whether it was."""
        if self._held.get(one.told.offset) is not one:
            return False
        del self._held[one.told.offset]
        self._numbers.pop(one.number, None)
        return True

    def _mark(self, offset: int) -> None:
        if self._floor is None or offset <= self._floor:
            return
        self._above.add(offset)
        if len(self._above) > _MOST_ABOVE:  # what is missing was given up, or is not kept any more
            self._floor = sorted(self._above)[_MOST_ABOVE // 2] - 1
            self._above = {one for one in self._above if one > self._floor}
        while self._floor + 1 in self._above:
            self._floor += 1
            self._above.discard(self._floor)

    async def _run(self) -> None:
        try:
            await self._keep()
        except Exception as error:
            log.exception("the consumer of %s has failed", self.wanted)
            self._failure = errors.internal(f"the consumer of {self.wanted} has failed: {error}")
        finally:
            if self._touching is not None:
                self._touching.cancel()
            self._ended = True
            self.joined = False
            self.tried.set()
            self._turn.set()

    async def _touch(self) -> None:
        """Let what waits here have its whole time once it is taken, as long as things are taken."""
        while True:
            await asyncio.sleep(self._patient / 3)
            if time.monotonic() - self._taken_at < self._patient:
                for one in self._ready:
                    one.touch()

    async def _keep(self) -> None:
        """Listen, again and again, until there is no use in it."""
        begun, reached, refusals, delays = time.monotonic(), False, 0, _delays()
        while not self._stops():
            try:
                await self._listen()
                failure = errors.unavailable("events has ended the stream")
            except Error as error:
                failure = error
            lost, self.joined = self.joined, False
            self._broke(anew=failure.kind is Kind.ABORTED)
            if self._stops():
                return
            if lost:
                reached, refusals, delays = True, 0, _delays()
            refusals += failure.kind is Kind.UNAUTHENTICATED
            away = not reached and self._patience is not None and time.monotonic() - begun > self._patience
            if away or not _passing(failure, refusals):
                self._failure = failure
                self._heard(failure)
                return
            if lost:
                self._lost = True
                log.info("the consumer of %s is not connected any more: %s: trying again", self.wanted, failure)
            self.tried.set()
            self._heard(failure)
            await asyncio.sleep(next(delays))

    def _stops(self) -> bool:
        return self._draining

    async def _listen(self) -> None:
        outbox = self._new_outbox()
        start = self.wanted.start
        if self._floor is not None:
            start = pb.Start(at=wkt.oneof("offset", self._floor + 1))
        answers = self._stream.consume(outbox.messages(self.wanted.request(start)))
        async with contextlib.aclosing(answers), contextlib.aclosing(outbox):  # type: ignore[type-var]
            async for answer in answers:
                if not self.joined:
                    self._join(answer, outbox)
                for number in answer.expired:
                    self._expire(number)
                for told in answer.events:
                    self._receive(told, outbox)
                if self._ready:
                    self._turn.set()
                while self.wanted.auto_ack and len(self._ready) >= _ROOM:
                    self._room.clear()
                    await self._room.wait()

    def _new_outbox(self) -> Outbox:
        return Outbox(min(_TOGETHER, self._patient / 20))

    def _join(self, answer: pb.ConsumeResponse, outbox: Outbox) -> None:
        self._outbox, self.joined = outbox, True
        if self._lost:
            self._lost = False
            log.info("the consumer of %s is connected again", self.wanted)
        if not self.wanted.group and self._floor is None:
            self._floor = answer.next - 1
        if self._draining:
            outbox.drain = True
            outbox.wake.set()
        self.tried.set()
        self._turn.set()
        self._heard(None)

    def _receive(self, told: pb.Event, outbox: Outbox) -> None:
        made = Delivery(self, told, outbox)
        if self.wanted.auto_ack:
            made.done = self._floor is not None and (told.offset <= self._floor or told.offset in self._above)
            if not made.done:
                self._mark(told.offset)
                self._ready.append(made)
        elif told.id in self._doubtful or told.offset in self._above:
            self._doubtful.pop(told.id, None)
            outbox.acks.append(told.delivery)
            outbox.wake.set()
        elif (held := self._held.get(told.offset)) is not None and held.told.id == told.id:
            self._numbers.pop(held.number, None)
            held.again(told, outbox)
            self._numbers[held.number] = held
        elif self._draining:
            made.release()
        else:
            self._held[told.offset] = self._numbers[told.delivery] = made
            self._ready.append(made)

    def _expire(self, number: int) -> None:
        """It is another's: what has not been taken is not any more. What was is still in hand."""
        held = self._numbers.pop(number, None)
        if held is not None and not held.taken:
            held.done = True
            self._held.pop(held.told.offset, None)

    def _broke(self, *, anew: bool) -> None:
        """The stream is gone, and with it all delivery numbers.

        Args:
            anew: the topic was removed or the group set elsewhere: what was handled says nothing any more.
        """
        self._outbox.broken = True
        self._numbers.clear()
        if not self.wanted.auto_ack:
            for one in self._ready:
                one.done = True
                self._held.pop(one.told.offset, None)
            self._ready.clear()
        now = time.monotonic()
        self._doubtful = {id_: since for id_, since in self._doubtful.items() if since > now - _REMEMBERED}
        self._doubtful.update((id_, now) for _, id_ in self._recent)
        self._recent.clear()
        if anew:
            self._doubtful.clear()
            self._above.clear()
            self._held.clear()
            self._floor = None if self._floor is None else 0


def _passing(failure: Error, refusals: int) -> bool:
    """Whether it may be over at the next try."""
    if failure.kind is Kind.DEADLINE_EXCEEDED:  # of the call that this is done in
        current = CURRENT.get()
        return current is None or current.done or current.deadline is None or current.deadline > time.monotonic()
    return failure.kind in _PASSING or (failure.kind is Kind.UNAUTHENTICATED and refusals < _REFUSALS)


def _delays() -> Iterator[float]:
    return backoff.exponential(first=0.05, cap=2.0)
