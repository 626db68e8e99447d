"""Values as bytes and back: every kind that can be kept, and what is said of one that is not what was asked for."""

# ruff: noqa: E501, PT017 - a table is read one case a line; an error is allowed, and then has to be this one

from __future__ import annotations

import datetime as dt
import enum
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.helloworld.helloworld_pb import Request
from micro.domain.errors import Error, Kind
from micro.framework import values


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Address:
    city: str
    zip: int | None = None


@dataclass
class Person:
    name: str
    age: int = 18
    homes: list[Address] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    size: Size = Size.SMALL
    born: dt.date | None = None
    seen: dt.datetime | None = None
    photo: bytes = b""
    id: uuid.UUID | None = None
    place: tuple[int, int] = (0, 0)
    tags: frozenset[str] = frozenset()
    mood: Literal["good", "bad"] = "good"


ANN = Person(
    "Ann", 36, [Address("Paris", 75001), Address("Rome")], {"go": 1.5}, Size.LARGE, dt.date(1990, 1, 31),
    dt.datetime(2031, 1, 31, 8, tzinfo=dt.UTC), b"\x00\xff", uuid.UUID(int=7), (1, 2), frozenset({"a"}), "bad",
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "as_type"),
    [
        (b"\x00\xff", bytes),
        ("grüße", str),
        (7, int),
        (7.5, float),
        (True, bool),
        ([1, "a", None], list),
        ([1, 2], list[int]),
        ({"a": [1]}, dict),
        ({"a": 1}, dict[str, int]),
        (None, object),
        (ANN, Person),
        ([ANN], list[Person]),
        (Request(name="Ann"), Request),
        (Size.LARGE, Size),
    ],
)  # fmt: skip
def test_what_is_kept_comes_back(value: Any, as_type: Any) -> None:
    assert values.decode(values.encode(value, "it"), as_type, "it") == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=40)
@given(JSON)
def test_any_json_comes_back(value: Any) -> None:
    if not isinstance(value, str):  # a string is kept as its text
        assert values.decode(values.encode(value, "it"), object, "it") == value


@settings(max_examples=60)
@given(st.binary(max_size=40), st.sampled_from([str, int, float, bool, list, dict, Person, list[Person], Request]))
def test_whatever_is_there_is_a_value_or_a_clear_error(data: bytes, as_type: Any) -> None:
    try:
        values.decode(data, as_type, "the value of 'k'")
    except Error as error:
        assert error.kind is Kind.FAILED_PRECONDITION
        assert str(error).startswith("the value of 'k' is no ")


@pytest.mark.parametrize(
    ("data", "as_type", "said"),
    [
        (b"[1]", int, "the value of 'k' is no int: it is a list, not a whole number"),
        (b"true", int, "the value of 'k' is no int: it is true or false, not a whole number"),
        (b"1.5", int, "the value of 'k' is no int: it is a number, not a whole number"),
        (b"hello", int, "the value of 'k' is no int: it is not JSON"),
        (b"\xff", str, "the value of 'k' is no str: it is not UTF-8 text"),
        (b'{"name": 3}', Person, "the value of 'k' is no Person: name is a number, not a string"),
        (b'{"age": 3}', Person, "the value of 'k' is no Person: name is missing"),
        (b'{"name": "A", "homes": [{"city": 1}]}', Person, "the value of 'k' is no Person: homes[0].city is a number, not a string"),
        (b'{"name": "A", "size": "xl"}', Person, "the value of 'k' is no Person: size is no Size"),
        (b'{"name": "A", "place": [1]}', Person, "the value of 'k' is no Person: place is a list, not a list of 2"),
        (b'{"name": "A", "mood": "so"}', Person, "the value of 'k' is no Person: mood is a string, not one of 'good', 'bad'"),
        (b"[" * 100_000, list, "the value of 'k' is no list: it is nested too deeply"),
        (b"1" + b"0" * 400, float, "the value of 'k' is no float: it is too large for a number"),
        (b"[3]", list[uuid.UUID], "the value of 'k' is no list[uuid.UUID]: [0] is no UUID"),
        (b"\xff\xff", Request, "the value of 'k' is no Request: it is not that message"),
    ],
)  # fmt: skip
def test_another_type_is_named_and_where_it_is(data: bytes, as_type: Any, said: str) -> None:
    with pytest.raises(Error) as caught:
        values.decode(data, as_type, "the value of 'k'")
    assert str(caught.value) == said


def test_fields_come_and_go_between_versions_of_a_class() -> None:
    assert values.decode(b'{"city": "Rome", "street": "Via Appia"}', Address, "it") == Address("Rome")


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, float("nan"), [object()], {"a": {2, object()}}, "\ud800", ["\ud800"], Request(name="\ud800")],
)
def test_what_cannot_be_kept_is_a_bug_of_the_writer(value: Any) -> None:
    with pytest.raises(TypeError, match="'k' cannot be kept"):
        values.encode(value, "the value of 'k'")
