"""A guarded service as a process, with the true server on both sides: it learns who may call, and calls as itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyqwest
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType

import processes
from gen.echo.v1.echo_connect import EchoClient
from gen.echo.v1.echo_pb import CountRequest, EchoRequest
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.ports.free_address import free_address
from micro.rpc.client import Client
from micro.rpc.credentials import Credentials
from micro.rpc.gen.grpc.health.v1.health_connect import HealthClient
from micro.rpc.gen.grpc.health.v1.health_pb import HealthCheckRequest, HealthCheckResponse
from micro.rpc.gen.micro.auth.v1 import auth_connect as auths
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb

HERE = Path(__file__).resolve().parent
PATIENCE = 20.0


@dataclass
class World:
    auth_address: str
    address: str
    auth_process: subprocess.Popen[bytes]

    def __post_init__(self) -> None:
        self.nobody = Client(self.address)
        self.auth = Client(self.auth_address)
        admin = Credentials.over(self.auth, "admin", "right", "micro")
        self.admin = Client(self.auth_address, pool=self.auth.pool, identity=admin)

    def client(self, account: str) -> Client:
        """Calls the service as that account."""
        own = Credentials.over(self.auth, account, "right", "micro")
        return Client(self.address, pool=self.nobody.pool, identity=own)

    async def release(self) -> None:
        headers = {"authorization": "Bearer of the server"}
        await self.auth.of(auths.SetupClient, "auth").begin(pb.BeginRequest(), headers=headers)

    async def told(self) -> str:
        """Who has logged in, and as whom instances were registered."""
        return (await self.admin.of(auths.AuthClient, "auth").explain(pb.ExplainRequest())).reason

    async def ready(self) -> bool:
        found = await self.nobody.of(HealthClient, "echo").check(HealthCheckRequest())
        return found.status == HealthCheckResponse.ServingStatus.SERVING

    async def close(self) -> None:
        await self.nobody.close()
        await self.auth.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    auth_address, address = free_address(), free_address()
    with ExitStack() as stack:
        auth = stack.enter_context(processes.serving(HERE / "identity_auth_app.py", auth_address))
        stack.enter_context(
            processes.serving(
                HERE / "identity_echo_app.py",
                address,
                MICRO_SERVICE_ADDRESS=address,
                MICRO_NETWORK=auth_address,
                MICRO_AUTH_ID="echo-latest",
                MICRO_AUTH_SECRET="right",
            )
        )
        made = World(auth_address, address, auth)
        yield made
        await made.close()


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + PATIENCE
    while not await check():
        assert time.monotonic() < end, "it does not come true"
        await asyncio.sleep(0.02)


async def kind(calling: Awaitable[object]) -> Kind | None:
    try:
        await calling
    except Error as error:
        return error.kind
    return None


async def test_it_is_closed_until_it_knows_and_open_to_whom_it_should_be(world: World) -> None:
    assert not await world.ready()
    ann, request = world.client("ann").of(EchoClient), EchoRequest()
    assert await kind(ann.call(request)) is Kind.UNAVAILABLE
    assert await kind(world.nobody.of(EchoClient).call(request)) is Kind.UNAVAILABLE
    assert "micro/echo-latest" not in await world.told()
    await world.release()
    await until(world.ready)

    assert (await ann.call(request)).names == ["micro/ann", "None"]
    assert await kind(world.nobody.of(EchoClient).call(request)) is Kind.UNAUTHENTICATED

    async def registered() -> bool:
        return (await world.told()).endswith(", micro/echo-latest")

    await until(registered)
    # One login for each of them, however many calls it was for.
    assert sorted((await world.told()).split(",")[0].split()) == ["admin", "ann", "echo-latest"]

    # It calls as itself, and for others when it says so.
    assert (await ann.safe(EchoRequest())).names == ["micro/echo-latest", "None"]
    assert (await ann.safe(EchoRequest(name="as caller"))).names == ["micro/ann", "micro/echo-latest"]

    # What it was shown it cannot show to the platform.
    admin = world.client("admin").identity
    assert admin is not None
    revoking = world.auth.of(auths.TokensClient, "auth")
    for audience, wanted in ((Audience.SERVICES, Kind.UNAUTHENTICATED), (Audience.PLATFORM, None)):
        headers = {"authorization": f"Bearer {await admin.token(audience)}"}
        assert await kind(revoking.revoke(pb.TokensRevokeRequest(account="ann"), headers=headers)) is wanted
        with_it = world.nobody.of(EchoClient).call(request, headers=headers)
        assert await kind(with_it) is (None if wanted else Kind.UNAUTHENTICATED)


async def test_a_change_reaches_it_and_a_caller_that_can_logs_in_anew(world: World) -> None:
    await world.release()
    await until(world.ready)
    ann, nobody, request = world.client("ann"), world.nobody.of(EchoClient), EchoRequest()
    assert (await ann.of(EchoClient).call(request)).names[0] == "micro/ann"
    assert ann.identity is not None
    held = {"authorization": f"Bearer {await ann.identity.token(Audience.SERVICES)}"}

    async def refused() -> bool:
        return await kind(nobody.call(request, headers=held)) is Kind.UNAUTHENTICATED

    assert not await refused()
    await asyncio.sleep(1.0)  # a token younger than that is not replaced
    await world.admin.of(auths.TokensClient, "auth").revoke(pb.TokensRevokeRequest(account="ann"))
    await until(refused)
    assert (await ann.of(EchoClient).call(request)).names[0] == "micro/ann"
    assert (await world.told()).split(",")[0].split().count("ann") == 2

    await world.admin.of(auths.RulesClient, "auth").create(pb.RulesCreateRequest(rule=pb.Rule(id="open")))

    async def open_to_nobody() -> bool:
        return await kind(nobody.call(request)) is None

    await until(open_to_nobody)


@pytest.mark.parametrize("protocol", list(ProtocolType))
async def test_other_libraries_understand_a_refusal(world: World, protocol: ProtocolType) -> None:
    await world.release()
    await until(world.ready)
    transport = pyqwest.HTTPTransport(http_version=pyqwest.HTTPVersion.HTTP2)
    stock = EchoClient(f"http://{world.address}", protocol=protocol, http_client=pyqwest.Client(transport))
    with pytest.raises(ConnectError, match="needs an account") as unary:
        await stock.call(EchoRequest())
    with pytest.raises(ConnectError, match="needs an account") as stream:
        [answer async for answer in stock.count(CountRequest(to=1))]
    assert {unary.value.code, stream.value.code} == {Code.UNAUTHENTICATED}
    host, _, port = world.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    handshake = (
        f"GET /echo/chat HTTP/1.1\r\nHost: {world.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    writer.write(handshake.encode())
    assert (await reader.readuntil(b"\r\n")).split()[1] == b"403"
    writer.close()


async def test_when_auth_is_killed_nothing_opens_and_nobody_is_locked_out(world: World) -> None:
    await world.release()
    await until(world.ready)
    ann = world.client("ann").of(EchoClient)
    await ann.call(EchoRequest())
    os.killpg(world.auth_process.pid, signal.SIGKILL)
    world.auth_process.wait()
    assert (await ann.safe(EchoRequest(name="as caller"))).names == ["micro/ann", "micro/echo-latest"]
    assert await kind(world.nobody.of(EchoClient).call(EchoRequest())) is Kind.UNAUTHENTICATED
    assert await world.ready()
