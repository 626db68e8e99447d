"""Documents of config: paths, values, merging, undoing."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro.domain import config
from micro.domain.account import Account, Type
from micro.domain.config import Change, Leaf
from micro.domain.errors import Error, Kind

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029"),
    min_size=1,
    max_size=8,
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | st.lists(scalars, max_size=3), lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=12
)
documents = st.dictionaries(names, values, max_size=4)


few = settings(max_examples=30, deadline=None)


def tree(value: Any, **options: Any) -> Any:
    return config.parse(json.dumps(value), **options)


def told(found: Any) -> Any:
    return json.loads(config.render(found))


def reference(old: Any, new: Any) -> Any:
    """Deep merging, as simply as it can be said."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            key: reference(old[key], new[key]) if key in old and key in new else {**old, **new}[key]
            for key in {**old, **new}
        }
    return new


# --- paths ------------------------------------------------------------------------------------------------------------


@few
@given(st.lists(names, max_size=6))
def test_a_path_comes_back_whatever_its_names_are(parts: list[str]) -> None:
    assert config.path(config.written(parts)) == tuple(parts)


def test_dots_and_backslashes_in_names_are_written_with_a_backslash() -> None:
    assert config.path(r"hosts.example\.com.a\\b") == ("hosts", "example.com", "a\\b")
    assert config.path("") == ()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (".", "empty name"),
        ("a..b", "empty name"),
        ("a.", "empty name"),
        (".a", "empty name"),
        ("a\nb", "control"),
        ("a\u2028b", "control"),
        ("a\\b", "lone backslash"),
        ("a\\", "lone backslash"),
        (".".join(["a"] * 33), "33 names"),
        ("a" * 1025, "longer than 1,024 bytes"),
        ("a\ud800", "UTF-8"),
    ],
)
def test_what_is_no_path_is_refused_with_the_reason(path: str, why: str) -> None:
    with pytest.raises(Error, match=why) as refused:
        config.path(path)
    assert refused.value.kind is Kind.INVALID_ARGUMENT


# --- values -----------------------------------------------------------------------------------------------------------


@few
@given(documents)
def test_json_comes_back_as_it_was(document: dict[str, Any]) -> None:
    assert told(tree(document)) == document


@pytest.mark.parametrize("text", ["9007199254740993", "-0.0", "1.10", "1e400", "12345678901234567890.5", "[1.0,2.50]"])
def test_numbers_keep_every_digit(text: str) -> None:
    assert config.render(config.parse(text)) == text


def test_nothing_is_escaped_that_need_not_be() -> None:
    assert config.render(config.parse('{"a": "<b> & \\u00fc"}')) == '{"a":"<b> & ü"}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("nope", "not JSON"),
        ("NaN", "NaN"),
        ("[Infinity]", "Infinity"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"": 1}', "empty name"),
        ('{"a\\u0000": 1}', "control"),
        ('"\\ud800"', "UTF-8"),
        ('[{"\\ud800": 1}]', "UTF-8"),
        ("[" * 1000 + "]" * 1000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 40 + "1" + "}" * 40, "32 are the most"),
        ('{"a":' * 100_000, "nested too deeply"),
        (json.dumps({"a" * 1025: 1}), "longer than 1,024 bytes"),
    ],
)
def test_what_is_no_value_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(Error, match=why) as refused:
        config.parse(text)
    assert refused.value.kind is Kind.INVALID_ARGUMENT


@pytest.mark.parametrize("text", ["hunter2", '{"a": "hunter2"', '["hunter2\\ud800"]', '{"a": {"": "hunter2"}}'])
def test_a_refusal_tells_nothing_of_the_value(text: str) -> None:
    with pytest.raises(Error) as refused:
        config.parse(text, secret=True)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(Leaf("hunter2", True))


# --- merging ----------------------------------------------------------------------------------------------------------


@few
@given(documents, documents)
def test_objects_are_merged_deeply(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert told(config.merged(tree(old), tree(new))) == reference(old, new)


@few
@given(documents, st.lists(names, min_size=1, max_size=3), values)
def test_what_was_set_at_a_path_is_found_there(old: dict[str, Any], path: list[str], value: Any) -> None:
    given_ = tree(value)
    merged = config.merged(tree(old), config.at_path(tuple(path), given_))
    assert isinstance(merged, dict)
    found = config.find(merged, tuple(path))
    assert found is not None
    assert told(config.common(found, given_)) == value


def test_values_and_objects_take_each_others_place() -> None:
    scalar = config.merged(tree({"a": 1}), tree({"a": {"b": 2}}))
    assert told(scalar) == {"a": {"b": 2}}
    assert told(config.merged(scalar, tree({"a": [1]}))) == {"a": [1]}
    assert told(config.merged(scalar, tree({"a": {}}))) == {"a": {"b": 2}}
    assert told(config.merged(tree({"a": 1}), tree({"a": {}}))) == {"a": {}}


def secrets(found: Any) -> set[str]:
    return {at for at, leaf in config.flat(found).items() if leaf.secret}


def test_what_takes_the_place_of_a_secret_is_one() -> None:
    old = config.merged(tree({"user": "ann"}), tree({"db": {"password": "x"}}, secret=True))
    assert secrets(old) == {"db.password"}
    assert secrets(config.merged(old, tree({"db": {"password": "y", "host": "h"}}))) == {"db.password"}
    assert secrets(config.merged(old, tree({"db": "postgres://x@h"}))) == {"db"}
    assert secrets(config.merged(old, tree({"db": {"password": {"a": 1, "b": [2]}}}))) == {
        "db.password.a",
        "db.password.b",
    }


@few
@given(documents, st.lists(names, min_size=1, max_size=3), st.none() | values)
def test_replacing_touches_nothing_else(old: dict[str, Any], path: list[str], value: Any) -> None:
    before = tree(old)
    after = config.replaced(before, tuple(path), None if value is None else tree(value))
    found = config.find(after, tuple(path))
    assert (found is None) if value is None else (found is not None and told(found) == value)
    here = {at for at in config.flat(before) if not config.related(config.path(at), tuple(path))}
    assert all(config.flat(after)[at] == config.flat(before)[at] for at in here)


# --- leaves and history -----------------------------------------------------------------------------------------------


@few
@given(documents)
def test_a_tree_is_the_sum_of_its_leaves(document: dict[str, Any]) -> None:
    assert config.grown(config.flat(tree(document))) == tree(document)


@few
@given(st.lists(documents, min_size=2, max_size=5))
def test_every_state_can_be_had_again(states: list[dict[str, Any]]) -> None:
    flats = [config.flat(tree(state)) for state in states]
    changes = [
        Change(number, 0, "", "set", "", "", config.difference(before, after))
        for number, (before, after) in enumerate(itertools.pairwise(flats), 1)
    ]
    for back in range(len(changes) + 1):
        found = config.undone(flats[-1], reversed(changes[len(changes) - back :]))
        assert config.grown(found) == tree(states[len(changes) - back])


@pytest.mark.parametrize("leaves", [["a", "a.b"], ["a.b", "a"], ["a.b.c", "a.b"]])
def test_leaves_that_make_no_tree_are_refused(leaves: list[str]) -> None:
    with pytest.raises(Error):
        config.grown({at: Leaf("1") for at in leaves})


def test_secrets_are_for_services_and_admins_of_the_namespace() -> None:
    def may(namespace: str, type_: Type = Type.USER, *scopes: str, service: str = "ann") -> bool:
        account = Account("ann", namespace, type=type_, scopes=frozenset(scopes), metadata={"service": service})
        return config.may_see_secrets(account, "shop")

    assert may("shop", Type.SERVICE)
    assert not may("shop", Type.SERVICE, service=""), "it only calls"
    assert may("shop", Type.USER, "admin")
    assert may("micro", Type.USER, "admin")
    assert not may("shop")
    assert not may("other", Type.SERVICE)
    assert not may("other", Type.SERVICE, "admin")
    assert not may("micro", Type.SERVICE)
