"""What Envoy is told about a route table: golden files for people to read, and rules that hold for every table."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protobuf import Registry, message_to_json_value

from micro.backends.envoy import clusters as envoy_clusters
from micro.backends.envoy import matchers
from micro.backends.envoy.compile import CLUSTER, ENDPOINTS, ROUTES, Compiler
from micro.backends.envoy.front import Front
from micro.domain import errors
from micro.domain.route import Route, RouteTable
from micro.rpc.gen.envoy.config.cluster.v3.cluster_pb import Cluster
from micro.rpc.gen.envoy.config.endpoint.v3.endpoint_pb import ClusterLoadAssignment
from micro.rpc.gen.envoy.config.route.v3.route_components_pb import Route as EnvoyRoute
from micro.rpc.gen.envoy.config.route.v3.route_pb import RouteConfiguration
from micro.rpc.gen.envoy.extensions.filters.http.cors.v3.cors_pb import CorsPolicy
from micro.rpc.gen.envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb import LocalRateLimit
from micro.rpc.gen.envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb import PreviousHostsPredicate
from micro.rpc.gen.envoy.extensions.upstreams.http.v3.http_protocol_options_pb import HttpProtocolOptions
from micro.rpc.gen.envoy.type.matcher.v3.http_inputs_pb import HttpRequestHeaderMatchInput

GOLDEN = Path(__file__).parents[3] / "golden/envoy"
TYPES = {CLUSTER: Cluster, ENDPOINTS: ClusterLoadAssignment, ROUTES: RouteConfiguration}
INSIDE = (
    EnvoyRoute,
    HttpRequestHeaderMatchInput,
    HttpProtocolOptions,
    CorsPolicy,
    LocalRateLimit,
    PreviousHostsPredicate,
)


def table(*routes):
    return RouteTable({route.key: route for route in routes})


def service(name, *ports, namespace="micro", rpc=(), **more):
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    return Route(namespace, name, tuple(rpc) or (f"{name}.{name.title()}",), addresses, **{"timeout": 10.0, **more})


REGISTRY = Registry(*(one.desc().file for one in (*INSIDE, *TYPES.values())))


def readable(message):
    """As JSON values, with what is packed unpacked."""
    return message_to_json_value(message, registry=REGISTRY)


def clusters(value):
    """Every cluster that a route configuration leads to."""
    if isinstance(value, dict):
        led_to = {value["route"]["cluster"]} if isinstance(value.get("route"), dict) else set()
        return led_to.union(*(clusters(inner) for inner in value.values()))
    return set().union(*(clusters(inner) for inner in value)) if isinstance(value, list) else set()


CASES = {
    "one-service": table(service("helloworld", 9001)),
    "three-instances": table(service("helloworld", 9001, 9002, 9003, timeout=0.0)),
    "two-namespaces": table(
        service("helloworld", 9001),
        service("helloworld", 9002, namespace="shop"),
        service("registry", 9003, rpc=["micro.registry.v1.Registry"]),
    ),
    "streams": table(service("chat", 9001, streams=("/chat.Chat/ListRooms",), pushes=True, duplex=True)),
    "shared-rpc": table(service("twin-a", 9001, rpc=["same.Same"]), service("twin-b", 9002, rpc=["same.Same"])),
    "store": table(service("helloworld", 9001), service("store", 9002, rpc=["micro.store.v1.Store"])),
    "dotted": table(service("foo", 9001), service("foo.bar", 9002, rpc=["foo.bar.Bar"])),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    """Set MICRO_GOLDEN=write to write them anew, then read the difference."""
    snapshot = Compiler("9.9.9").compile(CASES[name], 1)
    told = {
        type_url.rpartition(".")[2]: {
            one.name: readable(TYPES[type_url].from_binary(one.resource.value)) for one in resources.values()
        }
        for type_url, resources in snapshot.resources.items()
    }
    text = json.dumps(told, indent=1) + "\n"
    file = GOLDEN / f"{name}.json"
    if os.environ.get("MICRO_GOLDEN") == "write":
        file.write_text(text)
    assert file.read_text() == text


def api_of(found, quotas=None, **front):
    snapshot = Compiler("1", Front(**front)).compile(found, 1, quotas)
    return readable(RouteConfiguration.from_binary(snapshot.resources[ROUTES]["api"].resource.value))


def test_the_default_namespace_is_in_the_routes_once_however_many_ways_lead_to_it():
    thousand = table(*(service(f"s{number}", number + 1) for number in range(1000)))
    for name in ("api", "mesh", "proxy"):
        size = len(
            Compiler("1", Front(base_domain="a.example")).compile(thousand, 1).resources[ROUTES][name].to_binary()
        )
        assert size < 1_000_000, name
    text = json.dumps(api_of(thousand, base_domain="a.example"))
    assert text.count('"micro|s7"') == 2, "by path, and by the gRPC path"


def test_limits_are_told_where_there_are_some_and_touch_no_other_namespace():
    found = table(service("a", 1), service("a", 2, namespace="shop"))
    assert "ratelimit" not in json.dumps(api_of(found)).lower()
    made = api_of(found, {"shop": 7})
    limits = made["typedPerFilterConfig"]["envoy.filters.http.local_ratelimit"]
    [descriptor] = limits["descriptors"]
    assert descriptor["entries"] == [{"key": "namespace", "value": "shop"}]
    assert (descriptor["tokenBucket"]["maxTokens"], descriptor["tokenBucket"]["fillInterval"]) == (7, "1s")
    counted = [route for route in routes_in(made) if route["route"].get("rateLimits")]
    assert {route["route"]["cluster"] for route in counted} == {"shop|a"}
    assert len(counted) == sum(route["route"]["cluster"] == "shop|a" for route in routes_in(made))


@pytest.mark.parametrize("thief", ["aaa", "books-too", "zzz"])
@pytest.mark.parametrize("rpc", ["books.Books", "books.v1.Books"])
def test_a_contract_is_found_at_the_service_that_bears_its_name_whatever_sorts_first(thief, rpc):
    own = [matchers.pages(service(name, 9001, rpc=[rpc])) for name in sorted([thief, "books"])]
    assert matchers._owners(own)[rpc].service.service == "books"
    others = [matchers.pages(service(name, 9001, rpc=[rpc])) for name in sorted([thief, "shelf"])]
    assert matchers._owners(others)[rpc] is others[0], "nobody bears its name, and none is older: the first by name"


@pytest.mark.parametrize("thief", ["aaa", "zzz"])
def test_a_contract_that_nobody_bears_the_name_of_stays_with_the_oldest_account(thief):
    made = {thief: "2026-03-01T00:00:00.000Z", "shelf": "2026-02-01T00:00:00.000Z"}
    own = [
        matchers.pages(replace(service(name, 9001, rpc=["books.Books"]), since=since)) for name, since in made.items()
    ]
    assert matchers._owners(own)["books.Books"].service.service == "shelf"


def test_a_changed_limit_changes_one_resource():
    compiler, found = Compiler("1"), table(service("a", 1), service("a", 2, namespace="shop"))
    before = versions(compiler.compile(found, 1, {"shop": 7}))
    after = versions(compiler.compile(found, 2, {"shop": 8}))
    assert {key for key in after if before[key] != after[key]} == {(ROUTES, "api")}
    assert versions(compiler.compile(found, 3)) == versions(Compiler("1").compile(found, 3))


def routes_in(value):
    """Every route that leads to a cluster."""
    if isinstance(value, dict):
        own = [value] if isinstance(value.get("route"), dict) else []
        return own + [route for inner in value.values() for route in routes_in(inner)]
    return [route for inner in value for route in routes_in(inner)] if isinstance(value, list) else []


def test_what_services_keep_their_state_in_is_routed_outside_for_who_shows_a_token():
    found = table(
        service("store", 1, rpc=["micro.store.v1.Store"]),
        service("config", 2, rpc=["micro.config.v1.Config"]),
        service("runtime", 3, rpc=["micro.runtime.v1.Runtime"]),
        service("storefront", 4),
        service("broker", 5, rpc=["micro.broker.v1.Broker"]),
        service("events", 6, rpc=["micro.events.v1.Stream"]),
    )
    made = api_of(found)
    assert clusters(made) == {"micro|store", "micro|config", "micro|storefront", "micro|broker", "micro|events"}
    text = json.dumps(made)
    assert "micro.store.v1" not in text
    assert "micro.config.v1" not in text
    for name in ("store", "config", "broker", "events"):
        below = [one for one in trees_by_path(made) if f"/{name}/" in one]
        [tree] = [one[f"/{name}/"]["matcher"] for one in below]
        assert tree["matcherTree"]["input"]["typedConfig"]["headerName"] == "authorization"
        assert set(tree["matcherTree"]["prefixMatchMap"]["map"]) == {"Bearer ", "bearer "}
        assert clusters(tree["onNoMatch"]) == set(), "without a token it is told that it takes one"
        assert '"status": 423' in json.dumps(tree["onNoMatch"])
        assert clusters(tree["matcherTree"]) == {f"micro|{name}"}


def inside_of(found, name="mesh"):
    snapshot = Compiler("1").compile(found, 1)
    return readable(RouteConfiguration.from_binary(snapshot.resources[ROUTES][name].resource.value))


def blob_store(**more):
    streams = ("/micro.store.v1.BlobStore/Read", "/micro.store.v1.BlobStore/Write", "/micro.store.v1.Store/Watch")
    rpc = ["micro.store.v1.Store", "micro.store.v1.BlobStore"]
    return service(more.pop("name", "store"), 1, rpc=rpc, streams=streams, pushes=True, **more)


def test_blobs_go_in_http1_for_who_speaks_connect():
    for name in ("mesh", "proxy"):
        made = inside_of(table(blob_store()), name)
        bulk = [route for route in routes_in(made) if "BlobStore" in route["match"].get("path", "")]
        assert {route["match"]["path"] for route in bulk} == set(matchers._BULK)
        for route in bulk:
            [header] = [one for one in route["match"]["headers"] if one["name"] == "content-type"]
            assert header["stringMatch"] == {"exact": "application/connect+proto"}
            assert route["route"]["cluster"] == "micro|store|h1"
            assert route["route"]["idleTimeout"] == "300s", "who stands still holds megabytes"
            assert route["route"]["maxStreamDuration"]["grpcTimeoutHeaderMax"] == "0s"
        streams = [route for route in routes_in(made) if "safeRegex" in route["match"]]
        assert {route["route"]["cluster"] for route in streams} == {"micro|store"}, "in HTTP/2 for everybody else"


def test_public_blobs_go_in_http2_where_readers_that_stop_are_dropped():
    made = api_of(table(blob_store()), {"shop": 7})
    below = [route for route in routes_in(made) if route["match"].get("prefix", "").startswith("/blob/")]
    assert {route["match"]["prefix"] for route in below} == {"/blob/", "/blob/shop/"}
    assert {route["route"]["cluster"] for route in below} == {"micro|store"}
    assert [route for route in routes_in(made) if "BlobStore" in route["match"].get("path", "")] == []


def test_a_users_service_with_the_same_contract_is_like_every_other():
    made = inside_of(table(blob_store(name="mine")))
    assert [route for route in routes_in(made) if "BlobStore" in route["match"].get("path", "")] == []


def test_calls_of_the_store_from_outside_count_as_those_of_the_tokens_namespace():
    made = api_of(table(service("store", 1, rpc=["micro.store.v1.Store"])), {"shop": 7})
    [tree] = [one["/store/"]["matcher"]["matcherTree"] for one in trees_by_path(made) if "/store/" in one]
    found = tree["prefixMatchMap"]["map"]
    for scheme in ("Bearer ", "bearer "):
        assert "rateLimits" not in json.dumps(found.pop(scheme))
    assert len(found) == 2, "a token, in both spellings"
    for limited in found.values():
        assert '"descriptorValue": "shop"' in json.dumps(limited)


def trees_by_path(value):
    """Every map on the path, wherever it is."""
    if isinstance(value, dict):
        if value.get("input", {}).get("typedConfig", {}).get("headerName") == ":path" and "prefixMatchMap" in value:
            yield value["prefixMatchMap"]["map"]
        for inner in value.values():
            yield from trees_by_path(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from trees_by_path(inner)


def test_public_keys_are_routed_where_there_is_an_auth_and_nothing_else_of_it():
    found = table(service("auth", 1, rpc=["micro.auth.v1.Auth"]))
    made = api_of(found)
    [route] = routes_in(made)
    assert (route["match"]["path"], route["route"]["cluster"]) == ("/.well-known/jwks.json", "micro|auth")
    assert "micro.auth.v1" not in json.dumps(made)


names = st.sampled_from(["a", "b", "a.b", "a.b.c", "a-b", "registry", "chat"])
routes = st.builds(
    lambda namespace, name, ports, pushes: service(
        name, *sorted(ports), namespace=namespace, streams=(f"/{name}.X/Tail",) if pushes else (), pushes=pushes
    ),
    st.sampled_from(["micro", "shop", "x"]),
    names,
    st.sets(st.integers(1, 9), min_size=1),
    st.booleans(),
)
tables = st.lists(routes, max_size=8, unique_by=lambda one: one.key).map(lambda found: table(*found))


def versions(snapshot):
    return {(kind, name): one.version for kind, all_ in snapshot.resources.items() for name, one in all_.items()}


@given(tables, tables)
def test_what_was_compiled_before_leaves_no_trace(before, after):
    compiler = Compiler("1")
    compiler.compile(before, 1)
    assert compiler.compile(after, 2).resources == Compiler("1").compile(after, 2).resources


@given(tables)
def test_every_cluster_has_its_assignment_and_every_route_its_cluster(found):
    snapshot = Compiler("1").compile(found, 1)
    assert snapshot.resources[CLUSTER].keys() == snapshot.resources[ENDPOINTS].keys()
    for name, expected in (("api", outside(found)), ("mesh", set(snapshot.resources[CLUSTER]))):
        made = RouteConfiguration.from_binary(snapshot.resources[ROUTES][name].resource.value)
        assert clusters(readable(made)) == expected


def outside(found):
    core = {route.key for route in found if route.namespace == "micro" and route.service == "registry"}
    return {name for route in found if route.key not in core for name in envoy_clusters.names(route)}


@given(tables, st.integers(10, 20))
def test_one_more_instance_changes_one_assignment_a_cluster_and_nothing_else(found, port):
    compiler = Compiler("1")
    before = versions(compiler.compile(found, 1))
    for route in found:
        more = Route(**{**fields(route), "addresses": (*route.addresses, f"127.0.0.1:{port}")})
        after = versions(compiler.compile(RouteTable({**found.routes, route.key: more}), 2))
        changed = {key for key in after if before.get(key) != after[key]}
        assert {kind for kind, _ in changed} == {ENDPOINTS}
        assert len(changed) == (2 if route.pushes else 1)
        assert after.keys() == before.keys()
        compiler.compile(found, 3)


@given(tables)
def test_one_more_service_adds_its_own_and_changes_the_routes_only(found):
    compiler = Compiler("1")
    before = versions(compiler.compile(found, 1))
    new = service("brand-new", 99)
    after = versions(compiler.compile(RouteTable({**found.routes, new.key: new}), 2))
    changed = {key for key in after if before.get(key) != after[key]}
    own = {(CLUSTER, "micro|brand-new"), (ENDPOINTS, "micro|brand-new")}
    assert changed == own | {(ROUTES, name) for name in ("api", "mesh", "proxy")}


def fields(route):
    return {name: getattr(route, name) for name in Route.__dataclass_fields__}


def test_an_address_that_envoy_would_refuse_costs_the_others_nothing():
    addresses = (
        "example.com:80",
        "127.0.0.1:99999",
        "127.0.0.1:x",
        "nonsense",
        "localhost:81",
        "[::1]:82",
        "10.0.0.1:83",
    )
    snapshot = Compiler("1").compile(table(Route("micro", "x", (), addresses)), 1)
    made = readable(ClusterLoadAssignment.from_binary(snapshot.resources[ENDPOINTS]["micro|x"].resource.value))
    found = [one["endpoint"]["address"]["socketAddress"] for place in made["endpoints"] for one in place["lbEndpoints"]]
    assert [(one["address"], one["portValue"]) for one in found] == [("127.0.0.1", 81), ("::1", 82), ("10.0.0.1", 83)]


@pytest.mark.parametrize(
    ("path", "streams"),
    [
        ("/my-chat.v1.Chat/ListRooms", True),
        ("/my-chat/listRooms", True),
        ("/my-chat/ListRooms", True),
        ("/my-chat/list_rooms", True),
        ("/my-chat/list-rooms/", True),
        ("/my-chat/listrooms", True),
        ("/my-chat/Chat/ListRooms", True),
        ("/my-chat/chat/list-rooms", True),
        ("/my-chat/call", True),
        ("/my-chat", True),
        ("/my-chat/list", False),
        ("/my-chat/listRoomsNow", False),
        ("/my-chat/Other/ListRooms", False),
        ("/other/listRooms", False),
        ("/my-chat.v1.chat/listrooms", False),
    ],
)
def test_a_stream_is_known_by_every_spelling_of_its_path(path, streams):
    route = Route("micro", "my-chat", streams=("/my-chat.v1.Chat/ListRooms", "/my-chat.v1.Chat/Call"))
    assert bool(re.fullmatch(matchers.stream_pattern(route), path)) is streams


def test_a_service_of_very_many_streams_has_a_short_pattern_for_all_of_its_paths_and_no_others():
    streams = tuple(f"/many.Many/Stream{number}" for number in range(1000))
    pattern = matchers.stream_pattern(Route("micro", "many", ("many.Many",), streams=streams))
    assert len(pattern) < 200
    for path, matches in (
        ("/many.Many/Stream7", True),
        ("/many/stream7", True),
        ("/many", True),
        ("/manyfold/x", False),
    ):
        assert bool(re.fullmatch(pattern, path)) is matches


def test_origins_are_named_one_by_one_and_the_default_is_none():
    def cors(*origins):
        snapshot = Compiler("1", Front(origins=origins)).compile(table(service("a", 1)), 1)
        made = RouteConfiguration.from_binary(snapshot.resources[ROUTES]["api"].resource.value)
        return readable(made)["typedPerFilterConfig"].get("envoy.filters.http.cors")

    assert cors() is None
    policy = cors("https://a.example", "https://b.example")
    assert policy["allowOriginStringMatch"] == [{"exact": "https://a.example"}, {"exact": "https://b.example"}]


@pytest.mark.parametrize("name", ["api", "proxy", "mesh"])
def test_bodies_are_held_only_where_the_gateway_itself_answers(name):
    snapshot = Compiler("1").compile(table(service("a", 1), service("auth", 2)), 1)
    made = readable(RouteConfiguration.from_binary(snapshot.resources[ROUTES][name].resource.value))
    assert made["typedPerFilterConfig"]["whole"]["disabled"] is True
    found = list(routes(made))
    assert {"route" in route for route in found} == {True, False}
    for route in found:
        # What answers 404 fits no request: it is no route, and there the filter is on by itself.
        answers = route.get("directResponse", {}).get("status", 404) != 404
        assert ("typedPerFilterConfig" in route) is answers


def routes(value):
    """Every route in a route configuration."""
    if isinstance(value, dict):
        if "match" in value and ("route" in value or "directResponse" in value):
            yield value
        for inner in value.values():
            yield from routes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from routes(inner)


def test_any_origin_together_with_credentials_cannot_be_configured():
    with pytest.raises(errors.Error, match="origin"):
        Front(origins=("*",))


def test_a_service_that_cannot_be_compiled_is_left_out_and_logged_once(caplog):
    compiler = Compiler("1")
    good, odd = service("good", 1), service("odd", 2, timeout=float("inf"))
    for revision in (1, 2):
        snapshot = compiler.compile(table(good, odd, service(f"more-{revision}", 3)), revision)
        assert set(snapshot.resources[CLUSTER]) == {"micro|good", f"micro|more-{revision}"}
    assert caplog.text.count("service 'odd' of namespace 'micro' cannot be routed") == 1
    mended = compiler.compile(table(good, service("odd", 2)), 3)
    assert set(mended.resources[CLUSTER]) == {"micro|good", "micro|odd"}


def test_discovery_is_no_service_to_call():
    network = service("network", 1, rpc=["envoy.service.discovery.v3.AggregatedDiscoveryService", "micro.X"])
    tree = json.dumps(
        readable(
            RouteConfiguration.from_binary(
                Compiler("1").compile(table(network), 1).resources[ROUTES]["mesh"].resource.value
            )
        )
    )
    assert "/micro.X/" in tree
    assert "AggregatedDiscoveryService" not in tree
