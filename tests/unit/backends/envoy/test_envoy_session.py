"""Conversations between a proxy and the control plane: what is heard, and what is said in which order."""

from micro.backends.envoy.compile import CLUSTER, ENDPOINTS, ROUTES, Compiler
from micro.backends.envoy.session import Session
from micro.domain.route import Route, RouteTable
from micro.rpc.gen.envoy.config.core.v3.base_pb import Node
from micro.rpc.gen.envoy.service.discovery.v3.discovery_pb import DeltaDiscoveryRequest
from micro.rpc.gen.google.rpc.status_pb import Status

KINDS = {CLUSTER: "clusters", ENDPOINTS: "endpoints", ROUTES: "routes"}
URLS = {kind: url for url, kind in KINDS.items()}


class Talk:
    """A proxy named api that can be made to ask, accept and refuse."""

    def __init__(self):
        self.session = Session()
        self.compiler = Compiler("1")
        self.snapshot = self.compiler.compile(RouteTable(), 0)
        self.open = {}

    def publish(self, revision, *services, port=1):
        routes = [Route("micro", name, (), (f"127.0.0.1:{port}",)) for name in services]
        self.snapshot = self.compiler.compile(RouteTable({route.key: route for route in routes}), revision)
        return self.said()

    def said(self):
        """What the control plane says now, readable: ("clusters", "+a", "-b")."""
        found = []
        for response in self.session.responses(self.snapshot):
            kind = KINDS[response.type_url]
            self.open[kind] = response.nonce
            names = [f"+{one.name}" for one in response.resources] + [f"-{name}" for name in response.removed_resources]
            found.append((kind, *sorted(names)))
        return found

    def ask(self, kind, *names, drop=(), versions=None):
        self.session.receive(
            DeltaDiscoveryRequest(
                node=Node(id="api"),
                type_url=URLS[kind],
                resource_names_subscribe=list(names),
                resource_names_unsubscribe=list(drop),
                initial_resource_versions=dict(versions or {}),
            )
        )
        return self.said()

    def accept(self, *kinds):
        for kind in kinds:
            self.session.receive(DeltaDiscoveryRequest(type_url=URLS[kind], response_nonce=self.open.pop(kind)))
        return self.said()

    def refuse(self, kind, message):
        status = Status(code=3, message=message)
        request = DeltaDiscoveryRequest(type_url=URLS[kind], response_nonce=self.open.pop(kind), error_detail=status)
        self.session.receive(request)
        return self.said()

    def versions(self, kind):
        return {name: one.version for name, one in self.snapshot.resources[URLS[kind]].items()}


def connected(*services):
    """A proxy that has everything of revision 1."""
    talk = Talk()
    talk.publish(1, *services)
    talk.ask("clusters")
    talk.accept("clusters")
    if services:
        talk.ask("endpoints", *(f"micro|{name}" for name in services))
        talk.accept("endpoints")
    talk.ask("routes", "api")
    talk.accept("routes")
    assert talk.session.accepted == 1
    assert not talk.open
    return talk


def test_a_proxy_gets_clusters_then_endpoints_then_routes():
    talk = Talk()
    assert talk.publish(1, "a", "b") == []
    assert talk.ask("clusters") == [("clusters", "+micro|a", "+micro|b")]
    assert talk.ask("routes", "api") == [], "not before it has what they lead to"
    assert talk.accept("clusters") == []
    assert talk.ask("endpoints", "micro|a", "micro|b") == [("endpoints", "+micro|a", "+micro|b")]
    assert talk.session.accepted == 0
    assert talk.accept("endpoints") == [("routes", "+api")]
    assert talk.accept("routes") == []
    assert (talk.session.proxy, talk.session.accepted, talk.session.error) == ("api", 1, "")


def test_a_proxy_of_an_empty_platform_is_told_that_there_is_nothing():
    talk = Talk()
    assert talk.ask("clusters") == [("clusters",)]
    assert talk.accept("clusters") == []
    assert talk.ask("routes", "api") == [("routes", "+api")]


def test_a_new_service_is_routed_when_its_instances_are_known():
    talk = connected("a")
    assert talk.publish(2, "a", "b") == [("clusters", "+micro|b")]
    assert talk.accept("clusters") == []
    assert talk.ask("endpoints", "micro|b") == [("endpoints", "+micro|b")]
    assert talk.accept("endpoints") == [("routes", "+api")]
    assert talk.session.accepted == 1
    talk.accept("routes")
    assert talk.session.accepted == 2


def test_a_removed_service_loses_its_route_first():
    talk = connected("a", "b")
    assert talk.publish(2, "a") == [("routes", "+api")]
    assert talk.accept("routes") == [("clusters", "-micro|b")]
    assert talk.accept("clusters") == []
    assert talk.ask("endpoints", drop=["micro|b"]) == []
    assert talk.session.accepted == 2


def test_a_moved_instance_is_one_endpoint_resource():
    talk = connected("a")
    assert talk.publish(2, "a", port=2) == [("endpoints", "+micro|a")]
    talk.accept("endpoints")
    assert talk.session.accepted == 2


def test_a_revision_without_a_difference_is_accepted_at_once():
    talk = connected("a")
    assert talk.publish(7, "a") == []
    assert talk.session.accepted == 7


def test_changes_wait_for_the_answer_and_are_then_sent_together():
    talk = connected("a")
    assert talk.publish(2, "a", port=2) == [("endpoints", "+micro|a")]
    assert talk.publish(3, "a", port=3) == []
    assert talk.publish(4, "a", port=4) == []
    assert talk.accept("endpoints") == [("endpoints", "+micro|a")]
    assert talk.session.accepted == 1
    talk.accept("endpoints")
    assert talk.session.accepted == 4


def test_who_comes_back_is_sent_only_what_differs():
    before = connected("a", "b")
    talk = Talk()
    talk.publish(2, "a", "c")
    have = {kind: before.versions(kind) for kind in URLS}
    assert talk.ask("clusters", versions=have["clusters"]) == [("clusters", "+micro|c")]
    assert talk.ask("endpoints", "micro|a", "micro|b", versions=have["endpoints"]) == []
    assert talk.ask("routes", "api", versions=have["routes"]) == []
    assert talk.accept("clusters") == []
    assert talk.ask("endpoints", "micro|c") == [("endpoints", "+micro|c")]
    assert talk.accept("endpoints") == [("routes", "+api")]
    assert talk.accept("routes") == [("clusters", "-micro|b")]


def test_who_comes_back_to_the_same_state_is_sent_nothing_and_has_accepted_it():
    before = connected("a")
    talk = Talk()
    talk.publish(9, "a")
    assert talk.ask("clusters", versions=before.versions("clusters")) == [("clusters",)]
    talk.ask("endpoints", "micro|a", versions=before.versions("endpoints"))
    assert talk.ask("routes", "api", versions={"api": before.versions("routes")["api"]}) == []
    assert talk.accept("clusters") == []
    assert talk.session.accepted == 9


def test_endpoints_that_do_not_exist_are_said_to_be_absent_once():
    talk = connected("a")
    assert talk.ask("endpoints", "micro|ghost") == [("endpoints", "-micro|ghost")]
    assert talk.accept("endpoints") == []
    assert talk.publish(2, "a", "ghost") == [("clusters", "+micro|ghost"), ("endpoints", "+micro|ghost")]


def test_asking_again_means_having_lost_it():
    talk = connected("a")
    assert talk.ask("endpoints", "micro|a") == [("endpoints", "+micro|a")]


def test_a_refusal_is_remembered_and_not_repeated_until_something_changes():
    talk = connected("a")
    talk.publish(2, "a", port=2)
    assert talk.refuse("endpoints", "malformed") == []
    assert (talk.session.accepted, talk.session.error) == (1, "malformed")
    assert talk.publish(3, "a", port=2) == [], "the same once more would be refused once more"
    assert talk.session.accepted == 1
    assert talk.publish(4, "a", port=4) == [("endpoints", "+micro|a")]
    talk.accept("endpoints")
    assert (talk.session.accepted, talk.session.error) == (4, "")


def test_a_refused_cluster_does_not_hold_back_the_routes_of_others():
    talk = connected("a")
    assert talk.publish(2, "a", "bad") == [("clusters", "+micro|bad")]
    assert talk.refuse("clusters", "no such thing") == [("routes", "+api")]
    talk.accept("routes")
    assert talk.session.accepted == 1
    assert talk.publish(3, "a") == [("routes", "+api")]
    assert talk.accept("routes") == [("clusters", "-micro|bad")]
    talk.accept("clusters")
    assert (talk.session.accepted, talk.session.error) == (3, "")


def test_an_answer_to_something_older_is_no_answer():
    talk = connected("a")
    talk.publish(2, "a", port=2)
    talk.session.receive(DeltaDiscoveryRequest(type_url=ENDPOINTS, response_nonce="0"))
    assert talk.publish(3, "a", port=3) == []
    assert talk.accept("endpoints") == [("endpoints", "+micro|a")]


def test_types_that_we_do_not_serve_are_left_alone():
    talk = connected("a")
    talk.session.receive(DeltaDiscoveryRequest(type_url="type.googleapis.com/envoy.config.listener.v3.Listener"))
    assert talk.said() == []
