"""How the events of a topic are shared among the members of a consumer group: which goes to whom, when again, and when
no more.

A machine without a clock or a memory of its own. Whoever drives it offers events in order, tells the time in seconds
(of any clock that does not go back), and keeps what `progress` says: a new machine that begins with it loses nothing.
What was in hand then counts as not tried.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from micro.domain import errors
from micro.domain.event import Event, Progress
from micro.domain.progress import Ahead
from micro.domain.terms import Terms

WINDOW_EVENTS = 1024
WINDOW_BYTES = 16 << 20
"""What is read ahead and not done yet: as many events, or twice what the members take at a time if that is more."""

MOST_EVENTS = 8192
"""What is held at most, however many members there are."""

MOST_REDRIVEN = 10_000
"""Dead letters that wait to be delivered again, at most."""

REASON_CHARACTERS = 1024

EXPIRED = "it was not acknowledged in time"
GONE = "its consumer went away"

STALL_SECONDS = 30.0
"""How long what was dealt to a member waits to be taken, or its `ack_wait` where that is shorter: whoever reads no more
keeps nothing from the others."""

_LATE = 1024
"""Deliveries that took too long and whose late answers still count, of one member."""


class _State(enum.Enum):
    READY = enum.auto()
    BEHIND = enum.auto()
    """Another of its key comes first."""
    DEALT = enum.auto()
    WAITING = enum.auto()
    GIVEN_UP = enum.auto()
    DONE = enum.auto()


@dataclass(eq=False, slots=True)
class Item:
    """An event that is not done yet.

    Attributes:
        failures: how often a try of it failed.
        reason: what the last one ended with.
        redriven: whether it is a dead letter that is tried anew.
    """

    event: Event
    failures: int
    redriven: bool
    size: int
    state: _State = _State.BEHIND
    round: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """An event on its way to a member: by which number it is acknowledged, and which try it is."""

    number: int
    event: Event
    attempt: int


@dataclass(slots=True)
class _Hand:
    item: Item
    deadline: float


@dataclass(eq=False, slots=True)
class Member:
    """Who takes events of a group. To be read only."""

    terms: Terms
    serial: int
    draining: bool = False
    parted: bool = False
    gone: bool = False
    stalled: bool = False
    count: int = 0
    dealt: deque[Item] = field(default_factory=deque)
    hands: dict[int, _Hand] = field(default_factory=dict)
    late: OrderedDict[int, tuple[int, bool, int]] = field(default_factory=OrderedDict)
    expired: list[int] = field(default_factory=list)
    armed: bool = False
    watched: bool = False
    dealt_at: float = 0.0

    @property
    def in_flight(self) -> int:
        """Events that are its own now."""
        return len(self.dealt) + len(self.hands)

    @property
    def finished(self) -> bool:
        """Whether it drains and has nothing left."""
        return self.draining and not self.dealt and not self.hands


class Delivery:
    """The state of one group.

    Args:
        progress: what was kept last.
        keeps: whether what is given up becomes a dead letter; otherwise it is forgotten.

    Attributes:
        read: offset of the last event that was offered.
        next: offset of the first event that nobody has had yet.
        version: changes whenever `progress` does.
    """

    def __init__(self, progress: Progress | None = None, *, keeps: bool = True) -> None:
        progress = progress or Progress()
        self.read = progress.floor
        self.next = (progress.done[-1][1] if progress.done else progress.floor) + 1
        self.version = 0
        self._keeps = keeps
        self._ahead = Ahead(progress)
        self._held: dict[int, Item] = {}
        self._failures: dict[int, int] = {}
        self._redriven: OrderedDict[int, Item | None] = OrderedDict((offset, None) for offset in progress.redriven)
        self._unloaded = deque(progress.redriven)
        self._redriven_failures: dict[int, int] = {}
        for offset, count in progress.failures.items():
            of_redriven = offset in self._redriven and self._is_done(offset)
            (self._redriven_failures if of_redriven else self._failures)[offset] = count
        self._bytes = 0
        self._count = 0
        self._keys: dict[str, deque[Item]] = {}
        self._ready: list[tuple[int, int, int, Item]] = []
        self._waiting: list[tuple[float, int, Item, int]] = []
        self._due: list[tuple[float, int, Member]] = []
        self._watched: list[tuple[float, int, Member]] = []
        self._given_up: deque[Item] = deque()
        self._finished: deque[int] = deque()
        self._members: set[Member] = set()
        self._free: OrderedDict[Member, None] = OrderedDict()
        self._capacity = 0
        self._serial = itertools.count()

    # What comes in.

    @property
    def wants(self) -> bool:
        """Whether there is room for more events."""
        window = min(max(WINDOW_EVENTS, 2 * self._capacity), MOST_EVENTS)
        return self._count < window and self._bytes < WINDOW_BYTES

    @property
    def start(self) -> int:
        """The offset to read on from: what is done lies in front of it."""
        return self._ahead.after(self.read)

    def offer(self, events: Sequence[Event]) -> None:
        """Take in the next events of the topic; those that are done already are passed over."""
        for event in events:
            offset = event.offset
            if offset <= self.read:
                continue
            self.read = offset
            if self._ahead.passes(offset):
                continue
            item = Item(event, self._failures.get(offset, 0), redriven=False, size=_size(event))
            self._held[offset] = item
            self._admit(item)
        self.version += 1

    def to_load(self) -> int:
        """The offset of a redriven dead letter that is still to be loaded, 0 when there is none or no room for it."""
        while self._unloaded and (
            self._unloaded[0] not in self._redriven or self._redriven[self._unloaded[0]] is not None
        ):
            self._unloaded.popleft()
        return self._unloaded[0] if self._unloaded and self.wants else 0

    def load(self, first: int, events: Sequence[Event]) -> None:
        """Take in the dead letters that were found from offset `first` on, without a gap. Those that are not redriven
        are passed over, and what is redriven and was not found is there no more."""
        found = {event.offset: event for event in events}
        last = max(found) if found else None
        left = deque[int]()
        for offset in self._unloaded:
            if offset < first or (last is not None and offset > last):
                left.append(offset)
            elif offset in self._redriven and self._redriven[offset] is None:
                event = found.get(offset)
                if event is None:
                    self._forget(offset)
                else:
                    item = Item(event, self._redriven_failures.get(offset, 0), redriven=True, size=_size(event))
                    self._redriven[offset] = item
                    self._admit(item)
        self._unloaded = left

    def redrive(self, offsets: Iterable[int]) -> int:
        """Have dead letters delivered again; they are to be loaded. Returns how many were taken: those that wait
        already count, and MOST_REDRIVEN wait at most."""
        count = 0
        for offset in offsets:
            if offset not in self._redriven:
                if len(self._redriven) >= MOST_REDRIVEN:
                    break
                self._redriven[offset] = None
                self._unloaded.append(offset)
                self.version += 1
            count += 1
        self._unloaded = deque(sorted(self._unloaded))
        return count

    def drop(self, offsets: Iterable[int]) -> None:
        """Dead letters are gone: those of them that are redriven need no other try."""
        for offset in offsets:
            if offset in self._redriven:
                item = self._redriven[offset]
                self._forget(offset)
                if item is not None and item.state not in (_State.DONE, _State.GIVEN_UP):
                    self._complete(item)

    # Members.

    @property
    def members(self) -> int:
        return len(self._members)

    @property
    def in_flight(self) -> int:
        """Events in the hands of members."""
        return sum(member.in_flight for member in self._members)

    def join(self, terms: Terms) -> Member:
        member = Member(terms, next(self._serial))
        self._members.add(member)
        self._capacity += terms.max_in_flight
        self._free[member] = None
        return member

    def drain(self, member: Member) -> None:
        """Deliver no more to a member; what has not been taken goes to others."""
        if member.draining or member.gone:
            return
        member.draining = True
        self._free.pop(member, None)
        while member.dealt:
            self._enqueue(member.dealt.pop())

    def part(self, member: Member) -> None:
        """A member does not answer any more: deliver no more to it. What it has in hand stays there until it leaves."""
        member.parted = not member.draining
        self.drain(member)

    def leave(self, member: Member, now: float, reason: str = GONE, *, failed: bool = True) -> None:
        """A member is gone. What was in its hands has failed, unless it was draining or `failed` is False; others may
        have it at once."""
        if member.gone:
            return
        counts = failed and (member.parted or not member.draining)
        self.drain(member)
        member.gone = True
        self._members.discard(member)
        self._capacity -= member.terms.max_in_flight
        if member.armed:  # its time may be long
            self._due = [due for due in self._due if due[2] is not member]
            heapq.heapify(self._due)
        hands, member.hands = member.hands, {}
        member.late.clear()
        for hand in hands.values():
            if counts:
                self._fail(hand.item, member.terms, reason, now, 0.0)
            else:
                self._enqueue(hand.item)

    def deal(self, now: float) -> list[Member]:
        """Share out what is ready, in turns; returns the members that have something to take."""
        while self._waiting and self._waiting[0][0] <= now:
            _, _, item, round_ = heapq.heappop(self._waiting)
            if item.state is _State.WAITING and item.round == round_:
                self._enqueue(item)
        ready, free = self._ready, self._free
        served: dict[Member, None] = {}
        while ready and free:
            item = heapq.heappop(ready)[3]
            if item.state is not _State.READY:
                continue
            member = next(iter(free))
            item.state = _State.DEALT
            item.round += 1
            if not member.dealt:
                self._watch(member, now)
            member.dealt.append(item)
            served[member] = None
            if len(member.dealt) + len(member.hands) >= member.terms.max_in_flight:
                del free[member]
            else:
                free.move_to_end(member)
        return list(served)

    def take(self, member: Member, now: float, events: int, size: int) -> list[Delivered]:
        """What a member is to be sent now: so many events and bytes, at least one where there is one. From now on its
        time runs."""
        taken: list[Delivered] = []
        deadline = now + member.terms.ack_wait
        dealt, hands = member.dealt, member.hands
        member.dealt_at = now
        if member.stalled:
            member.stalled = False
            self._freed(member)
        while dealt and len(taken) < events:
            item = dealt[0]
            if item.state is not _State.DEALT:  # it was dropped meanwhile
                dealt.popleft()
                self._freed(member)
                continue
            size -= item.size
            if taken and size < 0:
                break
            dealt.popleft()
            member.count += 1
            hands[member.count] = _Hand(item, deadline)
            event = item.event
            if event.offset >= self.next and not item.redriven:
                self.next = event.offset + 1
            taken.append(Delivered(member.count, event, item.failures + 1))
        if hands and not member.armed:
            member.armed = True
            heapq.heappush(self._due, (deadline, member.serial, member))
        return taken

    # What became of it.

    def check(self, member: Member, number: int) -> None:
        """Raises INVALID_ARGUMENT for a delivery that the member was never sent."""
        if not 1 <= number <= member.count:
            raise errors.invalid_argument(
                f"delivery {number} was not made here: acknowledge what this stream has told, in the same stream"
            )

    def ack(self, member: Member, number: int) -> None:
        """A member has handled what it was sent. Twice is once, and too late counts unless it is with somebody again.
        Raises INVALID_ARGUMENT."""
        self.check(member, number)
        hand = member.hands.pop(number, None)
        if hand is not None:
            self._freed(member)
            if hand.item.state is _State.DEALT:
                self._done_with(hand.item)
        elif (late := member.late.pop(number, None)) is not None:
            offset, redriven, round_ = late
            item = self._redriven.get(offset) if redriven else self._held.get(offset)
            if item is not None and item.round == round_ and item.state in (_State.READY, _State.WAITING):
                self._done_with(item)

    def nack(
        self,
        member: Member,
        number: int,
        now: float,
        delay: float | None = None,
        reason: str = "",
        *,
        last: bool = False,
    ) -> None:
        """A member could not handle what it was sent; `delay` in place of what its terms say, `last` when no other try
        would help. Raises INVALID_ARGUMENT."""
        self.check(member, number)
        if (hand := member.hands.pop(number, None)) is not None:
            self._freed(member)
            self._fail(hand.item, member.terms, reason[:REASON_CHARACTERS], now, delay, last=last)

    def touch(self, member: Member, number: int, now: float) -> None:
        """What a member was sent waits for its turn there: its time begins anew. Raises INVALID_ARGUMENT."""
        self.check(member, number)
        if (hand := member.hands.pop(number, None)) is not None:
            hand.deadline = now + member.terms.ack_wait
            member.hands[number] = hand  # behind the others: these are in the order of their deadlines

    def release(self, member: Member, number: int) -> None:
        """A member gives back what it was sent, untried. Raises INVALID_ARGUMENT."""
        self.check(member, number)
        if (hand := member.hands.pop(number, None)) is not None:
            self._freed(member)
            self._enqueue(hand.item)

    def expire(self, now: float) -> list[Member]:
        """Take back what was not acknowledged in time; returns the members that lost something, by `Member.expired`.

        What a member has not even taken goes to others, untried; it is dealt no more until it takes again."""
        losers = []
        while self._watched and self._watched[0][0] <= now:
            member = heapq.heappop(self._watched)[2]
            member.watched = False
            if member.dealt and (due := member.dealt_at + _patience(member.terms)) > now:
                self._watch_until(member, due)
            elif member.dealt:
                member.stalled = True
                self._free.pop(member, None)
                while member.dealt:
                    self._enqueue(member.dealt.pop())
        while self._due and self._due[0][0] <= now:
            member = heapq.heappop(self._due)[2]
            member.armed = False
            before = len(member.expired)
            while member.hands:
                number, hand = next(iter(member.hands.items()))
                if hand.deadline > now:
                    member.armed = True
                    heapq.heappush(self._due, (hand.deadline, member.serial, member))
                    break
                del member.hands[number]
                member.expired.append(number)
                member.late[number] = hand.item.event.offset, hand.item.redriven, hand.item.round
                if len(member.late) > _LATE:
                    member.late.popitem(last=False)
                self._fail(hand.item, member.terms, EXPIRED, now, None)
            if len(member.expired) > before:
                self._freed(member)
                losers.append(member)
        return losers

    def wake_at(self) -> float | None:
        """When `expire` and `deal` are due; None while nothing waits for the time."""
        while self._waiting and not (
            self._waiting[0][2].state is _State.WAITING and self._waiting[0][2].round == self._waiting[0][3]
        ):
            heapq.heappop(self._waiting)
        while self._watched and not self._watched[0][2].dealt:
            heapq.heappop(self._watched)[2].watched = False
        times = [queue[0][0] for queue in (self._waiting, self._due, self._watched) if queue]
        return min(times) if times else None

    # What is to be kept.

    def given_up(self) -> Item | None:
        """The next that was given up: keep its dead letter, then say `buried`."""
        return self._given_up[0] if self._given_up else None

    def buried(self, item: Item) -> None:
        """The dead letter is kept, so that the event is done."""
        assert self._given_up[0] is item
        self._given_up.popleft()
        if item.redriven:
            self._forget(item.event.offset)
        self._complete(item)

    def handled(self) -> int:
        """The offset of the next dead letter that was handled after all: remove it, then say `removed`. 0 for none."""
        return self._finished[0] if self._finished else 0

    @property
    def finished(self) -> frozenset[int]:
        """The offsets of all dead letters that were handled after all, and not removed yet."""
        return frozenset(self._finished)

    def removed(self, offset: int) -> None:
        """A dead letter that was handled is gone."""
        assert self._finished[0] == offset
        self._finished.popleft()
        item = self._redriven.get(offset)
        if item is not None and item.state is _State.DONE:
            self._forget(offset)

    def progress(self) -> Progress:
        """What to keep for a machine that goes on from here."""
        floor, ranges = self._ahead.reach(self._held, self.read)
        self._failures = {
            offset: count for offset, count in self._failures.items() if offset in self._held or offset > self.read
        }
        return Progress(floor, ranges, {**self._redriven_failures, **self._failures}, tuple(self._redriven))

    # Within.

    def _is_done(self, offset: int) -> bool:
        return offset <= self.read or offset in self._ahead

    def _admit(self, item: Item) -> None:
        """Let an event wait for its turn."""
        self._count += 1
        self._bytes += item.size
        key = item.event.key
        if key:
            line = self._keys.get(key)
            if line is not None:
                # A dead letter comes right behind what is under way: it is the older one.
                if item.redriven:
                    line.insert(1, item)
                else:
                    line.append(item)
                return
            self._keys[key] = deque((item,))
        self._enqueue(item)

    def _enqueue(self, item: Item) -> None:
        if item.state is _State.DONE:  # it was dropped meanwhile
            return
        item.state = _State.READY
        again = 0 if item.failures or item.redriven else 1
        heapq.heappush(self._ready, (again, item.event.offset, next(self._serial), item))

    def _watch(self, member: Member, now: float) -> None:
        """See to it that what is dealt to a member from now on is taken in time."""
        member.dealt_at = now
        if not member.watched:
            self._watch_until(member, now + _patience(member.terms))

    def _watch_until(self, member: Member, due: float) -> None:
        member.watched = True
        heapq.heappush(self._watched, (due, member.serial, member))

    def _freed(self, member: Member) -> None:
        if not member.draining and not member.stalled and member not in self._free:
            self._free[member] = None

    def _done_with(self, item: Item) -> None:
        """An event has been handled."""
        offset = item.event.offset
        self._complete(item)
        if item.redriven and offset in self._redriven:
            self._finished.append(offset)

    def _complete(self, item: Item) -> None:
        """An event needs no other try: the next of its key may go."""
        first = item.state is not _State.BEHIND
        item.state = _State.DONE
        self.version += 1
        self._count -= 1
        self._bytes -= item.size
        if not item.redriven:
            self._held.pop(item.event.offset, None)
            self._failures.pop(item.event.offset, None)
        if (key := item.event.key) and (line := self._keys.get(key)) is not None:
            if first:
                line.popleft()
            else:
                line.remove(item)
            if not line:
                del self._keys[key]
            elif first:
                self._enqueue(line[0])

    def _forget(self, offset: int) -> None:
        self._redriven.pop(offset, None)
        self._redriven_failures.pop(offset, None)
        self.version += 1

    def _fail(
        self, item: Item, terms: Terms, reason: str, now: float, delay: float | None, *, last: bool = False
    ) -> None:
        """A try has failed: again later, or never."""
        if item.state is not _State.DEALT:
            return
        item.failures += 1
        item.reason = reason
        self.version += 1
        if last or 0 <= terms.max_deliver <= item.failures:
            if self._keeps:
                item.state = _State.GIVEN_UP
                self._given_up.append(item)
            else:
                self._complete(item)
            return
        (self._redriven_failures if item.redriven else self._failures)[item.event.offset] = item.failures
        seconds = terms.delay(item.failures) if delay is None else delay
        if seconds <= 0:
            self._enqueue(item)
            return
        item.state = _State.WAITING
        heapq.heappush(self._waiting, (now + seconds, next(self._serial), item, item.round))


def _patience(terms: Terms) -> float:
    return min(STALL_SECONDS, max(1.0, terms.ack_wait))


def _size(event: Event) -> int:
    metadata = event.metadata
    more = sum(len(name) + len(value) for name, value in metadata.items()) if metadata else 0
    return len(event.payload) + len(event.key) + more + 256
