"""Unary calls over HTTP/1.1: against the true server where it is about calls, and against a few bytes where it is about
what else may answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gen.echo.v1.echo_connect import EchoClient
from gen.echo.v1.echo_pb import CountRequest, EchoRequest, EchoResponse, FailRequest, SleepRequest
from micro.domain.errors import Error, Kind
from micro.ports.free_address import free_address
from micro.rpc import errors as wire
from micro.rpc import exchanges, http1
from micro.rpc.client import Client
from micro.rpc.exchanges import Exchanges, NobodyError

_MESSAGE = EchoResponse(name="Ann").to_binary()
FRAME = b"\0" + len(_MESSAGE).to_bytes(4, "big") + _MESSAGE
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n"
ANSWER = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(FRAME) + FRAME + b"\r\n0\r\ngrpc-status: 0\r\n\r\n"


def own(client: Client) -> Exchanges:
    found = client.channel()._exchanges
    assert found is not None
    return found


def opened(client: Client) -> Any:
    """The connection of grpc's, where one was needed."""
    return client.channel()._opened


class Peer:
    """Says what it is told to, one answer a request, and remembers the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.tasks: list[asyncio.Task[Any] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                writer.write(answer)
                if answer == HEAD:  # and no more
                    await reader.read()
        writer.close()


@contextlib.asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[Peer, EchoClient, Client]]:
    peer = Peer(*answers)
    server = await asyncio.start_server(peer.serve, "127.0.0.1")
    client = Client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=5)
    try:
        yield peer, client.of(EchoClient), client
    finally:
        await client.close()
        server.close()
        await asyncio.gather(*filter(None, peer.tasks))


async def failed(call: Any) -> Error:
    with pytest.raises(Error) as raised:
        await call
    return raised.value


async def test_one_connection_is_used_again_and_grpc_is_not_needed(client: Client) -> None:
    echo = client.of(EchoClient)
    for number in range(20):
        assert (await echo.call(EchoRequest(name=str(number)))).name == str(number)
    assert len(own(client)._open) == 1
    assert opened(client) is None
    assert [answer.number async for answer in echo.count(CountRequest(to=2))] == [1, 2]
    assert opened(client) is not None, "streams go over HTTP/2"


async def test_calls_at_once_have_a_connection_each_and_get_their_own_answers(client: Client) -> None:
    echo = client.of(EchoClient)
    found = await asyncio.gather(*(echo.call(EchoRequest(name=str(number))) for number in range(100)))
    assert [answer.name for answer in found] == [str(number) for number in range(100)]
    assert 1 < len(own(client)._open) <= 100
    assert len(own(client)._kept) == len(own(client)._open), "all are free again"


async def test_more_calls_than_connections_go_over_http2(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "MOST", 4)
    echo = client.of(EchoClient)
    found = await asyncio.gather(*(echo.call(EchoRequest(name=str(number))) for number in range(50)))
    assert [answer.name for answer in found] == [str(number) for number in range(50)]
    assert len(own(client)._open) <= 4
    assert opened(client) is not None


async def test_an_error_comes_whole_and_the_connection_stays(client: Client) -> None:
    echo = client.of(EchoClient)
    for kind in (Kind.NOT_FOUND, Kind.RESOURCE_EXHAUSTED, Kind.DATA_LOSS):
        error = await failed(echo.fail(FailRequest(code=int(kind), message="käse % \n 100 %")))
        assert error.kind is kind
        assert error.message == "käse % \n 100 %"
    assert len(own(client)._kept) == 1


async def test_who_is_late_or_gives_up_hangs_up(client: Client) -> None:
    echo = client.of(EchoClient)
    assert (await failed(echo.sleep(SleepRequest(seconds=-1), timeout_ms=50))).kind is Kind.DEADLINE_EXCEEDED
    await client.close()  # the service may have been the first to say it
    calling = asyncio.ensure_future(echo.sleep(SleepRequest(seconds=-1)))
    while not own(client)._open:
        await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert not own(client)._kept
    assert (await echo.call(EchoRequest(name="Ann"))).name == "Ann"


async def test_what_is_said_and_how() -> None:
    async with answering(ANSWER, ANSWER, ANSWER) as (peer, echo, _):
        assert (await echo.call(EchoRequest(name="Ann"))).name == "Ann"
        assert (await echo.call(EchoRequest(name="Ann"), timeout_ms=200_000, headers={"x-bin": "aeh"})).name == "Ann"
        assert (await echo.call(EchoRequest(), timeout_ms=0)).name == "Ann"
        first, second, third = peer.requests
        assert peer.connections == 1
        lines = first.partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert lines[0] == b"POST /echo.v1.Echo/Call HTTP/1.1"
        assert {b"te:trailers", b"content-type:application/grpc", b"content-length: %d" % len(FRAME)} <= set(lines)
        assert first.endswith(b"\r\n\r\n" + FRAME)
        (given,) = (line for line in lines if line.startswith(b"grpc-timeout: "))
        assert 4_000_000 < int(given.removeprefix(b"grpc-timeout: ").removesuffix(b"u")) <= 5_000_001
        assert b"\r\ngrpc-timeout: 200000m\r\n" in second or b"\r\ngrpc-timeout: 199999m\r\n" in second
        assert b"\r\nx-bin:YWVo\r\n" in second, "what is called binary travels as base64"
        assert b"grpc-timeout" not in third


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, b"1u"), (1e-9, b"1u"), (0.25, b"250001u"), (99.9, b"99900001u"), (100, b"100001m"), (864_000, b"864001S")],
)
def test_a_deadline_has_at_most_eight_digits(seconds: float, said: bytes) -> None:
    assert exchanges._timeout(seconds) == said
    assert len(exchanges._timeout(1e12)) <= 9


async def test_an_error_without_a_message_is_in_the_head() -> None:
    head = HEAD + b"content-length: 0\r\n"
    told = b"".join(b"%s: %s\r\n" % pair for pair in wire.trailers(Error(Kind.ABORTED, "again")))
    async with answering(head + told + b"\r\n", ANSWER) as (peer, echo, _):
        error = await failed(echo.call(EchoRequest()))
        assert (error.kind, error.message) == (Kind.ABORTED, "again")
        assert (await echo.call(EchoRequest())).name == "Ann"
        assert peer.connections == 1


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (HEAD + b"grpc-status: 99\r\ngrpc-message: x\r\ncontent-length: 0\r\n\r\n", Kind.UNKNOWN, "x"),
        (HEAD + b"grpc-status: ten\r\ncontent-length: 0\r\n\r\n", Kind.UNKNOWN, ""),
        (HEAD + b"grpc-status: 5\r\ngrpc-status-details-bin: ?\r\ncontent-length: 0\r\n\r\n", Kind.NOT_FOUND, ""),
        (b"HTTP/1.1 503 no\r\ncontent-length: 2\r\n\r\nno", Kind.UNAVAILABLE, "HTTP status 503"),
        (b"HTTP/1.1 431 no\r\ncontent-length: 0\r\n\r\n", Kind.UNKNOWN, "HTTP status 431"),
        (HEAD + b"grpc-status: 0\r\ncontent-length: 0\r\n\r\n", Kind.INTERNAL, "not one message"),
        (HEAD + b"grpc-status: 0\r\ncontent-length: 6\r\n\r\n\0\0\0\0\x02a", Kind.INTERNAL, "not one message"),
        (HEAD + b"grpc-status: 0\r\ncontent-length: 5\r\n\r\n\x01\0\0\0\0", Kind.INTERNAL, "not one message"),
        (HEAD + b"content-length: 9\r\n\r\n\0", Kind.UNAVAILABLE, "ended before the answer did"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nx\r\n", Kind.UNAVAILABLE, "how long it is"),
        (b"", Kind.UNAVAILABLE, "ended before the answer did"),
    ],
)
async def test_what_is_no_answer(answer: bytes, kind: Kind, words: str) -> None:
    async with answering(answer) as (_, echo, _client):
        error = await failed(echo.call(EchoRequest()))
        assert error.kind is kind
        assert words in error.message


async def test_an_answer_whose_end_was_dropped_is_the_last_of_its_way() -> None:
    """A proxy that somebody put between may know no trailers: then calls go as gRPC does."""
    cut = HEAD + b"content-length: %d\r\n\r\n" % len(FRAME) + FRAME
    async with answering(cut, ANSWER) as (_, echo, client):
        error = await failed(echo.call(EchoRequest()))
        assert error.kind is Kind.UNAVAILABLE
        assert "has dropped the end of the answer" in error.message
        assert not own(client).room


async def test_who_speaks_http2_only_is_called_in_http2() -> None:
    server = grpc.aio.server()
    calls = 0

    async def call(request: EchoRequest, _context: Any) -> EchoResponse:
        nonlocal calls
        calls += 1
        return EchoResponse(name=request.name)

    method = grpc.unary_unary_rpc_method_handler(call, EchoRequest.from_binary, lambda answer: answer.to_binary())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.v1.Echo", {"Call": method}),))
    client = Client(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    try:
        for number in range(3):
            assert (await client.of(EchoClient).call(EchoRequest(name=str(number)))).name == str(number)
        assert calls == 3
        assert not own(client).room
    finally:
        await client.close()
        await server.stop(None)


async def test_a_connection_that_ended_meanwhile_is_not_used() -> None:
    last = ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
    async with answering(last, ANSWER, ANSWER) as (peer, echo, client):
        assert (await echo.call(EchoRequest())).name == "Ann"
        assert not own(client)._kept
        assert (await echo.call(EchoRequest())).name == "Ann"
        (kept,) = own(client)._kept
        kept.since -= exchanges.FRESH + 1
        assert (await echo.call(EchoRequest())).name == "Ann"
        assert peer.connections == 3


async def test_who_speaks_unasked_is_left() -> None:
    """Nobody waits for it, so it is no answer to what is asked next."""
    async with answering(ANSWER + ANSWER, ANSWER) as (peer, echo, _):
        assert (await failed(echo.call(EchoRequest()))).kind is Kind.UNAVAILABLE
        assert (await echo.call(EchoRequest())).name == "Ann"
        assert peer.connections == 2


async def test_connections_that_nobody_needs_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(*[ANSWER] * 4) as (peer, echo, client):
        monkeypatch.setattr(exchanges, "FRESH", 0.2)
        await asyncio.gather(echo.call(EchoRequest()), echo.call(EchoRequest()))
        assert len(own(client)._kept) == 2
        async with asyncio.timeout(10):
            await asyncio.gather(*filter(None, peer.tasks))  # both sides know
        assert not own(client)._kept


async def test_nobody_is_waited_for_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "PATIENCE", 0.2)
    nobody = Exchanges(free_address())
    for timeout in (0.15, None):
        with pytest.raises(NobodyError):
            await nobody.call("/echo.v1.Echo/Call", b"", timeout, ())


async def test_a_deadline_holds_though_nobody_answers() -> None:
    async with answering(HEAD) as (_, echo, client):
        error = await failed(echo.call(EchoRequest(), timeout_ms=100))
        assert (error.kind, error.message) == (Kind.DEADLINE_EXCEEDED, exchanges._LATE)
        assert not own(client)._kept


async def test_closing_ends_what_is_under_way(target: str) -> None:
    client = Client(target)
    calling = asyncio.ensure_future(client.of(EchoClient).sleep(SleepRequest(seconds=-1)))
    channel = client.channel()
    while not own(client)._open:
        await asyncio.sleep(0.01)
    await client.close()
    assert (await failed(calling)).kind is Kind.UNAVAILABLE
    call = channel.make("unary_unary", "/echo.v1.Echo/Call", bytes, bytes)
    assert "is closed" in (await failed(channel.unary(call, b"", 1, ()))).message


@pytest.mark.parametrize("name", ["Host", "content-length", "transfer-encoding", "te", "connection", "grpc-timeout"])
async def test_headers_of_the_connection_are_nobody_s(client: Client, name: str) -> None:
    error = await failed(client.call("echo", "call", {}, metadata={name: "1"}))
    assert error.kind is Kind.INVALID_ARGUMENT
    assert error.message == f"header {name.lower()} is the connection's own: leave it out"


def test_what_stands_behind_a_body_is_told() -> None:
    answer = http1.Answer()
    assert b"".join(answer.feed(ANSWER)) == FRAME
    assert answer.trailers == {"grpc-status": "0"}
    with pytest.raises(http1.ForeignError):
        http1.Answer().feed(b"\0\0\x12\x04\0\0\0\0\0")
