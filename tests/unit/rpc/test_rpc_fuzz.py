"""Whatever is sent, the service answers, and never with an error of its own."""

from __future__ import annotations

import asyncio
import json

from echo_service import echo, frame
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.echo.v1.echo_pb import EchoRequest, Everything
from micro.testing.app import Answer, http

OURS = {"2", "13", "15"}  # unknown, internal, data loss

CONTENT_TYPES = [
    "",
    "application/json",
    "application/json; charset=utf-8",
    "application/grpc",
    "application/grpc+proto",
    "application/grpc+json",
    "application/grpc-web",
    "application/grpc-web+json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
    "application/x-www-form-urlencoded",
    "text/plain",
]
PATHS = ["/echo", "/echo/call", "/echo.v1.Echo/Call", "/echo.v1.Echo/Count", "/echo/sum", "/echo.v1.Echo/Chat"]
HEADERS = ["grpc-timeout", "connect-timeout-ms", "content-encoding", "grpc-encoding", "accept", "micro-codec", "x"]

content_types = st.sampled_from(CONTENT_TYPES) | st.text(max_size=20).filter(str.isascii)
verbs = st.sampled_from(["POST"] * 5 + ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "CONNECT", "x"])
header_values = st.sampled_from(["gzip", "identity", "json", "1S", "1000", "text/event-stream"]) | st.text(max_size=10)
# A deadline of next to nothing is allowed to pass, so whoever sets one leaves at least a second.
timeouts = st.sampled_from(["1S", "2M", "1000"]) | st.text(max_size=10).filter(lambda text: not text[:1].isdigit())
headers = st.dictionaries(st.sampled_from(HEADERS), header_values, max_size=3).flatmap(
    lambda sent: st.fixed_dictionaries({name: timeouts if "timeout" in name else st.just(sent[name]) for name in sent})
)
valid_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([field.name for field in Everything.desc().fields] + ["body", "to", "x"]), inner
        )
    ),
    max_leaves=8,
)
json_bodies = valid_json.map(lambda value: json.dumps(value).encode())
frames = st.lists(st.binary(max_size=20).map(frame), max_size=3).map(b"".join)
bodies = (
    st.binary(max_size=40)
    | json_bodies
    | frames
    | st.builds(lambda body, junk: body + junk, frames, st.binary(max_size=6))
    | st.builds(lambda body, flags: frame(body, flags), st.binary(max_size=20), st.integers(0, 255))
)


async def ask(
    verb: str, path: str, kind: str, body: bytes, query: bytes = b"", extra: dict[str, str] | None = None
) -> Answer:
    sent = {"content-type": kind, "te": "trailers", **(extra or {})}
    return await asyncio.wait_for(http(echo(timeout=1), verb, path, query=query, headers=sent, body=body), timeout=20)


def sane(answer: Answer) -> None:
    assert answer.complete
    assert answer.status < 500
    assert answer.trailers.get("grpc-status") not in OURS or "compressed" in answer.trailers["grpc-message"]


@given(verbs, st.sampled_from(PATHS), content_types, bodies, headers)
@settings(max_examples=200, deadline=None)
def test_any_request_is_answered(verb: str, path: str, kind: str, body: bytes, extra: dict[str, str]) -> None:
    sane(asyncio.run(ask(verb, path, kind, body, extra=extra)))


@given(st.text(max_size=40), st.sampled_from(CONTENT_TYPES), st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_path_is_answered(path: str, kind: str, body: bytes) -> None:
    path = path.encode("utf-8", "replace").decode()
    sane(asyncio.run(ask("POST", "/" + path, kind, body)))


query_names = st.lists(
    st.sampled_from(["body", "name", "count", "a", "b", "more", "counts", "by_id", "at", "x", "0", ""]), max_size=4
)
queries = st.lists(st.tuples(query_names.map(".".join), st.text(max_size=5)), max_size=4)


@given(queries, json_bodies)
@settings(max_examples=100, deadline=None)
def test_any_query_is_answered(pairs: list[tuple[str, str]], body: bytes) -> None:
    from urllib.parse import urlencode

    query = urlencode(pairs, errors="replace").encode()
    sane(asyncio.run(ask("POST", "/echo/call", "application/json", body, query=query)))


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_raw_query_is_answered(query: bytes) -> None:
    sane(asyncio.run(ask("GET", "/echo/call", "", b"", query=query)))


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_message_is_answered(message: bytes) -> None:
    answer = asyncio.run(ask("POST", "/echo.v1.Echo/Call", "application/grpc", frame(message)))
    try:
        EchoRequest.from_binary(message)
    except ValueError:
        assert answer.trailers["grpc-status"] == "3"
    else:
        assert answer.trailers["grpc-status"] == "0"
