"""Offers a launcher to the other processes of this server, over a unix socket that only its user can open.

One request a connection, both JSON lines: `{"method": …}` and `{"result": …}` or `{"error": {"kind", "message"}}`. A
watch answers with one `{"result": …}` a process until either side closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from micro.domain import errors
from micro.domain.errors import Error
from micro.ports.background import OwnedTasks
from micro.ports.launcher import Launcher, ProcessInfo, ProcessSpec

MAX_MESSAGE = 16 * 1024 * 1024


class LauncherServer:
    """Serves `launcher` at the socket `path` (at most 107 bytes long) from `start` until its stack is closed."""

    def __init__(self, launcher: Launcher, path: Path) -> None:
        self._launcher = launcher
        self._path = path
        self._conversations = OwnedTasks()

    async def start(self, stack: AsyncExitStack) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            bound.bind(str(self._path))
        finally:
            os.umask(before)
        server = await asyncio.start_unix_server(self._connected, sock=bound, limit=MAX_MESSAGE)
        stack.push_async_callback(self._close, server)

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        self._path.unlink(missing_ok=True)
        await self._conversations.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            self._conversations.joined(),
            contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError),
        ):
            try:
                request = json.loads(await reader.readline() or b"null")
                if not isinstance(request, dict):
                    return
                if request.get("method") == "watch":
                    await self._watch(reader, writer)
                else:
                    await _send(writer, await self._answer(request))
            finally:
                writer.close()

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": await self._call(request)}
        except Error as error:
            return {"error": {"kind": error.kind.code, "message": error.message}}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": {"kind": "invalid_argument", "message": f"launcher: request not understood: {error!r}"}}

    async def _call(self, request: dict[str, Any]) -> Any:
        match request["method"]:
            case "start":
                return encode(await self._launcher.start(_spec(request["spec"])))
            case "stop":
                return await self._launcher.stop(str(request["id"]), float(request["grace"]))
            case "list":
                return [encode(info) for info in await self._launcher.list()]
            case unknown:
                raise errors.unimplemented(f"launcher: no method {unknown!r}")

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send until the client closes: its end of the stream is the only sign of that while nothing happens."""

        async def send() -> None:
            async for info in self._launcher.watch():
                await _send(writer, {"result": encode(info)})

        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send())
            await reader.read()
            sending.cancel()


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()


def encode(info: ProcessInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "pid": info.pid,
        "labels": dict(info.labels),
        "exit_status": info.exit_status,
        "tail": list(info.tail),
    }


def decode(found: dict[str, Any]) -> ProcessInfo:
    return ProcessInfo(
        id=found["id"],
        pid=found["pid"],
        labels=found["labels"],
        exit_status=found["exit_status"],
        tail=tuple(found["tail"]),
    )


def _spec(found: dict[str, Any]) -> ProcessSpec:
    return ProcessSpec(
        id=str(found["id"]),
        argv=tuple(map(str, found["argv"])),
        env={str(key): str(value) for key, value in found["env"].items()},
        cwd=Path(found["cwd"]),
        log=Path(found["log"]),
        labels={str(key): str(value) for key, value in found["labels"].items()},
        note=str(found.get("note", "")),
    )
