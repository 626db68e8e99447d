"""One proxy's conversation with the control plane, without its wire: requests in, responses out.

Kept here: what the proxy asked for, what it has, what it has not yet answered. At most one response of a type is
unanswered at a time, so whatever changes meanwhile is sent together as soon as the proxy is ready for it. The order
never takes away what is in use: clusters, then their endpoints, then the routes to them; the other way round when
something goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from micro.backends.envoy.compile import CLUSTER, ENDPOINTS, ROUTES, Snapshot
from micro.rpc.gen.envoy.service.discovery.v3.discovery_pb import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    Resource,
)

_WILDCARD = "*"


@dataclass(slots=True)
class _Type:
    """What a proxy wants, has and owes of one type of resource.

    Attributes:
        asked: whether it has asked at all.
        answered: whether it got any response yet.
        wildcard: whether it wants everything there is.
        wanted: the names it wants besides.
        has: version by name of what was sent or was there before; "" for a name whose absence it knows.
        refused: version by name of what it did not take.
        nonce: of the response that it has not answered; empty when it owes no answer.
        sent: version by name in that response.
    """

    asked: bool = False
    answered: bool = False
    wildcard: bool = False
    wanted: set[str] = field(default_factory=set)
    has: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    sent: dict[str, str] = field(default_factory=dict)
    error: str = ""


class Session:
    """A stream's state. Feed it requests; ask it for responses after each request and each new snapshot.

    Attributes:
        proxy: id of the proxy; empty until it has introduced itself.
        accepted: revision of the last snapshot that the proxy has accepted in full.
    """

    def __init__(self) -> None:
        self.proxy = ""
        self.accepted = 0
        self._types = {CLUSTER: _Type(), ENDPOINTS: _Type(), ROUTES: _Type()}
        self._nonces = itertools.count(1)

    @property
    def error(self) -> str:
        """Why the proxy refused something that it still lacks; empty when it lacks nothing."""
        return next((kind.error for kind in self._types.values() if kind.error), "")

    def receive(self, request: DeltaDiscoveryRequest) -> None:
        """Take note of a request: a subscription, an answer, or both."""
        if request.node is not None and request.node.id:
            self.proxy = request.node.id
        kind = self._types.get(request.type_url)
        if kind is None:
            return
        if request.response_nonce:
            self._answered(kind, request)
        self._subscribe(kind, request)

    def responses(self, snapshot: Snapshot) -> list[DeltaDiscoveryResponse]:
        """What to send now. Afterwards those responses count as sent and unanswered."""
        made = [
            self._clusters(snapshot, remove=False),
            self._endpoints(snapshot),
            self._routes(snapshot),
            self._clusters(snapshot, remove=True),
        ]
        if self._settled(snapshot):
            self.accepted = snapshot.revision
        return [response for response in made if response is not None]

    def _subscribe(self, kind: _Type, request: DeltaDiscoveryRequest) -> None:
        if not kind.asked:
            kind.has.update(request.initial_resource_versions)
            # A first request for clusters that names none means all of them.
            kind.wildcard = request.type_url == CLUSTER and not request.resource_names_subscribe
            kind.asked = True
        for name in request.resource_names_subscribe:
            if name == _WILDCARD:
                kind.wildcard = True
            else:
                kind.wanted.add(name)
                if name not in request.initial_resource_versions:
                    kind.has.pop(name, None)  # asking again means having lost it
        for name in request.resource_names_unsubscribe:
            if name == _WILDCARD:
                kind.wildcard = False
            kind.wanted.discard(name)
            kind.has.pop(name, None)
            kind.refused.pop(name, None)

    def _answered(self, kind: _Type, request: DeltaDiscoveryRequest) -> None:
        if request.response_nonce != kind.nonce:
            return
        kind.nonce = ""
        if request.error_detail is None:
            for name in kind.sent:
                kind.refused.pop(name, None)
        else:
            kind.error = request.error_detail.message or f"code {request.error_detail.code}"
            kind.refused.update(kind.sent)
        if not kind.refused:
            kind.error = ""
        kind.sent = {}

    def _clusters(self, snapshot: Snapshot, *, remove: bool) -> DeltaDiscoveryResponse | None:
        kind, there = self._types[CLUSTER], snapshot.resources[CLUSTER]
        if not kind.asked or kind.nonce:
            return None
        if not remove:
            changed = self._changed(kind, there)
            endpoints = self._types[ENDPOINTS]
            for one in changed:
                # A replaced cluster starts without instances: send them again.
                endpoints.has.pop(one.name, None)
            return self._response(CLUSTER, changed, [])
        if self._pending(self._types[ROUTES], snapshot, ROUTES):
            return None  # a route may still lead there
        gone = [name for name in kind.has if name not in there]
        return self._response(CLUSTER, [], gone)

    def _endpoints(self, snapshot: Snapshot) -> DeltaDiscoveryResponse | None:
        kind, there = self._types[ENDPOINTS], snapshot.resources[ENDPOINTS]
        if not kind.asked or kind.nonce:
            return None
        # An assignment ends with its cluster; until then the instances it had are better than none. One that never
        # was is told to be absent, or its cluster would wait for it.
        unknown = [name for name in kind.wanted if name not in there and name not in kind.has]
        return self._response(ENDPOINTS, self._changed(kind, there), unknown)

    def _routes(self, snapshot: Snapshot) -> DeltaDiscoveryResponse | None:
        kind, there = self._types[ROUTES], snapshot.resources[ROUTES]
        if not kind.asked or kind.nonce:
            return None
        if not self._clusters_ready(snapshot):
            return None
        unknown = [name for name in kind.wanted if name not in there and kind.has.get(name) != ""]
        return self._response(ROUTES, self._changed(kind, there), unknown)

    def _clusters_ready(self, snapshot: Snapshot) -> bool:
        """Whether everything that the routes lead to is known to the proxy, with its instances."""
        clusters, endpoints = self._types[CLUSTER], self._types[ENDPOINTS]
        if clusters.nonce or endpoints.nonce or self._changed(clusters, snapshot.resources[CLUSTER]):
            return False
        needed = snapshot.resources[CLUSTER].keys() - clusters.refused.keys()
        return not clusters.asked or needed <= endpoints.has.keys()

    def _changed(self, kind: _Type, there: Mapping[str, Resource]) -> list[Resource]:
        names = there.keys() if kind.wildcard else kind.wanted & there.keys()
        return [
            one
            for name in names
            if kind.has.get(name) != (one := there[name]).version and kind.refused.get(name) != one.version
        ]

    def _pending(self, kind: _Type, snapshot: Snapshot, type_url: str) -> bool:
        return bool(kind.asked and (kind.nonce or self._changed(kind, snapshot.resources[type_url])))

    def _settled(self, snapshot: Snapshot) -> bool:
        """Whether the proxy has everything of the snapshot and took it."""
        return all(
            kind.asked and not kind.refused and not self._pending(kind, snapshot, type_url)
            for type_url, kind in self._types.items()
            if type_url != ENDPOINTS or snapshot.resources[CLUSTER]
        )

    def _response(self, type_url: str, changed: list[Resource], gone: list[str]) -> DeltaDiscoveryResponse | None:
        kind = self._types[type_url]
        # Who wants everything waits for a first answer, even where there is nothing.
        if not changed and not gone and (kind.answered or not kind.wildcard):
            return None
        kind.answered = True
        kind.nonce = str(next(self._nonces))
        kind.sent = {one.name: one.version for one in changed}
        kind.has.update(kind.sent)
        for name in gone:
            kind.refused.pop(name, None)
            if name in kind.wanted:
                kind.has[name] = ""
            else:
                kind.has.pop(name, None)
        return DeltaDiscoveryResponse(type_url=type_url, nonce=kind.nonce, resources=changed, removed_resources=gone)
