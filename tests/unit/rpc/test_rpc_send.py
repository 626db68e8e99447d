"""How answers are sent to readers that are slow, that leave, or whose calls are cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from echo_service import echo, frame

from gen.echo.v1.echo_pb import EchoRequest
from micro.rpc.send import LARGE, Attentive
from micro.testing import app as testing


class Server:
    """A server whose `send` is a future for all but the last piece, as one with backpressure has it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.waiting: list[asyncio.Future[None]] = []

    def send(self, message: dict[str, Any]) -> asyncio.Future[None]:
        self.sent.append(message)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if message.get("more_body"):
            self.waiting.append(future)
        else:
            future.set_result(None)
        return future

    async def waits(self) -> asyncio.Future[None]:
        while not self.waiting:
            await asyncio.sleep(0)
        return self.waiting.pop()


def body(size: int, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"x" * size, "more_body": more}


async def test_a_large_answer_does_not_end_before_its_reader_has_caught_up() -> None:
    server = Server()
    sending = asyncio.create_task(Attentive(server.send)(body(LARGE)))
    (await server.waits()).set_result(None)
    fetched = await server.waits()
    assert [(len(message["body"]), message["more_body"]) for message in server.sent] == [(LARGE, True), (0, True)]
    fetched.set_result(None)
    await sending
    assert (server.sent[2]["body"], server.sent[2]["more_body"]) == (b"", False)


async def test_a_small_answer_is_sent_as_it_is() -> None:
    server = Server()
    await Attentive(server.send)(body(LARGE - 1))
    assert server.sent == [body(LARGE - 1)]


async def test_what_a_server_still_has_to_set_is_not_cancelled_with_the_sender() -> None:
    server = Server()
    sending = asyncio.create_task(Attentive(server.send)(body(1, more=True)))
    future = await server.waits()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert not future.cancelled()
    future.set_exception(OSError())


async def test_an_exception_that_a_server_keeps_for_all_readers_keeps_none_of_their_frames() -> None:
    server, left = Server(), OSError("left")
    for _ in range(2):
        sending = asyncio.create_task(Attentive(server.send)(body(1, more=True)))
        (await server.waits()).set_exception(left)
        with pytest.raises(BrokenPipeError):
            await sending
        assert left.__traceback__ is None


@pytest.mark.parametrize(
    ("content_type", "extra"),
    [
        ("application/grpc", {}),
        ("application/json", {}),
        ("application/grpc-web", {}),
        ("application/proto", {}),
        ("application/grpc", {"grpc-encoding": "identity", "grpc-accept-encoding": "gzip"}),
    ],
)
async def test_a_large_unary_answer_arrives_whole_on_every_way(content_type: str, extra: dict[str, str]) -> None:
    request = EchoRequest(name="x" * LARGE)
    sent = b'{"name": "%s"}' % (b"x" * LARGE) if content_type == "application/json" else request.to_binary()
    framed = frame(sent) if "grpc" in content_type else sent
    headers = {"content-type": content_type, "te": "trailers", **extra}
    answer = await testing.http(echo(), "POST", "/echo.v1.Echo/Call", headers=headers, body=framed)
    assert answer.complete
    assert b"x" * LARGE in answer.body
