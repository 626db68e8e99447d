"""Which namespace a request is about, as real gateways see it; and how many requests a namespace may send."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import pytest_asyncio
from gateway_world import registration, world

from micro.domain.token import beginning

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gates(tmp_path_factory):
    """One service of the same name in two namespaces, one that only "micro" has, and one that only shop has."""
    async with world(tmp_path_factory.mktemp("n"), "api", "proxy", "mesh", base_domain="apps.example") as made:
        one, two, auth = await asyncio.gather(*(made.instance(name) for name in ("micro", "shop", "auth")))
        made.content = [
            registration("hello", one, rpc="hello.Hello"),
            registration("hello", two, namespace="shop", rpc="hello.Hello"),
            registration("shop-2", two, namespace="shop-2", rpc="other.Other"),
            registration("mine", one, rpc="mine.Mine"),
            registration("till", two, namespace="shop", rpc="till.Till"),
            registration("auth", auth, rpc="micro.auth.v1.Auth"),
        ]
        await made.routed(made.content)
        yield made


def bearer(namespace):
    return {"authorization": f"Bearer {beginning(namespace)}rest.of.it"}


def at(host):
    return {"host": host}


async def by_http(gates, sent, path="/hello/call"):
    status, told, _ = await gates.get("api", path, sent)
    return told["instance"] if status == 200 else status


async def by_grpc(gates, gateway, sent, path="/hello.Hello/Call"):
    try:
        return (await gates.call(gateway, path, list(sent.items())))["instance"]
    except grpc.aio.AioRpcError as error:
        return error.code()


CASES = [
    ({}, "micro"),
    ({"micro-namespace": "-"}, "micro"),
    ({"micro-namespace": ""}, "micro"),
    ({"micro-namespace": "shop"}, "shop"),
    (bearer("shop"), "shop"),
    (bearer("micro"), "micro"),
    ({**bearer("shop"), "micro-namespace": "micro"}, "micro"),
    ({**bearer("micro"), "micro-namespace": "shop"}, "shop"),
    ({**bearer("shop"), "micro-namespace": "-"}, "shop"),
    ({"authorization": "Bearer of news"}, "micro"),
    ({"authorization": "Basic YTpi"}, "micro"),
    ({"micro-namespace": "nowhere"}, None),
    (bearer("nowhere"), None),
    (bearer("shop-2"), None),
    (bearer("sho"), None),
    ({**bearer("nowhere"), "micro-namespace": "shop"}, "shop"),
    ({**bearer("shop"), "micro-namespace": "nowhere"}, None),
]


@pytest.mark.parametrize(("sent", "namespace"), CASES)
async def test_the_header_counts_most_then_the_token(gates, sent, namespace):
    assert await by_http(gates, sent) == (namespace or 404)
    assert await by_grpc(gates, "proxy", sent) == (namespace or UNIMPLEMENTED)
    assert await by_grpc(gates, "proxy", {**sent, "micro-service": "hello"}, "/x.Y/Z") == (namespace or UNIMPLEMENTED)


@pytest.mark.parametrize(
    ("sent", "namespace"),
    [
        (at("shop.apps.example"), "shop"),
        (at("shop.apps.example:8443"), "shop"),
        (at("micro.apps.example"), "micro"),
        (at("apps.example"), "micro"),
        (at("127.0.0.1"), "micro"),
        (at("nowhere.apps.example"), 404),
        (at("shop-2.apps.example"), 404),
        (at("deep.shop.apps.example"), 403),
        ({**at("shop.apps.example"), **bearer("micro")}, "micro"),
        ({**at("micro.apps.example"), **bearer("shop")}, "shop"),
        ({**at("shop.apps.example"), **bearer("nowhere")}, 404),
        ({**at("shop.apps.example"), "micro-namespace": "micro"}, "micro"),
        ({**at("shop.apps.example"), "authorization": "Basic YTpi"}, "shop"),
    ],
)
async def test_the_host_tells_where_nothing_else_does(gates, sent, namespace):
    assert await by_http(gates, sent) == namespace


async def test_what_one_namespace_lacks_is_not_taken_from_another(gates):
    assert await by_http(gates, {}, "/mine/call") == "micro"
    for sent in (bearer("shop"), {"micro-namespace": "shop"}, at("shop.apps.example")):
        assert await by_http(gates, sent, "/mine/call") == 404
    for sent in ({}, bearer("micro"), {"micro-namespace": "micro"}):
        assert await by_http(gates, sent, "/till/call") == 404
    assert await by_http(gates, {**at("shop.apps.example"), **bearer("micro")}, "/till/call") == 404
    assert await by_grpc(gates, "proxy", bearer("shop"), "/mine.Mine/Call") == UNIMPLEMENTED
    assert await by_grpc(gates, "proxy", bearer("micro"), "/till.Till/Call") == UNIMPLEMENTED


async def test_core_services_are_found_whatever_the_namespace_is(gates):
    for sent in ({}, bearer("shop"), bearer("nowhere"), {"micro-namespace": "nowhere"}):
        for gateway in ("proxy", "mesh"):
            assert await by_grpc(gates, gateway, sent, "/micro.auth.v1.Auth/Token") == "auth"


async def test_in_the_mesh_services_name_the_namespace(gates):
    for sent, expected in (
        ({}, "micro"),
        ({"micro-namespace": "micro"}, "micro"),
        ({"micro-namespace": "shop"}, "shop"),
        (bearer("shop"), "micro"),
        ({"micro-namespace": "nowhere"}, UNIMPLEMENTED),
    ):
        assert await by_grpc(gates, "mesh", sent) == expected


async def test_what_services_believe_comes_from_the_gateway(gates):
    actor = "Bearer of-the-service"
    sent = {"micro-timeout": "9S", "micro-actor": actor, **bearer("shop")}
    for gateway in ("api", "proxy"):
        _, told, _ = await gates.get(gateway, "/hello.Hello/Call", sent)
        arrived = told["headers"]
        assert arrived["micro-timeout"] == "-"
        assert (arrived["micro-actor"], arrived["authorization"]) == (actor, sent["authorization"])
        assert arrived["micro-namespace"] == "-"
    _, told, _ = await gates.get(
        "api", "/hello/call", {"x-forwarded-for": "9.9.9.9", "x-envoy-external-address": "8.8.8.8"}
    )
    assert told["headers"]["x-forwarded-for"].split(",")[-1].strip() == "127.0.0.1", "the last is who connected"
    assert told["headers"].get("x-envoy-external-address") != "8.8.8.8"


async def test_of_core_services_strangers_reach_the_public_keys_only(gates):
    keys = "/.well-known/jwks.json"
    for sent in ({}, bearer("shop"), {"micro-namespace": "nowhere"}, {"origin": "https://reader.example"}):
        assert await by_http(gates, sent, keys) == "auth"
    assert (await gates.get("api", keys, {}, "POST", "{}"))[0] == 404
    assert await by_http(gates, {}, "/.well-known/other") == 404
    assert await by_http(gates, {}, "/micro.auth.v1.Auth/Token") == 404


async def test_a_namespace_that_asks_too_often_waits_and_no_other_does(gates):
    try:
        await gates.routed(gates.content, {"shop": 5})
        sent = [{"micro-namespace": "shop"}, bearer("shop"), at("shop.apps.example")]
        answers = await asyncio.gather(
            *(gates.get("api", path, sent[n % 3]) for n in range(15) for path in ("/hello/call", "/till/call"))
        )
        refused = [(told, headers) for status, told, headers in answers if status == 429]
        assert sum(status == 200 for status, _, _ in answers) >= 5
        assert len(refused) >= 5, "one limit for all services and all ways in"
        told, headers = refused[0]
        assert (told["code"], headers["retry-after"]) == ("resource_exhausted", "1")
        assert headers["content-type"] == "application/json"
        others = await asyncio.gather(*(gates.get("api", "/hello/call") for _ in range(30)))
        assert {status for status, _, _ in others} == {200}
    finally:
        await gates.routed(gates.content)
    free = await asyncio.gather(*(gates.get("api", "/hello/call", bearer("shop")) for _ in range(30)))
    assert {status for status, _, _ in free} == {200}
