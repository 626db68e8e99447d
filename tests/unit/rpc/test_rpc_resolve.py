"""Which method a path means: the table of the platform's addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.rpc.resolve import Resolver, default


def resolver(service: str, **handlers: list[str]) -> Resolver[str]:
    """Handlers by full name, dots written as double underscores; each target is "Handler.Method"."""
    return Resolver(
        service,
        [
            (name.replace("__", "."), {method: f"{name.split('__')[-1]}.{method}" for method in methods})
            for name, methods in handlers.items()
        ],
    )


@pytest.mark.parametrize(
    ("service", "path", "meant"),
    [
        ("foo", "/foo", "Foo.Call"),
        ("foo", "/foo/bar", "Foo.Bar"),
        ("foo", "/foo/baz/cat", "Baz.Cat"),
        ("foo", "/foo/cat", "Baz.Cat"),
        ("foo", "/foo/foo/bar", "Foo.Bar"),
        ("foo", "/foo.Foo/Bar", "Foo.Bar"),
        ("foo", "/pkg.v1.Foo/Bar", "Foo.Bar"),
        ("foo", "/pkg.v1.Baz/Cat", "Baz.Cat"),
        ("foo", "//foo///bar/", "Foo.Bar"),
        ("foo", "/FOO/bAR", "Foo.Bar"),
        ("foo.bar", "/foo/bar/baz/cat", "Baz.Cat"),
        ("foo.bar", "/foo.bar/baz/cat", "Baz.Cat"),
        ("foo.baz", "/foo/baz/cat", "Baz.Cat"),
        ("v1.foo", "/v1/foo/bar", "Foo.Bar"),
        ("v1.foo", "/v1/foo/baz/cat", "Baz.Cat"),
        ("v1.foo", "/v1/foo", "Foo.Call"),
        ("foo", "/", None),
        ("foo", "/foo/nope", None),
        ("foo", "/bar/foo/bar", None),
        ("foo", "/foo/foo/bar/more", None),
    ],
)
def test_the_table(service: str, path: str, meant: str | None) -> None:
    found = resolver(service, pkg__v1__Foo=["Call", "Bar"], pkg__v1__Baz=["Cat", "Call"])
    assert found(path) == meant


@pytest.mark.parametrize(
    "path", ["/foo-bar/baz-cat", "/foo-bar/bazCat", "/foobar/baz_cat", "/foo_bar/BazCat", "/foo-bar/foo-bar/baz-cat"]
)
def test_spelling_makes_no_difference(path: str) -> None:
    assert resolver("foo-bar", x__FooBar=["BazCat"])(path) == "FooBar.BazCat"


def test_short_paths_mean_the_handler_named_like_the_service() -> None:
    assert default("ledger", ["a.Books", "a.Ledger"]) == "a.Ledger"
    assert default("my-ledger", ["a.Books", "a.MyLedger"]) == "a.MyLedger"
    assert default("v1.ledger", ["a.Books", "a.Ledger"]) == "a.Ledger"


def test_short_paths_mean_the_only_handler_and_none_of_two_strangers() -> None:
    assert default("ledger", ["a.Books"]) == "a.Books"
    assert default("ledger", ["a.Books", "a.Audit"]) is None


def test_a_method_that_two_strangers_have_is_not_written_short() -> None:
    found = resolver("foo", a__Bar=["List", "Read"], a__Baz=["List", "Write"])
    assert (found("/foo/list"), found("/foo/read"), found("/foo/write")) == (None, "Bar.Read", "Baz.Write")


def test_the_first_of_two_alike_is_meant() -> None:
    assert resolver("foo", a__Foo=["Call"], b__Foo=["Call", "Other"])("/foo/foo/call") == "Foo.Call"
    assert Resolver("foo", [("a.Foo", {"Call": 1}), ("b.Foo", {"Call": 2})])("/foo/call") == 1
    assert Resolver("foo", [("a.Foo", {"Call": 1}), ("b.Foo", {"Call": 2})])("/b.Foo/call") == 2


@given(st.text(max_size=60))
def test_any_path_has_an_answer_or_none(path: str) -> None:
    assert resolver("foo", a__Foo=["Call"])(path) in {"Foo.Call", None}
