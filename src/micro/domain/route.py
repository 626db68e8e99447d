"""The route table: what the registry's content means for traffic. Pure functions over plain values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from micro.domain.service import Registration, StreamKind

Key = tuple[str, str]
"""Namespace and service."""

LONGEST_TIMEOUT = 30 * 24 * 3600.0
"""Seconds; what is longer is no timeout at all."""

_HIDDEN = "/envoy."
"""Paths of the data plane's own protocol, which its proxies speak with the control plane and nobody else does."""

_PATH = re.compile(r"/([A-Za-z_][A-Za-z0-9_.]{0,254})/[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True)
class Route:
    """How one service of one namespace is reached.

    Attributes:
        rpc_services: full names of the protobuf services it exports ("helloworld.Helloworld"), sorted.
        addresses: HOST:PORT of every instance of every version, sorted, none twice, never empty.
        timeout: seconds that a unary call may take when its caller sets no deadline; 0 means no limit.
        streams: paths of the methods with a stream on either side, sorted; no timeout holds for them.
        pushes: whether a method streams its answer, so that a WebSocket makes sense.
        duplex: whether a method streams both ways.
        since: when the first of the accounts was made that registered it, RFC 3339; empty for the platform's own.
    """

    namespace: str
    service: str
    rpc_services: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    timeout: float = 0.0
    streams: tuple[str, ...] = ()
    pushes: bool = False
    duplex: bool = False
    since: str = ""

    @property
    def key(self) -> Key:
        return (self.namespace, self.service)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Paths below which HTTP finds the service: "/foo.bar", and "/foo/bar" for a name with dots."""
        plain = "/" + self.service
        return (plain, plain.replace(".", "/")) if "." in self.service else (plain,)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes by namespace and service. Equal when the routes are, whatever the order they came in."""

    routes: Mapping[Key, Route] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Route]:
        """The routes, sorted by namespace and service."""
        return (self.routes[key] for key in sorted(self.routes))

    def __len__(self) -> int:
        return len(self.routes)

    def get(self, namespace: str, service: str) -> Route | None:
        return self.routes.get((namespace, service))

    def updated(self, changes: Mapping[Key, Iterable[Registration]]) -> RouteTable:
        """The table after some services changed; the other routes are taken over as they are, the same objects.

        Args:
            changes: for each service that changed, all of its registrations now; none removes its route.
        """
        routes = dict(self.routes)
        for key, registrations in changes.items():
            route = of_service(registrations)
            if route is None:
                routes.pop(key, None)
            elif routes.get(key) != route:
                routes[key] = route
        return RouteTable(routes)


def compile(registrations: Iterable[Registration]) -> RouteTable:  # noqa: A001 - called as route.compile
    """The route table of a registry's content, in whatever order that comes."""
    by_service: defaultdict[Key, list[Registration]] = defaultdict(list)
    for registration in registrations:
        by_service[registration.namespace, registration.name].append(registration)
    return RouteTable().updated(by_service)


def of_service(registrations: Iterable[Registration]) -> Route | None:
    """The route to one service, from all of its registrations; None when there are none.

    Versions share a route: a method is a stream if any version says so, and the longest timeout counts.
    """
    instances = list(registrations)
    if not instances:
        return None
    # What has no gRPC path (it came from another framework, or from someone with ideas) plays no part.
    endpoints = [
        endpoint
        for instance in instances
        for endpoint in instance.endpoints
        if _PATH.fullmatch(endpoint.path) and not endpoint.path.lower().startswith(_HIDDEN)
    ]
    kinds = {endpoint.kind for endpoint in endpoints}
    streams = {endpoint.path for endpoint in endpoints if endpoint.stream}
    timeouts = [_seconds(endpoint.timeout) for endpoint in endpoints if endpoint.path not in streams]
    return Route(
        namespace=instances[0].namespace,
        service=instances[0].name,
        rpc_services=tuple(sorted({endpoint.path.split("/")[1] for endpoint in endpoints})),
        addresses=tuple(sorted({instance.node.address for instance in instances})),
        timeout=0.0 if 0.0 in timeouts else max(timeouts, default=0.0),
        streams=tuple(sorted(streams)),
        pushes=bool(kinds & {StreamKind.SERVER, StreamKind.BIDI}),
        duplex=StreamKind.BIDI in kinds,
        since=min(instance.since for instance in instances),
    )


def _seconds(timeout: float) -> float:
    """The timeout where it is one that a proxy can keep, else 0 for none: one odd value must not cost the others."""
    return timeout if 0 < timeout <= LONGEST_TIMEOUT else 0.0
