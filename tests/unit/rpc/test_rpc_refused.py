"""Calls that are refused by their headers: who sends a small body has sent it when the answer comes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from echo_service import echo

from micro.domain import errors
from micro.rpc import receive as receiving
from micro.rpc.guard import Guard

SMALL, LARGE = 64 * 1024, 64 * 1024 + 1
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


class Closed(Guard):
    """Lets nobody in."""

    def admit(self, ctx: Any, headers: Any) -> None:
        raise errors.permission_denied("nobody may")

    def reveal(self, headers: Any) -> None:
        raise errors.permission_denied("nobody may")


class Caller:
    """Sends a body in two parts, the second of which may never come, and notes what it had sent at the answer."""

    def __init__(self, *, stops: bool = False, leaves: bool = False) -> None:
        self.taken = 0
        self.at_answer: int | None = None
        self.status = 0
        self._stops, self._leaves = stops, leaves

    async def receive(self) -> dict[str, Any]:
        self.taken += 1
        if self.taken == 1:
            return {"type": "http.request", "body": b"{", "more_body": True}
        if self._stops or self.taken > 2:
            await asyncio.Event().wait()
        if self._leaves:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"}", "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.at_answer, self.status = self.taken, message["status"]

    async def call(self, path: str, kind: str, *, length: int | None = 2, verb: str = "POST") -> Caller:
        headers = [(b"content-type", kind.encode())]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        scope = {"type": "http", "method": verb, "path": path, "query_string": b"", "headers": headers}
        await echo(guard=Closed())(scope, self.receive, self.send)
        return self


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/echo/call", JSON),
        ("/echo/call", FORM),
        ("/echo.v1.Echo/Call", "application/proto"),
        ("/echo.v1.Echo/Call", "application/grpc-web+proto"),
        ("/echo.v1.Echo/Count", "application/connect+json"),
        ("/echo/count", JSON),
        ("/echo/nothing", JSON),
    ],
)
async def test_a_small_body_is_taken_first(path: str, kind: str) -> None:
    assert (await Caller().call(path, kind)).at_answer == 2
    assert (await Caller().call(path, kind, length=SMALL)).at_answer == 2


@pytest.mark.parametrize("length", [LARGE, 10**30, None])
async def test_a_large_one_or_one_of_unknown_length_is_refused_at_once(length: int | None) -> None:
    for kind in (JSON, FORM):
        made = await Caller().call("/echo/call", kind, length=length)
        assert (made.at_answer, made.status) == (0, 403)


async def test_grpc_is_refused_at_once() -> None:
    assert (await Caller().call("/echo.v1.Echo/Call", "application/grpc")).at_answer == 0


async def test_a_body_that_stops_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "_PATIENCE", 0.01)
    made = await Caller(stops=True).call("/echo/call", JSON)
    assert (made.at_answer, made.status) == (2, 403)


async def test_who_leaves_meanwhile_keeps_nobody() -> None:
    assert (await Caller(leaves=True).call("/echo/call", JSON)).at_answer == 2


async def test_what_headers_alone_refuse_takes_a_small_body_too() -> None:
    made = Caller()
    scope = {"type": "http", "method": "POST", "path": "/echo/call", "query_string": b""}
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await echo()({**scope, "headers": headers}, made.receive, made.send)
    assert (made.at_answer, made.status) == (2, 415)
