"""Requests of all kinds, most of them no calls."""

from __future__ import annotations

import http.client
import json
from urllib.parse import quote

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SEGMENTS = st.one_of(
    st.sampled_from(
        [
            "helloworld",
            "Helloworld",
            "call",
            "Call",
            "stream",
            "pingPong",
            "..",
            ".",
            "",
            "%2e%2e",
            "helloworld.Helloworld",
            "v1",
        ]
    ),
    st.text(max_size=12).map(lambda text: quote(text, safe="")),
)
PATHS = st.lists(SEGMENTS, max_size=6).map(lambda segments: "/" + "/".join(segments))
QUERIES = st.one_of(st.just(""), st.text(max_size=30).map(lambda text: "?" + quote(text, safe="=&[].")))
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["name", "count", "x", ""]), inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 5000),
    st.just(b'{"name":' * 2000),
)
TYPES = st.sampled_from(
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/plain",
        "",
        "application/grpc",
        "application/grpc+json",
        "application/grpc-web",
        "application/proto",
        "application/connect+json",
        "application/grpc-web-text",
    ]
)
VERBS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])


FRAMES = st.one_of(
    st.binary(max_size=64),
    st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=32)).map(
        lambda parts: bytes([parts[0]]) + parts[1].to_bytes(4, "big") + parts[2]
    ),
)


def no_deadline(headers: dict[str, str]) -> bool:
    """Whether none is set: one of next to nothing is allowed to pass."""
    return not any(headers.get(name, "")[:1].isdigit() for name in ("grpc-timeout", "connect-timeout-ms"))


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "micro-namespace",
            "micro-service",
            "grpc-timeout",
            "connect-timeout-ms",
            "connect-protocol-version",
            "grpc-encoding",
            "content-encoding",
            "accept-encoding",
            "x-request-id",
            "accept",
            "te",
        ]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    max_size=4,
).filter(no_deadline)


def ask(address: str, verb: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(verb, target, body, headers)
        response = connection.getresponse()
        return response.status, response.headers.get("content-type", ""), response.read()
    finally:
        connection.close()
