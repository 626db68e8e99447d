"""One service, every way in: HTTP, gRPC, gRPC-Web, Connect, WebSocket, the command line, and other services."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import gateway_fuzz
import grpc
import grpc.aio
import pytest
import websockets.asyncio.client
import worlds
from gateway_fuzz import FUZZ
from hypothesis import given

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "helloworld"
RELAY = """
from micro import Service, client
from proto.relay_connect import Relay
from proto.relay_pb import Request, Response

class Handler(Relay):
    async def call(self, request, ctx):
        if not request.name.isdigit():
            return Response(msg=request.name)
        answer = await client.call("relay", "Relay.Call", Request(name="x" * int(request.name)))
        return Response(msg=f"{len(answer.msg)} bytes")

app = Service("relay", Handler(), max_message=64 * 2**20)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    with worlds.world(tmp_path_factory.mktemp("doors")) as made:
        made.start()
        made.cli("run", str(EXAMPLE))
        yield made
        assert "starting it again" not in made.output()
        status = json.loads(made.cli("status", "-o", "json").stdout)
        assert {service["error"] for service in status} == {""}


def http(
    world: worlds.World, path: str, body: bytes | None = None, method: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{world.api}{path}", body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@pytest.mark.parametrize(
    "path",
    [
        "/helloworld/call?name=Ann",
        "/helloworld?name=Ann",
        "/helloworld/Helloworld/Call?name=Ann",
        "/helloworld/helloworld/call?name=Ann",
        "/helloworld.Helloworld/Call?name=Ann",
        "/helloworld/CALL?name=Ann",
    ],
)
def test_http_finds_the_method_however_it_is_spelled(world: worlds.World, path: str) -> None:
    status, headers, body = http(world, path)
    assert (status, json.loads(body)) == (200, {"msg": "Hello Ann"})
    assert headers["content-type"].startswith("application/json")


def test_http_takes_json_forms_and_what_curl_sends_unasked(world: worlds.World) -> None:
    form = "application/x-www-form-urlencoded"
    for body, kind in ((b'{"name":"Ann"}', "application/json"), (b"name=Ann", form), (b'{"name": "Ann"}', form)):
        status, _, answer = http(world, "/helloworld/call", body, content_type=kind)
        assert (status, json.loads(answer)) == (200, {"msg": "Hello Ann"}), kind
    assert (
        http(world, "/helloworld/call?name=Bob", b'{"name":"Ann"}', content_type="application/json")[2]
        == b'{"msg":"Hello Ann"}'
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/nobody/call", b"{}", 404, "not_found"),
        ("/helloworld/nothing", b"{}", 404, "not_found"),
        ("/helloworldx/call", b"{}", 404, "not_found"),
        ("/runtime/read", b"{}", 404, "not_found"),
        ("/micro.runtime.v1.Runtime/Read", b"{}", 404, "not_found"),
        ("/helloworld/call", b"{not json", 400, "invalid_argument"),
        ("/helloworld/call", b'{"nom":"Ann"}', 400, "invalid_argument"),
        ("/helloworld/call", b'{"name":7}', 400, "invalid_argument"),
        ("/helloworld/call", b"{}", 400, "invalid_argument"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else None,
)
def test_http_errors_are_json_with_the_status_that_fits(
    world: worlds.World, path: str, body: bytes, status: int, code: str
) -> None:
    got, headers, answer = http(world, path, body, content_type="application/json")
    assert got == status, answer[:300]
    assert headers["content-type"].startswith("application/json")
    told = json.loads(answer)
    assert told["code"] == code
    assert told["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(world: worlds.World) -> None:
    host, _, port = world.api.rpartition(":")
    head = f"POST /helloworld/call HTTP/1.1\r\nhost: {world.api}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {33 * 2**20}\r\n\r\n"
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert '"code":"resource_exhausted"' in answer


def test_the_gateway_says_its_version_and_nothing_about_itself(world: worlds.World) -> None:
    status, headers, body = http(world, "/")
    assert status == 200
    assert set(json.loads(body)) == {"version"}
    assert "envoy" not in str(headers).lower()
    assert "access-control-allow-origin" not in http(world, "/helloworld/call?name=A", origin="http://evil.example")[1]


def test_what_envoy_itself_refuses_is_json_too(world: worlds.World) -> None:
    status, headers, body = http(world, "/helloworld/call?name=A", x_large="y" * 70_000)
    assert status == 431
    assert json.loads(body)["code"] == "resource_exhausted"
    assert headers["content-type"].startswith("application/json")


def test_streams_come_as_lines_of_json_or_as_events(world: worlds.World) -> None:
    status, headers, body = http(world, "/helloworld/stream?count=3")
    assert status == 200
    assert headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in body.splitlines()] == [{"count": "1"}, {"count": "2"}, {"count": "3"}]
    status, headers, body = http(world, "/helloworld/stream?count=2", accept="text/event-stream")
    assert headers["content-type"].startswith("text/event-stream")
    assert [event for event in body.decode().split("\n\n") if event] == ['data: {"count":"1"}', 'data: {"count":"2"}']


async def test_websockets_carry_both_directions(world: worlds.World) -> None:
    async with websockets.asyncio.client.connect(f"ws://{world.api}/helloworld/pingPong", open_timeout=5) as socket:
        for stroke in (1, 2, 3):
            await socket.send(json.dumps({"stroke": stroke}))
            assert json.loads(await asyncio.wait_for(socket.recv(), 5)) == {"stroke": str(stroke)}


def _bodies() -> tuple[Any, Any]:
    sys.path.insert(0, str(EXAMPLE))
    try:
        from proto.helloworld_pb import Request, Response
    finally:
        sys.path.remove(str(EXAMPLE))
    return Request, Response


@pytest.mark.parametrize("door", ["proxy", "api"])
@pytest.mark.parametrize(
    "metadata", [(), (("micro-service", "helloworld"), ("micro-namespace", "micro"))], ids=["path", "header"]
)
def test_grpc_on_both_gateways(world: worlds.World, door: str, metadata: tuple[tuple[str, str], ...]) -> None:
    request, response = _bodies()
    with grpc.insecure_channel(getattr(world, door)) as channel:
        call = channel.unary_unary("/helloworld.Helloworld/Call", request.to_binary, response.from_binary)
        assert call(request(name="Ann"), timeout=5, metadata=metadata).msg == "Hello Ann"
        with pytest.raises(grpc.RpcError) as refused:
            call(request(), timeout=5, metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details() == "name is empty"


def test_grpc_to_what_is_not_there_says_so_at_once(world: worlds.World) -> None:
    request, response = _bodies()
    with grpc.insecure_channel(world.proxy) as channel:
        for path in ("/nobody.Nobody/Call", "/helloworld.Helloworld/Nothing"):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(path, request.to_binary, response.from_binary)(request(), timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "{" not in refused.value.details()


def test_reflection_and_health_answer_standard_tools(world: worlds.World) -> None:
    from protobuf import Oneof

    from micro.rpc.gen.grpc.health.v1.health_pb import HealthCheckRequest, HealthCheckResponse
    from micro.rpc.gen.grpc.reflection.v1.reflection_pb import ServerReflectionRequest, ServerReflectionResponse

    metadata = (("micro-service", "helloworld"),)
    with grpc.insecure_channel(world.proxy) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", HealthCheckRequest.to_binary, HealthCheckResponse.from_binary
        )
        assert (
            check(HealthCheckRequest(), timeout=5, metadata=metadata).status
            == HealthCheckResponse.ServingStatus.SERVING
        )
        for version in ("v1", "v1alpha"):
            reflect = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                ServerReflectionRequest.to_binary,
                ServerReflectionResponse.from_binary,
            )
            asked = ServerReflectionRequest(message_request=Oneof("list_services", ""))
            (answer,) = reflect(iter([asked]), timeout=5, metadata=metadata)
            assert "helloworld.Helloworld" in repr(answer)


@pytest.mark.parametrize("protocol", ["CONNECT", "GRPC", "GRPC_WEB"])
async def test_the_stock_client_of_each_protocol(world: worlds.World, protocol: str) -> None:
    """Another library's client, over each of the protocols that it speaks."""
    code = f"""
import asyncio
from connectrpc.protocol import ProtocolType
from pyqwest import Client, HTTPTransport, HTTPVersion
from proto.helloworld_connect import HelloworldClient
from proto.helloworld_pb import Request, StreamRequest

async def main():
    http = Client(HTTPTransport(http_version=HTTPVersion.HTTP2)) if "{protocol}" == "GRPC" else None
    client = HelloworldClient("http://{world.api}", protocol=ProtocolType.{protocol}, http_client=http)
    print((await client.call(Request(name="Ann"))).msg)
    print([m.count async for m in client.stream(StreamRequest(count=3))])

asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], cwd=EXAMPLE, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split("\n")[:2] == ["Hello Ann", "[1, 2, 3]"], done.stderr


def test_the_command_line(world: worlds.World) -> None:
    for words in (
        ("helloworld", "--name=Ann"),
        ("helloworld", "call", "--name", "Ann"),
        ("helloworld", "helloworld", "call", "--name=Ann"),
    ):
        assert json.loads(world.cli(*words).stdout) == {"msg": "Hello Ann"}
    assert json.loads(world.cli("call", "helloworld", "Helloworld.Call", '{"name":"Ann"}').stdout) == {
        "msg": "Hello Ann"
    }
    assert [json.loads(line) for line in world.cli("helloworld", "stream", "--count=2").stdout.splitlines()] == [
        {"count": "1"},
        {"count": "2"},
    ]
    strokes = world.cli("stream", "helloworld", "Helloworld.PingPong", stdin='{"stroke":1}\n{"stroke":2}\n').stdout
    assert [json.loads(line) for line in strokes.splitlines()] == [{"stroke": "1"}, {"stroke": "2"}]
    assert world.cli("helloworld", "call", check=False).returncode == 127
    assert world.cli("helloworld", "nothing", check=False).returncode == 5
    assert world.cli("nobody", "call", check=False).returncode == 4
    wrong = world.cli("helloworld", "call", "--nane=Ann", check=False)
    assert wrong.returncode == 2
    assert "--name" in wrong.stderr


def test_a_script_calls_through_the_proxy(world: worlds.World) -> None:
    code = """
import asyncio
from micro import client
print(asyncio.run(client.call("helloworld", "Helloworld.Call", {"name": "Ann"})))
"""
    done = subprocess.run([sys.executable, "-c", code], env=world.env, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "{'msg': 'Hello Ann'}", done.stderr


CALLER = """
from micro import Service, client, errors
from proto.caller_connect import Caller
from proto.caller_pb import Reply

class Handler(Caller):
    async def relay(self, request, ctx):
        answer = await client.call("helloworld", "Helloworld.Call", {"name": request.name})
        return Reply(msg="relayed: " + answer["msg"], left=ctx.timeout_ms / 1000)

app = Service("caller", Handler())
"""
CALLER_PROTO = """
syntax = "proto3";
package caller;
service Caller { rpc Relay(Ask) returns (Reply); }
message Ask { string name = 1; }
message Reply { string msg = 1; double left = 2; }
"""


def test_a_service_calls_another_through_the_mesh_and_hands_on_errors(world: worlds.World) -> None:
    world.cli("run", str(world.service("caller", CALLER, CALLER_PROTO)))
    status, _, body = http(world, "/caller/relay?name=Ann")
    assert status == 200
    assert json.loads(body)["msg"] == "relayed: Hello Ann"
    assert 0 < json.loads(body)["left"] <= 10
    status, _, body = http(world, "/caller/relay?name=")
    assert (status, json.loads(body)["message"]) == (400, "name is empty")


def test_another_namespace_sees_nothing_of_this_one(world: worlds.World) -> None:
    assert http(world, "/helloworld/call?name=A", micro_namespace="elsewhere")[0] == 404
    assert os.fsdecode(http(world, "/helloworld/call?name=A", micro_namespace="micro")[2]) == '{"msg":"Hello A"}'


SLOW = """
import asyncio, sys
from micro import Service, method
from proto.slow_connect import Slow
from proto.slow_pb import Reply

class Handler(Slow):
    @method(timeout=0.3)
    async def short(self, request, ctx):
        await asyncio.sleep(5)

    @method(timeout=30)
    async def long(self, request, ctx):
        return Reply(left=ctx.timeout_ms / 1000)

    async def usual(self, request, ctx):
        return Reply(left=ctx.timeout_ms / 1000)

    async def leave(self, request, ctx):
        sys.exit(3)

app = Service("slow", Handler())
"""
SLOW_PROTO = """
syntax = "proto3";
package slow;
service Slow {
  rpc Short(Ask) returns (Reply);
  rpc Long(Ask) returns (Reply);
  rpc Usual(Ask) returns (Reply);
  rpc Leave(Ask) returns (Reply);
}
message Ask {}
message Reply { double left = 1; }
"""


def test_a_methods_own_deadline_counts_where_the_caller_gave_none(world: worlds.World) -> None:
    folder = world.service("slow", SLOW, SLOW_PROTO)
    world.cli("run", str(folder))
    status, _, body = http(world, "/slow/short")
    assert (status, json.loads(body)["code"]) == (504, "deadline_exceeded")
    assert 28 < json.loads(http(world, "/slow/long")[2])["left"] <= 30
    with grpc.insecure_channel(world.proxy) as channel:

        def left(name: str, **options: float) -> float:
            call = channel.unary_unary(
                f"/slow.Slow/{name}", lambda _: b"", lambda data: struct.unpack("<d", data[1:])[0]
            )
            return call(None, **options)

        with pytest.raises(grpc.RpcError) as refused:
            left("Short")
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 28 < left("Long") <= 30
        assert 9 < left("Usual") <= 10
        assert 1 < left("Usual", timeout=3) <= 3.1
        assert 50 < left("Usual", timeout=60) <= 60.1


def test_a_handler_that_calls_exit_fails_its_own_call_only(world: worlds.World) -> None:
    world.cli("run", str(world.service("slow", SLOW, SLOW_PROTO)))
    for _ in range(2):
        status, _, body = http(world, "/slow/leave")
        assert (status, json.loads(body)["code"]) == (500, "internal")
        assert http(world, "/slow/usual")[0] == 200


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_a_web_page_cannot_reach_the_platform_through_the_proxy(world: worlds.World, verb: str) -> None:
    for kind, origin in (("application/x-www-form-urlencoded", None), ("application/json", f"http://{world.proxy}")):
        headers = {"content-type": kind, **({"origin": origin} if origin else {})}
        body = None if verb == "GET" else b'{"name":"helloworld"}'
        request = urllib.request.Request(
            f"http://{world.proxy}/micro.runtime.v1.Runtime/Delete?name=helloworld", body, headers, method=verb
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=5)
        assert refused.value.code == 403
    assert http(world, "/helloworld/call?name=Ann")[0] == 200


def test_a_service_that_takes_more_is_sent_40_mb_through_the_mesh_and_sends_them_back(world: worlds.World) -> None:
    proto = worlds.PROTO.replace("helloworld", "relay").replace("Helloworld", "Relay")
    world.cli("run", str(world.service("relay", RELAY, proto)))
    told = world.cli("call", "relay", "call", json.dumps({"name": str(40 * 2**20)}))
    assert json.loads(told.stdout) == {"msg": f"{40 * 2**20} bytes"}
    refused = world.cli("call", "relay", "call", json.dumps({"name": str(64 * 2**20)}), check=False)
    assert refused.returncode == 127
    assert "larger than configured max" in refused.stderr


# --- whatever comes in, the answer blames the right side, and everything keeps running --------------------------------


@FUZZ
@given(
    path=gateway_fuzz.PATHS,
    query=gateway_fuzz.QUERIES,
    body=gateway_fuzz.BODIES,
    kind=gateway_fuzz.TYPES,
    verb=gateway_fuzz.VERBS,
)
def test_no_request_is_answered_with_a_fault_of_ours(
    world: worlds.World, path: str, query: str, body: bytes, kind: str, verb: str
) -> None:
    status, answered, content = gateway_fuzz.ask(
        world.api, verb, path + query, body, {"content-type": kind} if kind else {}
    )
    assert status < 500, (status, content)
    if status >= 400 and verb != "HEAD" and not kind.startswith("application/grpc"):
        assert answered.startswith("application/json"), (status, answered, content)
        assert json.loads(content)["code"]


@FUZZ
@given(frame=gateway_fuzz.FRAMES)
def test_no_frame_is_answered_with_a_fault_of_ours(world: worlds.World, frame: bytes) -> None:
    for kind in ("application/grpc-web", "application/connect+json", "application/connect+proto"):
        status, _, content = gateway_fuzz.ask(
            world.api, "POST", "/helloworld.Helloworld/Stream", frame, {"content-type": kind}
        )
        assert status < 500, (kind, status, content)


@FUZZ
@given(headers=gateway_fuzz.HEADERS)
def test_no_header_is_answered_with_a_fault_of_ours(world: worlds.World, headers: dict[str, str]) -> None:
    status, _, content = gateway_fuzz.ask(
        world.api, "POST", "/helloworld/call", b'{"name":"Ann"}', {"content-type": "application/json", **headers}
    )
    assert status < 500, (status, content)
