"""Asking an Envoy how it is, and telling it to drain, over the unix socket of its admin interface.

Every Envoy of the platform has one: the three gateways and each service's own. The socket is a file that only the
server's user can open, so this needs no other guard.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from micro.domain import errors

_ANSWER_WITHIN = 2.0
_POLL = 0.05
_RETRY = 0.5
_ACTIVE = "/stats?filter=^http\\..*\\.downstream_rq_active$"


class Admin:
    """The admin interface behind one socket. Keeps no connection, so it outlives restarts of its Envoy."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ready(self) -> bool:
        """Whether the Envoy is live: initialised, listening and not draining. False when nobody answers."""
        try:
            status, body = await self._ask("GET", "/ready")
        except (OSError, ValueError, EOFError, TimeoutError):
            return False
        return status == 200 and body.strip() == b"LIVE"

    async def answered(self) -> None:
        """Return once the Envoy has answered anything. Waits for as long as that takes. Raises OSError for a fault of
        this side's own."""
        while True:
            with contextlib.suppress(FileNotFoundError, BlockingIOError, ConnectionError, EOFError, TimeoutError):
                await self._ask("GET", "/ready")
                return
            await asyncio.sleep(_RETRY)

    async def drain(self) -> None:
        """Ask clients to move away: answers carry `connection: close` or GOAWAY, yet all that comes is still answered.

        Draining twice is no error. Raises UNAVAILABLE when nobody answers.
        """
        try:
            status, body = await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        except (OSError, ValueError, EOFError, TimeoutError) as error:
            raise errors.unavailable(
                f"{self._path}: no Envoy answers ({error or 'timeout'}); is it running?"
            ) from error
        if status != 200:
            raise errors.unavailable(f"{self._path}: Envoy refused to drain: {body.decode(errors='replace').strip()}")

    async def active_requests(self) -> int:
        """How many requests are in flight, streams included, the admin's own left out.

        Raises UNAVAILABLE when nobody answers.
        """
        try:
            status, body = await self._ask("GET", _ACTIVE)
        except (OSError, ValueError, EOFError, TimeoutError) as error:
            raise errors.unavailable(
                f"{self._path}: no Envoy answers ({error or 'timeout'}); is it running?"
            ) from error
        if status != 200:
            raise errors.unavailable(f"{self._path}: Envoy told no statistics: status {status}")
        total = 0
        for line in body.decode().splitlines():
            name, _, value = line.partition(":")
            if not name.startswith("http.admin."):
                total += int(value)
        return total

    async def wait_ready(self, timeout: float) -> None:
        """Return once the Envoy is live. Raises UNAVAILABLE when it is not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not await self.ready():  # noqa: ASYNC110 - another process, no event
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise errors.unavailable(f"{self._path}: Envoy is not ready after {timeout:g} s; see its log") from None

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no request is in flight: True then, or when the Envoy is gone; False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while await self.active_requests():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            return False
        except errors.Error:
            return True
        return True

    async def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_unix_connection(str(self._path))
            try:
                head = f"{method} {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0"
                writer.write(f"{head}\r\n\r\n".encode())
                await writer.drain()
                answer = await reader.readuntil(b"\r\n\r\n")
                body = await reader.read()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        status_line, *lines = answer.decode("latin-1").split("\r\n")
        chunked = any(line.lower().replace(" ", "") == "transfer-encoding:chunked" for line in lines)
        return int(status_line.split(" ", 2)[1]), _dechunk(body) if chunked else body


def _dechunk(body: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return b"".join(parts)
        if len(body) < length:
            raise EOFError("the answer was cut short")
        parts.append(body[:length])
        body = body[length + 2 :]
