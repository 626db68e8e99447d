"""What holds for a consumer group whatever happens to it, and wherever it is cut off."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from micro.domain import progress
from micro.domain.delivery import Delivery, Item, Member
from micro.domain.event import Event
from micro.domain.terms import Terms

MAX_DELIVER = 3
_KEYS = ("", "", "a", "b")


class Group(RuleBasedStateMachine):
    """Events are offered, members come and go, handle and fail; now and then everything is lost but what was kept."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.log: list[Event] = []
        self.machine = Delivery()
        self.members: list[Member] = []
        self.hands: dict[tuple[int, int], Event] = {}
        self.handled: set[int] = set()
        self.dead: set[int] = set()
        self.redriven: set[int] = set()
        self.failed: Counter[int] = Counter()
        self.first_try: dict[str, int] = {}
        self.unfinished: dict[str, int] = {}
        self.crashed = False

    def _share(self) -> None:
        self.machine.expire(self.now)
        self.machine.deal(self.now)
        for member in self.members:
            for one in self.machine.take(member, self.now, 3, 10_000):
                self._given(member, one.number, one.event)
        if first := self.machine.to_load():
            self.machine.load(first, [self.log[offset - 1] for offset in sorted(self.dead) if offset >= first])

    def _given(self, member: Member, number: int, event: Event) -> None:
        assert not (event.offset in self.dead and event.offset not in self.redriven)
        if event.key and event.offset not in self.redriven:
            others = [held.offset for held in self.hands.values() if held.key == event.key]
            assert self.crashed or all(offset in self.redriven or offset == event.offset for offset in others)
            assert self.crashed or event.offset >= self.first_try.get(event.key, 0)
            self.first_try[event.key] = max(event.offset, self.first_try.get(event.key, 0))
        self.hands[member.serial, number] = event

    @rule(keys=strategies.lists(strategies.sampled_from(_KEYS), min_size=1, max_size=6))
    def publish(self, keys: list[str]) -> None:
        for key in keys:
            self.log.append(Event("", len(self.log) + 1, 0, b"x", {}, key))
        self.machine.offer(self.log[self.machine.read :])
        self._share()

    @precondition(lambda self: len(self.members) < 3)
    @rule(most=strategies.integers(1, 4))
    def join(self, most: int) -> None:
        self.members.append(self.machine.join(Terms(10.0, MAX_DELIVER, (1.0, 4.0), most)))
        self._share()

    @precondition(lambda self: self.members)
    @rule(data=strategies.data(), failed=strategies.booleans())
    def leave(self, data: strategies.DataObject, failed: bool) -> None:
        member = data.draw(strategies.sampled_from(self.members))
        self.members.remove(member)
        self.machine.leave(member, self.now, failed=failed)
        self.hands = {place: event for place, event in self.hands.items() if place[0] != member.serial}
        self._share()

    @precondition(lambda self: self.hands)
    @rule(data=strategies.data(), what=strategies.sampled_from(["ack", "nack", "release", "drain"]))
    def answer(self, data: strategies.DataObject, what: str) -> None:
        place = data.draw(strategies.sampled_from(sorted(self.hands)))
        member = next(one for one in self.members if one.serial == place[0])
        event = self.hands[place]
        if what == "ack":
            before = len(self.machine._held), self.machine.handled()
            self.machine.ack(member, place[1])
            if (len(self.machine._held), self.machine.handled()) != before:
                self.handled.add(event.offset)
            else:
                self.handled |= {event.offset} if event.offset in self.redriven else set()
        elif what == "nack":
            self.machine.nack(member, place[1], self.now)
        elif what == "release":
            self.machine.release(member, place[1])
        else:
            self.machine.drain(member)
            return
        del self.hands[place]
        self._share()

    @rule(seconds=strategies.sampled_from([0.5, 1.0, 4.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.machine.expire(self.now)
        for member in self.members:
            for number in member.expired:
                self.hands.pop((member.serial, number), None)
            member.expired.clear()
        self._share()

    @rule()
    def tend(self) -> None:
        while (item := self.machine.given_up()) is not None:
            self._bury(item)
        while offset := self.machine.handled():
            self.dead.discard(offset)
            self.redriven.discard(offset)
            self.machine.removed(offset)
        self._share()

    def _bury(self, item: Item) -> None:
        assert item.failures == MAX_DELIVER
        self.dead.add(item.event.offset)
        self.redriven.discard(item.event.offset)
        self.machine.buried(item)

    @precondition(lambda self: self.dead)
    @rule()
    def redrive(self) -> None:
        self.redriven |= self.dead
        assert self.machine.redrive(sorted(self.dead)) == len(self.dead)
        self._share()

    @rule()
    def crash(self) -> None:
        self.machine = Delivery(self.machine.progress())
        self.members, self.hands = [], {}
        self.first_try = {}
        self.machine.offer(self.log[self.machine.read :])
        self._share()

    @invariant()
    def every_event_is_done_or_dead_or_pending(self) -> None:
        kept = self.machine.progress()
        done = {offset for first, last in progress.done(kept) for offset in range(first, last + 1)}
        assert done <= {event.offset for event in self.log}
        assert done - self.handled <= self.dead | self.redriven
        pending = {event.offset for event in self.log} - done
        assert pending == set(self.machine._held)
        assert progress.lag(kept, 1, len(self.log)) == len(pending)
        assert list(kept.done) == sorted(kept.done)
        ends = [kept.floor, *(end for pair in kept.done for end in pair)]
        assert all(last + 1 < first for last, first in zip(ends[::2], ends[1::2], strict=False))
        assert set(kept.redriven) <= self.dead
        assert set(kept.failures) <= pending | self.redriven
        assert all(1 <= count < MAX_DELIVER for count in kept.failures.values())

    def teardown(self) -> None:
        """Somebody who handles everything gets to the end."""
        if not hasattr(self, "machine"):
            return
        for member in self.members:
            self.machine.leave(member, self.now, failed=False)
        self.members, self.hands = [self.machine.join(Terms(10.0, MAX_DELIVER, (1.0, 4.0), 4))], {}
        for _ in range(4 * len(self.log) + 4):
            self.now += 5.0
            self.tend()
            self._share()
            for place in list(self.hands):
                self.machine.ack(self.members[0], place[1])
                self.handled.add(self.hands.pop(place).offset)
        self.tend()
        kept = self.machine.progress()
        assert kept.floor == len(self.log)
        assert not kept.redriven
        assert not kept.failures
        assert self.handled | self.dead == set(range(1, len(self.log) + 1))


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
