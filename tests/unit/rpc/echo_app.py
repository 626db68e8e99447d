"""The echo service as a process: what the client's tests talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from echo_service import AuditHandler, EchoHandler

from gen.echo.v1.echo_connect import EchoClient
from gen.echo.v1.echo_pb import EchoRequest, EchoResponse, SleepRequest, SumRequest, SumResponse
from micro.framework import client
from micro.framework.service import Service


class Handler(EchoHandler):
    """`summed` are the streams of numbers that came to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.summed: list[int] = []

    def get_thing(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        if request.name == "forget":
            self.cancelled.clear()
        sums = [str(one) for one in self.summed]
        return EchoResponse(name=f"cancelled: {self.cancelled.is_set()}", names=sums)

    async def safe(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        """Call ourselves, with what is left of the deadline."""
        await client.of(EchoClient).sleep(SleepRequest(seconds=-1))
        return EchoResponse()

    async def sum(self, requests: AsyncIterator[SumRequest], ctx: Any) -> SumResponse:
        found = await super().sum(requests, ctx)
        self.summed.append(found.sum)
        return found


app = Service("echo", Handler(), AuditHandler(), max_message=32 * 2**20)
