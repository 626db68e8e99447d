"""Asking an instance of a service whether it lives: one health check over a connection of its own, which costs both
sides a fraction of a millisecond."""

from __future__ import annotations

import asyncio
import contextlib

from micro.domain import backoff
from micro.domain.address import split
from micro.ports.runtime import Liveness

_QUESTION = (
    b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: micro\r\ncontent-type: application/json\r\n"
    b"content-length: 2\r\nconnection: close\r\n\r\n{}"
)
_ANSWER = b"HTTP/1."


class HealthChecks(Liveness):
    """Over HTTP, as services answer gRPC's health check in JSON. Any answer counts, also one that says "not found"."""

    async def answered(self, address: str) -> None:
        for delay in backoff.exponential(first=0.1, cap=1.0):
            with contextlib.suppress(ConnectionError, TimeoutError, EOFError, ValueError):
                if (await _status_line(address)).startswith(_ANSWER):
                    return
            await asyncio.sleep(delay)


async def _status_line(address: str) -> bytes:
    reader, writer = await asyncio.open_connection(*split(address))
    try:
        writer.write(_QUESTION)
        return await reader.readuntil(b"\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("a status line of any length is none") from error
    finally:
        writer.close()
