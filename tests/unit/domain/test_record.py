"""Records: what may be kept, what fits a query, and what a batch comes to."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.record import (
    BATCH_OPERATIONS,
    METADATA_DEPTH,
    VALUE_BYTES,
    Cause,
    Change,
    Check,
    Commit,
    Committed,
    Delete,
    Get,
    Operation,
    Put,
    Query,
    Record,
    check_batch,
    check_exact,
    check_key,
    check_query,
    check_table,
    decide,
    decode_metadata,
    encode_metadata,
    normal,
    size,
)

NOW = 1000
TEXTS = st.text(max_size=4) | st.text(alphabet="ab\0é\U0010ffff", max_size=3)


def deep(levels: int) -> dict[str, Any]:
    return {"a": deep(levels - 1)} if levels > 1 else {}


def decided(*operations: Operation, there: tuple[Record, ...] = (), revision: int = 5) -> tuple[Committed, Any]:
    records = {each.key: each for each in there}
    return decide(operations, lambda one: records.get(one.key), revision, NOW)


@pytest.mark.parametrize("key", ["", "é" * 513, "\ud800"])
def test_refuses_what_cannot_be_a_key(key: str) -> None:
    with pytest.raises(errors.Error) as caught:
        check_key(key)
    assert caught.value.kind is Kind.INVALID_ARGUMENT


@pytest.mark.parametrize("key", ["k", "é" * 512, "\0", "a b\n", "\U0010ffff"])
def test_takes_any_other_key(key: str) -> None:
    check_key(key)


@pytest.mark.parametrize("name", ["orders", ".locks", "a.b-c_d", "9", "x" * 127])
def test_takes_tables(name: str) -> None:
    check_table(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "-a", "x" * 129])
def test_refuses_what_cannot_be_a_table(name: str) -> None:
    with pytest.raises(errors.Error, match="table"):
        check_table(name)


@pytest.mark.parametrize(
    ("operations", "word"),
    [
        ([], "empty"),
        ([Get("t", "k")] * (BATCH_OPERATIONS + 1), "1,001"),
        ([Put("t", "k", bytes(VALUE_BYTES + 1))], "blob"),
        ([Put("t", "a", bytes(VALUE_BYTES)), Put("t", "b", bytes(VALUE_BYTES))], "several"),
        ([Put("t", "k"), Delete("t", "k")], "twice"),
        ([Put("t", "k", if_version=-1)], "-1"),
        ([Check("t", "k", -1)], "-1"),
        ([Put("t", "k", metadata={"a": {1}})], "JSON"),  # type: ignore[dict-item]
        ([Put("t", "k", metadata={"a": float("nan")})], "JSON"),
        ([Put("t", "k", metadata={"a": "x" * 17_000})], "bytes"),
        ([Put("t", "k", metadata=deep(METADATA_DEPTH + 1))], "deep"),
        ([Put("t", "k", metadata=deep(900))], "deep"),
        ([Put("t", "")], "empty"),
        ([Put("a/b", "k")], "table"),
    ],
)
def test_refuses_what_no_batch_can_do(operations: list[Operation], word: str) -> None:
    with pytest.raises(errors.Error, match=word) as caught:
        check_batch(operations)
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert "\n" not in caught.value.message


def test_takes_a_batch_at_its_limits() -> None:
    check_batch([Put("t", "k", bytes(VALUE_BYTES), metadata=deep(METADATA_DEPTH)), Get("t", "k"), Put("u", "k")])
    check_batch([Delete("t", f"{n}") for n in range(BATCH_OPERATIONS)])


@pytest.mark.parametrize("query", [Query(limit=-1), Query(offset=-1), Query(prefix="x" * 1025), Query(after="\ud800")])
def test_refuses_what_cannot_be_looked_for(query: Query) -> None:
    with pytest.raises(errors.Error) as caught:
        check_query(query)
    assert caught.value.kind is Kind.INVALID_ARGUMENT


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=5) | st.text(alphabet="ab\0é\U0010ffff", min_size=1, max_size=3)),
    st.builds(Query, TEXTS, st.just(""), TEXTS, TEXTS, after=st.none() | TEXTS, descending=st.booleans()),
)
def test_bounds_hold_what_fits_and_nothing_else(keys: list[str], query: Query) -> None:
    low, high = query.bounds()
    for key in keys:
        within = low <= key.encode() and (not high or key.encode() < high)
        comes = query.after is None or (key < query.after if query.descending else key > query.after)
        assert within == (query.matches(key) and comes)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)))
def test_metadata_comes_back_as_it_was(metadata: dict[str, Any]) -> None:
    try:
        text = encode_metadata(metadata)
    except ValueError:
        assert any(value in {float("inf"), float("-inf")} for value in metadata.values())
        return
    found = decode_metadata(text)
    assert found == metadata
    assert [type(value) for value in found.values()] == [type(value) for value in metadata.values()]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"a": 2**53 + 1}], "has the number 9007199254740993 in it"),
        (-(2**60), "has the number -1152921504606846976 in it"),
        pytest.param(10**5000, "has the number of 16,610 bits in it", id="thousands of digits"),
        ({"a": b"x"}, "has bytes in it"),
    ],
)
def test_metadata_that_would_come_back_as_something_else_is_refused(value: object, words: str) -> None:
    with pytest.raises(Error, match=words) as raised:
        check_exact(value, "the metadata of 'ann'")
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    check_exact({"a": [2**53, -1.5, "b", None, True]}, "the metadata of 'ann'")


def test_what_is_kept_is_a_copy() -> None:
    mine: dict[str, Any] = {"list": [1]}
    kept = normal(mine)
    mine["list"].append(2)
    assert kept == {"list": [1]}
    with pytest.raises(ValueError, match="object"):
        decode_metadata("[1]")


def test_size_is_in_bytes() -> None:
    assert size(Record("é", b"123")) == 5
    assert size(Record("k", metadata={"a": "é"})) == 1 + len('{"a":"é"}'.encode())


def test_a_batch_tells_what_it_did() -> None:
    there = Record("old", b"1", 3, None, {"m": 1})
    committed, commit = decided(
        Get("t", "new"), Put("t", "new", b"2"), Get("t", "new"), Delete("t", "old"), Get("t", "old"), there=(there,)
    )
    new = Record("new", b"2", 6)
    assert committed == Committed(6, (None, new, new, Record("old", b"", 3, None, {"m": 1}), None))
    assert commit == Commit(6, (Change("t", new), Change("t", Record("old", version=6), Cause.DELETED)))


def test_a_batch_that_changes_nothing_has_no_revision_of_its_own() -> None:
    assert decided(Get("t", "a"), Delete("t", "a"), Check("t", "a", 0)) == (Committed(5, (None, None, None)), None)


def test_what_has_ended_is_absent() -> None:
    ended = Record("k", b"1", 3, NOW)
    assert decided(Get("t", "k"), Delete("t", "k", if_version=0), there=(ended,)) == (Committed(5, (None, None)), None)
    with pytest.raises(errors.Error, match="not there"):
        decided(Put("t", "k", if_version=3), there=(ended,))
    assert decided(Put("t", "k", expires=NOW), Get("t", "k"))[0].results[1] is None


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (Put("t", "k", if_version=0), Kind.ALREADY_EXISTS),
        (Check("t", "k", 0), Kind.ALREADY_EXISTS),
        (Put("t", "k", if_version=2), Kind.ABORTED),
        (Delete("t", "k", if_version=4), Kind.ABORTED),
        (Check("t", "other", 3), Kind.ABORTED),
    ],
)
def test_a_condition_is_about_what_was_there_before(operation: Operation, kind: Kind) -> None:
    with pytest.raises(errors.Error) as caught:
        decided(Put("t", "x"), operation, there=(Record("k", b"", 3),))
    assert caught.value.kind is kind
    assert repr(operation.key) in caught.value.message


@pytest.mark.parametrize("expires", [-1, 1 << 63, 10**30])
def test_refuses_times_that_no_backend_can_keep(expires: int) -> None:
    with pytest.raises(errors.Error, match="time of expiry") as caught:
        check_batch((Put("t", "k", expires=expires),))
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    check_batch((Put("t", "k", expires=(1 << 63) - 1),))
