"""Answers over HTTP/1.1, told from the bytes however they are cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from micro.rpc.http1 import MAX_HEAD, Answer, BrokenError, Connection, head, pauses

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nContent-Type: a/b\r\n\r\n"


def told(data: bytes, step: int) -> tuple[Answer, bytes]:
    answer, body = Answer(), b""
    for start in range(0, len(data), step):
        body += b"".join(answer.feed(data[start : start + step]))
    return answer, body


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "body",
    [b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n", b"B\r\nhello world\r\n0\r\nt: 1\r\nu: 2\r\n\r\n"],
)
def test_a_body_in_chunks_is_whole_however_it_arrives(body: bytes, step: int) -> None:
    answer, found = told(CHUNKED + body, step)
    assert (found, answer.status, answer.ended, answer.last) == (b"hello world", 200, True, False)
    assert answer.headers["content-type"] == "a/b"


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_body_of_a_length_ends_there(step: int) -> None:
    answer, found = told(b"HTTP/1.1 503 No\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody", step)
    assert (found, answer.status, answer.ended, answer.last) == (b"body", 503, True, True)
    empty, nothing = told(b"HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", step)
    assert (nothing, empty.ended) == (b"", True)


def test_a_word_meanwhile_is_no_answer() -> None:
    answer, found = told(b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"1\r\nx\r\n0\r\n\r\n", 9)
    assert (found, answer.status, answer.ended) == (b"x", 200, True)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n",
        OK + b"connection: keep-alive, Close\r\n",
        OK + b"connection: keep-alive\r\nconnection: close\r\n",
    ],
)
def test_who_hangs_up_says_so_in_many_ways(head: bytes) -> None:
    answer, found = told(head + b"content-length: 2\r\n\r\nab", 1000)
    assert (found, answer.ended, answer.last) == (b"ab", True, True)


def test_a_length_may_be_said_twice() -> None:
    answer, found = told(OK + b"content-length: 2\r\nContent-Length:2\r\n\r\nab", 1000)
    assert (found, answer.ended, answer.last) == (b"ab", True, False)


@pytest.mark.parametrize("step", [13, 1 << 20])
def test_a_head_has_a_limit_and_may_reach_it(step: int) -> None:
    start = OK + b"transfer-encoding: chunked\r\na: "
    full = start + b"x" * (MAX_HEAD - len(start))
    answer, found = told(full + b"\r\n\r\n1\r\nx\r\n0\r\n\r\n", step)
    assert (found, answer.ended) == (b"x", True)
    with pytest.raises(BrokenError, match="too long"):
        told(full + b"x\r\n\r\n", step)


@pytest.mark.parametrize("data", [CHUNKED + b"0\r\n" + b"a: b\r\n" * MAX_HEAD, b"HTTP/1.1 102 x\r\n\r\n" * MAX_HEAD])
def test_neither_a_trailer_nor_words_meanwhile_go_on_for_ever(data: bytes) -> None:
    with pytest.raises(BrokenError, match="too long"):
        told(data, 1 << 20)


def test_what_is_cut_off_has_not_ended() -> None:
    assert not told(CHUNKED + b"5\r\nhello\r\n", 1000)[0].ended
    assert not told(CHUNKED + b"0\r\n", 1000)[0].ended


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        OK + b"content-length: 9\r\ncontent-length: 2\r\n\r\nab",
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        OK + b"content-length: 2\r\ntransfer-encoding: gzip\r\n\r\nab",
        OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        OK + b"nonsense\r\ncontent-length: 2\r\n\r\nab",
        OK + b"content-length: 2\r\n x: y\r\n\r\nab",
        OK + b"content-length : 2\r\n\r\nab",
        b"HTTP/1.1 101 Other\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
        CHUNKED + b"0\r\nnonsense\r\n\r\n",
        CHUNKED + b"-5\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"0x5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello!\r\n",
        CHUNKED + b"0\r\n\r\nmore",
        b"HTTP/1.1 " + b"x" * (MAX_HEAD + 1),
        CHUNKED + b"5;" + b"x" * (MAX_HEAD + 1),
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenError):
        told(data, 1 << 20)


def test_a_header_cannot_become_two() -> None:
    assert head("POST", "/a", [("host", "x"), ("b", "ü")]) == b"POST /a HTTP/1.1\r\nhost:x\r\nb:\xfc\r\n\r\n"
    for name, value in (("a", "b\r\nc: d"), ("a", "b\nc"), ("a b", "c"), ("", "c"), ("a", "\0"), ("a", "…")):
        with pytest.raises(ValueError, match="cannot be sent"):
            head("POST", "/", [(name, value)])


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Connection, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, and the other side of it."""
    found: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await found.put((reader, writer))

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    reader, writer = await found.get()
    yield connection, reader, writer
    connection.abort()
    writer.transport.abort()
    server.close()


Pair = tuple[Connection, asyncio.StreamReader, asyncio.StreamWriter]


async def test_who_read_a_large_answer_notices_that_the_other_side_hung_up(pair: Pair) -> None:
    connection, _, writer = pair
    size = 3 << 20
    writer.write(bytes(size))
    while connection._reading:  # until more has come than may wait
        await asyncio.sleep(0)
    while size:
        size -= len(await connection.some())
    assert connection.free
    writer.close()
    async with asyncio.timeout(10):
        while connection.free:
            await asyncio.sleep(0)


async def test_who_says_no_more_and_does_not_listen_is_not_waited_for(pair: Pair) -> None:
    connection, _, writer = pair
    writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def send() -> None:
        while True:
            await connection.send([bytes(1 << 20)])

    sending = asyncio.ensure_future(send())  # owned: ends below
    while not connection._full:
        await asyncio.sleep(0)
    writer.write(b"half")
    writer.write_eof()
    async with asyncio.timeout(10):
        assert await connection.some() == b"half"
        with pytest.raises(BrokenError):
            await connection.some()
        with pytest.raises(BrokenError):
            await sending
    assert not connection.free


@pytest.mark.parametrize("gather", [False, True])
async def test_parts_go_one_after_the_other_without_the_empty_ones(pair: Pair, gather: bool) -> None:
    connection, reader, _ = pair
    connection._gather = gather
    await connection.send([b""])
    await connection.send([b"", b"ab", b"", b"c", b""])
    assert await reader.readexactly(3) == b"abc"
    assert connection._transport is not None
    assert connection._transport.get_write_buffer_size() == 0


async def test_a_machine_that_vanished_would_be_noticed(pair: Pair) -> None:
    connection, _, _ = pair
    assert connection._transport is not None
    found = connection._transport.get_extra_info("socket")
    assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_releases_whose_writelines_does_not_pause() -> None:
    bad = [(3, 12, 0), (3, 12, 8), (3, 13, 0), (3, 13, 1)]
    good = [(3, 11, 7), (3, 12, 9), (3, 13, 2), (3, 14, 0)]
    assert [pauses(version) for version in bad + good] == [False] * 4 + [True] * 4
