"""Whom a client calls as, what it does when a token is not taken, and whom it trusts over TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authority import Authority
from gen.echo.v1.echo_connect import EchoClient
from gen.echo.v1.echo_pb import CountRequest, CountResponse, EchoRequest, EchoResponse, SumRequest, SumResponse
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.rpc.client import Client
from micro.rpc.context import CURRENT, Context

Headers = dict[str, str]


class Tokens:
    """An identity that has as many tokens as it is asked for."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.refusals: list[str] = []
        self.asked: list[Audience] = []

    async def token(self, audience: Audience) -> str:
        self.asked.append(audience)
        return self._tokens[0]

    def refused(self, token: str) -> bool:
        self.refusals.append(token)
        if len(self._tokens) > 1:
            self._tokens.pop(0)
        return self._tokens[0] != token


class Callee:
    """A server that takes one token, and remembers what it was called with."""

    def __init__(self, *, taken: str = "good", header: str = "authorization", refuses: bool = True) -> None:
        self.taken, self.header, self.refuses = f"Bearer {taken}", header, refuses
        self.calls: list[Headers] = []
        self.address = ""

    async def _admit(self, context: Any) -> None:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        self.calls.append(headers)
        if headers.get(self.header) not in (None, self.taken):
            told = (("micro-refused", self.header),) if self.refuses else ()
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no", told)

    async def call(self, request: EchoRequest, context: Any) -> EchoResponse:
        await self._admit(context)
        return EchoResponse(name="here")

    async def count(self, request: CountRequest, context: Any) -> AsyncIterator[CountResponse]:
        await self._admit(context)
        yield CountResponse(number=1)

    async def sum(self, requests: AsyncIterator[SumRequest], context: Any) -> SumResponse:
        await self._admit(context)
        return SumResponse(sum=sum([request.number async for request in requests]))


@asynccontextmanager
async def serving(callee: Callee, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Callee]:
    server = grpc.aio.server()
    kinds: list[tuple[str, Callable[..., Any], Any, Any, Any]] = [
        ("Call", grpc.unary_unary_rpc_method_handler, callee.call, EchoRequest, EchoResponse),
        ("Count", grpc.unary_stream_rpc_method_handler, callee.count, CountRequest, CountResponse),
        ("Sum", grpc.stream_unary_rpc_method_handler, callee.sum, SumRequest, SumResponse),
    ]
    methods = {
        name: make(function, given.from_binary, lambda answer: answer.to_binary())
        for name, make, function, given, _ in kinds
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.v1.Echo", methods),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    callee.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield callee
    finally:
        await server.stop(None)


@asynccontextmanager
async def calling(callee: Callee, identity: Any = None, **more: Any) -> AsyncIterator[Client]:
    made = Client(callee.address, identity=identity, **more)
    try:
        yield made
    finally:
        await made.close()


async def kind(call: Awaitable[Any]) -> Kind | None:
    try:
        await call
    except Error as error:
        return error.kind
    return None


def call(client: Client) -> Awaitable[Any]:
    return client.of(EchoClient).call(EchoRequest())


async def test_calls_are_made_as_somebody_or_nobody() -> None:
    async with serving(Callee()) as callee:
        async with calling(callee, Tokens("good")) as client:
            await call(client)
            await client.call("echo", "Echo.Call", EchoRequest())
            assert [answer.number async for answer in client.of(EchoClient).count(CountRequest())] == [1]
            assert [headers["authorization"] for headers in callee.calls] == ["Bearer good"] * 3
        for nobody in (None, Tokens("")):
            async with calling(callee, nobody) as client:
                await call(client)
                assert "authorization" not in callee.calls[-1]


async def test_a_token_is_for_whom_the_call_is_routed_to() -> None:
    async with serving(Callee()) as callee, calling(callee, tokens := Tokens("good")) as client:
        for service in (None, "echo", "registry"):
            await client.of(EchoClient, service).call(EchoRequest())
        assert [answer.number async for answer in client.of(EchoClient, "auth").count(CountRequest())] == [1]
        await client.call("runtime", "Echo.Call", EchoRequest())
        await client.call("runtime", "Echo.Call", EchoRequest(), metadata={"Micro-Service": "echo"})
    ours, theirs = Audience.PLATFORM, Audience.SERVICES
    assert tokens.asked == [theirs, theirs, ours, ours, ours, theirs]


async def test_a_service_acts_for_others_towards_services_like_itself() -> None:
    """The token that its caller has shown it is worth nothing to the platform, whose tokens it is not shown."""
    async with serving(Callee(taken="ann")) as callee, calling(callee, Tokens("till")) as client:
        own, core = context(authorization="Bearer ann"), context(authorization="Bearer ann")
        core.audience = Audience.PLATFORM
        for ctx, right, wrong in ((own, "books", "registry"), (core, "registry", "books")):
            acting = client.as_caller(ctx)
            await acting.of(EchoClient, right).call(EchoRequest())
            count = len(callee.calls)
            calls = (
                acting.of(EchoClient, wrong).call(EchoRequest()),
                acting.call(wrong, "Echo.Call", EchoRequest()),
                acting.call(right, "Echo.Call", EchoRequest(), metadata={"micro-service": wrong}),
            )
            for refused in calls:
                with pytest.raises(Error, match="acts for its caller towards") as caught:
                    await refused
                assert caught.value.kind is Kind.FAILED_PRECONDITION
            with pytest.raises(Error, match="acts for its caller towards"):
                [answer async for answer in acting.of(EchoClient, wrong).count(CountRequest())]
            assert len(callee.calls) == count, "nothing was sent"


async def test_a_token_that_is_not_taken_is_replaced_once() -> None:
    async with serving(Callee()) as callee:
        tokens = Tokens("old", "good")
        async with calling(callee, tokens) as client:
            await call(client)
            assert ([headers["authorization"] for headers in callee.calls], tokens.refusals) == (
                ["Bearer old", "Bearer good"],
                ["old"],
            )
        tokens = Tokens("old", "older", "good")
        async with calling(callee, tokens) as client:
            assert await kind(call(client)) is Kind.UNAUTHENTICATED
            assert await kind(call(client)) is None
        tokens = Tokens("only")
        async with calling(callee, tokens) as client:
            before = len(callee.calls)
            assert await kind(call(client)) is Kind.UNAUTHENTICATED
            assert len(callee.calls) == before + 1


async def test_what_a_handler_refuses_is_not_repeated() -> None:
    """It may have done half of its work."""
    async with serving(Callee(refuses=False)) as callee:
        tokens = Tokens("old", "good")
        async with calling(callee, tokens) as client:
            assert await kind(call(client)) is Kind.UNAUTHENTICATED
        assert (len(callee.calls), tokens.refusals) == (1, [])


async def test_streams_are_not_repeated_and_the_next_one_has_a_better_token() -> None:
    async def numbers() -> AsyncIterator[SumRequest]:
        yield SumRequest(number=1)

    async with serving(Callee()) as callee, calling(callee, Tokens("old", "good")) as client:
        with pytest.raises(Error):
            [answer async for answer in client.of(EchoClient).count(CountRequest())]
        assert [answer.number async for answer in client.of(EchoClient).count(CountRequest())] == [1]
    async with serving(Callee()) as callee, calling(callee, Tokens("old", "good")) as client:
        assert await kind(client.of(EchoClient).sum(numbers())) is Kind.UNAUTHENTICATED
        assert (await client.of(EchoClient).sum(numbers())).sum == 1
        assert len(callee.calls) == 2


def context(**headers: str) -> Context:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Context(None, {"headers": pairs}, None)  # type: ignore[arg-type]


async def test_a_call_for_somebody_shows_both() -> None:
    async with serving(Callee(taken="ann")) as callee, calling(callee, Tokens("till")) as client:
        await call(client.as_caller(context(authorization="Bearer ann")))
        assert (callee.calls[-1]["authorization"], callee.calls[-1]["micro-actor"]) == ("Bearer ann", "Bearer till")
        await call(client.as_caller(context()))
        assert ("authorization" in callee.calls[-1], callee.calls[-1]["micro-actor"]) == (False, "Bearer till")


async def test_only_our_own_part_of_a_call_for_somebody_is_renewed() -> None:
    tokens = Tokens("old", "good")
    async with serving(Callee(header="micro-actor")) as callee, calling(callee, tokens) as client:
        await call(client.as_caller(context(authorization="Bearer ann")))
        assert [headers["micro-actor"] for headers in callee.calls] == ["Bearer old", "Bearer good"]
        assert {headers["authorization"] for headers in callee.calls} == {"Bearer ann"}
    tokens = Tokens("till")
    async with serving(Callee()) as callee, calling(callee, tokens) as client:
        assert await kind(call(client.as_caller(context(authorization="Bearer ended")))) is Kind.UNAUTHENTICATED
        assert (len(callee.calls), tokens.refusals) == (1, [])


async def test_a_call_that_names_its_caller_itself_is_left_alone() -> None:
    async with serving(Callee(taken="mine")) as callee, calling(callee, Tokens("good")) as client:
        await client.of(EchoClient).call(EchoRequest(), headers={"authorization": "Bearer mine"})
        assert callee.calls[-1]["authorization"] == "Bearer mine"
        given = {"Authorization": "Bearer other"}
        assert await kind(client.call("echo", "Echo.Call", EchoRequest(), metadata=given)) is Kind.UNAUTHENTICATED


async def test_the_caller_s_token_does_not_travel_by_itself() -> None:
    async with serving(Callee(taken="own")) as callee, calling(callee, Tokens("own")) as client:
        token = CURRENT.set(context(authorization="Bearer ann", micro_namespace="-"))
        try:
            await call(client)
        finally:
            CURRENT.reset(token)
        assert callee.calls[-1]["authorization"] == "Bearer own"
        assert "micro-namespace" not in callee.calls[-1]


def certificate(folder: Path, *, clients: bytes | None = None) -> tuple[grpc.ServerCredentials, Path]:
    """A certificate for 127.0.0.1 that is its own authority; `clients` are authorities of what clients must show."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=test")
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "ca.pem"
    file.write_bytes(pem)
    return grpc.ssl_server_credentials([(private, pem)], clients, clients is not None), file


async def test_a_private_connection_needs_a_certificate_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials, authority = certificate(tmp_path)
    async with serving(Callee(), credentials) as callee:
        target = f"https://{callee.address}"
        monkeypatch.setenv("MICRO_CA", str(authority))
        monkeypatch.delenv("MICRO_NETWORK", raising=False)
        monkeypatch.setenv("MICRO_PROXY_ADDRESS", f"{target}/")
        trusting = Client(identity=Tokens("good"))
        await call(trusting)
        await trusting.close()
        monkeypatch.delenv("MICRO_CA")
        stranger = Client(target, timeout=0.5)
        with pytest.raises(Error, match="MICRO_CA") as raised:
            await call(stranger)
        assert raised.value.kind is Kind.UNAVAILABLE
        await stranger.close()
        monkeypatch.setenv("MICRO_CA", str(tmp_path / "none"))
        with pytest.raises(Error, match="cannot read MICRO_CA") as unread:
            await call(Client(target))
        assert unread.value.kind is Kind.FAILED_PRECONDITION


async def test_a_server_that_asks_for_a_certificate_is_shown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Authority(tmp_path)
    cert, key = known.write("mine")
    place = tmp_path / "server"
    place.mkdir()
    credentials, authority = certificate(place, clients=known.file.read_bytes())
    monkeypatch.setenv("MICRO_CA", str(authority))
    async with serving(Callee(), credentials) as callee:
        target = f"https://{callee.address}"
        nobody = Client(target, timeout=0.5)
        with pytest.raises(Error, match="If it asks for a certificate: MICRO_CERT and MICRO_KEY") as raised:
            await call(nobody)
        assert raised.value.kind is Kind.UNAVAILABLE
        await nobody.close()
        monkeypatch.setenv("MICRO_CERT", str(cert))
        monkeypatch.setenv("MICRO_KEY", str(key))
        member = Client(target, identity=Tokens("good"))
        await call(member)
        await member.close()


@pytest.mark.parametrize("bulk", [False, True])
async def test_what_is_wrong_with_a_certificate_is_told_before_anybody_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bulk: bool
) -> None:
    known = Authority(tmp_path)
    cert, key = known.write("mine")
    _, other = known.write("other")
    for cert_file, key_file, words in (
        (cert, None, "belong together: give both"),
        (None, key, "belong together: give both"),
        (cert, other, "its own key"),
        (key, key, "a certificate in PEM"),
        (tmp_path / "none", key, "cannot read MICRO_CERT=.*none: No such file"),
        (cert, tmp_path / "none", "cannot read MICRO_KEY=.*none: No such file"),
    ):
        for name, file in (("MICRO_CERT", cert_file), ("MICRO_KEY", key_file)):
            monkeypatch.setenv(name, str(file or ""))
        with pytest.raises(Error, match=words) as told:
            Client("https://127.0.0.1:1").channel(bulk=bulk)
        assert told.value.kind is Kind.FAILED_PRECONDITION
