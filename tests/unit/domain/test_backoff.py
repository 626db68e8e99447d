"""Delays between attempts."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from micro.domain import backoff


def test_delays_double_up_to_the_cap_and_stay_there() -> None:
    assert list(islice(backoff.exponential(1, cap=5, jitter=0), 5)) == [1, 2, 4, 5, 5]


@given(st.floats(0.001, 10), st.floats(1, 4), st.floats(10, 100), st.floats(0, 0.5))
def test_jitter_moves_a_delay_by_no_more_than_its_share(first: float, factor: float, cap: float, jitter: float) -> None:
    plain = islice(backoff.exponential(first, factor, cap, 0), 20)
    moved = islice(backoff.exponential(first, factor, cap, jitter), 20)
    for exact, delay in zip(plain, moved, strict=True):
        assert exact * (1 - jitter) * 0.999 <= delay <= exact * (1 + jitter) * 1.001


def test_two_that_failed_together_do_not_come_back_together() -> None:
    assert list(islice(backoff.exponential(), 10)) != list(islice(backoff.exponential(), 10))
