"""Names of topics, patterns of them, and which fits which."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.domain import topic
from micro.domain.errors import Error, Kind
from micro.domain.message import check_pairs

PARTS = st.sampled_from(["a", "b", "eu", "A", "-", "_", "7"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.tuples(st.lists(st.one_of(PARTS, st.just("*")), max_size=5), st.booleans()).map(
    lambda made: ".".join([*made[0], *([">"] if made[1] or not made[0] else [])])
)


@given(PATTERNS, NAMES)
def test_a_pattern_fits_what_its_regular_expression_does(pattern: str, name: str) -> None:
    parts = {"*": r"[^.]+", ">": r".+"}
    expression = r"\.".join(parts.get(part, re.escape(part)) for part in topic.pattern(pattern).split("."))
    assert topic.matches(pattern, topic.topic(name)) is bool(re.fullmatch(expression, name))


@given(NAMES)
def test_a_topic_is_a_pattern_that_fits_itself(name: str) -> None:
    assert topic.matches(topic.pattern(name), name)
    assert topic.matches(">", name)


def _refusal(check: Callable[[str], str], text: str) -> Error | None:
    try:
        assert check(text) == text
    except Error as error:
        return error
    return None


@given(st.text(max_size=20))
def test_whatever_is_typed_is_taken_whole_or_refused_in_one_line(text: str) -> None:
    for check in (topic.topic, topic.pattern, topic.group):
        refusal = _refusal(check, text)
        assert refusal is None or refusal.kind is Kind.INVALID_ARGUMENT
        assert refusal is None or len(refusal.message.splitlines()) == 1


@pytest.mark.parametrize("name", ["a", "a.b", "A-b_7.c", "a" * 255, "micro.auth"])
def test_topics(name: str) -> None:
    assert topic.topic(name) == topic.pattern(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a\n", "é", "a*", "a.**", "a.>.b", ">.a", "a" * 256]
)
def test_what_is_neither_topic_nor_pattern(name: str) -> None:
    for check in (topic.topic, topic.pattern):
        with pytest.raises(Error):
            check(name)


@pytest.mark.parametrize("name", ["*", ">", "*.a", "a.*.>", "*.>"])
def test_patterns_are_no_topics(name: str) -> None:
    assert topic.pattern(name) == name
    with pytest.raises(Error):
        topic.topic(name)


def test_groups_are_shorter() -> None:
    assert topic.group("g" * 63)
    for name in ("g" * 64, "", "a b", "*"):
        with pytest.raises(Error, match="is not a group"):
            topic.group(name)


def test_the_platforms_own() -> None:
    assert [name for name in ("micro", "micro.auth", "microscope", "a.micro") if topic.platforms(name)] == [
        "micro",
        "micro.auth",
    ]


def test_what_a_header_may_hold() -> None:
    check_pairs("the header", {str(number): "x" * 250 for number in range(64)})
    for pairs, words in (
        ({str(number): "" for number in range(65)}, "the header has 65 pairs: 64 are the most"),
        ({"a": "é" * 8192}, "the header has 16,385 bytes: 16,384 are the most"),
        ({"": "x"}, "the header has a pair without a name"),
    ):
        with pytest.raises(Error, match=words):
            check_pairs("the header", pairs)
