"""What stops a call: its deadline, its caller's leaving, the process's end; and what does not."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest
from echo_service import EchoHandler, echo, frame
from hypothesis import given
from hypothesis import strategies as st

from gen.echo.v1.echo_connect import Audit
from gen.echo.v1.echo_pb import EchoRequest, EchoResponse, SleepRequest
from micro.domain.errors import Error, Kind
from micro.rpc import deadline
from micro.rpc.app import Application
from micro.rpc.context import CURRENT
from micro.rpc.method import method
from micro.testing.app import http

GRPC = {"content-type": "application/grpc", "te": "trailers"}
JSON = {"content-type": "application/json"}
FOREVER = SleepRequest(seconds=-1)


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"99999999n", 0.1)]
)
def test_grpc_timeouts_are_read(text: bytes, seconds: float) -> None:
    assert deadline.of_grpc(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"S", b"1", b"1s", b"-1S", b"+1S", b"1_0S", b" 1S", b"123456789S", b"\xb2S"])
def test_grpc_timeouts_amiss_are_refused(text: bytes) -> None:
    with pytest.raises(Error) as raised:
        deadline.of_grpc(text)
    assert raised.value.kind is Kind.INVALID_ARGUMENT


@given(st.binary(max_size=12))
def test_any_timeout_is_read_or_refused(text: bytes) -> None:
    for read in (deadline.of_grpc, deadline.of_connect):
        try:
            read(text)
        except Error as error:
            refused = error.kind
        else:
            continue
        assert refused is Kind.INVALID_ARGUMENT


async def test_a_caller_who_leaves_cancels_the_handler() -> None:
    handler, left = EchoHandler(), asyncio.Event()
    app = Application("echo", [handler])
    body = frame(FOREVER.to_binary())
    calling = asyncio.ensure_future(http(app, "POST", "/echo.v1.Echo/Sleep", headers=GRPC, body=body, left=left))
    await handler.waiting.wait()
    left.set()
    await handler.cancelled.wait()
    assert not (await calling).complete


async def test_a_server_whose_receive_does_not_wait_is_watched_all_the_same() -> None:
    """Some servers answer `receive` with empty messages over and over instead of waiting for the caller to leave."""
    handler, looks = EchoHandler(), 0
    body = frame(FOREVER.to_binary())

    async def receive() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        if looks > 3:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body if looks == 1 else b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/echo.v1.Echo/Sleep", "query_string": b""}
    headers = [(key.encode(), value.encode()) for key, value in GRPC.items()]
    await Application("echo", [handler])({**scope, "headers": headers}, receive, send)
    assert handler.cancelled.is_set()


async def test_the_end_of_the_process_is_told_and_cancels() -> None:
    handler, sent = EchoHandler(), []
    body = frame(FOREVER.to_binary())
    waiting = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        return await asyncio.Event().wait() or {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/echo.v1.Echo/Sleep", "query_string": b""}
    headers = [(key.encode(), value.encode()) for key, value in GRPC.items()]
    calling = asyncio.ensure_future(Application("echo", [handler])({**scope, "headers": headers}, receive, send))
    await handler.waiting.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert handler.cancelled.is_set()
    assert (b"grpc-status", b"14") in sent[-1]["headers"]


class Timeouts(Audit):
    def __init__(self) -> None:
        self.seen: list[float | None] = []

    @method(timeout=0.02)
    async def list(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        self.seen.append(ctx.timeout_ms)
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_method_may_have_a_deadline_of_its_own() -> None:
    answer = await http(Application("audit", [Timeouts()]), "POST", "/audit/list", headers=JSON, body=b"{}")
    assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")


async def test_the_caller_s_word_goes_before_the_method_s() -> None:
    handler = Timeouts()
    headers = {**JSON, "connect-timeout-ms": "60"}
    await http(Application("audit", [handler]), "POST", "/audit/list", headers=headers, body=b"{}")
    assert handler.seen[0] is not None
    assert 20 < handler.seen[0] <= 60


class Unlimited(Audit):
    @method(timeout=None)
    async def list(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(name=str(ctx.deadline))


async def test_a_method_may_have_no_deadline() -> None:
    answer = await http(Application("audit", [Unlimited()], timeout=5), "POST", "/audit/list", headers=JSON, body=b"{}")
    assert answer.json() == {"name": "None"}


class Plain(Audit):
    def list(self, request: EchoRequest, ctx: Any) -> EchoResponse:  # type: ignore[override]
        mark = MARK.get()
        current = CURRENT.get() is ctx
        return EchoResponse(name=f"{mark} {current} {threading.current_thread() is threading.main_thread()}")


MARK: ContextVar[str] = ContextVar("mark", default="none")


async def test_a_plain_function_runs_in_a_thread_with_the_call_s_variables() -> None:
    MARK.set("set")
    answer = await http(Application("audit", [Plain()]), "POST", "/audit/list", headers=JSON, body=b"{}")
    assert answer.json() == {"name": "set True False"}


async def test_the_current_call_is_forgotten_after_it() -> None:
    await http(echo(), "POST", "/echo", headers=JSON, body=b"{}")
    assert CURRENT.get() is None


async def _shielding() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "saved"
    raise AssertionError


async def test_a_coroutine_may_answer_although_it_is_stopped() -> None:
    assert await deadline.run(_shielding(), time.monotonic() + 0.01) == "saved"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_is_not_taken_for_the_deadline() -> None:
    async def work() -> None:
        await deadline.run(asyncio.Event().wait(), time.monotonic() + 60)  # type: ignore[arg-type]

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_is_not_lost_behind_the_deadline_s() -> None:
    cleaning = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaning.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(deadline.run(slow_to_stop(), time.monotonic() + 0.01))
    await cleaning.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_inside_the_handler_is_the_handler_s_own() -> None:
    async def work() -> str:
        try:
            async with asyncio.timeout(0.005):
                await asyncio.Event().wait()
        except TimeoutError:
            return "mine"
        raise AssertionError

    assert await deadline.run(work(), time.monotonic() + 60) == "mine"


async def test_what_never_waits_is_never_stopped() -> None:
    async def work() -> int:
        return 1

    assert await deadline.run(work(), time.monotonic() - 1) == 1


async def test_a_stream_that_never_waits_lets_others_have_their_turn() -> None:
    breath, turns = deadline.Breath(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    while turns < 3:
        await breath()
    task.cancel()


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({b"grpc-timeout": b"5S"}, b"5S"),
        ({b"grpc-timeout": b"11S", b"micro-timeout": b"-"}, None),
        ({b"grpc-timeout": b"11S", b"micro-timeout": b"-5S"}, b"5S"),
    ],
)
def test_the_deadline_is_the_callers_and_not_that_of_the_gateway_between(
    headers: dict[bytes, bytes], found: bytes | None
) -> None:
    assert deadline.given(headers) == found
    kept = deadline.restored({"headers": [*headers.items(), (b"x", b"y")]}, headers)["headers"]
    assert dict(kept) == {b"x": b"y", **({b"grpc-timeout": found} if found else {})}
