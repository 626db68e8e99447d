"""Where real gateways send requests, and what they say when there is nowhere to send them."""

from __future__ import annotations

import asyncio
import base64
import json
import os

import grpc
import pytest
import pytest_asyncio
from gateway_world import registration, world

from micro.domain.service import StreamKind

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gates(tmp_path_factory):
    """Two gateways, two instances of one program, and a registry that knows them by several names."""
    async with world(tmp_path_factory.mktemp("g"), "api", "proxy") as made:
        one, two = await asyncio.gather(made.instance("one"), made.instance("two"))
        made.content = [
            registration("helloworld", one, rpc="hello.Greeter"),
            registration("registry", two, rpc="micro.registry.v1.Registry"),
            registration("helloworld", two, namespace="shop", rpc="hello.Greeter"),
            registration("foo", one),
            registration("foo.b", two),
            registration("slow", one, timeout=0.3, streams=[("WatchAll", StreamKind.SERVER)]),
            registration("chat", two, streams=[("Talk", StreamKind.BIDI)]),
            registration("twin-a", one, rpc="same.Same"),
            registration("twin-b", two, rpc="same.Same"),
            registration("gone", "127.0.0.1:1"),
            registration("v1.books", one),
        ]
        await made.routed(made.content)
        yield made


async def instance(gates, path, headers=None, gateway="api"):
    status, told, _ = await gates.get(gateway, path, headers)
    return told["instance"] if status == 200 else status


async def test_the_http_gateway_tells_its_version(gates):
    assert (await gates.get("api", "/"))[:2] == (200, {"version": "9.9.9"})
    assert (await gates.get("api", "/"))[2]["content-type"] == "application/json"
    assert (await gates.get("api", "/favicon.ico"))[:2] == (204, "")
    assert (await gates.get("api", "/?x=1"))[:2] == (200, {"version": "9.9.9"})
    assert (await gates.get("api", "/favicon.ico?v=2"))[:2] == (204, "")


async def test_http_finds_a_service_by_the_first_segment_and_nothing_less(gates):
    assert await instance(gates, "/helloworld/call") == "one"
    assert await instance(gates, "/helloworld") == "one"
    assert await instance(gates, "/helloworld?name=Ann") == "one"
    assert await instance(gates, "/hello.Greeter/Call") == "one"
    assert await instance(gates, "/helloworldx/call") == 404
    assert await instance(gates, "/hello/call") == 404
    assert await instance(gates, "/hello.Greeter") == 404


async def test_a_dotted_service_owns_its_segments_and_no_others(gates):
    assert await instance(gates, "/foo/b/call") == "two"
    assert await instance(gates, "/foo.b/call") == "two"
    assert await instance(gates, "/foo/b") == "two"
    assert await instance(gates, "/foo/bar") == "one", "longer than /foo/b, yet foo's"
    assert await instance(gates, "/foo/call") == "one"
    assert await instance(gates, "/v1/books/call") == "one"
    assert await instance(gates, "/v1/other") == 404


async def test_a_namespace_sees_its_own_services_only(gates):
    assert await instance(gates, "/helloworld/call", {"micro-namespace": "shop"}) == "two"
    assert await instance(gates, "/foo/call", {"micro-namespace": "shop"}) == 404
    assert await instance(gates, "/helloworld/call", {"micro-namespace": "nowhere"}) == 404
    assert await instance(gates, "/helloworld/call", {"micro-namespace": "micro, shop"}) == 404
    by_path = await gates.call("proxy", "/hello.Greeter/Call", [("micro-namespace", "shop")])
    by_name = await gates.call("proxy", "/x.Y/Z", [("micro-namespace", "shop"), ("micro-service", "helloworld")])
    assert (by_path["instance"], by_name["instance"]) == ("two", "two")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gates.call("proxy", "/foo.Foo/Call", [("micro-namespace", "shop")])
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_core_services_answer_in_every_namespace_but_not_to_strangers(gates):
    for namespace in ("micro", "shop", "nowhere"):
        sent = [("micro-namespace", namespace)]
        assert (await gates.call("proxy", "/micro.registry.v1.Registry/ListServices", sent))["instance"] == "two"
        assert (await gates.call("proxy", "/any.Path/Call", [*sent, ("micro-service", "registry")]))[
            "instance"
        ] == "two"
    assert await instance(gates, "/registry/list-services") == 404
    assert await instance(gates, "/micro.registry.v1.Registry/ListServices") == 404
    assert await instance(gates, "/registry/list-services", {"micro-service": "registry"}) == 404


async def test_grpc_finds_a_service_by_path_or_by_name(gates):
    assert (await gates.call("proxy", "/hello.Greeter/Call"))["instance"] == "one"
    assert (await gates.call("proxy", "/same.Same/Call"))["instance"] == "one", "the first by name, where two export it"
    for name, expected in (("twin-a", "one"), ("twin-b", "two")):
        assert (await gates.call("proxy", "/same.Same/Call", [("micro-service", name)]))["instance"] == expected


async def test_an_unknown_name_is_not_replaced_by_a_known_path(gates):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gates.call("proxy", "/hello.Greeter/Call", [("micro-service", "nope")])
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details() == "service nope not found; see what runs: micro services"


async def test_an_unknown_service_is_a_json_404_that_names_it(gates):
    status, told, headers = await gates.get("proxy", "/a.B/C", {"micro-service": 'no"pe', "micro-namespace": "shop"})
    assert (status, told["code"], headers["content-type"]) == (404, "not_found", "application/json")
    assert told["message"].startswith('service no"pe not found in namespace shop')
    status, told, headers = await gates.get("api", "/nope/call?x=1")
    assert (status, told["code"], headers["content-type"]) == (404, "not_found", "application/json")
    assert "/nope/call" in told["message"]


async def test_a_known_service_that_nobody_answers_for_is_a_503(gates):
    status, told, headers = await gates.get("api", "/gone/call")
    assert (status, told["code"], headers["content-type"]) == (503, "unavailable", "application/json")
    assert told["message"] == "no instance of the service answers; see: micro status"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gates.call("proxy", "/gone.Gone/Call")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not refused.value.details().startswith("{"), "a gRPC message is text"


async def test_headers_beyond_the_limit_are_a_431_and_bad_paths_a_400(gates):
    status, told, _ = await gates.get("api", "/helloworld/call", {"x-big": "x" * 70_000})
    assert (status, told["code"]) == (431, "resource_exhausted")
    status, told, _ = await gates.get("api", "/helloworld%2fcall")
    assert (status, told["code"]) == (400, "invalid_argument")


async def test_paths_are_normal_before_they_are_matched(gates):
    assert await instance(gates, "/foo/../helloworld//call") == "one"
    assert await instance(gates, "/helloworld/../registry/x") == 404


async def test_a_unary_call_is_cut_after_the_services_timeout_and_a_stream_is_not(gates):
    status, told, _ = await gates.get("api", "/slow/call?sleep=6")
    assert (status, told["code"]) == (504, "deadline_exceeded")
    for path in ("/slow/watchAll", "/slow/watch-all", "/slow/Slow/WatchAll", "/slow/watch_all/", "/slow.Slow/WatchAll"):
        assert await instance(gates, f"{path}?sleep=1.5") == "one", path


async def test_a_callers_deadline_counts_more_than_the_services(gates):
    told = await gates.call("proxy", "/slow.Slow/Call", [("x-sleep", "1.6")], timeout=5)
    assert told["instance"] == "one"
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await gates.call("proxy", "/hello.Greeter/Call", [("x-sleep", "4")], timeout=0.3)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_internal_headers_from_outside_do_not_arrive(gates):
    sent = {"x-envoy-retry-on": "5xx", "x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-internal": "true"}
    status, told, headers = await gates.get("api", "/helloworld/call?sleep=0.1", sent)
    assert status == 200
    arrived = {name for name in told["headers"] if name.startswith("x-envoy-")}
    assert arrived <= {"x-envoy-external-address"}, "which Envoy itself writes"
    assert told["headers"]["micro-namespace"] == "-", "none was named"
    assert told["headers"]["x-request-id"] == headers["x-request-id"]
    assert headers["server"] == "micro"


async def test_a_request_id_is_kept_inside_and_made_anew_outside(gates):
    given = "11111111-2222-4333-8444-555555555555"
    _, inside, _ = await gates.get("proxy", "/hello.Greeter/Call", {"x-request-id": given})
    _, outside, _ = await gates.get("api", "/helloworld/call", {"x-request-id": given})
    assert inside["headers"]["x-request-id"] == given
    assert outside["headers"]["x-request-id"] not in ("", given)


async def test_a_websocket_reaches_a_service_that_streams_and_no_other(gates):
    assert await websocket(gates, "/chat/talk", "hi") == "echo hi"
    assert await websocket(gates, "/helloworld/call", "hi") == "400"


async def test_a_page_of_the_gateway_itself_may_open_a_websocket_and_a_foreign_one_not(gates):
    echo = await gates.instance("echo", "gateway_chat:app")
    chat = [("Chat", StreamKind.BIDI)]
    await gates.routed([*gates.content, registration("echo", echo, rpc="echo.v1.Echo", streams=chat)])
    host = f"127.0.0.1:{gates.ports['api']}"
    told = await websocket(gates, "/echo/chat", '{"name":"a"}', host, f"http://{host}")
    assert json.loads(told)["name"] == "A"
    for foreign in ("http://evil.test", "http://127.0.0.1:1", "http://127.0.0.1"):
        assert await websocket(gates, "/echo/chat", "{}", host, foreign) == "403"


async def test_discovery_is_not_for_callers(gates):
    content = [*gates.content, registration("network", gates.content[0].node.address, rpc="micro.network.v1.Network")]
    await gates.routed(content)
    discovery = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    named = [("micro-service", "network")]
    assert (await gates.call("proxy", "/micro.network.v1.Network/Sync", named))["instance"] == "one"
    for metadata in ([], named):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gates.call("proxy", discovery, metadata)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def websocket(gates, path, text, host="localhost", origin=""):
    """One text message there, one back; the status where the handshake is refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gates.ports["api"])
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        page = f"origin: {origin}\r\n" if origin else ""
        writer.write(
            f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{page}connection: Upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head.split(b"\r\n")[0]:
                return head.split(b" ")[1].decode()
            writer.write(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text.encode())
            frame = await reader.readexactly(2)
            return (await reader.readexactly(frame[1])).decode()
    finally:
        writer.close()


async def test_every_error_of_the_gateway_has_the_platforms_shape(gates):
    for path in ("/nope", "/gone/x", "/helloworld%2f"):
        _, told, _ = await gates.get("api", path)
        assert set(json.loads(json.dumps(told))) == {"code", "message"}
