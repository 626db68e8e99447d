"""What stands around the handlers sees every call, on every path, and may answer in their stead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from echo_service import echo, frame

from gen.echo.v1.echo_pb import CountRequest, EchoRequest, SumRequest
from micro.domain import errors
from micro.rpc.app import Application
from micro.rpc.client import _shrunk
from micro.rpc.context import CURRENT, Context
from micro.rpc.interceptor import Interceptor, Proceed, ProceedStream
from micro.testing.app import http

GRPC = {"content-type": "application/grpc", "te": "trailers"}
JSON = {"content-type": "application/json"}


class Noted(Interceptor):
    def __init__(self, name: str, seen: list[str]) -> None:
        self._name = name
        self._seen = seen

    async def __call__(self, ctx: Context, request: Any, proceed: Proceed) -> Any:
        self._seen.append(f"{self._name} before {ctx.endpoint.name}")
        try:
            return await proceed(ctx, request)
        finally:
            self._seen.append(f"{self._name} after")

    async def stream(self, ctx: Context, requests: AsyncIterator[Any], proceed: ProceedStream) -> AsyncIterator[Any]:
        self._seen.append(f"{self._name} before {ctx.endpoint.name}")
        async for response in proceed(ctx, requests):
            self._seen.append(f"{self._name} saw one")
            yield response
        self._seen.append(f"{self._name} after")


class Closed(Noted):
    async def __call__(self, ctx: Context, request: Any, proceed: Proceed) -> Any:
        raise errors.permission_denied("not you")

    async def stream(self, ctx: Context, requests: AsyncIterator[Any], proceed: ProceedStream) -> AsyncIterator[Any]:
        raise errors.permission_denied("not you")
        yield


@pytest.mark.parametrize("headers", [GRPC, JSON, {"content-type": "application/proto"}])
async def test_unary_calls_go_through_in_order(headers: dict[str, str]) -> None:
    seen: list[str] = []
    app = echo(interceptors=[Noted("outer", seen), Noted("inner", seen)])
    body = {"application/grpc": frame(b""), "application/json": b"{}"}.get(headers["content-type"], b"")
    assert (await http(app, "POST", "/echo.v1.Echo/Call", headers=headers, body=body)).status == 200
    assert seen == ["outer before Echo.Call", "inner before Echo.Call", "inner after", "outer after"]


@pytest.mark.parametrize(
    ("method", "message", "answers"),
    [("Count", CountRequest(to=2), 2), ("Sum", SumRequest(number=2), 1), ("Chat", EchoRequest(name="a"), 1)],
)
async def test_streams_go_through_whichever_side_is_one(method: str, message: Any, answers: int) -> None:
    seen: list[str] = []
    app = echo(interceptors=[Noted("outer", seen)])
    answer = await http(app, "POST", f"/echo.v1.Echo/{method}", headers=GRPC, body=frame(message.to_binary()))
    assert answer.trailers == {"grpc-status": "0"}
    assert seen[: answers + 1] == [f"outer before Echo.{method}", *["outer saw one"] * answers]


async def test_streams_over_plain_http_go_through_too() -> None:
    seen: list[str] = []
    answer = await http(
        echo(interceptors=[Noted("outer", seen)]), "POST", "/echo/count", headers=JSON, body=b'{"to":1}'
    )
    assert answer.body == b'{"number":1}\n'
    assert seen == ["outer before Echo.Count", "outer saw one", "outer after"]


@pytest.mark.parametrize("method", ["Call", "Count", "Sum", "Chat"])
async def test_an_interceptor_may_refuse(method: str) -> None:
    app: Application = echo(interceptors=[Closed("", [])])
    answer = await http(app, "POST", f"/echo.v1.Echo/{method}", headers=GRPC, body=frame(b""))
    assert (answer.trailers["grpc-status"], answer.body) == ("7", b"")


async def test_health_is_not_behind_them() -> None:
    app = echo(interceptors=[Closed("", [])])
    answer = await http(app, "POST", "/grpc.health.v1.Health/Check", headers=GRPC, body=frame(b""))
    assert answer.trailers["grpc-status"] == "0"


async def test_what_a_handler_leaves_running_outlives_the_call_s_deadline() -> None:
    """A task that a handler starts knows the call it came from, but is not bound by it once it is answered."""
    left: list[asyncio.Task[tuple[bool, float | None]]] = []
    answered = asyncio.Event()

    class Leaves(Noted):
        async def __call__(self, ctx: Context, request: Any, proceed: Proceed) -> Any:
            async def later() -> tuple[bool, float | None]:
                await answered.wait()
                return CURRENT.get() is ctx, _shrunk(99.0)

            left.append(asyncio.ensure_future(later()))
            return await proceed(ctx, request)

    await http(echo(interceptors=[Leaves("", [])]), "POST", "/echo", headers=JSON, body=b"{}")
    answered.set()
    assert await left[0] == (True, 99.0)
