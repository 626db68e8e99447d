"""What the registry's content means for traffic, whatever order it comes in."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.domain import route
from micro.domain.service import Endpoint, Node, Registration, StreamKind, Value

EMPTY = Value("Empty", "message")


def endpoint(path, kind=StreamKind.UNARY, timeout=10.0):
    return Endpoint("Any.Any", path, EMPTY, EMPTY, kind, timeout)


def instance(name="books", node="1", *endpoints, namespace="micro", address="", version="latest"):
    return Registration(namespace, name, version, Node(node, address or f"127.0.0.1:{node}"), endpoints)


paths = st.sampled_from(["/books.Books/Get", "/books.Books/List", "/books.v1.Audit/Tail", "odd", "/", "", "/a/b/c"])
endpoints = st.builds(endpoint, paths, st.sampled_from(StreamKind), st.sampled_from([0.0, 1.0, 10.0, 60.0]))
registrations = st.builds(
    lambda namespace, name, node, offers: instance(name, str(node), *offers, namespace=namespace),
    st.sampled_from(["micro", "shop"]),
    st.sampled_from(["books", "books.audit", "od/d", "a"]),
    st.integers(1, 9),
    st.lists(endpoints, max_size=4),
)
contents = st.lists(registrations, max_size=12, unique_by=lambda one: one.key)


@given(contents, st.randoms())
def test_the_order_of_the_registry_never_matters(content, random):
    shuffled = list(content)
    random.shuffle(shuffled)
    assert route.compile(shuffled) == route.compile(content)


@given(contents)
def test_every_instance_appears_exactly_once_under_its_own_service(content):
    table = route.compile(content)
    expected = {(one.namespace, one.name, one.node.address) for one in content}
    routed = [(found.namespace, found.service, address) for found in table for address in found.addresses]
    assert sorted(routed) == sorted(expected)
    assert [found.key for found in table] == sorted(found.key for found in table)


@given(contents, st.data())
def test_a_table_kept_up_to_date_equals_one_made_from_scratch(content, data):
    table = route.RouteTable()
    known = {}
    for one in content:
        if known and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(known)))
            del known[gone]
            key = gone[:2]
            table = table.updated({key: [other for other in known.values() if other.key[:2] == key]})
        known[one.key] = one
        key = one.key[:2]
        table = table.updated({key: [other for other in known.values() if other.key[:2] == key]})
    assert table == route.compile(known.values())


@given(contents, registrations)
def test_one_more_instance_changes_only_its_own_route(content, one):
    before = route.compile(content)
    key = one.key[:2]
    now = [other for other in content if other.key[:2] == key and other.key != one.key]
    after = before.updated({key: [*now, one]})
    assert after.get(*key) is not None
    for other in before:
        if other.key != key:
            assert after.routes[other.key] is before.routes[other.key]


@given(contents)
def test_without_its_last_instance_a_service_has_no_route(content):
    table = route.compile(content)
    for key in list(table.routes):
        table = table.updated({key: []})
        assert table.get(*key) is None
    assert len(table) == 0


def test_rpc_services_come_from_the_paths_and_odd_paths_give_none():
    found = route.of_service(
        [instance("x", "1", *(endpoint(path) for path in ("/a.B/C", "/a.B/D", "/e.F/G", "odd", "/x")))]
    )
    assert found.rpc_services == ("a.B", "e.F")


def test_paths_that_no_contract_can_have_play_no_part():
    odd = ["", "/", "//", "/a", "/a.B/", "/a.B/C/D", "/a b/C", "/a.B/C\n", "/ä.B/C", "/a.B/" + "x" * 999, "a.B/C"]
    found = route.of_service([instance("x", "1", *(endpoint(path, StreamKind.SERVER, 0) for path in odd))])
    assert found == route.Route("micro", "x", addresses=("127.0.0.1:1",))


def test_the_longest_timeout_of_the_unary_methods_counts_and_none_means_none():
    def timeout(*methods):
        return route.of_service([instance("x", "1", *methods)]).timeout

    assert timeout(endpoint("/a.B/C", timeout=3), endpoint("/a.B/D", timeout=7)) == 7
    assert timeout(endpoint("/a.B/C", timeout=3), endpoint("/a.B/D", timeout=0)) == 0
    assert timeout(endpoint("/a.B/C", timeout=3), endpoint("/a.B/D", StreamKind.SERVER, timeout=0)) == 3
    assert timeout(endpoint("/a.B/D", StreamKind.SERVER, timeout=9)) == 0
    assert timeout() == 0


def test_streams_are_listed_and_so_is_what_they_allow():
    def of(kind):
        found = route.of_service([instance("x", "1", endpoint("/a.B/Unary"), endpoint("/a.B/Stream", kind))])
        return found.streams, found.pushes, found.duplex

    assert of(StreamKind.UNARY) == ((), False, False)
    assert of(StreamKind.CLIENT) == (("/a.B/Stream",), False, False)
    assert of(StreamKind.SERVER) == (("/a.B/Stream",), True, False)
    assert of(StreamKind.BIDI) == (("/a.B/Stream",), True, True)


def test_versions_share_a_route_and_a_stream_in_one_is_a_stream():
    old = instance("x", "1", endpoint("/a.B/C"), version="v1")
    new = replace(instance("x", "2", endpoint("/a.B/C", StreamKind.SERVER)), version="v2")
    found = route.of_service([new, old])
    assert found.addresses == ("127.0.0.1:1", "127.0.0.1:2")
    assert found.streams == ("/a.B/C",)


def test_two_nodes_at_one_address_are_one_address():
    found = route.of_service([instance("x", "1", address="h:1"), instance("x", "2", address="h:1")])
    assert found.addresses == ("h:1",)


def test_a_dotted_name_is_found_below_both_of_its_prefixes():
    assert route.Route("micro", "books").prefixes == ("/books",)
    assert route.Route("micro", "v1.books").prefixes == ("/v1.books", "/v1/books")


@pytest.mark.parametrize("odd", [math.inf, math.nan, 1e20, 1e10, -1.0, 30 * 86400 + 1])
def test_a_timeout_that_no_proxy_can_keep_is_none(odd):
    assert route.of_service([instance("x", "1", endpoint("/a.B/C", timeout=odd))]).timeout == 0.0
    month = 30 * 86400.0
    assert route.of_service([instance("x", "1", endpoint("/a.B/C", timeout=month))]).timeout == month


def test_the_proxies_own_protocol_is_nobodys_service():
    discovery = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    own = (discovery, discovery.replace("/envoy", "/Envoy"))
    offers = (*(endpoint(path, StreamKind.BIDI) for path in own), endpoint("/micro.network.v1.Network/Sync"))
    found = route.of_service([instance("network", "1", *offers)])
    assert found.rpc_services == ("micro.network.v1.Network",)
    assert (found.streams, found.pushes) == ((), False)
