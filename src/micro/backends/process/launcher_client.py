"""The supervisor's launcher, as another process of the same server sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from micro.backends.process.launcher_server import MAX_MESSAGE, decode
from micro.domain import backoff, errors
from micro.domain.errors import Error, Kind
from micro.ports.launcher import Launcher, ProcessInfo, ProcessSpec

_PATIENCE = 10.0


class RemoteLauncher(Launcher):
    """Speaks to the `LauncherServer` at the socket `path`.

    A connection a call, so that there is nothing to start, to close or to get stuck. A server that is not there is
    waited for up to 10 s, then the call raises UNAVAILABLE.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        request = {
            "method": "start",
            "spec": {
                "id": spec.id,
                "argv": list(spec.argv),
                "env": dict(spec.env),
                "cwd": str(spec.cwd),
                "log": str(spec.log),
                "labels": dict(spec.labels),
                "note": spec.note,
            },
        }
        return decode(await self._call(request))

    async def stop(self, process_id: str, grace: float = 5.0) -> None:
        await self._call({"method": "stop", "id": process_id, "grace": grace}, patience=_PATIENCE + grace)

    async def list(self) -> list[ProcessInfo]:
        return [decode(found) for found in await self._call({"method": "list"})]

    async def watch(self) -> AsyncIterator[ProcessInfo]:
        delays = backoff.exponential(first=0.05, cap=2.0)
        while True:
            try:
                async with self._connection({"method": "watch"}) as reader:
                    while line := await reader.readline():
                        yield decode(json.loads(line)["result"])
                        delays = backoff.exponential(first=0.05, cap=2.0)
            except OSError:
                pass
            await asyncio.sleep(next(delays))

    async def _call(self, request: dict[str, Any], patience: float = _PATIENCE) -> Any:
        try:
            async with asyncio.timeout(patience):
                answer = await self._exchange(request)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            raise errors.unavailable("the launcher does not answer: is `micro server` still running?") from error
        if "error" in answer:
            raise Error(Kind.of_code(answer["error"]["kind"]), answer["error"]["message"])
        return answer["result"]

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        for delay in backoff.exponential(first=0.05, cap=1.0):
            try:
                async with self._connection(request) as reader:
                    answer: dict[str, Any] = json.loads(await reader.readline())
                    return answer
            except (FileNotFoundError, ConnectionRefusedError):  # the request was not sent: trying again is safe
                await asyncio.sleep(delay)
        raise AssertionError("the backoff never ends")

    @asynccontextmanager
    async def _connection(self, request: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_MESSAGE)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            yield reader
        finally:
            writer.close()
