"""A service that tells who calls it, as a process."""

from __future__ import annotations

import os
from typing import Any

from gen.echo.v1.echo_connect import Echo, EchoClient
from gen.echo.v1.echo_pb import EchoRequest, EchoResponse
from micro.framework import client
from micro.framework.service import Service
from micro.rpc.client import Client


class Handler(Echo):
    async def call(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(names=[str(ctx.account), str(ctx.actor)])

    async def safe(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        """Call ourselves, as ourselves or for the caller."""
        own = Client(os.environ["MICRO_SERVICE_ADDRESS"], pool=client.pool, identity=client.identity)
        made = own.as_caller(ctx) if request.name == "as caller" else own
        return await made.of(EchoClient).call(EchoRequest())


app = Service("echo", Handler())
