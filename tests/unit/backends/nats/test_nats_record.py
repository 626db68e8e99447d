"""How a registration is written down: both ways and for anything."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.backends.nats import _record
from micro.domain import errors
from micro.domain.service import Endpoint, Node, Registration, StreamKind, Value
from micro.testing.contracts.registry import registration

TEXTS = st.text(max_size=20)
PAIRS = st.dictionaries(TEXTS, TEXTS, max_size=3)


def _value(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Value]:
    flags = st.booleans()
    return st.builds(Value, TEXTS, TEXTS, TEXTS, flags, flags, inner, _tuples(TEXTS), TEXTS, TEXTS)


def _tuples(items: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(items, max_size=2).map(tuple)


VALUES = st.recursive(_value(st.just(())), lambda inner: _value(_tuples(inner)), max_leaves=5)
ENDPOINTS = st.builds(
    Endpoint, TEXTS, TEXTS, VALUES, VALUES, st.sampled_from(StreamKind), st.floats(0, 1e6, allow_nan=False), TEXTS
)
REGISTRATIONS = st.builds(
    Registration,
    TEXTS,
    TEXTS,
    TEXTS,
    st.builds(Node, TEXTS, TEXTS, PAIRS),
    _tuples(ENDPOINTS),
    PAIRS,
    st.binary(max_size=50),
)


@given(REGISTRATIONS)
def test_what_is_written_is_read_again(entry: Registration) -> None:
    assert _record.decode(_record.encode(entry)) == entry


def test_the_same_is_always_written_the_same() -> None:
    assert _record.encode(registration()) == _record.encode(_record.decode(_record.encode(registration())))


@given(st.binary())
def test_what_was_not_written_here_is_refused(data: bytes) -> None:
    with pytest.raises(errors.Error) as caught:
        _record.decode(data)
    assert caught.value.kind is errors.Kind.DATA_LOSS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted(json.loads(_record.encode(registration())))


@given(st.sampled_from(FIELDS), JSON)
def test_a_field_of_the_wrong_kind_is_refused_or_read_whole(field: str, value: object) -> None:
    record = json.loads(_record.encode(registration()))
    record[field] = value
    try:
        read = _record.decode(json.dumps(record).encode())
    except errors.Error as error:
        kind = error.kind
    else:
        kind = None
        assert _record.decode(_record.encode(read)) == read
    assert kind in (None, errors.Kind.DATA_LOSS)


def test_a_later_format_is_refused_by_its_number() -> None:
    with pytest.raises(errors.Error, match="format 2"):
        _record.decode(b'{"v":2}')


@given(TEXTS, TEXTS, TEXTS)
def test_a_key_is_three_tokens_of_a_subject_and_back(namespace: str, name: str, node: str) -> None:
    subject = _record.to_subject((namespace, name, node))
    assert re.fullmatch(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+){2}", subject)
    assert _record.from_subject(subject) == (namespace, name, node)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), unique=True, max_size=5))
def test_different_keys_have_different_subjects(keys: list[tuple[str, str, str]]) -> None:
    assert len({_record.to_subject(key) for key in keys}) == len(keys)


def test_dots_in_a_name_do_not_part_it() -> None:
    assert _record.to_subject(("micro", "a.b", "a.b-1")) == "micro.a=2Eb.a=2Eb-1"


@pytest.mark.parametrize("subject", ["", "a", "a.b", "a.b.c.d", "a.b.=FF"])
def test_a_subject_of_another_form_is_refused(subject: str) -> None:
    with pytest.raises(errors.Error) as caught:
        _record.from_subject(subject)
    assert caught.value.kind is errors.Kind.DATA_LOSS
