"""One table of callers over every protocol: whoever is not let in learns so in the protocol's own words, and before
anything of the call is read."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from echo_service import echo, frame, web_trailers

from gen.echo.v1.echo_pb import CountRequest, EchoRequest
from micro.domain import access
from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.domain.errors import Kind
from micro.framework.guard import CoreGuard, RuleGuard
from micro.framework.policy import Policy
from micro.rpc.app import Application
from micro.rpc.context import Context
from micro.rpc.tokens import JwtVerifier
from micro.testing.app import Answer, connect, http
from micro.testing.callers import As
from micro.testing.identity import Deployment, revoked

ANN, BOB = Account("ann", "micro"), Account("bob", "other")
TILL = Account("till", "micro", type=Type.SERVICE)

HERE = Deployment()
ELSEWHERE = Deployment()

NAME = EchoRequest(name="Ann")
COUNT = CountRequest(to=1)


class Seen:
    """Remembers who got through to a handler."""

    def __init__(self) -> None:
        self.accounts: list[Account | None] = []

    async def __call__(self, ctx: Context, request: Any, proceed: Any) -> Any:
        self.accounts.append(ctx.account)
        return await proceed(ctx, request)

    async def stream(self, ctx: Context, requests: AsyncIterator[Any], proceed: Any) -> AsyncIterator[Any]:
        self.accounts.append(ctx.account)
        async for response in proceed(ctx, requests):
            yield response


class World:
    def __init__(self, *, public: bool = False, policy: Policy | None = None) -> None:
        self.seen = Seen()
        self.policy = policy or HERE.policy(public=public)
        self.policy.on_change(lambda: None)
        self.app = echo(guard=RuleGuard("echo", "micro", self.policy), interceptors=[self.seen])
        self.read = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def reading() -> Any:
            self.read = True
            return await receive()

        await self.app(scope, reading, send)


def grpc(method: str, message: Any, **headers: str) -> Callable[[World, dict[str, str]], Awaitable[Kind | None]]:
    async def call(world: World, caller: dict[str, str]) -> Kind | None:
        sent = {"content-type": "application/grpc", "te": "trailers"} | headers | caller
        sent = {name.replace("_", "-"): value for name, value in sent.items()}
        if "json" in sent["content-type"] + sent.get("micro-codec", ""):
            body = frame(message.to_json().encode())
        elif "grpc-encoding" in sent:
            body = frame(gzip.compress(message.to_binary()), flags=1)
        else:
            body = frame(message.to_binary())
        answer = await http(world, "POST", method, headers=sent, body=body)
        assert answer.status == 200
        assert answer.complete
        trailers = web_trailers(answer.body) if "web" in sent["content-type"] else answer.trailers
        status = int(trailers["grpc-status"])
        told = trailers.get("micro-refused")
        assert told == ("authorization" if status == 16 and "authorization" in caller else None)
        return Kind(status) if status else None

    return call


def plain(
    verb: str, path: str, kind: str = "", body: bytes = b"", query: bytes = b"", **headers: str
) -> Callable[[World, dict[str, str]], Awaitable[Kind | None]]:
    async def call(world: World, caller: dict[str, str]) -> Kind | None:
        sent = ({"content-type": kind} if kind else {}) | headers | caller
        answer = await http(world, verb, path, headers=sent, body=body, query=query)
        assert answer.complete
        if answer.status == 200:
            assert "www-authenticate" not in answer.headers
            return _ended(answer, caller) if "connect+" in kind else None
        found = Kind.of_code(answer.json()["code"])
        assert answer.status == found.http_status
        if answer.status == 401:
            why = ' error="invalid_token"' if "authorization" in caller else ""
            assert answer.headers["www-authenticate"] == "Bearer" + why
        return found

    return call


def _ended(answer: Answer, caller: dict[str, str]) -> Kind | None:
    """What the last frame of a stream of Connect's says."""
    body = answer.body
    while body[0] != 2:
        body = body[5 + int.from_bytes(body[1:5], "big") :]
    end = json.loads(body[5:])
    found = Kind.of_code(end["error"]["code"]) if "error" in end else None
    told = end.get("metadata", {}).get("micro-refused")
    assert told == (["authorization"] if found is Kind.UNAUTHENTICATED and "authorization" in caller else None)
    return found


async def websocket(world: World, caller: dict[str, str]) -> Kind | None:
    """The handshake alone; what is not let in is told nothing else."""
    sent: list[dict[str, Any]] = []
    to = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "{}"}]

    closed = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not to:
            await closed.wait()
        return to.pop(0) if to else {"type": "websocket.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "websocket.close":
            closed.set()

    headers = [(name.encode(), value.encode()) for name, value in caller.items()]
    await world.app({"type": "websocket", "path": "/echo", "headers": headers}, receive, send)
    if sent[0]["type"] == "websocket.accept":
        return None
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert len(to) == 1
    return Kind.PERMISSION_DENIED


_MESSAGE = base64.urlsafe_b64encode(NAME.to_binary()).rstrip(b"=")

PROTOCOLS = {
    "gRPC": grpc("/echo.v1.Echo/Call", NAME),
    "gRPC of JSON": grpc("/echo.v1.Echo/Call", NAME, content_type="application/grpc+json"),
    "gRPC of JSON by header": grpc("/echo.v1.Echo/Call", NAME, micro_codec="json"),
    "gRPC by a short path": grpc("/echo/Call", NAME),
    "gRPC, compressed": grpc("/echo.v1.Echo/Call", NAME, grpc_encoding="gzip"),
    "gRPC, with a gateway's timeout": grpc("/echo.v1.Echo/Call", NAME, micro_timeout="-", grpc_timeout="1S"),
    "gRPC, a stream of answers": grpc("/echo.v1.Echo/Count", COUNT),
    "gRPC, a stream of requests": grpc("/echo.v1.Echo/Sum", COUNT),
    "gRPC, both": grpc("/echo.v1.Echo/Chat", NAME),
    "gRPC-Web": grpc("/echo.v1.Echo/Call", NAME, content_type="application/grpc-web+proto"),
    "gRPC-Web, a stream": grpc("/echo.v1.Echo/Count", COUNT, content_type="application/grpc-web"),
    "reflection": grpc("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", EchoRequest()),
    "JSON": plain("POST", "/echo.v1.Echo/Call", "application/json", b'{"name":"Ann"}'),
    "JSON by a short path": plain("POST", "/echo/call", "application/json", b"{}"),
    "JSON, compressed": plain(
        "POST", "/echo/call", "application/json", gzip.compress(b"{}"), **{"content-encoding": "gzip"}
    ),
    "a query": plain("GET", "/echo/call", query=b"name=Ann"),
    "a form": plain("POST", "/echo/call", "application/x-www-form-urlencoded", b"name=Ann"),
    "DELETE": plain("DELETE", "/echo/call"),
    "a stream of lines": plain("POST", "/echo/count", "application/json", b'{"to":1}'),
    "events": plain("GET", "/echo/count", query=b"to=1", accept="text/event-stream"),
    "Connect": plain("POST", "/echo.v1.Echo/Call", "application/proto", NAME.to_binary()),
    "Connect, GET": plain(
        "GET", "/echo.v1.Echo/Safe", query=b"connect=v1&encoding=proto&base64=1&message=" + _MESSAGE
    ),
    "Connect, a stream": plain(
        "POST", "/echo.v1.Echo/Count", "application/connect+proto", frame(COUNT.to_binary())
    ),
    "WebSocket": websocket,
}  # fmt: skip

CALLERS: dict[str, tuple[dict[str, str], Kind | None]] = {
    "nobody": ({}, Kind.UNAUTHENTICATED),
    "an account": ({"authorization": HERE.bearer(ANN)}, None),
    "an account that acts by a service": (
        {"authorization": HERE.bearer(ANN), "micro-actor": HERE.bearer(TILL)},
        None,
    ),
    "another namespace's": ({"authorization": HERE.bearer(BOB)}, Kind.PERMISSION_DENIED),
    "one that has ended": ({"authorization": HERE.bearer(ANN, ago=3600)}, Kind.UNAUTHENTICATED),
    "one of another deployment": ({"authorization": ELSEWHERE.bearer(ANN)}, Kind.UNAUTHENTICATED),
    "one that was changed": ({"authorization": HERE.bearer(ANN)[:-10] + "A" * 10}, Kind.UNAUTHENTICATED),
    "one that was revoked": ({"authorization": HERE.bearer(ANN, session="gone", ago=60)}, Kind.UNAUTHENTICATED),
    "one for the platform": ({"authorization": HERE.bearer(ANN, audience=Audience.PLATFORM)}, Kind.UNAUTHENTICATED),
    "another scheme": ({"authorization": "Basic YW5uOnB3"}, Kind.UNAUTHENTICATED),
    "nonsense": ({"authorization": "Bearer \x7f"}, Kind.UNAUTHENTICATED),
    "an empty header": ({"authorization": ""}, Kind.UNAUTHENTICATED),
}  # fmt: skip


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_callers(protocol: str, caller: str) -> None:
    world, (headers, wanted) = World(), CALLERS[caller]
    world.policy.apply(revoked(HERE.clock(), session="gone"))
    got = await PROTOCOLS[protocol](world, headers)
    if protocol == "WebSocket" and wanted is not None:
        wanted = Kind.PERMISSION_DENIED  # a close has no room for more
    assert got is wanted
    if wanted is None:
        assert world.seen.accounts == ([ANN] if protocol != "reflection" else [])
    else:
        assert (world.seen.accounts, world.read) == ([], False)


def of_core(monkeypatch: pytest.MonkeyPatch) -> World:
    """The same service, if it were one of the platform's own."""
    world = World()
    world.app.guard = CoreGuard(HERE.policy(), "s")
    needs = {method.path: access.Need.ACCOUNT for method in world.app.methods}
    monkeypatch.setattr(access, "NEEDS", {**access.NEEDS, **needs})
    return world


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_platforms_own_services_take_no_token_that_others_were_shown(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, reached = of_core(monkeypatch), [ANN] if protocol != "reflection" else []
    shown = {"authorization": HERE.bearer(ANN)}
    refused = Kind.PERMISSION_DENIED if protocol == "WebSocket" else Kind.UNAUTHENTICATED
    assert await PROTOCOLS[protocol](world, shown) is refused
    assert (world.seen.accounts, world.read) == ([], False)
    assert await PROTOCOLS[protocol](world, {"authorization": HERE.bearer(ANN, audience=Audience.PLATFORM)}) is None
    assert world.seen.accounts == reached


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_nobody_is_let_in_where_anyone_is(protocol: str) -> None:
    world = World(public=True)
    assert await PROTOCOLS[protocol](world, {}) is None
    assert world.seen.accounts == ([None] if protocol != "reflection" else [])


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_nothing_is_decided_before_the_policy_is_known(protocol: str) -> None:
    world = World(policy=Policy(JwtVerifier()))
    got = await PROTOCOLS[protocol](world, {})
    assert got is (Kind.PERMISSION_DENIED if protocol == "WebSocket" else Kind.UNAVAILABLE)
    assert (world.seen.accounts, world.read) == ([], False)


class Broken(As):
    def admit(self, ctx: Context, headers: Any) -> None:
        raise RuntimeError("secret")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_guard_that_fails_lets_nobody_in(protocol: str) -> None:
    world = World()
    world.app.guard = Broken(ANN)
    got = await PROTOCOLS[protocol](world, {})
    assert got is (Kind.PERMISSION_DENIED if protocol == "WebSocket" else Kind.INTERNAL)
    assert world.seen.accounts == []


@pytest.mark.parametrize("guard", [RuleGuard("echo", "micro", Policy(JwtVerifier())), CoreGuard(HERE.policy(), "s")])
async def test_health_is_told_to_everybody(guard: Any) -> None:
    app = echo(guard=guard)
    for headers in ({}, {"authorization": "Bearer nonsense"}):
        sent = {"content-type": "application/grpc", "te": "trailers", **headers}
        answer = await http(app, "POST", "/grpc.health.v1.Health/Check", headers=sent, body=frame(b""))
        assert answer.trailers["grpc-status"] == "0"
        answer = await http(app, "GET", "/grpc.health.v1.Health/Check", headers=headers)
        assert answer.json() == {"status": "SERVING"}


async def test_what_is_not_there_is_told_to_whom_the_rest_is_open() -> None:
    app: Application = echo(guard=RuleGuard("echo", "micro", HERE.policy()))
    told = await http(app, "GET", "/echo/nope")
    assert (told.status, b"Echo.Call" in told.body) == (401, False)
    told = await http(app, "GET", "/echo/nope", headers={"authorization": HERE.bearer(BOB)})
    assert (told.status, b"Echo.Call" in told.body) == (403, False)
    told = await http(app, "GET", "/echo/nope", headers={"authorization": HERE.bearer(ANN)})
    assert (told.status, b"Echo.Call" in told.body) == (404, True)
    grpc_headers = {"content-type": "application/grpc", "te": "trailers"}
    told = await http(app, "POST", "/echo.v1.Echo/Nope", headers=grpc_headers, body=frame(b""))
    assert (told.trailers["grpc-status"], "Echo" in told.trailers["grpc-message"]) == ("16", False)


async def test_a_service_in_process_is_called_as_whoever_the_test_says() -> None:
    seen = Seen()
    app = echo(interceptors=[seen])
    async with connect(app, account=ANN) as service:
        await service.call("Echo.Call", NAME)
        service.account = None
        await service.http("GET", "/echo/call")
        service.account = BOB
        await service.call("Echo.Call", {})
    async with connect(app) as service:
        await service.call("Echo.Call", NAME)
    assert seen.accounts == [ANN, None, BOB, None]
    async with connect(app, guard=RuleGuard("echo", "micro", HERE.policy())) as service:
        answer = await service.http("GET", "/echo/call")
        assert answer.status == 401
        await service.call("Echo.Call", NAME, metadata={"authorization": HERE.bearer(ANN)})
    assert app.guard is None
