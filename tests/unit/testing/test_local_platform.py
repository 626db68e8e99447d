"""The platform in the test's own process: services reach each other and the store as they do in a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gen.helloworld.helloworld_connect import Helloworld, HelloworldClient
from gen.helloworld.helloworld_pb import Ping, Pong, Request, Response, StreamingRequest, StreamingResponse
from micro import Service, client, config, store
from micro.domain.errors import Error, Kind, not_found
from micro.testing import app, platform


class Greeter(Helloworld):
    """Counts its greetings in the store."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def call(self, request: Request, ctx: Any) -> Response:
        if request.name == "nobody":
            raise not_found("there is no nobody: ü")
        if request.name == "late":
            await asyncio.Event().wait()
        count = await store.update(request.name, lambda count: count + 1, 0, as_type=int)
        return Response(msg=f"Hello {request.name}, {count}")

    async def stream(self, request: StreamingRequest, ctx: Any) -> AsyncIterator[StreamingResponse]:
        try:
            for count in range(request.count):
                yield StreamingResponse(count=count)
        finally:
            self.left.set()

    async def ping_pong(self, pings: AsyncIterator[Ping], ctx: Any) -> AsyncIterator[Pong]:
        async for ping in pings:
            yield Pong(stroke=ping.stroke)


async def test_services_call_each_other_and_keep_in_tables_of_their_own() -> None:
    async with platform.running(Service("first", Greeter()), Service("second", Greeter())):
        for _ in range(2):
            answer = await client.call("first", "Helloworld.Call", {"name": "ann"})
        assert answer == {"msg": "Hello ann, 2"}
        assert (await client.of(HelloworldClient, "second").call(Request(name="ann"))).msg == "Hello ann, 1"
        await store.write("mine", "1")
        assert await store.tables() == ("first", "second", "test")
        assert await store.table("first").get("ann", as_type=int) == 2


async def test_a_service_under_test_finds_what_it_needs() -> None:
    made = Service("greeter", Greeter())
    async with platform.running(service="greeter"), app.connect(made) as connection:
        await connection.call("Helloworld.Call", Request(name="ann"))
        assert await store.table("greeter").get("ann", as_type=int) == 1
        await config.set("greeting", {"text": "Hi"})
        assert await config.get("greeting.text", "") == "Hi"


async def test_each_platform_begins_empty() -> None:
    for _ in range(2):
        async with platform.running():
            assert await store.get("kept") is None
            assert await config.get("kept", 0) == 0
            await store.write("kept", "1")
            await config.set("kept", 1)


async def test_streams_flow_both_ways_and_end_when_they_are_left() -> None:
    greeter = Greeter()
    async with platform.running(Service("greeter", greeter)):
        typed = client.of(HelloworldClient, "greeter")
        assert [one.count async for one in typed.stream(StreamingRequest(count=20))] == list(range(20))

        async def pings() -> AsyncIterator[Ping]:
            for stroke in range(3):
                yield Ping(stroke=stroke)

        assert [pong.stroke async for pong in typed.ping_pong(pings())] == [0, 1, 2]
        greeter.left.clear()
        endless: Any = typed.stream(StreamingRequest(count=10**9))
        assert (await anext(endless)).count == 0
        await endless.aclose()
        await asyncio.wait_for(greeter.left.wait(), 10)


@pytest.mark.parametrize(
    ("service", "request_", "kind", "said"),
    [
        ("greeter", {"name": "nobody"}, Kind.NOT_FOUND, "there is no nobody: ü"),
        ("grater", {}, Kind.UNAVAILABLE, "no service 'grater' in this process: there are broker, config, events, "),
        ("greeter", {"name": "late"}, Kind.DEADLINE_EXCEEDED, ""),
    ],
)  # fmt: skip
async def test_errors_are_those_of_a_server(service: str, request_: dict[str, Any], kind: Kind, said: str) -> None:
    async with platform.running(Service("greeter", Greeter())):
        with pytest.raises(Error) as caught:
            await client.call(service, "Helloworld.Call", request_, timeout=0.1)
    assert caught.value.kind is kind
    assert said in str(caught.value)
