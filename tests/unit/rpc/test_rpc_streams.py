"""Streams over plain HTTP and WebSocket: each message as it comes, errors in their place, nothing left running."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar, Self

import pytest
from echo_service import AuditHandler, EchoHandler, echo, frame

from gen.echo.v1.echo_pb import CountRequest, CountResponse, EchoRequest, EchoResponse, SumRequest, SumResponse
from micro.rpc.app import Application
from micro.testing.app import http

JSON = {"content-type": "application/json"}
GRPC = {"content-type": "application/grpc", "te": "trailers"}
EVENTS = {**JSON, "accept": "text/event-stream"}


async def test_a_stream_is_a_line_a_message() -> None:
    answer = await http(echo(), "POST", "/echo/count", headers=JSON, body=b'{"to":3}')
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-head"] == "count"
    assert answer.chunks == [b'{"number":1}\n', b'{"number":2}\n', b'{"number":3}\n']
    assert answer.complete


async def test_a_stream_is_events_for_who_accepts_them() -> None:
    answer = await http(echo(), "GET", "/echo/count", query=b"to=2", headers=EVENTS)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.chunks == [b'data: {"number":1}\n\n', b'data: {"number":2}\n\n']


async def test_an_error_in_the_middle_is_the_last_line() -> None:
    answer = await http(echo(), "POST", "/echo/count", headers=JSON, body=b'{"to":3,"failAt":2}')
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines == [{"number": 1}, {"error": {"code": "data_loss", "message": "lost count"}}]
    assert (answer.status, answer.complete) == (200, True)


async def test_an_error_in_the_middle_is_an_event() -> None:
    answer = await http(echo(), "POST", "/echo/count", headers=EVENTS, body=b'{"to":3,"failAt":2}')
    assert answer.chunks[-1].startswith(b"event: error\ndata: {")


async def test_an_error_before_the_first_message_is_a_status() -> None:
    answer = await http(echo(), "POST", "/echo/count", headers=JSON, body=b'{"to":3,"failAt":1}')
    assert (answer.status, answer.json()["code"]) == (500, "data_loss")


async def test_an_empty_stream_ends_well() -> None:
    answer = await http(echo(), "POST", "/echo/count", headers=JSON, body=b"{}")
    assert (answer.status, answer.body, answer.complete) == (200, b"", True)


async def test_a_deadline_ends_a_stream_that_its_caller_set_one_for() -> None:
    headers = {**JSON, "connect-timeout-ms": "30"}
    answer = await http(echo(), "POST", "/echo/count", headers=headers, body=b'{"to":-1}')
    assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")


async def test_a_deadline_ends_the_wait_for_a_request_that_does_not_end() -> None:
    app = echo()

    async def stalled(scope: Any, receive: Any, send: Any) -> None:
        pieces = [{"type": "http.request", "body": b"\0\0", "more_body": True}]

        async def some() -> Any:
            return pieces.pop() if pieces else await asyncio.Event().wait()

        await app(scope, some, send)

    headers = {"content-type": "application/connect+proto", "connect-timeout-ms": "30"}
    answer = await http(stalled, "POST", "/echo.v1.Echo/Count", headers=headers)
    assert json.loads(answer.body[5:])["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("protocol", ["json", "grpc", "connect"])
async def test_a_caller_who_leaves_cancels_the_stream(protocol: str) -> None:
    handler, left = EchoHandler(), asyncio.Event()
    app = Application("echo", [handler])
    headers = {"json": JSON, "grpc": GRPC, "connect": {"content-type": "application/connect+proto"}}[protocol]
    message = CountRequest(to=-1)
    body = message.to_json().encode() if protocol == "json" else frame(message.to_binary())
    calling = asyncio.ensure_future(http(app, "POST", "/echo.v1.Echo/Count", headers=headers, body=body, left=left))
    await handler.waiting.wait()
    left.set()
    await handler.cancelled.wait()
    await calling


async def test_all_kinds_of_streams_over_grpc() -> None:
    def requests(*messages: Any) -> bytes:
        return b"".join(frame(message.to_binary()) for message in messages)

    counted = await http(echo(), "POST", "/echo.v1.Echo/Count", headers=GRPC, body=requests(CountRequest(to=2)))
    added = await http(
        echo(), "POST", "/echo.v1.Echo/Sum", headers=GRPC, body=requests(SumRequest(number=2), SumRequest(number=3))
    )
    chatted = await http(
        echo(), "POST", "/echo/chat", headers=GRPC, body=requests(EchoRequest(name="a"), EchoRequest(name="fail"))
    )
    assert counted.body == requests(CountResponse(number=1), CountResponse(number=2))
    assert added.body == requests(SumResponse(sum=5))
    assert chatted.body == requests(EchoResponse(name="A"))
    assert [answer.trailers["grpc-status"] for answer in (counted, added, chatted)] == ["0", "0", "10"]


class Talk:
    """A caller of `chat` over Connect, who says what he likes when he likes."""

    headers: ClassVar = {"content-type": "application/connect+proto"}

    def __init__(self, app: Any) -> None:
        self._app = app
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def say(self, name: str, *, last: bool = False) -> None:
        body = frame(EchoRequest(name=name).to_binary())
        self._said.put_nowait({"type": "http.request", "body": body, "more_body": not last})

    def leave(self) -> None:
        self._said.put_nowait({"type": "http.disconnect"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def hear(message: dict[str, Any]) -> None:
            if message.get("body"):
                self.heard.put_nowait(message["body"])

        await self._app(scope, self._said.get, hear)


async def test_both_sides_talk_over_connect() -> None:
    talk = Talk(echo())
    talking = asyncio.ensure_future(http(talk, "POST", "/echo.v1.Echo/Chat", headers=Talk.headers))
    for name in ("a", "b"):
        talk.say(name)
        assert await talk.heard.get() == frame(EchoResponse(name=name.upper()).to_binary())
    talk.say("fail", last=True)
    end = await talk.heard.get()
    assert (end[0], json.loads(end[5:])["error"]) == (2, {"code": "aborted", "message": "no more"})
    await talking


async def test_who_leaves_a_talk_ends_it() -> None:
    talk = Talk(echo())
    talking = asyncio.ensure_future(http(talk, "POST", "/echo.v1.Echo/Chat", headers=Talk.headers))
    talk.say("a")
    await talk.heard.get()
    talk.leave()
    await talking
    assert talk.heard.empty(), "there is nobody to tell"


async def test_who_leaves_after_all_was_said_cancels_the_rest_of_the_talk() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    class Slow(EchoHandler):
        async def chat(self, requests: Any, ctx: Any) -> Any:
            async for _ in requests:
                pass
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            yield EchoResponse()

    talk = Talk(Application("echo", [Slow()]))
    talking = asyncio.ensure_future(http(talk, "POST", "/echo.v1.Echo/Chat", headers=Talk.headers))
    talk.say("a", last=True)
    await begun.wait()
    talk.leave()
    await cancelled.wait()
    await talking


@pytest.mark.parametrize("method", ["sum", "chat"])
async def test_a_stream_of_requests_is_not_for_plain_http(method: str) -> None:
    answer = await http(echo(), "POST", f"/echo/{method}", headers=JSON, body=b"{}")
    assert (answer.status, answer.json()["code"]) == (400, "invalid_argument")
    assert "WebSocket" in answer.json()["message"]


class Socket:
    """The caller's side of a WebSocket to an application."""

    def __init__(self, app: Any, path: str, **headers: str) -> None:
        self._scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        }
        self._app = app
        self._to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._to.put_nowait({"type": "websocket.connect"})
        self._running = asyncio.ensure_future(self._app(self._scope, self._to.get, self._from.put))
        self.first = await self._from.get()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._to.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self._running

    def send(self, value: object) -> None:
        self._to.put_nowait({"type": "websocket.receive", "text": json.dumps(value) if value is not None else ""})

    async def next(self) -> Any:
        message = await self._from.get()
        return message["code"] if message["type"] == "websocket.close" else json.loads(message["text"])


async def test_a_websocket_talks_both_ways() -> None:
    async with Socket(echo(), "/echo/chat") as socket:
        assert socket.first == {"type": "websocket.accept"}
        for name in ("a", "b"):
            socket.send({"name": name})
            assert await socket.next() == {"name": name.upper()}
        socket.send(None)
        assert await socket.next() == 1000


async def test_a_websocket_takes_a_stream_and_gives_one() -> None:
    async with Socket(echo(), "/echo/sum") as socket:
        for number in (1, 2, 3):
            socket.send({"number": number})
        socket.send(None)
        assert [await socket.next(), await socket.next()] == [{"sum": 6}, 1000]
    async with Socket(echo(), "/echo/count") as socket:
        socket.send({"to": 2})
        assert [await socket.next() for _ in range(3)] == [{"number": 1}, {"number": 2}, 1000]
    async with Socket(echo(), "/echo") as socket:
        socket.send({"name": "Ann"})
        assert [await socket.next(), await socket.next()] == [{"name": "Ann"}, 1000]


async def test_a_websocket_tells_an_error_before_it_closes() -> None:
    async with Socket(echo(), "/echo/chat") as socket:
        socket.send({"name": "fail"})
        assert await socket.next() == {"error": {"code": "aborted", "message": "no more"}}
        assert await socket.next() == 1008
    async with Socket(echo(), "/echo/chat") as socket:
        socket.send([])
        assert (await socket.next())["error"]["code"] == "invalid_argument"


async def test_a_websocket_that_closes_cancels_its_handler() -> None:
    handler = EchoHandler()
    async with Socket(Application("echo", [handler, AuditHandler()]), "/echo/count") as socket:
        socket.send({"to": -1})
        await handler.waiting.wait()
    await handler.cancelled.wait()


async def test_a_page_of_another_origin_cannot_open_a_websocket() -> None:
    async with Socket(echo(), "/echo/chat", origin="http://evil.test", host="localhost:8080") as socket:
        assert socket.first == {"type": "websocket.close", "code": 1008}
    async with Socket(echo(), "/echo/chat", origin="http://localhost:8080", host="localhost:8080") as socket:
        assert socket.first == {"type": "websocket.accept"}
    async with Socket(echo(), "/echo/nope") as socket:
        assert socket.first == {"type": "websocket.close", "code": 1008}
