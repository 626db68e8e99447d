"""What a web page can send, the platform's own services do not take."""

from __future__ import annotations

from typing import Any

import pytest

from micro.rpc import pages


def request(method: str = "POST", **headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": "/x", "headers": pairs}


@pytest.mark.parametrize(
    "scope",
    [
        request("GET"),
        request("HEAD"),
        request(content_type="application/x-www-form-urlencoded"),
        request(content_type="text/plain"),
        request(content_type="multipart/form-data"),
        request(),
        request(content_type="application/json", origin="http://127.0.0.1:8081"),
        request(content_type="application/grpc-web", origin="null"),
        request("GET", authorization="Bearer x"),
        request(content_type="application/x-www-form-urlencoded", authorization="Basic eDp5"),
        request(content_type="application/x-www-form-urlencoded", authorization="Bearer x", origin="http://a.example"),
        request(content_type="text/plain", authorization="Bearer x"),
        {"type": "websocket", "path": "/x", "headers": []},
    ],
)
def test_a_page_could_have_made_it(scope: dict[str, Any]) -> None:
    assert pages.made_by_one(scope)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/grpc",
        "application/grpc+proto",
        "application/connect+json",
        "application/proto",
    ],
)
def test_a_program_made_it(kind: str) -> None:
    assert not pages.made_by_one(request(content_type=kind))


def test_a_form_with_a_token_is_curls() -> None:
    assert not pages.made_by_one(request(content_type="application/x-www-form-urlencoded", authorization="Bearer x"))
    assert not pages.made_by_one(request(content_type="application/x-www-form-urlencoded", authorization="bearer x"))


def test_the_servers_own_events_are_no_calls() -> None:
    assert not pages.made_by_one({"type": "lifespan"})


async def test_the_answer_says_who_is_not_answered() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await pages.refuse(request("GET"), send)
    assert sent[0]["status"] == 403
    assert b'"code":"permission_denied"' in sent[1]["body"].replace(b" ", b"")
    sent.clear()
    await pages.refuse({"type": "websocket"}, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
