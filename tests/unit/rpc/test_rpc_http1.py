"""Answers over HTTP/1.1, told from the bytes however they are cut."""

from __future__ import annotations

import pytest

from micro.rpc.http1 import MAX_HEAD, Answer, BrokenError, head

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


def test_what_is_cut_off_has_not_ended() -> None:
    assert not told(CHUNKED + b"5\r\nhello\r\n", 1000)[0].ended
    assert not told(CHUNKED + b"0\r\n", 1000)[0].ended


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
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
