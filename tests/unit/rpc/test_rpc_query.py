"""Query strings, forms and bodies: merged into one message, by the schema's types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from echo_service import echo

from gen.echo.v1.echo_pb import EchoRequest, Everything
from micro.domain.errors import Error, Kind
from micro.rpc import query
from micro.testing.app import http


def read(text: str, body: bytes = b"") -> dict[str, Any]:
    message = query.request(Everything, [text.encode()], body)
    return json.loads(message.to_json())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("name=123", {"name": "123"}),
        ("name=true", {"name": "true"}),
        ("name=", {}),
        ("name=a+b%20c%2B", {"name": "a b c+"}),
        ("name=%C3%A9", {"name": "é"}),
        ("count=3", {"count": 3}),
        ("count=-3", {"count": -3}),
        ("big=9007199254740993", {"big": "9007199254740993"}),
        ("huge=18446744073709551615", {"huge": "18446744073709551615"}),
        ("flag=true", {"flag": True}),
        ("flag", {"flag": True}),
        ("flag=0", {}),
        ("ratio=1e3", {"ratio": 1000.0}),
        ("data=AP8=", {"data": "AP8="}),
        ("color=COLOR_RED", {"color": "COLOR_RED"}),
        ("color=2", {"color": "COLOR_GREEN"}),
        ("a.b=1", {"a": {"b": 1}}),
        ("a[b]=1", {"a": {"b": 1}}),
        ("a.more.a.b=1&a.b=2", {"a": {"b": 2, "more": {"a": {"b": 1}}}}),
        ("names=a&names=b", {"names": ["a", "b"]}),
        ("names[]=a&names[]=b", {"names": ["a", "b"]}),
        ("names[0]=a&names[1]=b", {"names": ["a", "b"]}),
        ("numbers=1&numbers=2", {"numbers": [1, 2]}),
        ("counts[x]=1&counts.y=2", {"counts": {"x": 1, "y": 2}}),
        ("maybe=", {"maybe": ""}),
        ("left=x", {"left": "x"}),
        ("at=2020-01-02T03:04:05Z", {"at": "2020-01-02T03:04:05Z"}),
        ("span=1.5s", {"span": "1.500s"}),
        ("boxed=7", {"boxed": "7"}),
        ("two_words=x", {"twoWords": "x"}),
        ("twoWords=x", {"twoWords": "x"}),
        ("utm_source=x&nothing.at.all=1", {}),
        ("name=a&name=b", {"name": "b"}),
    ],
)
def test_types_come_from_the_schema(text: str, value: dict[str, Any]) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("count=x", "count"),
        ("count=1.5", "count"),
        ("count=99999999999", "count"),
        ("huge=-1", "huge"),
        ("flag=maybe", "flag"),
        ("ratio=x", "ratio"),
        ("color=BLUE", "COLOR_RED"),
        ("a.b=x", "a.b"),
        ("a=x", "a.field"),
        ("inners=x", "inners"),
        ("counts=x", "counts[key]"),
        ("by_id[1]=x", "by_id"),
        ("name.b=x", "name.b"),
        ("at=yesterday", "yesterday"),
        ("name=%FF", "query"),
        ("name=\\ud800", "query"),
        (".".join(["a.more"] * 40) + ".name=1", "levels"),
        ("&".join(["names=x"] * 1001), "query"),
    ],
)
def test_a_bad_value_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(Error) as raised:
        query.request(Everything, [text.encode("utf-8") if "ud800" not in text else b"\xff=1"], b"")
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    assert named in raised.value.message


@pytest.mark.parametrize(
    ("text", "body", "value"),
    [
        ("name=a&count=1", {"name": "b"}, {"name": "b", "count": 1}),
        ("name=a&count=1", {"name": None}, {"count": 1}),
        ("two_words=a", {"twoWords": "b"}, {"twoWords": "b"}),
        ("twoWords=a", {"two_words": None}, {}),
        ("a.b=1&a.tags=x", {"a": {"b": 2}}, {"a": {"b": 2, "tags": ["x"]}}),
        ("a.b=1", {"a": None}, {}),
        ("names=a", {"names": ["b"]}, {"names": ["b"]}),
        ("counts[x]=1", {"counts": {"y": 2}}, {"counts": {"x": 1, "y": 2}}),
        ("name=a", {"other": 1}, {"name": "a"}),
    ],
)
def test_the_body_wins_and_its_nulls_delete(text: str, body: dict[str, Any], value: dict[str, Any]) -> None:
    assert read(text, json.dumps(body).encode()) == value


@pytest.mark.parametrize("body", [b"[1]", b"1", b"{", b"\xff", b"[" * 100_000])
def test_a_body_beside_a_query_must_be_an_object(body: bytes) -> None:
    with pytest.raises(Error) as raised:
        read("name=a", body)
    assert raised.value.kind is Kind.INVALID_ARGUMENT


FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json; charset=utf-8"}


@pytest.mark.parametrize(
    ("verb", "query_string", "headers", "body", "status", "name"),
    [
        ("GET", b"name=123", {}, b"", 200, "123"),
        ("DELETE", b"name=a", {}, b"", 200, "a"),
        ("POST", b"", JSON, b'{"name":"b"}', 200, "b"),
        ("PUT", b"name=a", JSON, b'{"name":"b"}', 200, "b"),
        ("PATCH", b"name=a", JSON, b"", 200, "a"),
        ("POST", b"name=a", FORM, b"name=b", 200, "b"),
        ("POST", b"", FORM, b"name=b", 200, "b"),
        ("POST", b"", {}, b"", 200, ""),
        ("POST", b"name=a", {}, b"", 200, "a"),
        ("POST", b"", {}, b'{"name":"b"}', 415, None),
        ("POST", b"", {"content-type": "text/plain"}, b'{"name":"b"}', 415, None),
        ("POST", b"", {"content-type": "text/plain"}, b"", 415, None),
        ("OPTIONS", b"", {}, b"", 405, None),
        ("TRACE", b"", {}, b"", 405, None),
        ("GET", b"count=x", {}, b"", 400, None),
    ],
)
@pytest.mark.parametrize("path", ["/echo", "/echo/call", "/echo/Echo/Call", "/echo.v1.Echo/Call"])
async def test_short_paths_take_what_people_send(
    path: str, verb: str, query_string: bytes, headers: dict[str, str], body: bytes, status: int, name: str | None
) -> None:
    answer = await http(echo(), verb, path, query=query_string, headers=headers, body=body)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    if name is not None:
        assert answer.json().get("name", "") == name
    else:
        assert set(answer.json()) == {"code", "message"}


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [({}, "POST, GET, HEAD, DELETE, PUT, PATCH"), ({"content-type": "application/grpc"}, "POST")],
)
async def test_a_verb_that_calls_nothing_is_answered_with_those_that_do(headers: dict[str, str], allowed: str) -> None:
    answer = await http(echo(), "TRACE", "/echo.v1.Echo/Call", headers=headers)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["message"].startswith("HTTP method TRACE does not call anything: use POST")


async def test_head_has_no_body() -> None:
    answer = await http(echo(), "HEAD", "/echo", query=b"name=a")
    assert (answer.status, answer.body, answer.complete) == (200, b"", True)


async def test_an_oversize_body_is_refused_before_it_is_read() -> None:
    app = echo(max_message=1000)
    big = await http(app, "POST", "/echo/call", headers={**JSON, "content-length": "1001"}, chunks=[b"{", b"}"])
    grown = await http(app, "POST", "/echo/call", headers=JSON, chunks=[b"x" * 600, b"x" * 600, b"never read"])
    assert (big.status, grown.status) == (413, 413)
    assert big.json()["code"] == "resource_exhausted"


async def test_connect_may_get_what_is_safe_and_nothing_else() -> None:
    """A GET as Connect defines it goes to a method without side effects; any other GET is a query."""
    text = b"connect=v1&encoding=json&message=%7B%22name%22%3A%22Ann%22%7D"
    safe = await http(echo(), "GET", "/echo.v1.Echo/Safe", query=text)
    other = await http(echo(), "GET", "/echo.v1.Echo/Call", query=text + b"&name=Bob")
    assert (safe.json(), other.json()) == ({"name": "Ann"}, {"name": "Bob"})


async def test_a_request_of_everything_can_be_read() -> None:
    answer = await http(echo(), "GET", "/echo", query=b"body.a.b=3&body.counts[x]=1")
    assert EchoRequest.from_json(answer.body).body == Everything(a=Everything.Inner(b=3), counts={"x": 1})
