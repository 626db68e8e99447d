"""The service that the tests of this room call: it answers with what it is sent, waits, fails, counts and chats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from gen.echo.v1.echo_connect import Audit, Echo
from gen.echo.v1.echo_pb import (
    CountRequest,
    CountResponse,
    EchoRequest,
    EchoResponse,
    FailRequest,
    MetaRequest,
    MetaResponse,
    SleepRequest,
    SleepResponse,
    SumRequest,
    SumResponse,
)
from micro.domain.errors import Error, Kind
from micro.rpc.app import Application
from micro.rpc.context import Context

LIMIT = 2 * 2**20


class EchoHandler(Echo):
    """`cancelled` is set when a handler that waits is stopped; `waiting` when it begins to wait."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def call(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(body=request.body, name=request.name, count=request.count, names=request.names)

    def get_thing(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(name=f"thing {request.name}")

    async def safe(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(name=request.name)

    async def fail(self, request: FailRequest, ctx: Any) -> EchoResponse:
        details = [EchoRequest(name="why")] if request.detail else []
        if request.unexpected:
            raise RuntimeError(f"secret {request.message}")
        if request.connect:
            raise ConnectError(Code(Kind(request.code).code), request.message, details)
        raise Error(Kind(request.code), request.message, details)

    async def sleep(self, request: SleepRequest, ctx: Any) -> SleepResponse:
        self.waiting.set()
        try:
            await (asyncio.sleep(request.seconds) if request.seconds >= 0 else asyncio.Event().wait())
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return SleepResponse()

    async def meta(self, request: MetaRequest, ctx: Context) -> MetaResponse:
        ctx.response_headers["x-head"] = "début"
        ctx.response_trailers["x-tail"] = "end"
        left = -1.0 if ctx.timeout_ms is None else float(round(ctx.timeout_ms / 1000))
        return MetaResponse(value=ctx.metadata.get(request.key, ""), namespace=ctx.namespace, timeout=left)

    async def count(self, request: CountRequest, ctx: Context) -> AsyncIterator[CountResponse]:
        ctx.response_headers["x-head"] = "count"
        try:
            for number in range(1, request.to + 1):
                if number == request.fail_at:
                    raise Error(Kind.DATA_LOSS, "lost count")
                yield CountResponse(number=number)
            if request.to < 0:
                self.waiting.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def sum(self, requests: AsyncIterator[SumRequest], ctx: Any) -> SumResponse:
        return SumResponse(sum=sum([request.number async for request in requests]))

    async def chat(self, requests: AsyncIterator[EchoRequest], ctx: Any) -> AsyncIterator[EchoResponse]:
        async for request in requests:
            if request.name == "fail":
                raise Error(Kind.ABORTED, "no more")
            yield EchoResponse(name=request.name.upper())


class AuditHandler(Audit):
    async def list(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(name="audit")


def echo(**options: Any) -> Application:
    return Application("echo", [EchoHandler(), AuditHandler()], **{"max_message": LIMIT, **options})


def frame(message: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(message).to_bytes(4, "big") + message


def web_trailers(body: bytes) -> dict[str, str]:
    """The trailers of a gRPC-Web answer, which are its last frame."""
    while body:
        size = int.from_bytes(body[1:5], "big")
        if body[0] & 0x80:
            lines = body[5 : 5 + size].decode().splitlines()
            return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = body[5 + size :]
    return {}
