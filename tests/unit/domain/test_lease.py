"""Leases against the simplest thing that could be meant: a dict of ends."""

from hypothesis import given
from hypothesis import strategies as st

from micro.domain.lease import Leases

KEYS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), KEYS, st.integers(0, 20)),
        st.tuples(st.just("drop"), KEYS),
        st.tuples(st.just("pass"), st.integers(0, 10)),
        st.tuples(st.just("postpone"), st.integers(0, 10)),
    )
)


@given(STEPS)
def test_due_are_those_whose_end_has_come_and_the_next_end_is_never_told_too_late(steps: list[tuple]) -> None:
    leases: Leases[str] = Leases()
    ends: dict[str, float] = {}
    now = 0.0
    for what, *arguments in steps:
        match what, arguments:
            case "grant", (key, seconds):
                leases.grant(key, now + seconds)
                ends[key] = now + seconds
            case "drop", (key,):
                leases.drop(key)
                ends.pop(key, None)
            case "pass", (seconds,):
                now += seconds
            case "postpone", (seconds,):
                leases.postpone(seconds)
                ends = {key: end + seconds for key, end in ends.items()}
        due = leases.due(now)
        assert sorted(due) == sorted(key for key, end in ends.items() if end <= now)
        assert [ends[key] for key in due] == sorted(ends[key] for key in due), "first ended first"
        assert all(leases.ended(key, now) == (key in due) for key in "abcd")
        assert len(leases) == len(ends)
        assert all((key in leases) == (key in ends) for key in "abcd")
        if ends:
            next_end = leases.next_end()
            assert next_end is not None
            assert next_end <= min(ends.values())


def test_granting_tells_whether_to_wake_up_sooner() -> None:
    leases: Leases[str] = Leases()
    assert leases.next_end() is None
    assert leases.grant("a", 10)
    assert not leases.grant("b", 20)
    assert leases.grant("b", 5)


def test_a_thousand_renewals_of_one_lease_leave_one_entry() -> None:
    leases: Leases[str] = Leases()
    for second in range(1000):
        leases.grant("a", second + 90)
    assert len(leases._queue) == 1
    assert leases.due(90) == []
    assert leases.next_end() == 999 + 90
