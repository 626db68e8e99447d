"""Callers that do not fetch what they asked for: they wait, or lose their streams, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from gen.echo.v1.echo_pb import EchoRequest, EchoResponse
from micro.rpc import asgi_server
from micro.server.settings import free_addresses

HERE = Path(__file__).resolve().parent
MIB = 2**20


@dataclass
class Slow:
    """A running service, and a connection to it."""

    pid: int
    channel: grpc.aio.Channel

    async def ask(self, method: str, count: int = 0) -> EchoResponse:
        make = self.channel.unary_unary(f"/echo.v1.Echo/{method}", EchoRequest.to_binary, EchoResponse.from_binary)
        return await make(EchoRequest(count=count))

    async def chat(self, size: int) -> Any:
        """A stream of messages of `size` bytes that has begun to arrive."""
        make = self.channel.stream_stream("/echo.v1.Echo/Chat", EchoRequest.to_binary, EchoResponse.from_binary)
        call = make()
        await call.write(EchoRequest(count=size))
        await call.initial_metadata()
        return call

    async def made(self) -> int:
        """How many messages the chats have made, once they make no more."""
        last = -1
        while (count := (await self.ask("GetThing")).count) != last:
            last = count
            for _ in range(100):
                await self.ask("Call", 1)
        return last

    def memory(self, what: str = "VmRSS") -> int:
        """Bytes; VmHWM for the most that there ever were."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(what))) * 1024


@contextmanager
def process(max_heap: int) -> Iterator[tuple[str, int]]:
    (address,) = free_addresses(1)
    with tempfile.TemporaryDirectory(prefix="ms-") as folder:
        admin = Path(folder, "a.sock")
        command = asgi_server.command("slow_service:app", address=address, admin=admin, folder=HERE, max_heap=max_heap)
        own = {key: value for key, value in os.environ.items() if not key.startswith("MICRO_")}
        path = os.pathsep.join((command.env["PYTHONPATH"], str(HERE.parent)))
        env = {**own, **command.env, "PYTHONPATH": path}
        running = subprocess.Popen(command.argv, env=env, start_new_session=True, stderr=sys.stderr)
        try:
            yield address, running.pid
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@asynccontextmanager
async def service(max_heap: int = 0) -> AsyncIterator[Slow]:
    # This client is to read ahead no more than it is asked to.
    window = [("grpc.http2.lookahead_bytes", MIB // 16), ("grpc.http2.bdp_probe", 0)]
    options = [("grpc.max_receive_message_length", 64 * MIB), *window]
    with process(max_heap) as (address, pid):
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            await channel.channel_ready()
            yield Slow(pid, channel)


async def test_a_handler_waits_for_a_reader_that_has_stopped() -> None:
    async with service() as slow:
        before = slow.memory()
        chats = [await slow.chat(MIB // 16) for _ in range(4)]
        made = await slow.made()
        assert made * MIB // 16 < len(chats) * 4 * MIB
        assert slow.memory() - before < 64 * MIB
        for _ in range(2000):
            assert len((await chats[0].read()).name) == MIB // 16
        assert slow.memory("VmHWM") - before < 64 * MIB


async def end(chat: Any) -> grpc.StatusCode | None:
    """What has ended a stream; None for one that goes on."""
    try:
        for _ in range(3):
            await chat.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    chat.cancel()
    return None


async def until_served(slow: Slow, size: int) -> EchoResponse:
    """A large answer, asked for again while the process still finds itself short of the memory that has just gone."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await slow.ask("Call", size)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.INTERNAL:
                    raise


async def test_who_lets_large_answers_lie_loses_the_stream_before_memory_is_used_up() -> None:
    async with service(max_heap=256 * MIB) as slow:
        chats = [await slow.chat(24 * MIB) for _ in range(30)]
        assert (await slow.ask("Call", 1)).name == "x"
        assert slow.memory("VmHWM") < 1024 * MIB
        ends = [await end(chat) for chat in chats]
        assert grpc.StatusCode.INTERNAL in ends
        assert len((await until_served(slow, 31 * MIB)).name) == 31 * MIB
