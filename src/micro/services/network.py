"""The control plane: follows the registry, keeps the route table, and hands it to the data plane.

What is known stays in use while the registry cannot be reached. Until the registry has told everything once, the data
plane is told nothing, so that a restart of this service takes no route away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from micro.domain import backoff, errors
from micro.domain.route import Key, RouteTable
from micro.domain.service import Registration
from micro.ports import background
from micro.ports.dataplane import Dataplane
from micro.rpc import convert
from micro.rpc.gen.micro.network.v1 import network_pb as pb
from micro.rpc.gen.micro.network.v1.network_connect import Network
from micro.rpc.gen.micro.registry.v1.registry_pb import WatchRequest, WatchResponse
from micro.services import _caller as caller

log = logging.getLogger("micro.network")

Watch = Callable[[WatchRequest], AsyncIterator[WatchResponse]]
"""`Registry.Watch` of a client, or of the service itself."""

SYNC_SECONDS = 10.0
"""How long Sync waits where the caller would wait longer."""

_Action = WatchResponse.Action
_Instances = dict[str, Registration]


class NetworkService(Network):
    """The handler of `micro.network.v1.Network`.

    Args:
        watch: how the registry is watched; called anew, with the revision known by then, whenever it ends.
        dataplane: what is told the routes.
    """

    def __init__(self, watch: Watch, dataplane: Dataplane) -> None:
        self._watch = watch
        self._dataplane = dataplane
        self._known: defaultdict[Key, _Instances] = defaultdict(dict)
        self._fresh: defaultdict[Key, _Instances] | None = None
        self._dirty: set[Key] = set()
        self._quotas: dict[str, int] = {}
        self._revision = 0
        self._synced = False
        self._changed = asyncio.Event()
        self._table = RouteTable()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def start(self, stack: AsyncExitStack) -> None:
        """Begin to follow the registry. Does not wait for it: `healthy` tells when it has told everything once."""
        self._tasks = (
            background.spawn(stack, self._follow(), "following the registry"),
            background.spawn(stack, self._publish(), "publishing routes"),
        )

    def healthy(self) -> bool:
        """Whether the registry has told everything once, and what follows it is still followed and published."""
        return self._synced and not any(task.done() for task in self._tasks)

    def limit(self, quotas: Mapping[str, int]) -> None:
        """Take these as the requests a second that namespaces may send; one with 0, or that is not there, has no
        limit."""
        found = {namespace: requests for namespace, requests in quotas.items() if requests}
        if found != self._quotas:
            self._quotas = found
            self._changed.set()

    async def routes(self, request: pb.RoutesRequest, ctx: Any) -> pb.RoutesResponse:
        namespace = caller.visible(ctx, request.namespace)
        return pb.RoutesResponse(
            routes=[
                pb.Route(
                    namespace=route.namespace,
                    service=route.service,
                    rpc_services=list(route.rpc_services),
                    addresses=list(route.addresses),
                    timeout=route.timeout,
                )
                for route in self._table
                if namespace in ("", route.namespace) and request.service in ("", route.service)
            ]
        )

    async def proxies(self, request: pb.ProxiesRequest, ctx: Any) -> pb.ProxiesResponse:
        return pb.ProxiesResponse(
            proxies=[
                pb.Proxy(id=state.id, revision=state.revision, error=state.error) for state in self._dataplane.proxies()
            ]
        )

    async def sync(self, request: pb.SyncRequest, ctx: Any) -> pb.SyncResponse:
        return pb.SyncResponse(revision=await self._dataplane.sync(request.revision, SYNC_SECONDS))

    # --- from the registry ---------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        delays = self._delays()
        while True:
            cause = "it ended the watch"
            try:
                async for response in self._watch(WatchRequest(revision=self._revision)):
                    self._take(response)
                    delays = self._delays()
            except errors.Error as error:
                cause = str(error)
            self._fresh = None  # half a state is none
            log.warning("the registry cannot be watched, the known routes stay in use: %s", cause)
            await asyncio.sleep(next(delays))

    @staticmethod
    def _delays() -> Iterator[float]:
        return backoff.exponential(first=0.1, cap=2.0)

    def _take(self, response: WatchResponse) -> None:
        if response.action == _Action.RESET:
            self._fresh = defaultdict(dict)
            return
        if response.action == _Action.SYNCED:
            self._replace()
            self._synced = True
        elif response.service is not None:
            self._note(response)
        # While a state is being told anew, its revisions are not reached before the end of it.
        if self._fresh is None:
            self._revision = response.revision or self._revision
        self._changed.set()

    def _note(self, response: WatchResponse) -> None:
        assert response.service is not None
        try:
            registration = convert.from_service(response.service)
        except errors.Error as error:
            log.error("the registry sent what cannot be routed: %s", error)
            return
        key = (registration.namespace, registration.name)
        target = self._known if self._fresh is None else self._fresh
        if response.action in (_Action.DELETE, _Action.EXPIRE):
            target[key].pop(registration.node.id, None)
        else:
            target[key][registration.node.id] = registration
        if self._fresh is None:
            self._dirty.add(key)

    def _replace(self) -> None:
        """Put the state that was told anew in the place of the one known; only what differs becomes dirty."""
        if self._fresh is None:
            return
        for key in self._known.keys() | self._fresh.keys():
            if self._known.get(key) != self._fresh.get(key):
                self._dirty.add(key)
        self._known, self._fresh = self._fresh, None

    # --- to the data plane ---------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._synced:
                continue
            began = loop.time()
            dirty, self._dirty = self._dirty, set()
            self._table = self._updated(dirty)
            for key in dirty:
                if not self._known[key]:
                    del self._known[key]
            self._dataplane.apply(self._table, self._revision, self._quotas)
            # A lone change is published at once. In a burst, publishing takes half of the time at most, and each turn
            # takes along all that has come in meanwhile.
            await asyncio.sleep(loop.time() - began)

    def _updated(self, dirty: Iterable[Key]) -> RouteTable:
        """The table with these services' routes made anew, without the services that none can be made of."""
        changes = {key: self._known[key].values() for key in dirty}
        try:
            return self._table.updated(changes)
        except Exception:  # noqa: BLE001 - whichever it is, below tells it
            table = self._table
        for key, registrations in changes.items():
            try:
                table = table.updated({key: registrations})
            except Exception:
                log.exception("service %r of namespace %r cannot be routed and is left out", key[1], key[0])
                table = table.updated({key: ()})
        return table
