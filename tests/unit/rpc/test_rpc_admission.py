"""Streams whose caller is not let in any more: each ends in its protocol's own words, and nobody else's does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from echo_service import AuditHandler, EchoHandler, frame, web_trailers

from gen.echo.v1.echo_pb import CountRequest, CountResponse, EchoRequest, EchoResponse, SleepRequest, SumRequest
from micro.domain.account import Account
from micro.domain.errors import Kind
from micro.domain.rule import ANY_ACCOUNT, ANYONE, Access, Resource, Rule
from micro.framework import streams
from micro.framework.guard import RuleGuard
from micro.rpc.app import Application
from micro.testing.identity import Deployment, revoked, rule_changed, rule_gone

ANN, BOB = Account("ann", "micro"), Account("bob", "micro")
HERE = Deployment()

GRPC = {"content-type": "application/grpc", "te": "trailers"}
COUNT = CountRequest(to=-1)
NAME = EchoRequest(name="a")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PAUSE", 0)


class Call:
    """A request whose caller stays, and may say more. `idle` is set once the service waits for that."""

    def __init__(self, app: Any, how: Opening, authorization: str = "", *, reads: bool = True) -> None:
        headers = how.headers | ({"authorization": authorization} if authorization else {})
        self.how = how
        self.idle = asyncio.Event()
        self.written = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self._reads = reads
        self._to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for message in how.messages:
            self._to.put_nowait(message)
        scope = {
            "type": how.kind,
            "http_version": "2",
            "method": how.verb,
            "scheme": "http",
            "path": how.path,
            "root_path": "",
            "query_string": how.query,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "extensions": {"http.response.trailers": {}},
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._to.empty():
            self.idle.set()
        return await self._to.get()

    def _send(self, message: dict[str, Any]) -> asyncio.Future[None]:
        """As the server does: it has the message at once, and waits for the reader of what is not the last."""
        self.sent.append(message)
        self.written.set()
        done = asyncio.get_running_loop().create_future()
        if self._reads or not message.get("more_body"):
            done.set_result(None)
        return done

    def say(self, message: dict[str, Any]) -> None:
        self.idle.clear()
        self._to.put_nowait(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def close(self) -> None:
        self.say({"type": f"{self.how.kind}.disconnect"})
        await self.task

    async def ended(self) -> Kind:
        """How it has ended."""
        await self.task
        return self.how.outcome(self)


class Stubborn(EchoHandler):
    async def chat(self, requests: AsyncIterator[EchoRequest], ctx: Any) -> AsyncIterator[EchoResponse]:
        while True:
            try:
                async for request in requests:
                    yield EchoResponse(name=request.name)
            except asyncio.CancelledError:
                yield EchoResponse(name="not me")


class Hiding(EchoHandler):
    async def chat(self, requests: AsyncIterator[EchoRequest], ctx: Any) -> AsyncIterator[EchoResponse]:
        try:
            async for request in requests:
                yield EchoResponse(name=request.name)
        except asyncio.CancelledError:
            raise ValueError("something else") from None


class Threaded(EchoHandler):
    """`left` is set when its function has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.left = threading.Event()

    def chat(self, requests: Any, ctx: Any) -> Iterator[EchoResponse]:  # type: ignore[override]
        try:
            for request in requests:
                yield EchoResponse(name=request.name)
        finally:
            self.left.set()


class Beginning(EchoHandler):
    async def count(self, request: CountRequest, ctx: Any) -> AsyncIterator[CountResponse]:
        yield CountResponse(number=1)
        await asyncio.Event().wait()


@dataclass(frozen=True)
class Opening:
    """How a stream is begun, and how its end is read."""

    path: str
    headers: dict[str, str]
    messages: Sequence[dict[str, Any]]
    outcome: Callable[[Call], Kind]
    kind: str = "http"
    verb: str = "POST"
    query: bytes = b""
    handler: type[EchoHandler] = EchoHandler


def piece(body: bytes, *, last: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": not last}


def grpc_end(call: Call) -> Kind:
    *_, body, trailers = call.sent
    assert not body["more_body"]
    assert not trailers["more_trailers"]
    told = dict(trailers["headers"])
    assert b"micro-refused" not in told, "something may have come of the call, so it cannot just be repeated"
    assert told[b"grpc-message"]
    return Kind(int(told[b"grpc-status"]))


def web_end(call: Call) -> Kind:
    return Kind(int(web_trailers(call.body)["grpc-status"]))


def connect_end(call: Call) -> Kind:
    body = call.body
    assert body[0] == 2
    return Kind.of_code(json.loads(body[5:])["error"]["code"])


def http_end(call: Call) -> Kind:
    found = Kind.of_code(json.loads(call.body)["code"])
    assert call.sent[0]["status"] == found.http_status
    assert not call.sent[-1].get("more_body")
    return found


def line_end(call: Call) -> Kind:
    return Kind.of_code(json.loads(call.body.splitlines()[-1])["error"]["code"])


def event_end(call: Call) -> Kind:
    head, event, data, *_ = call.body.decode().split("\n")[-5:]
    assert (head, event) == ("", "event: error")
    return Kind.of_code(json.loads(data.removeprefix("data: "))["error"]["code"])


def socket_end(call: Call) -> Kind:
    *_, told, close = call.sent
    assert close == {"type": "websocket.close", "code": 1008}
    return Kind.of_code(json.loads(told["text"])["error"]["code"])


def grpc(
    method: str,
    *messages: dict[str, Any],
    outcome: Callable[[Call], Kind] = grpc_end,
    handler: type[EchoHandler] = EchoHandler,
    **headers: str,
) -> Opening:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Opening(f"/echo.v1.Echo/{method}", GRPC | named, messages, outcome, handler=handler)


def socket(method: str, *texts: str) -> Opening:
    messages = [{"type": "websocket.receive", "text": text} for text in texts]
    return Opening(f"/echo/{method}", {}, [{"type": "websocket.connect"}, *messages], socket_end, kind="websocket")


def lines(*messages: dict[str, Any]) -> Opening:
    return Opening("/echo/count", _JSON, messages, http_end)


_JSON = {"content-type": "application/json"}
_CHAT = piece(frame(NAME.to_binary()))
_COUNT = piece(frame(COUNT.to_binary()), last=True)
_EVENTS = {"accept": "text/event-stream"}
STREAMS = {
    "gRPC, answers": grpc("Count", _COUNT),
    "gRPC, answers, with a deadline": grpc("Count", _COUNT, grpc_timeout="1H"),
    "gRPC, answers, before the request": grpc("Count"),
    "gRPC, requests": grpc("Sum", piece(frame(SumRequest(number=1).to_binary()))),
    "gRPC, requests, before the first": grpc("Sum"),
    "gRPC, both": grpc("Chat", _CHAT),
    "gRPC, both, before the first": grpc("Chat"),
    "gRPC of JSON": grpc("Chat", piece(frame(b'{"name":"a"}')), content_type="application/grpc+json"),
    "gRPC, handlers in threads": grpc("Chat", _CHAT, handler=Threaded),
    "gRPC, a handler that will not stop": grpc("Chat", _CHAT, handler=Stubborn),
    "gRPC, a handler that makes another error of it": grpc("Chat", _CHAT, handler=Hiding),
    "gRPC-Web": grpc("Count", _COUNT, outcome=web_end, content_type="application/grpc-web"),
    "Connect": grpc("Count", _COUNT, outcome=connect_end, content_type="application/connect+proto"),
    "Connect of JSON": grpc(
        "Count",
        piece(frame(COUNT.to_json().encode()), last=True),
        outcome=connect_end,
        content_type="application/connect+json",
    ),
    "lines": lines(piece(b'{"to":-1}', last=True)),
    "lines, before the request": lines(),
    "lines, after some": Opening(
        "/echo/count", _JSON, [piece(b"{}", last=True)], line_end, handler=Beginning
    ),
    "events": Opening("/echo/count", _EVENTS, [piece(b"", last=True)], http_end, verb="GET", query=b"to=-1"),
    "events, after some": Opening(
        "/echo/count", _EVENTS, [piece(b"", last=True)], event_end, verb="GET", handler=Beginning
    ),
    "WebSocket, answers": socket("count", '{"to":-1}'),
    "WebSocket, requests": socket("sum", '{"number":1}'),
    "WebSocket, both": socket("chat", '{"name":"a"}'),
    "WebSocket, one answer, before the request": socket("call"),
}  # fmt: skip


class World:
    """The service behind the rules of its namespace."""

    def __init__(self, handler: type[EchoHandler] = EchoHandler, *, public: bool = False) -> None:
        self.policy = HERE.policy(public=public)
        self.guard = RuleGuard("echo", "micro", self.policy)
        self.handler = handler()
        self.app = Application("echo", [self.handler, AuditHandler()], guard=self.guard)

    async def open(self, how: Opening, authorization: str = "", *, reads: bool = True) -> Call:
        """Begin, and return when the service waits for more."""
        call = Call(self.app, how, authorization, reads=reads)
        await (call.idle if reads else call.written).wait()
        assert not call.task.done()
        return call

    def revoke(self, session: str) -> None:
        self.policy.apply(revoked(HERE.clock() + 1, session=session))

    def deny(self, scope: str) -> None:
        rule = Rule("no", "micro", scope, Resource("service", "echo", "*"), Access.DENIED, 1)
        self.policy.apply(rule_changed(rule))

    @property
    def kept(self) -> int:
        return len(self.guard._streams)


async def goes_on(call: Call) -> None:
    """That a conversation by `Chat` answers still."""
    before = len(call.sent)
    call.say(_CHAT)
    await call.idle.wait()
    assert len(call.sent) > before
    await call.close()


@pytest.mark.parametrize("protocol", STREAMS)
async def test_a_stream_of_a_session_that_is_revoked_ends_and_others_go_on(protocol: str) -> None:
    how = STREAMS[protocol]
    world = World(how.handler)
    call = await world.open(how, HERE.bearer(ANN, session="s1"))
    own, bobs = [await world.open(how, HERE.bearer(who, session="s2")) for who in (ANN, BOB)]
    assert world.kept == 3
    world.revoke("s1")
    assert await call.ended() is Kind.UNAUTHENTICATED
    assert not own.task.done()
    assert not bobs.task.done()
    world.revoke("s2")
    assert [await own.ended(), await bobs.ended()] == [Kind.UNAUTHENTICATED] * 2
    assert world.kept == 0


@pytest.mark.parametrize("protocol", STREAMS)
async def test_a_stream_that_a_new_rule_is_against_ends(protocol: str) -> None:
    how = STREAMS[protocol]
    world = World(how.handler, public=True)
    anns, nobodys = await world.open(how, HERE.bearer(ANN)), await world.open(how)
    world.deny(ANY_ACCOUNT)
    assert await anns.ended() is Kind.PERMISSION_DENIED
    assert not nobodys.task.done()
    world.deny(ANYONE)
    assert await nobodys.ended() is Kind.UNAUTHENTICATED
    assert world.kept == 0


async def test_what_goes_on_works_as_before() -> None:
    world = World()
    anns = await world.open(STREAMS["gRPC, both"], HERE.bearer(ANN, session="s1"))
    bobs = await world.open(STREAMS["gRPC, both"], HERE.bearer(BOB, session="s2"))
    for _ in range(3):
        world.revoke("s1")
        world.policy.apply(rule_gone("none"))
        for change in HERE.state():
            world.policy.apply(change)
    world.revoke("s1")
    await anns.ended()
    await goes_on(bobs)
    assert world.kept == 0


async def test_a_handler_sees_that_it_is_cancelled_and_what_it_holds_is_let_go() -> None:
    for protocol in ("gRPC, answers", "gRPC-Web", "lines", "events", "WebSocket, answers"):
        world = World()
        call = await world.open(STREAMS[protocol], HERE.bearer(ANN, session="s1"))
        await world.handler.waiting.wait()
        world.revoke("s1")
        await call.ended()
        assert world.handler.cancelled.is_set(), protocol


async def test_a_stream_whose_reader_does_not_read_ends_too() -> None:
    how = replace(STREAMS["gRPC, answers"], handler=Beginning)
    for opening in (how, STREAMS["lines, after some"], STREAMS["gRPC, both"]):
        world = World(opening.handler)
        call = await world.open(opening, HERE.bearer(ANN, session="s1"), reads=False)
        world.revoke("s1")
        assert await call.ended() is Kind.UNAUTHENTICATED


async def test_a_plain_function_is_not_left_waiting_for_requests() -> None:
    world = World(Threaded)
    call = await world.open(STREAMS["gRPC, handlers in threads"], HERE.bearer(ANN, session="s1"))
    world.revoke("s1")
    await call.ended()
    handler = world.handler
    assert isinstance(handler, Threaded)
    assert await asyncio.to_thread(handler.left.wait, 10)


async def test_a_caller_that_leaves_is_kept_no_longer() -> None:
    for protocol, how in STREAMS.items():
        if how.handler is not Stubborn:
            world = World(how.handler)
            await (await world.open(how, HERE.bearer(ANN))).close()
            assert world.kept == 0, protocol


async def test_the_end_of_the_process_is_no_matter_of_the_policys() -> None:
    world = World()
    call = await world.open(STREAMS["gRPC, both"], HERE.bearer(ANN, session="s1"))
    world.revoke("s1")
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert world.kept == 0


async def test_a_call_with_one_answer_is_let_in_once_and_not_kept() -> None:
    world = World()
    sleeping = Opening(
        "/echo.v1.Echo/Sleep", GRPC, [piece(frame(SleepRequest(seconds=-1).to_binary()), last=True)], grpc_end
    )
    call = await world.open(sleeping, HERE.bearer(ANN))
    assert world.kept == 0
    await call.close()
