"""From the route table to what Envoy is told: clusters, their endpoints, and three route configurations. Pure.

The pieces of a service are kept from one table to the next, so one more instance makes one new endpoint resource, and
one more service one cluster, one endpoint resource and the route configurations that mention it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from micro.backends.envoy import clusters, matchers
from micro.backends.envoy.front import Front
from micro.domain import address
from micro.domain.errors import Error
from micro.domain.route import Key, Route, RouteTable
from micro.rpc.gen.envoy.service.discovery.v3.discovery_pb import Resource
from micro.rpc.wkt import Any

log = logging.getLogger("micro.network")

_PREFIX = "type.googleapis.com/"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTES = _PREFIX + "envoy.config.route.v3.RouteConfiguration"

Resources = Mapping[str, Mapping[str, Resource]]
"""By type and name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a proxy can ask for, made from one revision of the registry."""

    revision: int
    resources: Resources


@dataclass(frozen=True, slots=True)
class _Piece:
    route: Route
    limited: bool
    clusters: tuple[Resource, ...]
    endpoints: tuple[Resource, ...]
    pages: matchers.Pages


class Compiler:
    """Remembers the last table's pieces; apart from that a function of the table.

    Args:
        version: what `GET /` on the HTTP gateway answers.
        front: how the HTTP gateway is known outside.
    """

    def __init__(self, version: str, front: Front | None = None) -> None:
        self._version = version
        self._front = front or Front()
        self._pieces: dict[Key, _Piece] = {}
        self._refused: dict[Key, Route] = {}
        self._quotas: dict[str, int] = {}
        self._routes: dict[str, Resource] = {}

    def compile(self, table: RouteTable, revision: int, quotas: Mapping[str, int] | None = None) -> Snapshot:
        """All resources of a table. Equal tables give equal bytes, whatever was compiled before.

        A service that nothing can be made of is left out, and logged once.

        Args:
            quotas: requests a second at the HTTP gateway, by namespace; one that is not there has no limit.
        """
        quotas = dict(quotas or {})
        made = {route.key: self._compiled(route, route.namespace in quotas) for route in table}
        pieces = {key: piece for key, piece in made.items() if piece is not None}
        self._refused = {key: route for key, route in self._refused.items() if key in made and key not in pieces}
        if not self._routes or quotas != self._quotas or not self._same_pages(pieces):
            self._routes = self._configurations({key: piece.pages for key, piece in pieces.items()}, quotas)
        self._pieces, self._quotas = pieces, quotas
        return Snapshot(
            revision,
            {
                CLUSTER: {one.name: one for piece in pieces.values() for one in piece.clusters},
                ENDPOINTS: {one.name: one for piece in pieces.values() for one in piece.endpoints},
                ROUTES: self._routes,
            },
        )

    def _compiled(self, route: Route, limited: bool) -> _Piece | None:
        known = self._pieces.get(route.key)
        if known and known.limited != limited:
            known = None
        if known and known.route == route:
            return known
        try:
            return _piece(route, limited, known)
        except Exception:
            if self._refused.get(route.key) != route:
                log.exception(
                    "service %r of namespace %r cannot be routed and is left out", route.service, route.namespace
                )
            self._refused[route.key] = route
            return None

    def _same_pages(self, pieces: Mapping[Key, _Piece]) -> bool:
        """Whether the last configurations still hold: pages are taken over as they are, so identity tells."""
        if len(pieces) != len(self._pieces):
            return False
        return all(key in self._pieces and self._pieces[key].pages is piece.pages for key, piece in pieces.items())

    def _configurations(self, pages: Mapping[Key, matchers.Pages], quotas: Mapping[str, int]) -> dict[str, Resource]:
        made = [
            matchers.api(pages, self._version, self._front, quotas),
            matchers.configuration("mesh", matchers.inside(pages, Front(), callers=False)),
            matchers.configuration("proxy", matchers.inside(pages, Front(self._front.proxy), callers=True)),
        ]
        return {one.name: _resource(one.name, ROUTES, one.to_binary()) for one in made}


def _piece(route: Route, limited: bool, known: _Piece | None) -> _Piece:
    names = clusters.names(route)
    usable = [found for text in route.addresses if (found := _address(text))]
    endpoints = tuple(_resource(name, ENDPOINTS, clusters.assignment(name, usable).to_binary()) for name in names)
    if known and clusters.names(known.route) == names and matchers.same_pages(known.route, route):
        return _Piece(route, limited, known.clusters, endpoints, known.pages)
    return _Piece(
        route,
        limited,
        tuple(_resource(name, CLUSTER, clusters.cluster(name).to_binary()) for name in names),
        endpoints,
        matchers.pages(route, limited=limited),
    )


def _address(text: str) -> tuple[str, int] | None:
    """Host and port where Envoy would take them; one bad address must not cost a service its good ones."""
    try:
        host, port = address.split(text)
        host = "127.0.0.1" if host == "localhost" else host
        ipaddress.ip_address(host)
    except (Error, ValueError):
        return None
    return (host, port) if port else None


def _resource(name: str, type_url: str, content: bytes) -> Resource:
    version = hashlib.blake2b(content, digest_size=8).hexdigest()
    return Resource(name=name, version=version, resource=Any(type_url=type_url, value=content))
