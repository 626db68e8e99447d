"""Streams over connections of their own, against a real process: they behave as those over gRPC do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from authority import Authority
from gen.echo.v1.echo_connect import EchoClient
from gen.echo.v1.echo_pb import CountRequest, EchoRequest, EchoResponse, SumRequest
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.ports.free_address import free_address
from micro.rpc import bulk
from micro.rpc.bulk import BulkChannel
from micro.rpc.client import Client
from micro.rpc.envelopes import END, prefix


@pytest.fixture
def echo(client: Client) -> EchoClient:
    return client.of(EchoClient, bulk=True)


def kept(client: Client) -> int:
    """Connections that wait for the next stream."""
    channel = client.channel(bulk=True)
    assert isinstance(channel, BulkChannel)
    return len(channel._kept)


async def numbers(*found: int) -> AsyncIterator[SumRequest]:
    for number in found:
        yield SumRequest(number=number)


def answering(body: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A server that says the same to everybody, whatever they send, and hangs up."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + body)
        writer.close()

    return answer


class Someone:
    """Has one token, and notes that it was not taken."""

    def __init__(self) -> None:
        self.refusals: list[str] = []

    async def token(self, audience: Audience) -> str:
        return "old"

    def refused(self, token: str) -> bool:
        self.refusals.append(token)
        return False


async def test_streams_go_one_way_and_the_other_over_one_connection(client: Client, echo: EchoClient) -> None:
    for _ in range(3):
        assert [answer.number async for answer in echo.count(CountRequest(to=3))] == [1, 2, 3]
        assert (await echo.sum(numbers(1, 2, 3))).sum == 6
        assert [answer async for answer in echo.count(CountRequest())] == []
        assert (await echo.sum(numbers())).sum == 0
    assert kept(client) == 1


async def test_many_at_once_have_a_connection_each(client: Client, echo: EchoClient) -> None:
    sums = await asyncio.gather(*(echo.sum(numbers(*range(number))) for number in range(20)))
    assert [answer.sum for answer in sums] == [sum(range(number)) for number in range(20)]
    assert 1 <= kept(client) <= 4


async def test_an_error_comes_where_it_happened(client: Client, echo: EchoClient) -> None:
    answers = echo.count(CountRequest(to=3, fail_at=3))
    assert [(await anext(answers)).number for _ in range(2)] == [1, 2]
    with pytest.raises(Error, match="lost count") as failed:
        await anext(answers)
    assert failed.value.kind is Kind.DATA_LOSS
    assert kept(client) == 0, "who fails may not have heard all, and hang up"


async def test_a_deadline_ends_a_stream(echo: EchoClient) -> None:
    with pytest.raises(Error) as late:
        async for _ in echo.count(CountRequest(to=-1), timeout_ms=100):
            pass
    assert late.value.kind is Kind.DEADLINE_EXCEEDED


async def test_who_leaves_early_frees_all(client: Client, echo: EchoClient) -> None:
    answers: Any = echo.count(CountRequest(to=-1))
    async with aclosing(answers):
        waiting = asyncio.ensure_future(anext(answers))  # owned: cancelled below
        await asyncio.wait([waiting], timeout=0.1)
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, StopAsyncIteration)):
            await waiting
    assert kept(client) == 0
    assert (await echo.sum(numbers(5))).sum == 5


async def test_what_the_source_raises_is_raised(client: Client, echo: EchoClient) -> None:
    async def failing() -> AsyncIterator[SumRequest]:
        yield SumRequest(number=1)
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        await echo.sum(failing())
    assert kept(client) == 0


async def test_a_cancelled_call_ends_its_source(echo: EchoClient) -> None:
    ended, begun = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[SumRequest]:
        try:
            yield SumRequest(number=1)
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    calling = asyncio.ensure_future(echo.sum(endless()))  # owned: cancelled below
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ended.is_set()


async def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = free_address()
    client = Client(nowhere)
    echo = client.of(EchoClient, bulk=True)
    with pytest.raises(Error, match=f"the deadline passed before {nowhere} answered") as late:
        await echo.sum(numbers(1), timeout_ms=150)
    assert late.value.kind is Kind.DEADLINE_EXCEEDED
    monkeypatch.setattr(bulk, "DEFAULT_TIMEOUT", 0.1)
    with pytest.raises(Error, match=f"nothing answers at {nowhere}") as failed:
        await echo.sum(numbers(1), timeout_ms=60_000)
    assert failed.value.kind is Kind.UNAVAILABLE
    await client.close()


async def test_a_stream_that_outlives_its_client_leaves_no_connection(target: str) -> None:
    client = Client(target)
    channel = client.channel(bulk=True)
    assert isinstance(channel, BulkChannel)
    begun, closed = asyncio.Event(), asyncio.Event()

    async def waiting() -> AsyncIterator[SumRequest]:
        yield SumRequest(number=1)
        begun.set()
        await closed.wait()
        yield SumRequest(number=2)

    calling = asyncio.ensure_future(client.of(EchoClient, bulk=True).sum(waiting()))  # owned: awaited below
    await begun.wait()
    await client.close()
    closed.set()
    assert (await calling).sum == 3
    assert channel._kept == []


@pytest.mark.parametrize("text", [b"", b"\n", "ü".encode(), b"no certificate"])
async def test_a_file_without_certificates_is_no_reason_to_trust_others(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "ca.pem"
    found.write_bytes(text)
    monkeypatch.setenv("MICRO_CA", str(found))
    with pytest.raises(Error, match="MICRO_CA names a file without certificates") as refused:
        BulkChannel("https://127.0.0.1:1")
    assert refused.value.kind is Kind.FAILED_PRECONDITION


async def test_whoever_listens_but_breaks_off_is_unavailable() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        client = Client(f"{host}:{port}")
        with pytest.raises(Error, match="ended before the answer did") as failed:
            await client.of(EchoClient, bulk=True).sum(numbers(1))
        assert failed.value.kind is Kind.UNAVAILABLE
        await client.close()


async def test_a_private_connection_is_with_whom_the_authority_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    private = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    private.load_cert_chain(*authority.write("server"))

    answer = answering(prefix(2) + b"\x08\x07" + prefix(2, END) + b"{}")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=private)
    async with server:
        target = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("MICRO_CA", str(authority.file))
        client = Client(target)
        assert (await client.of(EchoClient, bulk=True).sum(numbers(7))).sum == 7
        await client.close()
        other = tmp_path / "other"
        other.mkdir()
        monkeypatch.setenv("MICRO_CA", str(Authority(other, "Another").file))
        client = Client(target)
        with pytest.raises(Error, match="Is its certificate's authority in the file that MICRO_CA names") as refused:
            await client.of(EchoClient, bulk=True).sum(numbers(7))
        assert refused.value.kind is Kind.UNAVAILABLE


async def test_a_server_that_asks_for_a_certificate_is_shown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    private = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    private.load_cert_chain(*authority.write("server"))
    private.load_verify_locations(authority.file)
    private.verify_mode = ssl.CERT_REQUIRED

    answer = answering(prefix(2) + b"\x08\x07" + prefix(2, END) + b"{}")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=private)
    monkeypatch.setenv("MICRO_CA", str(authority.file))
    for name, file in zip(("MICRO_CERT", "MICRO_KEY"), authority.write("mine"), strict=True):
        monkeypatch.setenv(name, str(file))
    async with server:
        client = Client(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert (await client.of(EchoClient, bulk=True).sum(numbers(7))).sum == 7
        await client.close()


async def test_a_token_that_does_not_hold_is_forgotten() -> None:
    end = b'{"error": {"code": "unauthenticated", "message": "no"}, "metadata": {"micro-refused": ["authorization"]}}'
    server = await asyncio.start_server(answering(prefix(len(end), END) + end), "127.0.0.1", 0)
    async with server:
        someone = Someone()
        client = Client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", identity=someone)
        with pytest.raises(Error, match="no") as refused:
            await client.of(EchoClient, bulk=True).sum(numbers(7))
        assert (refused.value.kind, someone.refusals) == (Kind.UNAUTHENTICATED, ["old"])
        await client.close()


@pytest.mark.parametrize("body", [b"", prefix(2) + b"\x08", prefix(2) + b"\x08\x07", prefix(1, END) + b"?"])
async def test_an_answer_that_is_none_is_an_error(body: bytes) -> None:
    server = await asyncio.start_server(answering(body), "127.0.0.1", 0)
    async with server:
        client = Client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Error) as failed:
            await client.of(EchoClient, bulk=True).sum(numbers(7))
        assert failed.value.kind in (Kind.UNAVAILABLE, Kind.INTERNAL)
        await client.close()


async def test_a_header_that_would_be_two_is_refused(echo: EchoClient) -> None:
    with pytest.raises(Error, match="cannot be sent") as refused:
        await echo.sum(numbers(1), headers={"x-a": "b\r\nx-c: d"})
    assert refused.value.kind is Kind.INVALID_ARGUMENT


async def names(*found: str) -> AsyncIterator[EchoRequest]:
    for name in found:
        yield EchoRequest(name=name)


async def test_both_sides_talk_at_once(echo: EchoClient) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()

    async def talking() -> AsyncIterator[EchoRequest]:
        while name := await said.get():
            yield EchoRequest(name=name)

    answers = echo.chat(talking())
    for name in ("a", "b"):
        said.put_nowait(name)
        assert (await anext(answers)).name == name.upper()
    said.put_nowait("")
    assert [answer async for answer in answers] == []


async def test_what_fails_in_a_talk_is_told_before_all_is_said(echo: EchoClient) -> None:
    async def failing() -> AsyncIterator[EchoRequest]:
        yield EchoRequest(name="a")
        yield EchoRequest(name="fail")
        await asyncio.Event().wait()

    answers = echo.chat(failing())
    assert (await anext(answers)).name == "A"
    with pytest.raises(Error, match="no more") as failed:
        await anext(answers)
    assert failed.value.kind is Kind.ABORTED


async def test_an_answer_can_come_before_anything_was_said() -> None:
    begun = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        hello = EchoResponse(name="hello").to_binary()
        body = prefix(len(hello)) + hello
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"%x\r\n%s\r\n" % (len(body), body))
        begun.set()

    async def silent() -> AsyncIterator[EchoRequest]:
        await asyncio.Event().wait()
        yield EchoRequest()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        client = Client(f"{host}:{port}")
        answers = client.of(EchoClient, bulk=True).chat(silent())
        assert (await anext(answers)).name == "hello"
        await client.close()
        with pytest.raises(Error, match="the connection ended") as ended:
            await anext(answers)
        assert ended.value.kind is Kind.UNAVAILABLE, "a talk may have no end of its own"


async def test_who_speaks_no_http1_is_talked_to_in_another_way() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # how HTTP/2 begins
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        client = Client(f"{host}:{port}")
        assert client.hurried
        with pytest.raises(Error, match="does not speak HTTP") as failed:
            await anext(client.of(EchoClient, bulk=True).chat(names("a")))
        assert failed.value.kind is Kind.UNAVAILABLE
        assert not client.hurried
        await client.close()


async def test_private_connections_are_not_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MICRO_CA", raising=False)
    assert not BulkChannel("https://127.0.0.1:1").hurried
