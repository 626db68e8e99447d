"""The echo service as a process: what the client's tests talk to."""

from __future__ import annotations

from typing import Any

from echo_service import AuditHandler, EchoHandler

from gen.echo.v1.echo_connect import EchoClient
from gen.echo.v1.echo_pb import EchoRequest, EchoResponse, SleepRequest
from micro.framework import client
from micro.framework.service import Service


class Handler(EchoHandler):
    def get_thing(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(name=f"cancelled: {self.cancelled.is_set()}")

    async def safe(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        """Call ourselves, with what is left of the deadline."""
        await client.of(EchoClient).sleep(SleepRequest(seconds=-1))
        return EchoResponse()


app = Service("echo", Handler(), AuditHandler(), max_message=32 * 2**20)
