"""The machine of a consumer group: who is given which event, when again, and when no more."""

from __future__ import annotations

import dataclasses

import pytest

from micro.domain import errors, progress
from micro.domain.delivery import EXPIRED, GONE, STALL_SECONDS, WINDOW_EVENTS, Delivered, Delivery, Member
from micro.domain.event import Event, Progress
from micro.domain.terms import Terms

TERMS = Terms(ack_wait=30.0, max_deliver=3, backoff=(1.0, 5.0), max_in_flight=4)


def event(offset: int, key: str = "", size: int = 1) -> Event:
    return Event(f"id-{offset}", offset, 1_000 + offset, b"x" * size, {}, key)


def events(first: int, last: int, key: str = "") -> list[Event]:
    return [event(offset, key) for offset in range(first, last + 1)]


def taken(machine: Delivery, member: Member, now: float = 0.0) -> list[Delivered]:
    machine.deal(now)
    return machine.take(member, now, 1000, 1 << 20)


def offsets(delivered: list[Delivered]) -> list[int]:
    return [one.event.offset for one in delivered]


def test_events_go_to_a_member_in_order_as_many_as_it_takes() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer(events(1, 6))
    first = taken(machine, member)
    assert [(one.number, one.event.offset, one.attempt) for one in first] == [(n, n, 1) for n in (1, 2, 3, 4)]
    assert taken(machine, member) == []
    machine.ack(member, 2)
    assert offsets(taken(machine, member)) == [5]
    assert machine.progress() == Progress(0, ((2, 2),))
    machine.ack(member, 1)
    assert machine.progress() == Progress(2)


def test_members_take_turns_and_each_event_goes_to_one() -> None:
    machine = Delivery()
    one, other = machine.join(TERMS), machine.join(TERMS)
    machine.offer(events(1, 6))
    assert set(machine.deal(0.0)) == {one, other}
    assert offsets(machine.take(one, 0.0, 10, 1000)) == [1, 3, 5]
    assert offsets(machine.take(other, 0.0, 10, 1000)) == [2, 4, 6]


def test_events_of_one_key_come_one_after_the_other_and_hold_up_no_others() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer([event(1, "a"), event(2, "a"), event(3, "b"), event(4, "a"), event(5)])
    assert offsets(taken(machine, member)) == [1, 3, 5]
    machine.nack(member, 1, 0.0)
    assert offsets(taken(machine, member, 0.5)) == []
    again = taken(machine, member, 1.0)
    assert [(one.event.offset, one.attempt) for one in again] == [(1, 2)]
    machine.ack(member, again[0].number)
    assert offsets(taken(machine, member)) == [2]


def test_a_failed_event_waits_longer_each_time_and_is_then_given_up() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer([event(1, "a"), event(2, "a")])
    [first] = taken(machine, member)
    machine.nack(member, first.number, 10.0, reason="no")
    assert machine.wake_at() == 11.0
    assert machine.progress().failures == {1: 1}
    [second] = taken(machine, member, 11.0)
    machine.nack(member, second.number, 11.0, reason="never")
    assert taken(machine, member, 15.9) == []
    [third] = taken(machine, member, 16.0)
    assert third.attempt == 3
    machine.nack(member, third.number, 17.0, reason="at all")
    item = machine.given_up()
    assert item is not None
    assert (item.failures, item.reason) == (3, "at all")
    assert machine.progress().floor == 0  # not done before it is buried
    assert taken(machine, member, 17.0) == []
    machine.buried(item)
    assert machine.progress() == Progress(1)
    assert offsets(taken(machine, member, 17.0)) == [2]


def test_a_delay_of_its_own_and_tries_without_end() -> None:
    machine = Delivery()
    member = machine.join(dataclasses.replace(TERMS, max_deliver=-1))
    machine.offer([event(1)])
    for attempt in range(1, 50):
        [one] = taken(machine, member)
        assert one.attempt == attempt
        machine.nack(member, one.number, 0.0, delay=0.0)
    assert machine.given_up() is None


def test_what_is_not_acknowledged_in_time_goes_to_another_and_late_acks_count_until_then() -> None:
    machine = Delivery()
    slow = machine.join(TERMS)
    machine.offer(events(1, 2))
    [one, two] = taken(machine, slow)
    assert machine.wake_at() == 30.0
    assert machine.expire(29.9) == []
    assert machine.expire(30.0) == [slow]
    assert slow.expired == [1, 2]
    machine.ack(slow, one.number)
    assert machine.progress() == Progress(1, (), {2: 1})
    other = machine.join(TERMS)
    machine.drain(slow)
    [again] = taken(machine, other, 31.0)
    assert (again.event.offset, again.attempt) == (2, 2)
    machine.ack(slow, two.number)  # it is the other's now
    assert machine.progress().floor == 1
    machine.ack(other, again.number)
    assert machine.progress() == Progress(2)


def test_an_expired_event_tells_why_it_was_given_up() -> None:
    machine = Delivery()
    member = machine.join(dataclasses.replace(TERMS, max_deliver=1))
    machine.offer([event(1)])
    taken(machine, member)
    machine.expire(30.0)
    item = machine.given_up()
    assert item is not None
    assert item.reason == EXPIRED
    machine.ack(member, 1)  # too late: it is being buried
    machine.buried(item)
    assert machine.progress() == Progress(1)


def test_who_goes_leaves_its_events_to_the_others_as_a_failed_try() -> None:
    machine = Delivery()
    one, other = machine.join(TERMS), machine.join(TERMS)
    machine.offer(events(1, 2))
    machine.deal(0.0)
    machine.take(one, 0.0, 10, 1000)
    machine.leave(one, 0.0)
    assert [(item.event.offset, item.attempt) for item in taken(machine, other)] == [(2, 1), (1, 2)]
    assert machine.progress().failures == {1: 1}
    assert machine.members == 1


def test_what_was_dealt_but_not_sent_has_not_been_tried() -> None:
    machine = Delivery()
    one = machine.join(TERMS)
    machine.offer([event(1)])
    machine.deal(0.0)
    machine.leave(one, 0.0)
    [again] = taken(machine, machine.join(TERMS))
    assert again.attempt == 1


@pytest.mark.parametrize("how", ["drain", "release", "stop"])
def test_a_shutdown_is_no_failure(how: str) -> None:
    machine = Delivery()
    one = machine.join(dataclasses.replace(TERMS, max_deliver=1))
    machine.offer([event(1)])
    [first] = taken(machine, one)
    if how == "drain":
        machine.drain(one)
        assert not one.finished
    elif how == "release":
        machine.release(one, first.number)
        assert machine.in_flight == 0
    machine.leave(one, 0.0, failed=how != "stop")
    assert one.finished
    [again] = taken(machine, machine.join(TERMS))
    assert again.attempt == 1
    assert machine.given_up() is None


def test_a_draining_member_gets_nothing_more_and_finishes() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer(events(1, 9))
    [first, *_] = taken(machine, member)
    machine.drain(member)
    machine.ack(member, first.number)
    assert taken(machine, member) == []
    for number in (2, 3, 4):
        assert not member.finished
        machine.ack(member, number)
    assert member.finished


def test_strangers_cannot_acknowledge() -> None:
    machine = Delivery()
    one, other = machine.join(TERMS), machine.join(TERMS)
    machine.offer([event(1)])
    taken(machine, one)
    for number in (0, -1, 2, 2**62):
        for act in (machine.ack, machine.release, lambda member, number: machine.nack(member, number, 0.0)):
            with pytest.raises(errors.Error, match="was not made here"):
                act(one, number)
    with pytest.raises(errors.Error, match="was not made here"):
        machine.ack(other, 1)
    machine.ack(one, 1)
    machine.ack(one, 1)  # twice is once
    machine.nack(one, 1, 0.0)
    assert machine.progress() == Progress(1)


def test_retries_come_before_new_events() -> None:
    machine = Delivery()
    member = machine.join(dataclasses.replace(TERMS, max_in_flight=1))
    machine.offer(events(1, 3))
    [one] = taken(machine, member)
    machine.nack(member, one.number, 0.0, delay=1.0)
    [two] = taken(machine, member)
    machine.ack(member, two.number)
    assert offsets(taken(machine, member, 1.0)) == [1]


def test_what_is_held_has_a_limit() -> None:
    machine = Delivery()
    machine.offer(events(1, WINDOW_EVENTS - 1, "key"))
    assert machine.wants
    machine.offer([event(WINDOW_EVENTS, "key")])
    assert not machine.wants
    member = machine.join(TERMS)
    [one] = taken(machine, member)
    machine.ack(member, one.number)
    assert machine.wants
    large = Delivery()
    large.offer([event(offset, size=1 << 20) for offset in range(1, 17)])
    assert not large.wants


def test_a_frame_has_a_limit() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer([event(offset, size=1000) for offset in range(1, 5)])
    machine.deal(0.0)
    assert offsets(machine.take(member, 0.0, 10, 100)) == [1]
    assert offsets(machine.take(member, 0.0, 10, 3000)) == [2, 3]
    assert offsets(machine.take(member, 0.0, 1, 3000)) == [4]


def test_a_group_goes_on_where_it_was() -> None:
    machine = Delivery(Progress(3, ((5, 6), (8, 8)), {4: 2}))
    assert machine.read == 3
    assert machine.next == 9
    member = machine.join(dataclasses.replace(TERMS, max_in_flight=10))
    machine.offer(events(2, 9))
    assert [(one.event.offset, one.attempt) for one in taken(machine, member)] == [(4, 3), (7, 1), (9, 1)]
    machine.ack(member, 1)
    assert machine.progress() == Progress(6, ((8, 8),))


def test_what_was_not_read_yet_is_not_forgotten_as_done() -> None:
    kept = Progress(1, ((5, 8),), {3: 1, 9: 2})
    machine = Delivery(kept)
    assert machine.progress() == kept
    machine.offer(events(2, 3))
    assert machine.progress() == kept
    machine.offer([event(6)])  # what lay between has been removed
    assert machine.progress() == Progress(1, ((4, 8),), {3: 1, 9: 2})


def test_what_is_done_need_not_be_read_again() -> None:
    machine = Delivery(Progress(3, ((5, 8), (10, 1000))))
    assert machine.start == 4
    machine.offer([event(4)])
    assert machine.start == 9
    machine.offer([event(9)])
    assert machine.start == 1001
    machine.offer([event(1001)])
    assert machine.start == 1002
    assert machine.progress() == Progress(3, ((5, 8), (10, 1000)))


def test_what_retention_removed_counts_as_done() -> None:
    machine = Delivery()
    machine.offer(events(100, 101))
    assert machine.progress() == Progress(99)
    assert progress.lag(Progress(99), 100, 101) == 2
    assert progress.lag(Progress(3, ((5, 6), (105, 110))), 6, 105) == 98
    assert progress.lag(Progress(7), 8, 7) == 0


def test_without_dead_letters_what_is_given_up_is_forgotten() -> None:
    machine = Delivery(keeps=False)
    member = machine.join(dataclasses.replace(TERMS, max_deliver=1))
    machine.offer([event(1, "a"), event(2, "a")])
    taken(machine, member)
    machine.nack(member, 1, 0.0)
    assert machine.given_up() is None
    assert offsets(taken(machine, member)) == [2]


def test_dead_letters_are_tried_again_and_forgotten_when_handled() -> None:
    machine = Delivery(Progress(9))
    assert machine.redrive([3, 5, 7]) == 3
    assert machine.progress() == Progress(9, (), {}, (3, 5, 7))
    assert machine.to_load() == 3
    machine.load(3, [event(3, "a"), event(4), event(7, "a")])  # 5 has been dropped, 4 is not wanted
    assert machine.to_load() == 0
    member = machine.join(TERMS)
    machine.offer([event(10, "a")])
    [first] = taken(machine, member)
    assert (first.event.offset, first.attempt) == (3, 1)
    machine.ack(member, first.number)
    assert machine.handled() == 3
    assert machine.progress().redriven == (3, 7)  # until its copy is removed
    machine.removed(3)
    assert machine.progress() == Progress(9, (), {}, (7,))
    for tries in range(1, 4):
        [one] = taken(machine, member, tries * 100.0)
        assert (one.event.offset, one.attempt) == (7, tries)
        machine.nack(member, one.number, tries * 100.0)
    item = machine.given_up()
    assert item is not None
    assert item.redriven
    assert item.failures == 3
    machine.buried(item)
    assert machine.progress() == Progress(9)
    assert offsets(taken(machine, member, 400.0)) == [10]


def test_a_dropped_dead_letter_needs_no_other_try() -> None:
    machine = Delivery(Progress(9, (), {1: 1}, (1, 2, 3)))
    machine.load(1, [event(1, "k"), event(2, "k"), event(3)])
    member = machine.join(TERMS)
    [one, three] = taken(machine, member)
    assert (one.event.offset, one.attempt) == (1, 2)
    machine.drop([1, 2])
    machine.nack(member, one.number, 0.0)
    machine.ack(member, three.number)
    machine.removed(machine.handled())
    assert machine.progress() == Progress(9)
    assert machine.handled() == 0


def test_the_progress_tells_what_is_next() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer(events(1, 9))
    assert machine.next == 1
    taken(machine, member)
    assert machine.next == 5
    machine.leave(member, 0.0, GONE)
    assert machine.next == 5


def test_what_a_member_does_not_take_goes_to_others_untried() -> None:
    """It reads no more, as a process does that is stopped, and its connection stays."""
    machine = Delivery()
    stopped = machine.join(Terms(ack_wait=600.0, max_in_flight=2))
    machine.offer([event(1, "a"), event(2, "a"), event(3)])
    assert machine.deal(0.0) == [stopped]
    other = machine.join(TERMS)
    assert machine.wake_at() == STALL_SECONDS
    machine.expire(STALL_SECONDS)
    assert [(one.event.offset, one.attempt) for one in taken(machine, other, STALL_SECONDS)] == [(1, 1), (3, 1)]
    machine.ack(other, 1)
    machine.ack(other, 2)
    assert offsets(taken(machine, other, 31.0)) == [2]
    machine.leave(other, 32.0, failed=False)
    assert machine.deal(33.0) == []
    assert machine.take(stopped, 34.0, 10, 1000) == []
    assert offsets(taken(machine, stopped, 34.0)) == [2]
    assert machine.wake_at() == 634.0


def test_a_member_that_takes_a_part_has_time_for_the_rest() -> None:
    machine = Delivery()
    member = machine.join(Terms(ack_wait=5.0))
    machine.offer(events(1, 3))
    machine.deal(0.0)
    assert offsets(machine.take(member, 4.0, 1, 1000)) == [1]
    machine.expire(5.0)
    assert offsets(machine.take(member, 6.0, 10, 1000)) == [2, 3]


def test_who_has_left_is_forgotten_at_once_however_long_its_time_was() -> None:
    machine = Delivery()
    stays = machine.join(Terms(ack_wait=1e9))
    for number in range(1, 11):
        machine.offer([event(number)])
        member = machine.join(Terms(ack_wait=1e9))
        machine.drain(stays)
        assert offsets(taken(machine, member)) == list(range(1, number + 1))
        machine.leave(member, 0.0, failed=False)
    assert machine.wake_at() is None


def test_the_time_of_what_is_touched_begins_anew() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer(events(1, 2))
    taken(machine, member)
    machine.touch(member, 1, 20.0)
    assert machine.expire(30.0) == [member]
    assert member.expired == [2]
    assert machine.expire(49.0) == []
    assert machine.expire(50.0) == [member]
    assert member.expired == [2, 1]
    with pytest.raises(errors.Error, match="was not made here"):
        machine.touch(member, 9, 50.0)


def test_what_no_other_try_would_help_is_given_up_at_once() -> None:
    machine = Delivery()
    member = machine.join(TERMS)
    machine.offer(events(1, 1))
    taken(machine, member)
    machine.nack(member, 1, 0.0, reason="nonsense", last=True)
    item = machine.given_up()
    assert item is not None
    assert (item.failures, item.reason) == (1, "nonsense")
