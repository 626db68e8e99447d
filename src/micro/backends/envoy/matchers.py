"""How a request finds its service: trees of lookups, so that the thousandth service is found as fast as the first.

Inside (mesh and proxy): the platform's own services first, they answer in every namespace; then by namespace, in it
by header micro-service, else by the gRPC path. Outside (api): by namespace, in it by the first segments of the path, or
the gRPC path; of the platform's own services public keys and blobs are reachable there, and for who shows a token those
that services keep their state in.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from micro.backends.envoy import clusters, limits, namespaces, origins, shared, trees
from micro.backends.envoy.front import Front
from micro.backends.envoy.trees import OnMatch
from micro.domain import names
from micro.domain.route import Key
from micro.domain.route import Route as Service
from micro.rpc.client import service_of
from micro.rpc.gen.envoy.config.core.v3.base_pb import DataSource, HeaderValue, HeaderValueOption
from micro.rpc.gen.envoy.config.route.v3.route_components_pb import (
    DirectResponseAction,
    FilterConfig,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from micro.rpc.gen.envoy.config.route.v3.route_pb import RouteConfiguration
from micro.rpc.gen.envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb import PreviousHostsPredicate
from micro.rpc.gen.envoy.type.matcher.v3.regex_pb import RegexMatcher
from micro.rpc.gen.envoy.type.matcher.v3.string_pb import StringMatcher
from micro.rpc.wkt import Any, BoolValue, Duration, UInt32Value, oneof

SERVICE_HEADER = "micro-service"

_SLACK = 1.0  # seconds for the service to report its own timeout before the proxy reports it
_SILENCE = 24 * 3600  # seconds that a stream may be silent
_STALLED = (
    300  # seconds that bytes in bulk may stand still: they hold megabytes, and HTTP/1.1 does not ask who is there
)
_MOST_STREAMS = 64  # methods; a pattern of more would cost every request of the service, and Envoy too much
_EVERYONES = ("grpc.health.", "grpc.reflection.")  # exported by every service, so their paths lead to none
_DISCOVERY = "envoy."  # exported by the control plane for the proxies, which know its address; nobody else is let in

_ANYWHERE = oneof("prefix", "/")

JWKS = "/.well-known/jwks.json"
"""Where the public keys are, by convention."""


BLOBS = "/blob/"
"""What the addresses of public blobs begin with; the namespace follows."""

_BULK = ("/micro.store.v1.BlobStore/Read", "/micro.store.v1.BlobStore/Write")
"""Of the platform's own methods, those that carry bytes of any number: over HTTP/1.1 where their caller can, which
costs much less than HTTP/2 does. Connect alone has its errors and its end in the body."""

OUTSIDE = ("broker", "config", "events", "store")
"""The platform's own services that are reached from outside by who shows a token, below their names."""


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
    named: OnMatch
    called: OnMatch
    public: OnMatch
    below: Mapping[str, tuple[Route, ...]]
    found: Mapping[str, OnMatch]


def pages(service: Service, *, limited: bool = False) -> Pages:
    """What a service contributes; its addresses play no part.

    Args:
        limited: whether its namespace may send so many requests a second only.
    """
    unnamed = HeaderMatcher(name=SERVICE_HEADER, header_match_specifier=oneof("present_match", True), invert_match=True)
    anywhere = _routes(service, RouteMatch(path_specifier=_ANYWHERE))
    counted = service.namespace if limited else ""
    below = {
        prefix: _routes(service, RouteMatch(path_specifier=oneof("path_separated_prefix", prefix)), counted)
        for prefix in service.prefixes
    }
    public = _routes(service, RouteMatch(path_specifier=_ANYWHERE), counted) if limited else anywhere
    return Pages(
        service=service,
        named=_named(service, anywhere),
        called=trees.action(_routes(service, RouteMatch(path_specifier=_ANYWHERE, headers=[unnamed]))),
        public=trees.action(public),
        below=below,
        found={prefix: trees.action(routes) for prefix, routes in below.items()},
    )


def _named(service: Service, anywhere: Sequence[Route]) -> OnMatch:
    """For requests that carry the name: every path; of the platform's own services, none of discovery."""
    found = trees.action(anywhere)
    if not _is_core(*service.key):
        return found
    return trees.lookup(":path", "prefix_match_map", {f"/{_DISCOVERY}": _nowhere()}, found) or found


def same_pages(one: Service, other: Service) -> bool:
    """Whether two services contribute the same."""
    return dataclasses.replace(one, addresses=other.addresses) == other


def inside(all_pages: Mapping[Key, Pages], front: Front, *, callers: bool) -> OnMatch | None:
    """The tree of mesh and proxy; None when there is nothing to find.

    Args:
        front: how the listener is known; web pages of others find nothing there either.
        callers: whether people call there, whose token tells their namespace, not services, which name it.
    """
    core: dict[str, Pages] = {}
    tenants: defaultdict[str, dict[str, Pages]] = defaultdict(dict)
    for (namespace, service), page in sorted(all_pages.items()):
        (core if _is_core(namespace, service) else tenants[namespace])[service] = page
    found = {namespace: tree for namespace, own in tenants.items() if (tree := _by_name(own, None))}
    chosen = namespaces.by_caller(found, _nowhere()) if callers else namespaces.by_header(found)
    return _refusing_pages(front, _by_name(core, chosen))


def api(all_pages: Mapping[Key, Pages], version: str, front: Front, quotas: Mapping[str, int]) -> RouteConfiguration:
    """The route configuration for callers from outside."""
    tenants: defaultdict[str, list[Pages]] = defaultdict(list)
    for (namespace, service), page in sorted(all_pages.items()):
        if not _is_core(namespace, service):
            tenants[namespace].append(page)
    found = {namespace: tree for namespace, own in tenants.items() if (tree := _by_path(own))}
    called = namespaces.by_caller(found, _nowhere(), front.base_domain)
    own = {
        f"/{service}/": _for_bearers(stateful.service, quotas)
        for service in OUTSIDE
        if (stateful := all_pages.get((names.DEFAULT_NAMESPACE, service)))
    }
    allowed = _refusing_pages(front, trees.lookup(":path", "prefix_match_map", own, called))
    answers = {
        "/": trees.action([_answer("/", 200, json.dumps({"version": version}))]),
        "/favicon.ico": trees.action([_answer("/favicon.ico", 204)]),
    }
    # What is looked up has the query in it.
    begun = {f"{path}?": answer for path, answer in answers.items()}
    if store := all_pages.get((names.DEFAULT_NAMESPACE, "store")):
        begun |= _blobs(store.service, quotas)
    asked = trees.lookup(":path", "prefix_match_map", begun, allowed)
    if auth := all_pages.get((names.DEFAULT_NAMESPACE, "auth")):
        answers[JWKS] = trees.action([_keys(auth.service)])
    made = configuration("api", trees.lookup(":path", "exact_match_map", answers, asked))
    if front.origins:
        made.typed_per_filter_config["envoy.filters.http.cors"] = Any.pack(origins.cors(front.origins))
    if quotas:
        made.typed_per_filter_config[shared.LIMITS] = Any.pack(limits.limits(quotas))
    return made


def configuration(name: str, tree: OnMatch | None) -> RouteConfiguration:
    """One virtual host for every domain."""
    host = VirtualHost(name="all", domains=["*"], retry_policy=_retries())
    if tree is not None and tree.on_match is not None and tree.on_match.field == "matcher":
        host.matcher = tree.on_match.value
    # Bodies of calls go through as they come.
    passing = {shared.WHOLE: Any.pack(FilterConfig(disabled=True))}
    return RouteConfiguration(name=name, virtual_hosts=[host], typed_per_filter_config=passing)


def _refusing_pages(front: Front, tree: OnMatch | None) -> OnMatch | None:
    """The tree behind the conditions that keep out what no instance bears, and what a foreign web page has made its
    reader's browser send."""
    refused = [
        (origins.no_host(), trees.action([_answer("", 400)])),
        (origins.foreign(front), trees.action([_answer("", shared.FOREIGN)])),
    ]
    if (unknown := origins.unknown_host(front)) is not None:
        refused.append((unknown, trees.action([_answer("", shared.UNKNOWN_HOST)])))
    return trees.first(refused, tree)


def _is_core(namespace: str, service: str) -> bool:
    return namespace == names.DEFAULT_NAMESPACE and service in names.CORE_SERVICES


def _by_name(own: Mapping[str, Pages], otherwise: OnMatch | None) -> OnMatch | None:
    called: dict[str, OnMatch] = {}
    owners = _owners(own.values())
    for page in own.values():
        for rpc in _rpc_services(page):
            if owners[rpc] is page:
                called[f"/{rpc}/"] = page.called
    named = {service: page.named for service, page in own.items()}
    by_path = trees.lookup(":path", "prefix_match_map", called, otherwise)
    return trees.lookup(SERVICE_HEADER, "exact_match_map", named, by_path)


def _by_path(own: Sequence[Pages]) -> OnMatch | None:
    owners: dict[str, Pages] = {}
    exporters = _owners(own)
    for page in own:
        for prefix in page.below:
            owners.setdefault(prefix, page)
    entries: dict[str, OnMatch] = {}
    for prefix, page in owners.items():
        shorter = _shorter(prefix, owners)
        entries[prefix] = trees.action([*page.below[prefix], *shorter]) if shorter else page.found[prefix]
    for page in own:
        for rpc in _rpc_services(page):
            if f"/{rpc}" not in owners and exporters[rpc] is page:
                entries[f"/{rpc}/"] = page.public
    return trees.lookup(":path", "prefix_match_map", entries)


def _shorter(prefix: str, owners: Mapping[str, Pages]) -> list[Route]:
    """The routes below shorter prefixes, longest first: "/foo/b" is what the lookup finds for "/foo/bar", foo's."""
    routes: list[Route] = []
    while prefix := prefix.rpartition("/")[0]:
        if prefix in owners:
            routes += owners[prefix].below[prefix]
    return routes


def _owners(own: Iterable[Pages]) -> dict[str, Pages]:
    """By rpc service, where calls that carry no name find it: at the service that bears its name by convention, where
    that exports it, else at the one whose account is the oldest. So nobody takes over another's contract with a service
    that came later, whatever its name."""
    exporters: defaultdict[str, list[Pages]] = defaultdict(list)
    for page in own:
        for rpc in _rpc_services(page):
            exporters[rpc].append(page)

    def place(rpc: str, service: Service) -> tuple[bool, str, str]:
        return (service_of(rpc) != service.service, service.since, service.service)

    return {rpc: min(pages, key=lambda page: place(rpc, page.service)) for rpc, pages in exporters.items()}


def _rpc_services(page: Pages) -> Iterable[str]:
    return (rpc for rpc in page.service.rpc_services if not rpc.startswith((*_EVERYONES, _DISCOVERY)))


def _nowhere() -> OnMatch:
    """A route that no request fits: nothing is found there."""
    never = HeaderMatcher(name=":path", header_match_specifier=oneof("present_match", True), invert_match=True)
    match = RouteMatch(path_specifier=_ANYWHERE, headers=[never])
    return trees.action([Route(match=match, action=oneof("direct_response", DirectResponseAction(status=404)))])


def _keys(auth: Service) -> Route:
    """To the public keys, for who reads them; they are nobody's secret."""
    get = HeaderMatcher(
        name=":method", header_match_specifier=oneof("string_match", StringMatcher(match_pattern=oneof("exact", "GET")))
    )
    match = RouteMatch(path_specifier=oneof("path", JWKS), headers=[get])
    return Route(match=match, action=oneof("route", _unary(auth)))


def _blobs(store: Service, quotas: Mapping[str, int]) -> dict[str, OnMatch]:
    """To public blobs, for everybody; what is read of limited namespaces counts as theirs."""

    def below(prefix: str, counted: str) -> OnMatch:
        action = _stream(store)  # over HTTP/2 alone are strangers dropped that do not read what they asked for
        if counted:
            action.rate_limits = [limits.counted(counted)]
        match = RouteMatch(path_specifier=oneof("prefix", prefix))
        return trees.action([Route(match=match, action=oneof("route", action))])

    limited = {f"{BLOBS}{namespace}/": below(f"{BLOBS}{namespace}/", namespace) for namespace in sorted(quotas)}
    return {BLOBS: below(BLOBS, ""), **limited}


def _for_bearers(service: Service, quotas: Mapping[str, int]) -> OnMatch:
    """To one of the platform's own, for who shows a token; what comes of limited namespaces counts as theirs.
    Everybody else is told that it takes one."""
    below = RouteMatch(path_specifier=oneof("path_separated_prefix", service.prefixes[0]))
    limited = {namespace: trees.action(_routes(service, below, namespace)) for namespace in sorted(quotas)}
    untold = trees.action([_answer("", shared.NO_TOKEN)])
    return namespaces.by_token(limited, trees.action(_routes(service, below)), untold)


def _routes(service: Service, match: RouteMatch, counted: str = "") -> tuple[Route, ...]:
    """WebSockets, then streams, then everything else.

    Args:
        counted: the namespace whose limit holds; empty for none.
    """
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
    made += _bulk_routes(service, match)
    if service.streams:
        pattern = oneof("safe_regex", RegexMatcher(regex=stream_pattern(service)))
        streams = RouteMatch(path_specifier=pattern, headers=list(match.headers))
        made.append(Route(match=streams, action=oneof("route", _stream(service))))
    made.append(Route(match=match, action=oneof("route", _unary(service))))
    for route in made:
        if counted and route.action is not None and route.action.field == "route":
            route.action.value.rate_limits = [limits.counted(counted)]
    return tuple(made)


def _bulk_routes(service: Service, match: RouteMatch) -> list[Route]:
    """Ahead of the streams, for who speaks Connect; where paths are as gRPC has them."""
    connect = HeaderMatcher(
        name="content-type",
        header_match_specifier=oneof(
            "string_match", StringMatcher(match_pattern=oneof("exact", "application/connect+proto"))
        ),
    )
    return [
        Route(
            match=RouteMatch(path_specifier=oneof("path", path), headers=[*match.headers, connect]),
            action=oneof("route", _bulk(service)),
        )
        for path in _BULK
        if path in service.streams and _is_core(*service.key) and match.path_specifier == _ANYWHERE
    ]


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


def _bulk(service: Service) -> RouteAction:
    made = _stream(service)
    made.idle_timeout = Duration(seconds=_STALLED)
    if service.pushes:
        made.cluster_specifier = oneof("cluster", clusters.plain(service))
    return made


def _upgrade(service: Service) -> RouteAction:
    return RouteAction(
        cluster_specifier=oneof("cluster", clusters.plain(service)),
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
    """An answer at one path, or at every path for an empty one."""
    response = DirectResponseAction(status=status)
    match = RouteMatch(path_specifier=oneof("path", path) if path else oneof("prefix", "/"))
    whole = {shared.WHOLE: Any.pack(FilterConfig(config=Any()))}
    route = Route(match=match, action=oneof("direct_response", response), typed_per_filter_config=whole)
    if body:
        response.body = DataSource(specifier=oneof("inline_string", body))
        route.response_headers_to_add = [
            HeaderValueOption(header=HeaderValue(key="content-type", value="application/json"))
        ]
    return route
