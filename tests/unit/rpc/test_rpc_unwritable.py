"""What cannot be written is refused where it was made; nothing else is sent in its place, either way."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from echo_service import EchoHandler, frame

from gen.echo.v1.echo_connect import EchoClient
from gen.echo.v1.echo_pb import (
    CountRequest,
    CountResponse,
    EchoRequest,
    EchoResponse,
    Everything,
    SumRequest,
    SumResponse,
)
from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.rpc.app import Application
from micro.rpc.client import Client
from micro.rpc.wkt import Struct, oneof
from micro.testing.app import connect, http
from micro.testing.local import LocalChannel

HALF = "\ud800"
"""A surrogate by itself, as Python makes them of file names that are no UTF-8."""


@pytest.fixture(params=["a process", "micro.testing"])
async def caller(request: pytest.FixtureRequest, client: Client) -> AsyncIterator[Client]:
    if request.param == "a process":
        yield client
        return
    with client.pool.through(LocalChannel({"echo": Application("echo", [EchoHandler()])})):
        yield client


def deep(levels: int) -> Struct:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return Struct.from_python(found)


MESSAGES: list[tuple[Any, str]] = [
    (EchoRequest(name=HALF), "name holds a lone surrogate"),
    (EchoRequest(names=["a", HALF]), r"names\[1\] holds a lone surrogate"),
    (EchoRequest(count=2**70), "count is out of range for int32"),
    (EchoRequest(name=5), "name cannot be written: expected string"),  # type: ignore[arg-type]
    (EchoRequest(body=Everything(counts={HALF: 1})), r"body.counts\['\\ud800'\] holds"),
    (EchoRequest(body=Everything(choice=oneof("left", HALF))), "body.left holds"),
    (EchoRequest(body=Everything(a=Everything.Inner(more=Everything(big=2**63)))), "body.a.more.big is out of range"),
    (EchoRequest(body=Everything(free=deep(200))), "body.free is nested too deeply"),
    ("no message", "it is no message"),
]


@pytest.mark.parametrize(("request_", "says"), MESSAGES, ids=[says for _, says in MESSAGES])
async def test_a_message_is_refused_by_its_field(caller: Client, request_: Any, says: str) -> None:
    with pytest.raises(Error, match=f"/echo.v1.Echo/Call: {says}") as raised:
        await caller.of(EchoClient).call(request_)
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    raised.value.message.encode()
    assert (await caller.of(EchoClient).call(EchoRequest(name="Ann"))).name == "Ann"


def endless() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["a"] = found
    return found


DICTS: list[tuple[Any, str]] = [
    ({"name": HALF}, "name holds a lone surrogate"),
    ({"name": {1, 2}}, "name cannot be written: a set has no place in JSON"),
    ({"body": {"names": ["a", dt.datetime(2024, 2, 29, tzinfo=dt.UTC)]}}, r"body.names\[1\] .* datetime has no place"),
    ({"count": Decimal(1)}, "count cannot be written: a Decimal"),
    ({"body": {"ratio": float("nan")}}, "body.ratio cannot be written"),
    ({"body": Everything(name=HALF)}, "body.name holds"),
    ({("a",): 1}, r"\[\('a',\)\] cannot be written: keys must be"),
    (endless(), "holds itself"),
]


@pytest.mark.parametrize(("request_", "says"), DICTS, ids=[says for _, says in DICTS])
async def test_a_dict_is_refused_by_its_key(caller: Client, request_: Any, says: str) -> None:
    with pytest.raises(Error, match=f"/echo/Echo/Call: .*{says}") as raised:
        await caller.call("echo", "Echo.Call", request_)
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    with pytest.raises(Error, match="/echo/Echo/Count"):
        [answer async for answer in caller.stream("echo", "Echo.Count", request_)]
    assert await caller.call("echo", "Echo.Call", {"name": "é", "body": Everything(name="Ann")})


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_stream_ends_with_what_cannot_be_sent_and_its_handler_does_not_take_it_for_whole(
    caller: Client, bulk: bool
) -> None:
    async def numbers(*found: int) -> AsyncIterator[SumRequest]:
        for number in found:
            yield SumRequest(number=number)

    echo, asked = caller.of(EchoClient, bulk=bulk), caller.of(EchoClient)
    before = (await asked.get_thing(EchoRequest())).names  # the sums of streams that came to their end
    with pytest.raises(Error, match=r"/echo.v1.Echo/Sum: number is out of range for int32") as raised:
        await echo.sum(numbers(71, 2**40, 2))
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    with pytest.raises(Error, match="number is out of range"):
        await echo.sum(numbers(2**40))
    assert (await echo.sum(numbers(1, 2))).sum == 3
    with pytest.raises(Error, match=r"/echo.v1.Echo/Count: to is out of range"):
        [answer async for answer in echo.count(CountRequest(to=2**40))]
    after = (await asked.get_thing(EchoRequest())).names
    assert set(after[len(before) :]) <= {"3"}


async def test_a_conversation_ends_with_what_cannot_be_said(caller: Client) -> None:
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def words(last: Callable[[], EchoRequest]) -> AsyncIterator[EchoRequest]:
        yield EchoRequest(name="a")
        assert await answers.get() == "A"
        yield last()
        yield EchoRequest(name="never")

    async def talk(last: Callable[[], EchoRequest]) -> None:
        async for answer in caller.of(EchoClient).chat(words(last)):
            answers.put_nowait(answer.name)

    with pytest.raises(Error, match=r"/echo.v1.Echo/Chat: name holds a lone surrogate") as raised:
        await talk(lambda: EchoRequest(name=HALF))
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    with pytest.raises(LookupError, match="nothing more to say"):
        await talk(lambda: {}["nothing more to say"])
    assert answers.empty()


async def test_who_is_cancelled_is_told_so_whatever_his_stream_says(client: Client) -> None:
    begun = asyncio.Event()

    async def numbers() -> AsyncIterator[SumRequest]:
        yield SumRequest(number=1)
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            raise LookupError("too late")

    calling = asyncio.ensure_future(client.of(EchoClient).sum(numbers()))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


@pytest.mark.parametrize(
    ("name", "value"),
    [("x", HALF), ("x", "a\nb"), ("x", "é"), ("x", 5), ("x y", "a"), ("", "a"), ("x\r\ny", "a")],
)
async def test_a_header_that_cannot_be_sent_is_refused(caller: Client, name: str, value: Any) -> None:
    with pytest.raises(Error, match="header") as raised:
        await caller.call("echo", "Echo.Call", {}, metadata={name: value})
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    with pytest.raises(Error, match="header"):
        await caller.of(EchoClient).call(EchoRequest(), headers={name: value})
    with pytest.raises(Error, match="header"):
        await Client(pool=caller.pool, metadata={name: value}).call("echo", "Echo.Call", {})


async def test_a_name_that_no_path_can_have_is_refused(caller: Client) -> None:
    for service, endpoint in (("echo" + HALF, "Call"), ("echo", "Call\n"), ("echo", "a b"), ("né", "Call")):
        with pytest.raises(Error, match="cannot be called") as raised:
            await caller.call(service, endpoint, {})
        assert raised.value.kind is Kind.INVALID_ARGUMENT
    with pytest.raises(Error, match="micro-service"):
        caller.of(EchoClient, "né")


async def test_a_connection_of_a_test_refuses_the_same() -> None:
    async with connect(Application("echo", [EchoHandler()])) as service:
        with pytest.raises(Error, match=r"/echo.v1.Echo/Call: name holds a lone surrogate"):
            await service.call("Echo.Call", EchoRequest(name=HALF))
        with pytest.raises(Error, match=r"/echo.v1.Echo/Call: name cannot be written: a set"):
            await service.call("Echo.Call", {"name": {1}})


class Says(EchoHandler):
    """Ends every call with one thing, streams after a first message."""

    def __init__(self, last: Callable[[type[Any]], Any]) -> None:
        super().__init__()
        self._last = last

    async def call(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return self._last(EchoResponse)  # type: ignore[no-any-return]

    async def count(self, request: CountRequest, ctx: Any) -> AsyncIterator[CountResponse]:
        yield CountResponse(number=1)
        yield self._last(CountResponse)

    async def sum(self, requests: AsyncIterator[SumRequest], ctx: Any) -> SumResponse:
        [_ async for _ in requests]
        return self._last(SumResponse)  # type: ignore[no-any-return]

    async def chat(self, requests: AsyncIterator[EchoRequest], ctx: Any) -> AsyncIterator[EchoResponse]:
        async for _ in requests:
            yield EchoResponse(name="first")
            yield self._last(EchoResponse)


WAYS = [
    *(("application/grpc", method) for method in ("Call", "Count", "Sum", "Chat")),
    *(("application/grpc-web", method) for method in ("Call", "Count")),
    *(("application/connect+proto", method) for method in ("Count", "Sum", "Chat")),
    *(("application/connect+json", method) for method in ("Count", "Chat")),
    ("application/grpc+json", "Call"),
    ("application/proto", "Call"),
    ("application/json", "Call"),
    ("", "Call"),
    ("", "Count"),
]


async def ended(kind: str, method: str, last: Callable[[type[Any]], Any]) -> str:
    """How a call of it ended, in whatever way its protocol tells that."""
    body = b"{}" if "json" in kind else b""
    body = frame(body) if "grpc" in kind or "connect" in kind else body
    headers = {"content-type": kind, "te": "trailers"}
    app = Application("echo", [Says(last)])
    answer = await http(app, "POST" if kind else "GET", f"/echo.v1.Echo/{method}", headers=headers, body=body)
    assert answer.complete
    return unquote(f"{answer.status} {answer.trailers} {answer.body.decode('utf-8', 'replace')}")


def wrong(cls: type[Any]) -> Any:
    field = cls.desc().fields[0].local_name
    return cls(name=HALF) if cls is EchoResponse else cls(**{field: 2**40})


@pytest.mark.parametrize(("kind", "method"), WAYS)
async def test_an_answer_that_cannot_be_written_is_an_internal_error(
    kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        told = await ended(kind, method, wrong)
    [record] = caplog.records
    assert record.exc_info
    assert record.getMessage().removeprefix("internal error, ") in told  # the id
    assert "internal error" in told
    assert "surrogate" not in told


@pytest.mark.parametrize(("kind", "method"), WAYS)
@pytest.mark.parametrize("library", [False, True])
async def test_an_error_s_text_arrives_whatever_is_in_it(kind: str, method: str, library: bool) -> None:
    def fail(_: type[Any]) -> Any:
        raise ConnectError(Code.NOT_FOUND, "no \udcff") if library else errors.not_found("no \udcff")

    told = await ended(kind, method, fail)
    assert "no \ufffd" in told
    assert "not_found" in told or "'grpc-status': '5'" in told or "grpc-status: 5" in told


@pytest.mark.parametrize(("kind", "method"), WAYS)
@pytest.mark.parametrize(
    "error",
    [
        Error(Kind.NOT_FOUND, ValueError("no such thing")),  # type: ignore[arg-type]
        errors.not_found("no such thing", details=[EchoRequest(name=HALF)]),
        errors.not_found("no such thing", details=["no message"]),
        errors.not_found("no such thing", details=[Struct.from_python({"a": float("nan")})]),
    ],
    ids=[
        "an exception for a text",
        "a detail that cannot be written",
        "a detail that is none",
        "a detail without JSON",
    ],
)
async def test_an_error_is_told_whatever_hangs_on_it(kind: str, method: str, error: Error) -> None:
    def fail(_: type[Any]) -> Any:
        raise error

    told = await ended(kind, method, fail)
    assert "no such thing" in told
    assert "internal" not in told


async def test_a_header_of_an_answer_is_made_fit_to_be_sent() -> None:
    class Handler(EchoHandler):
        async def call(self, request: EchoRequest, ctx: Any) -> EchoResponse:
            ctx.response_headers["x-file"] = "a\udcff\r\nx-evil: 1"
            return EchoResponse(name=request.name)

    app = Application("echo", [Handler()])
    for kind, body in (("application/json", b"{}"), ("application/grpc", frame(b""))):
        answer = await http(app, "POST", "/echo.v1.Echo/Call", headers={"content-type": kind}, body=body)
        assert answer.complete
        assert answer.headers["x-file"] == "a???x-evil: 1"
