"""How a request finds its service: trees of lookups, so that the thousandth service is found as fast as the first.

Inside (mesh and proxy): the platform's own services first, they answer in every namespace; then by header
micro-namespace, in it by header micro-service, else by the gRPC path. Outside (api): by header micro-namespace, in it
by the first segments of the path, or the gRPC path; the platform's own services are not reachable there. The listener
adds micro-namespace where it is missing.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from micro.backends.envoy import clusters
from micro.domain import names
from micro.domain.route import Key
from micro.domain.route import Route as Service
from micro.rpc.gen.envoy.config.core.v3.base_pb import DataSource, HeaderValue, HeaderValueOption
from micro.rpc.gen.envoy.config.route.v3.route_components_pb import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteList,
    RouteMatch,
    VirtualHost,
)
from micro.rpc.gen.envoy.config.route.v3.route_pb import RouteConfiguration
from micro.rpc.gen.envoy.extensions.filters.http.cors.v3.cors_pb import CorsPolicy
from micro.rpc.gen.envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb import PreviousHostsPredicate
from micro.rpc.gen.envoy.type.matcher.v3.http_inputs_pb import HttpRequestHeaderMatchInput
from micro.rpc.gen.envoy.type.matcher.v3.regex_pb import RegexMatcher
from micro.rpc.gen.envoy.type.matcher.v3.string_pb import StringMatcher
from micro.rpc.gen.xds.core.v3.extension_pb import TypedExtensionConfig
from micro.rpc.gen.xds.type.matcher.v3.matcher_pb import Matcher
from micro.rpc.wkt import Any, BoolValue, Duration, UInt32Value, oneof

NAMESPACE_HEADER = "micro-namespace"
SERVICE_HEADER = "micro-service"

_SLACK = 1.0  # seconds for the service to report its own timeout before the proxy reports it
_SILENCE = 24 * 3600  # seconds that a stream may be silent
_MOST_STREAMS = 64  # methods; a pattern of more would cost every request of the service, and Envoy too much
_EVERYONES = ("grpc.health.", "grpc.reflection.")  # exported by every service, so their paths lead to none
_DISCOVERY = "envoy."  # exported by the control plane for the proxies, which know its address; nobody else is let in

_OnMatch = Matcher.OnMatch


@dataclass(frozen=True, slots=True)
class Pages:
    """What one service contributes to the trees.

    Attributes:
        named: for requests that carry its name.
        called: for requests that carry no name but a gRPC path of it.
        public: for requests from outside with a gRPC path of it.
        below: for requests from outside, by the prefix of their path.
        found: `below` as it is where no other service owns a shorter prefix.
    """

    service: Service
    named: _OnMatch
    called: _OnMatch
    public: _OnMatch
    below: Mapping[str, tuple[Route, ...]]
    found: Mapping[str, _OnMatch]


def pages(service: Service) -> Pages:
    """What a service contributes; its addresses play no part."""
    unnamed = HeaderMatcher(name=SERVICE_HEADER, header_match_specifier=oneof("present_match", True), invert_match=True)
    anywhere = _routes(service, RouteMatch(path_specifier=oneof("prefix", "/")))
    below = {
        prefix: _routes(service, RouteMatch(path_specifier=oneof("path_separated_prefix", prefix)))
        for prefix in service.prefixes
    }
    return Pages(
        service=service,
        named=_named(service, anywhere),
        called=_action(_routes(service, RouteMatch(path_specifier=oneof("prefix", "/"), headers=[unnamed]))),
        public=_action(anywhere),
        below=below,
        found={prefix: _action(routes) for prefix, routes in below.items()},
    )


def _named(service: Service, anywhere: Sequence[Route]) -> _OnMatch:
    """For requests that carry the name: every path; of the platform's own services, none of discovery."""
    found = _action(anywhere)
    if not _is_core(*service.key):
        return found
    # A route that no path of discovery fits: nothing is found there.
    nowhere = Route(match=RouteMatch(path_specifier=oneof("path", "/")), action=oneof("route", _unary(service)))
    return _lookup(":path", "prefix_match_map", {f"/{_DISCOVERY}": _action([nowhere])}, found) or found


def same_pages(one: Service, other: Service) -> bool:
    """Whether two services contribute the same."""
    return dataclasses.replace(one, addresses=other.addresses) == other


def inside(all_pages: Mapping[Key, Pages]) -> _OnMatch | None:
    """The tree for callers that are part of the deployment; None when there is nothing to find."""
    core: dict[str, Pages] = {}
    tenants: defaultdict[str, dict[str, Pages]] = defaultdict(dict)
    for (namespace, service), page in sorted(all_pages.items()):
        (core if _is_core(namespace, service) else tenants[namespace])[service] = page
    by_namespace = {namespace: found for namespace, own in tenants.items() if (found := _by_name(own, None))}
    return _by_name(core, _lookup(NAMESPACE_HEADER, "exact_match_map", by_namespace))


def api(all_pages: Mapping[Key, Pages], version: str, origins: Sequence[str]) -> RouteConfiguration:
    """The route configuration for callers from outside."""
    tenants: defaultdict[str, list[Pages]] = defaultdict(list)
    for (namespace, service), page in sorted(all_pages.items()):
        if not _is_core(namespace, service):
            tenants[namespace].append(page)
    by_namespace = {namespace: found for namespace, own in tenants.items() if (found := _by_path(own))}
    found = _lookup(NAMESPACE_HEADER, "exact_match_map", by_namespace)
    answers = {
        "/": _action([_answer("/", 200, json.dumps({"version": version}))]),
        "/favicon.ico": _action([_answer("/favicon.ico", 204)]),
    }
    # What is looked up has the query in it.
    asked = {f"{path}?": answer for path, answer in answers.items()}
    found = _lookup(":path", "prefix_match_map", asked, found)
    made = configuration("api", _lookup(":path", "exact_match_map", answers, found))
    if origins:
        made.typed_per_filter_config["envoy.filters.http.cors"] = Any.pack(_cors(origins))
    return made


def configuration(name: str, tree: _OnMatch | None) -> RouteConfiguration:
    """One virtual host for every domain."""
    host = VirtualHost(name="all", domains=["*"], retry_policy=_retries())
    if tree is not None and tree.on_match is not None and tree.on_match.field == "matcher":
        host.matcher = tree.on_match.value
    return RouteConfiguration(name=name, virtual_hosts=[host])


def _is_core(namespace: str, service: str) -> bool:
    return namespace == names.DEFAULT_NAMESPACE and service in names.CORE_SERVICES


def _by_name(own: Mapping[str, Pages], otherwise: _OnMatch | None) -> _OnMatch | None:
    called: dict[str, _OnMatch] = {}
    for page in own.values():
        for rpc in _rpc_services(page):
            called.setdefault(f"/{rpc}/", page.called)  # the first by name, where two export the same
    named = {service: page.named for service, page in own.items()}
    by_path = _lookup(":path", "prefix_match_map", called, otherwise)
    return _lookup(SERVICE_HEADER, "exact_match_map", named, by_path)


def _by_path(own: Sequence[Pages]) -> _OnMatch | None:
    owners: dict[str, Pages] = {}
    for page in own:
        for prefix in page.below:
            owners.setdefault(prefix, page)
    entries: dict[str, _OnMatch] = {}
    for prefix, page in owners.items():
        shorter = _shorter(prefix, owners)
        entries[prefix] = _action([*page.below[prefix], *shorter]) if shorter else page.found[prefix]
    for page in own:
        for rpc in _rpc_services(page):
            if f"/{rpc}" not in owners:
                entries.setdefault(f"/{rpc}/", page.public)
    return _lookup(":path", "prefix_match_map", entries)


def _shorter(prefix: str, owners: Mapping[str, Pages]) -> list[Route]:
    """The routes below shorter prefixes, longest first: "/foo/b" is what the lookup finds for "/foo/bar", foo's."""
    routes: list[Route] = []
    while prefix := prefix.rpartition("/")[0]:
        if prefix in owners:
            routes += owners[prefix].below[prefix]
    return routes


def _rpc_services(page: Pages) -> Iterable[str]:
    return (rpc for rpc in page.service.rpc_services if not rpc.startswith((*_EVERYONES, _DISCOVERY)))


def _lookup(
    header: str,
    how: Literal["exact_match_map", "prefix_match_map"],
    entries: Mapping[str, _OnMatch],
    otherwise: _OnMatch | None = None,
) -> _OnMatch | None:
    """A map on a header; Envoy refuses an empty one, so that is left out."""
    if not entries:
        return otherwise
    tree = Matcher.MatcherTree(
        input=TypedExtensionConfig(name=header, typed_config=Any.pack(HttpRequestHeaderMatchInput(header_name=header))),
        tree_type=oneof(how, Matcher.MatcherTree.MatchMap(map=dict(entries))),
    )
    matcher = Matcher(matcher_type=oneof("matcher_tree", tree), on_no_match=otherwise)
    return _OnMatch(on_match=oneof("matcher", matcher))


def _action(routes: Sequence[Route]) -> _OnMatch:
    found: Route | RouteList = routes[0] if len(routes) == 1 else RouteList(routes=list(routes))
    return _OnMatch(on_match=oneof("action", TypedExtensionConfig(name="route", typed_config=Any.pack(found))))


def _routes(service: Service, match: RouteMatch) -> tuple[Route, ...]:
    """WebSockets, then streams, then everything else."""
    made: list[Route] = []
    if service.pushes:
        websocket = HeaderMatcher(
            name="upgrade",
            header_match_specifier=oneof(
                "string_match", StringMatcher(match_pattern=oneof("exact", "websocket"), ignore_case=True)
            ),
        )
        handshake = RouteMatch(path_specifier=match.path_specifier, headers=[*match.headers, websocket])
        made.append(Route(match=handshake, action=oneof("route", _upgrade(service))))
    if service.streams:
        pattern = oneof("safe_regex", RegexMatcher(regex=stream_pattern(service)))
        streams = RouteMatch(path_specifier=pattern, headers=list(match.headers))
        made.append(Route(match=streams, action=oneof("route", _stream(service))))
    made.append(Route(match=match, action=oneof("route", _unary(service))))
    return tuple(made)


def stream_pattern(service: Service) -> str:
    """A pattern of the paths, in every spelling that the service understands, of its methods with streams.

    A service with very many of them is all stream: no timeout holds for its unary methods either.
    """
    prefixes = "|".join(re.escape(prefix) for prefix in service.prefixes)
    if len(service.streams) > _MOST_STREAMS:
        rpcs = "|".join(re.escape(rpc) for rpc in service.rpc_services)
        return f"(?:/(?:{rpcs})/.*|(?:{prefixes})(?:/.*)?)"
    exact = [re.escape(path) for path in service.streams]
    loose = []
    for path in service.streams:
        _, rpc, method = path.split("/", 2)
        handler = _spellings(rpc.rpartition(".")[2])
        step = f"(?:/{handler})?/{_spellings(method)}"
        loose.append(f"(?:{step})?" if names.folded(method) == "call" else step)
    return f"(?:{'|'.join(exact)}|(?i:(?:{prefixes})(?:{'|'.join(loose)})/?))"


def _spellings(name: str) -> str:
    """ "GetService" as get-service, get_service, getService or getservice; case is not looked at."""
    return "[-_]?".join(re.escape(word) for word in names.snake(name).split("_") if word)


def _unary(service: Service) -> RouteAction:
    limit = RouteAction.MaxStreamDuration(grpc_timeout_header_max=Duration())
    if service.timeout:
        limit.max_stream_duration = Duration.from_seconds(service.timeout + _SLACK)
    return RouteAction(
        cluster_specifier=oneof("cluster", clusters.name(service)), timeout=Duration(), max_stream_duration=limit
    )


def _stream(service: Service) -> RouteAction:
    return RouteAction(
        cluster_specifier=oneof("cluster", clusters.name(service)),
        timeout=Duration(),
        idle_timeout=Duration(seconds=_SILENCE),
        max_stream_duration=RouteAction.MaxStreamDuration(grpc_timeout_header_max=Duration()),
    )


def _upgrade(service: Service) -> RouteAction:
    return RouteAction(
        cluster_specifier=oneof("cluster", clusters.upgrades(service)),
        timeout=Duration(),
        idle_timeout=Duration(seconds=_SILENCE),
        upgrade_configs=[RouteAction.UpgradeConfig(upgrade_type="websocket", enabled=BoolValue(value=True))],
    )


def _retries() -> RetryPolicy:
    """Only what has surely not reached a handler is tried again, elsewhere where there is an elsewhere."""
    return RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request",
        num_retries=UInt32Value(value=3),
        retry_host_predicate=[
            RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                config_type=oneof("typed_config", Any.pack(PreviousHostsPredicate())),
            )
        ],
        host_selection_retry_max_attempts=5,
        retry_back_off=RetryPolicy.RetryBackOff(
            base_interval=Duration(nanos=10_000_000), max_interval=Duration(nanos=200_000_000)
        ),
    )


def _answer(path: str, status: int, body: str = "") -> Route:
    response = DirectResponseAction(status=status)
    route = Route(match=RouteMatch(path_specifier=oneof("path", path)), action=oneof("direct_response", response))
    if body:
        response.body = DataSource(specifier=oneof("inline_string", body))
        route.response_headers_to_add = [
            HeaderValueOption(header=HeaderValue(key="content-type", value="application/json"))
        ]
    return route


def _cors(origins: Sequence[str]) -> CorsPolicy:
    return CorsPolicy(
        allow_origin_string_match=[StringMatcher(match_pattern=oneof("exact", origin)) for origin in origins],
        allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
        allow_headers="authorization, content-type, grpc-timeout, micro-namespace, x-grpc-web, x-user-agent, "
        "connect-protocol-version, connect-timeout-ms",
        expose_headers="grpc-status, grpc-message, grpc-status-details-bin, x-request-id",
        max_age="600",
        # Every origin is named by the operator; "*" is none.
        allow_credentials=BoolValue(value=True),
    )
