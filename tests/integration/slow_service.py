"""A service that sends as fast as it can: what the tests of slow readers talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from gen.echo.v1.echo_connect import Echo
from gen.echo.v1.echo_pb import EchoRequest, EchoResponse
from micro.framework.service import Service


class Handler(Echo):
    """`call` answers with as many letters as it is asked for; `chat` with as many at a time, for ever; `get_thing` with
    how many messages all chats have made."""

    def __init__(self) -> None:
        self.made = 0

    async def call(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(name="x" * request.count)

    async def get_thing(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(count=self.made)

    async def chat(self, requests: AsyncIterator[EchoRequest], ctx: Any) -> AsyncIterator[EchoResponse]:
        request = await anext(requests)
        while True:
            self.made += 1
            yield EchoResponse(name="x" * request.count)


app = Service("echo", Handler())
