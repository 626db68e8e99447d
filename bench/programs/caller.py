"""Calls, 32 in flight, and prints calls a second: `caller.py micro|grpc ADDRESS COUNT`."""

import asyncio
import os
import sys
import time

import grpc
import uvloop
from proto.helloworld_connect import HelloworldClient
from proto.helloworld_pb import Request, Response


async def measure(call, count: int) -> float:
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await call(Request(name="Ann"))

    await asyncio.gather(*(worker() for _ in range(32)))
    left = iter(range(count))
    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(32)))
    return count / (time.perf_counter() - begin)


async def main(kind: str, address: str, count: int) -> None:
    if kind == "grpc":
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(
                "/helloworld.Helloworld/Call",
                request_serializer=Request.to_binary,
                response_deserializer=Response.from_binary,
            )
            print(await measure(call, count))
        return
    os.environ["MICRO_NETWORK"] = address
    from micro import client

    print(await measure(client.of(HelloworldClient, service="helloworld").call, count))


uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
