"""HTTP and streams on the wire, spoken by a peer that says exactly what a test wants."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from micro.cli import failures, http1
from micro.cli.transport import Address, Transport, envelope
from micro.domain.errors import Kind

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+json\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextlib.contextmanager
def peer(*answer: bytes, hold: threading.Event | None = None) -> Iterator[Transport]:
    """A server that takes one request, sends these bytes, and closes (or holds the line until told)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for piece in answer:
                    connection.sendall(piece)
                if hold:
                    hold.wait(20)
                with contextlib.suppress(OSError):  # a close with something unread would take the answer back
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Transport(Address("127.0.0.1", listener.getsockname()[1]), "micro", ": start one")
        finally:
            if hold:
                hold.set()
            thread.join()


def call(transport: Transport, patience: float | None = 20.0) -> bytes:
    return transport.unary("s", "/s.S/M", b"{}", patience=patience)


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}',
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b'{"a"', b":1}"),
        b'HTTP/1.1 200 OK\r\n\r\n{"a":1}',
        b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:7\r\n\r\n{"a":1}',
    ],
)
def test_an_answer_is_read_however_its_length_is_told(answer: bytes) -> None:
    with peer(answer) as transport:
        assert call(transport) == b'{"a":1}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}",
        b"\xff" * 100_000,
    ],
)
def test_a_broken_answer_is_told_as_one(answer: bytes) -> None:
    with peer(answer) as transport, pytest.raises(failures.UnreachableError, match="broke off"):
        call(transport)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, b'{"code":"not_found","message":"no such book","details":[]}', Kind.NOT_FOUND, "not_found: no such book"),
        (503, b"upstream connect error", Kind.UNAVAILABLE, "unavailable: HTTP 503: upstream connect error"),
        (404, b"", Kind.UNIMPLEMENTED, "unimplemented: HTTP 404"),
        (500, b'{"code":"strange"}', Kind.UNKNOWN, "unknown"),
        (500, b'["code"]', Kind.UNKNOWN, 'unknown: HTTP 500: ["code"]'),
    ],
)
def test_an_error_is_read_whoever_wrote_it(status: int, body: bytes, kind: Kind, text: str) -> None:
    answer = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
    with peer(answer) as transport, pytest.raises(failures.AnsweredError) as caught:
        call(transport)
    assert (caught.value.kind, str(caught.value)) == (kind, text)


def test_a_silent_server_is_given_up_on() -> None:
    with peer(hold=threading.Event()) as transport, pytest.raises(failures.AnsweredError) as caught:
        call(transport, patience=0.05)
    assert caught.value.kind is Kind.DEADLINE_EXCEEDED


def test_nobody_there_and_an_unknown_host_say_so() -> None:
    with pytest.raises(failures.UnreachableError, match=r"no server at 127.0.0.1:1: start one"):
        call(Transport(Address("127.0.0.1", 1), "micro", ": start one"))
    with pytest.raises(failures.UnreachableError, match=r"no server at http://nowhere.invalid:1 \(.*\)"):
        call(Transport(Address("nowhere.invalid", 1), "micro"))


def stream(transport: Transport) -> list[bytes]:
    return list(transport.stream("s", "/s.S/M", [b"{}"], patience=20.0))


def test_messages_are_cut_out_of_chunks_wherever_these_end() -> None:
    data = envelope(b'{"a":1}') + envelope(b"") + envelope(b"x" * 70_000) + envelope(b"{}", 2)
    pieces = [data[start : start + 3] for start in range(0, 60, 3)] + [data[60:]]
    with peer(STREAM, chunked(*pieces)) as transport:
        assert stream(transport) == [b'{"a":1}', b"", b"x" * 70_000]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        envelope(b"{}"),
        envelope(b"{}")[:4],
        envelope(b'{"long":1}')[:9],
        b"\x00\xff\xff\xff\xff",
    ],
)
def test_a_stream_without_its_last_message_is_an_error(data: bytes) -> None:
    body = chunked(data) if data else chunked()
    with peer(STREAM, body) as transport, pytest.raises(failures.UnreachableError, match="broke off"):
        stream(transport)


def test_a_stream_that_is_refused_as_a_whole_tells_why() -> None:
    body = b'{"code":"unauthenticated","message":"who are you?"}'
    answer = b"HTTP/1.1 401 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with peer(answer) as transport, pytest.raises(failures.AnsweredError, match="who are you") as caught:
        stream(transport)
    assert failures.exit_code(caught.value) == failures.USAGE


def test_a_stream_left_early_leaves_no_open_connection() -> None:
    data = envelope(b"1") + envelope(b"2")
    with peer(STREAM, b"%x\r\n%b\r\n" % (len(data), data), hold=threading.Event()) as transport:
        answers = transport.stream("s", "/s.S/M", [b"{}"])
        assert next(answers) == b"1"
        answers.close()  # type: ignore[attr-defined]
        with pytest.raises(StopIteration):
            next(answers)


def test_ctrl_c_right_before_a_wait_for_ever_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that another thread is given stands for one that comes between the last look and the wait."""
    monkeypatch.setattr(http1, "LOOK_SECONDS", 0.05)

    def ctrl_c() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            connection = http1.Connection(*server.getsockname())
            pressing = threading.Timer(0.2, ctrl_c)
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may be as early as that
                pressing.start()
                connection.receive_head()
            connection.close()
            pressing.join()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR1, before)
