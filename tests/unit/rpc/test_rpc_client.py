"""The client against a real process: the true server, the true wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pyqwest
import pytest
from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType

import processes
from gen.echo.v1.echo_connect import AuditClient, EchoClient
from gen.echo.v1.echo_pb import (
    CountRequest,
    EchoRequest,
    EchoResponse,
    FailRequest,
    MetaRequest,
    SleepRequest,
    SumRequest,
)
from micro.domain.errors import Error, Kind
from micro.ports.free_address import free_address
from micro.rpc.client import Client, Pool, address, service_of
from micro.rpc.context import CURRENT, Context


async def test_a_dict_is_answered_with_a_dict(client: Client) -> None:
    request = {"name": "Ann", "body": {"counts": {"a": 1}, "big": "9007199254740993"}}
    assert await client.call("echo", "Echo.Call", request) == request
    assert await client.call("echo", "call", {"name": "Ann"}) == {"name": "Ann"}
    assert await client.call("echo", "Audit.List") == {"name": "audit"}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"nmae": "Ann"}, "there is no field 'nmae': did you mean name?"),
        ({"body": {"byId": {"1": {"tag": []}}}}, "there is no field 'body.byId.1.tag': did you mean tags?"),
        (
            {"body": {"inners": [{"b": 1}, {"zzz": 1}]}},
            "there is no field 'body.inners[1].zzz': Inner has b, more, tags",
        ),
        ({"body": {"free": {"x": {"y": 1}}}, "names": "x"}, "EchoRequest.names"),
        ({"body": {"color": "PINK"}}, "PINK"),
    ],
)
async def test_what_a_dict_has_and_the_contract_has_not_is_refused(
    client: Client, request_: dict[str, object], said: str
) -> None:
    with pytest.raises(Error) as raised:
        await client.call("echo", "Echo.Call", request_)
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    assert said in raised.value.message
    known = {"body": {"free": {"anything": 1}, "two_words": "a"}}
    assert (await client.call("echo", "Echo.Call", known))["body"]["twoWords"] == "a"


async def test_a_message_is_answered_with_a_message(client: Client) -> None:
    assert await client.call("echo", "Echo.Call", EchoRequest(name="Ann")) == EchoResponse(name="Ann")
    again = await client.call("echo", "Echo.Call", EchoRequest(name="Ann"), response=EchoResponse)
    assert again == EchoResponse(name="Ann")


async def test_a_message_of_another_contract_needs_to_know_its_answer(client: Client) -> None:
    with pytest.raises(TypeError, match="response="):
        await client.call("echo", "Echo.Nope", EchoRequest())


async def test_a_generated_client_speaks_all_kinds_of_calls(client: Client) -> None:
    echo = client.of(EchoClient)

    async def numbers() -> AsyncIterator[SumRequest]:
        for number in (1, 2, 3):
            yield SumRequest(number=number)

    async def words() -> AsyncIterator[EchoRequest]:
        for word in ("a", "b"):
            yield EchoRequest(name=word)

    assert isinstance(echo, EchoClient)
    assert (await echo.call(EchoRequest(name="Ann"))).name == "Ann"
    assert [answer.number async for answer in echo.count(CountRequest(to=3))] == [1, 2, 3]
    assert (await echo.sum(numbers())).sum == 6
    assert [answer.name async for answer in echo.chat(words())] == ["A", "B"]
    assert (await client.of(AuditClient, "echo").list(EchoRequest())).name == "audit"


async def test_a_conversation_goes_turn_by_turn(client: Client) -> None:
    """Each message is sent only after the answer to the one before: nothing is held back on the way."""
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def turns() -> AsyncIterator[EchoRequest]:
        for word in ("a", "b", "c"):
            yield EchoRequest(name=word)
            assert await answers.get() == word.upper()

    seen = 0
    async for answer in client.of(EchoClient).chat(turns()):
        answers.put_nowait(answer.name)
        seen += 1
    assert seen == 3


async def test_a_stream_of_dicts(client: Client) -> None:
    found = [answer async for answer in client.stream("echo", "Echo.Count", {"to": 2})]
    assert found == [{"number": 1}, {"number": 2}]
    with pytest.raises(Error) as raised:
        [answer async for answer in client.stream("echo", "Echo.Count", {"to": 2, "failAt": 2})]
    assert raised.value.kind is Kind.DATA_LOSS

    with pytest.raises(Error, match="there is no field 'too': did you mean to") as raised:
        [answer async for answer in client.stream("echo", "Echo.Count", {"too": 2})]
    assert raised.value.kind is Kind.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", list(Kind))
async def test_errors_arrive_as_the_platform_s_own(client: Client, kind: Kind) -> None:
    with pytest.raises(Error) as raised:
        await client.of(EchoClient).fail(FailRequest(code=kind, message="né\n%", detail=True))
    assert (raised.value.kind, raised.value.message) == (kind, "né\n%")
    assert EchoRequest.from_binary(raised.value.details[0].value) == EchoRequest(name="why")


async def test_an_unknown_endpoint_is_unimplemented(client: Client) -> None:
    with pytest.raises(Error, match=r"Echo\.Call") as raised:
        await client.call("echo", "Echo.Nope", {})
    assert raised.value.kind is Kind.UNIMPLEMENTED


async def test_metadata_and_namespace_travel(client: Client) -> None:
    seen = await client.call("echo", "Echo.Meta", {"key": "x-mine"}, metadata={"X-Mine": "1", "Micro-Namespace": "foo"})
    assert (seen["value"], seen["namespace"]) == ("1", "foo")
    typed = await client.of(EchoClient).meta(MetaRequest(key="micro-service"), headers={"x": "y"})
    assert typed.value == "echo"


async def test_a_deadline_travels_and_ends_the_call(client: Client) -> None:
    seen = await client.of(EchoClient).meta(MetaRequest(), timeout_ms=60_000)
    assert 50 <= seen.timeout <= 60
    with pytest.raises(Error) as raised:
        await client.call("echo", "Echo.Sleep", {"seconds": -1}, timeout=0.1)
    assert raised.value.kind is Kind.DEADLINE_EXCEEDED


async def test_a_deadline_shrinks_on_its_way(client: Client) -> None:
    """Safe calls Sleep with what is left; both end when the first one's caller said."""
    start = time.monotonic()
    with pytest.raises(Error) as raised:
        await client.of(EchoClient).safe(EchoRequest(), timeout_ms=300)
    assert raised.value.kind is Kind.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 8  # the inner call's own default is 10


async def test_a_call_inside_a_call_has_no_more_time_than_that(client: Client) -> None:
    current = Context(None, {"headers": []}, time.monotonic() - 1)  # type: ignore[arg-type]
    token = CURRENT.set(current)
    try:
        with pytest.raises(Error) as raised:
            await client.call("echo", "call", {})
    finally:
        CURRENT.reset(token)
    assert raised.value.kind is Kind.DEADLINE_EXCEEDED


async def test_large_messages_pass_and_larger_ones_do_not(client: Client) -> None:
    name = "x" * (20 * 2**20)
    assert (await client.of(EchoClient).call(EchoRequest(name=name))).name == name
    with pytest.raises(Error) as raised:
        await client.of(EchoClient).call(EchoRequest(name="x" * (33 * 2**20)))
    assert raised.value.kind is Kind.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("stream", [False, True])
async def test_giving_up_cancels_the_handler(client: Client, stream: bool) -> None:
    echo = client.of(EchoClient)
    assert "False" in (await client.call("echo", "get-thing", {"name": "forget"}))["name"]
    if stream:
        counting = echo.count(CountRequest(to=-1))
        calling = asyncio.ensure_future(anext(aiter(counting)))
    else:
        calling = asyncio.ensure_future(echo.sleep(SleepRequest(seconds=-1)))
    await asyncio.sleep(0.1)  # under way: there is nothing to see from here
    calling.cancel()
    end = time.monotonic() + 10
    while "True" not in (await client.call("echo", "get-thing", {}))["name"]:
        assert time.monotonic() < end, "the handler is still waiting"
        await asyncio.sleep(0.05)


async def test_nothing_there_says_so() -> None:
    nobody = Client(free_address(), timeout=0.3)
    with pytest.raises(Error, match="is `micro server` running") as raised:
        await nobody.call("echo", "call", {})
    assert raised.value.kind is Kind.UNAVAILABLE
    await nobody.close()


async def test_a_call_waits_for_a_server_that_comes_back(echo_module: Path) -> None:
    found = free_address()
    early = Client(found, timeout=20)
    calling = asyncio.ensure_future(early.call("echo", "call", {"name": "Ann"}))
    with processes.serving(echo_module, found):
        assert await calling == {"name": "Ann"}
    await early.close()


async def test_connections_are_shared_and_can_be_closed(target: str) -> None:
    pool = Pool()
    one, other = Client(target, pool=pool), Client(target, pool=pool)
    assert one.channel() is other.channel()
    before = one.channel()
    await pool.close()
    assert await one.call("echo", "call", {}) == {}
    assert one.channel() is not before
    await pool.close()


def test_only_generated_clients_are_clients() -> None:
    with pytest.raises(TypeError, match="not a generated client"):
        Client("127.0.0.1:1").of(dict)


@pytest.mark.parametrize(
    ("contract", "service"),
    [
        ("helloworld.Helloworld", "helloworld"),
        ("micro.registry.v1.Registry", "registry"),
        ("echo.v1.Echo", "echo"),
        ("foo.bar.v1beta1.Baz", "foo.bar"),
        ("my_greeter.Greeter", "my-greeter"),
        ("MyGreeter", "my-greeter"),
        ("v1.Foo", "v1"),
        ("micro.Foo", "micro"),
    ],
)
def test_a_contract_names_its_service(contract: str, service: str) -> None:
    assert service_of(contract) == service


def test_calls_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MICRO_NETWORK", "MICRO_PROXY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert address() == "127.0.0.1:8081"
    monkeypatch.setenv("MICRO_PROXY_ADDRESS", "http://10.0.0.1:8081/")
    assert address() == "10.0.0.1:8081"
    monkeypatch.setenv("MICRO_NETWORK", "127.0.0.1:99")
    assert address() == "127.0.0.1:99"


HTTP2 = pyqwest.HTTPVersion.HTTP2


@pytest.mark.parametrize("compression", ["gzip", "identity"])
@pytest.mark.parametrize("protocol", list(ProtocolType))
async def test_connectrpc_s_client_accepts_our_answers(target: str, protocol: ProtocolType, compression: str) -> None:
    options = {} if compression == "gzip" else {"send_compression": None}
    http = pyqwest.Client(pyqwest.HTTPTransport(http_version=HTTP2))
    stock: ConnectClient = EchoClient(f"http://{target}", protocol=protocol, http_client=http, **options)  # type: ignore[arg-type]
    assert isinstance(stock, EchoClient)
    assert (await stock.call(EchoRequest(name="Ann"))).name == "Ann"
    assert [answer.number async for answer in stock.count(CountRequest(to=2))] == [1, 2]
    with pytest.raises(ConnectError) as raised:
        await stock.fail(FailRequest(code=5, message="né", detail=True))
    assert (raised.value.code, raised.value.message, len(raised.value.details)) == (Code.NOT_FOUND, "né", 1)


def test_grpcio_s_client_accepts_our_answers(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/echo.v1.Echo/Call", EchoRequest.to_binary, EchoResponse.from_binary)
        assert call(EchoRequest(name="Ann"), timeout=10).name == "Ann"
        packed = channel.unary_unary("/echo.v1.Echo/Call", EchoRequest.to_binary, EchoResponse.from_binary)
        zipped = packed(EchoRequest(name="Ann" * 1000), timeout=10, compression=grpc.Compression.Gzip)
        assert zipped.name == "Ann" * 1000
        fail = channel.unary_unary("/echo.v1.Echo/Fail", FailRequest.to_binary, EchoResponse.from_binary)
        with pytest.raises(grpc.RpcError) as raised:
            fail(FailRequest(code=5, message="né"), timeout=10)
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "né")


async def test_a_websocket_speaks_over_the_true_wire(target: str) -> None:
    host, _, port = target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    handshake = (
        f"GET /echo/chat HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    writer.write(handshake.encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")

    async def say(text: bytes) -> bytes:
        # A short text frame, masked with zeros, which leave it as it is.
        writer.write(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
        _, size = await reader.readexactly(2)
        return await reader.readexactly(size)

    assert await say(b'{"name":"a"}') == b'{"name":"A"}'
    assert await say(b'{"name":"b"}') == b'{"name":"B"}'
    assert b"aborted" in await say(b'{"name":"fail"}')
    assert (await reader.readexactly(4))[2:] == (1008).to_bytes(2, "big")
    writer.close()
