"""Registers COUNT services that listen nowhere, then one more, and prints how long each took to be routed everywhere.

`registrar.py PROXY COUNT`, with an admin's token for the platform in TOKEN. Registering and waiting go through the
public contracts.
"""

import asyncio
import json
import os
import sys
import time

from micro.rpc.client import Client
from micro.rpc.gen.micro.network.v1.network_connect import NetworkClient
from micro.rpc.gen.micro.network.v1.network_pb import SyncRequest
from micro.rpc.gen.micro.registry.v1.registry_connect import RegistryClient
from micro.rpc.gen.micro.registry.v1.registry_pb import Endpoint, Node, RegisterRequest, Service, Value


async def main(proxy: str, count: int) -> None:
    client = Client(proxy, metadata={"authorization": f"Bearer {os.environ['TOKEN']}"})
    registry, network = client.of(RegistryClient, service="registry"), client.of(NetworkClient, service="network")

    async def register(number: int, instance: int = 0) -> int:
        name = f"load{number}"
        node = Node(id=f"{name}-{instance}", address=f"127.0.0.1:{20000 + instance * 5000 + number}")
        value = Value(name="Request", type="message")
        endpoint = Endpoint(
            name="Load.Call", path=f"/load{number}.Load/Call", request=value, response=value, kind="unary", timeout=10
        )
        service = Service(name=name, version="latest", nodes=[node], endpoints=[endpoint])
        return (await registry.register(RegisterRequest(service=service))).revision

    async def routed(revision: int) -> None:
        await network.sync(SyncRequest(revision=revision), timeout_ms=60_000)

    figures = {}
    begin = time.perf_counter()
    limit = asyncio.Semaphore(32)

    async def one(number: int) -> int:
        async with limit:
            return await register(number)

    await routed(max(await asyncio.gather(*(one(number) for number in range(count)))))
    figures["all"] = time.perf_counter() - begin
    for name, arguments in (("one", (count,)), ("instance", (0, 1))):
        begin = time.perf_counter()
        await routed(await register(*arguments))
        figures[name] = time.perf_counter() - begin
    print(json.dumps(figures))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
