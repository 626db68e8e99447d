"""The registry: which services exist, where their instances listen, what they can do.

Reads are answered from a view in memory that follows the state, so they never wait for it. Leases live here and in
memory only: after a restart every known instance has a full lease again, and time in which this process did not run
(a suspended laptop) counts for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from micro.domain import backoff, errors, names
from micro.domain.account import Account
from micro.domain.lease import Leases
from micro.domain.registrations import Action, Entry, Key, Registrations, Step, Synced
from micro.domain.service import Change, Registration
from micro.ports import background, identity
from micro.ports.announcements import REGISTRY, Announcements, Silent
from micro.ports.clock import Clock, MonotonicClock
from micro.ports.registry import Registry as State
from micro.rpc import convert
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.rpc.gen.micro.registry.v1.registry_connect import Registry
from micro.services import _caller as caller
from micro.services._registration import (
    check_beside,
    check_may_register,
    check_room,
    lease_seconds,
    may_register,
    validated,
)

log = logging.getLogger("micro.registry")

START_SECONDS = 10.0
"""How long `start` waits for the whole state."""

VISIBLE_SECONDS = 5.0
"""How long a write waits until this service sees it itself, so that whoever wrote can read it."""

RETRY_SECONDS = 5.0
"""When an expiry that could not be stored is tried again."""

OVERSLEPT_SECONDS = 5.0
"""Waking later than planned by more than this means that the process stood still."""

_ACTIONS = {
    Action.CREATE: pb.WatchResponse.Action.CREATE,
    Action.UPDATE: pb.WatchResponse.Action.UPDATE,
    Action.DELETE: pb.WatchResponse.Action.DELETE,
    Action.EXPIRE: pb.WatchResponse.Action.EXPIRE,
}

_TYPES = {
    Action.CREATE: "instance.registered",
    Action.UPDATE: "instance.updated",
    Action.DELETE: "instance.deregistered",
    Action.EXPIRE: "instance.expired",
}


class RegistryService(Registry):
    """The handler of `micro.registry.v1.Registry`.

    Args:
        state: where registrations are kept; started by this service.
        clock: for leases.
        ttl: seconds of a lease where the instance does not say, and after a restart.
        history: how many steps are remembered for watchers; one that falls further behind gets the whole state anew.
        exists: whether there is such a namespace.
        announcements: who hears of instances that come and go.
    """

    def __init__(
        self,
        state: State,
        *,
        clock: Clock | None = None,
        ttl: float = 90.0,
        history: int = 4096,
        exists: Callable[[str], bool] = lambda namespace: True,
        announcements: Announcements | None = None,
    ) -> None:
        self._state = state
        self._announcements = announcements or Silent()
        self._exists = exists
        self._clock = clock or MonotonicClock()
        self._ttl = ttl
        self._view = Registrations(history)
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()
        self._leases: Leases[Key] = Leases()
        self._sooner = asyncio.Event()
        self._addresses: dict[str, set[Key]] = {}
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._uncertain: set[Key] = set()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def start(self, stack: AsyncExitStack) -> None:
        """Read the state and begin to follow it. Raises UNAVAILABLE when that takes longer than 10 s."""
        await self._state.start(stack)
        self._tasks = (
            background.spawn(stack, self._follow(), "following the registry's state"),
            background.spawn(stack, self._expire(), "ending leases"),
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._synced.wait()
        except TimeoutError as error:
            raise errors.unavailable("the registry's state did not arrive within 10 s: is NATS well?") from error

    def healthy(self) -> bool:
        """Whether the state has been read and can be written."""
        return self._synced.is_set() and self._state.healthy() and not any(task.done() for task in self._tasks)

    async def get_service(self, request: pb.GetServiceRequest, ctx: Any) -> pb.GetServiceResponse:
        name = names.service(request.name)
        namespace = caller.namespace(ctx, request.namespace)
        # The platform's own services are there for every namespace.
        where = names.DEFAULT_NAMESPACE if name in names.CORE_SERVICES else namespace
        found = [entry for entry in self._in(where) if entry.registration.name == name]
        if not found:
            self._check_exists(namespace)
            raise errors.not_found(
                f"service {name!r} is not registered in namespace {where!r}: `micro services` lists them"
            )
        return pb.GetServiceResponse(services=_grouped(found, descriptors=True))

    async def list_services(self, request: pb.ListServicesRequest, ctx: Any) -> pb.ListServicesResponse:
        namespace = caller.listed(ctx, request.namespace)
        entries = self._in(namespace) if namespace else self._view.entries()
        if namespace and not entries:
            self._check_exists(namespace)
        return pb.ListServicesResponse(services=_grouped(entries, descriptors=False))

    async def register(self, request: pb.RegisterRequest, ctx: Any) -> pb.RegisterResponse:
        if request.service is None:
            raise errors.invalid_argument("service is missing: say what to register")
        account, namespace = caller.account(ctx), caller.namespace(ctx, request.service.namespace)
        check_may_register(account, namespace, names.service(request.service.name))
        self._check_exists(namespace)
        registration = replace(validated(request.service, namespace), since=account.created)
        seconds = lease_seconds(request.ttl, self._ttl)
        key = registration.key
        async with self._lock(key):
            known = self._view.get(key)
            if known is not None and known.registration == registration and key not in self._uncertain:
                self._grant(key, seconds)
                return pb.RegisterResponse(revision=known.revision)
            near = self._near(registration)
            check_beside(account, registration, near)
            check_room(registration, near)
            self._uncertain.add(key)
            revision = await self._state.put(registration)
            await self._visible(key, revision)
            self._grant(key, seconds)
        await self._evict(registration, revision, account)
        return pb.RegisterResponse(revision=revision)

    async def deregister(self, request: pb.DeregisterRequest, ctx: Any) -> pb.DeregisterResponse:
        if not request.node_id:
            raise errors.invalid_argument("node_id is missing: say which instance to deregister")
        key = (caller.namespace(ctx, request.namespace), names.service(request.name), request.node_id)
        check_may_register(caller.account(ctx), key[0], key[1])
        # Not only where the namespace exists: what is left of one that is gone can still be removed.
        async with self._lock(key):
            revision = await self._remove(key)
        return pb.DeregisterResponse(revision=revision)

    async def watch(self, request: pb.WatchRequest, ctx: Any) -> AsyncIterator[pb.WatchResponse]:
        name = names.service(request.name) if request.name else ""
        namespace = caller.visible(ctx, request.namespace)
        if namespace:
            self._check_exists(namespace)

        def wanted(registration: Registration) -> bool:
            return name in ("", registration.name) and namespace in ("", registration.namespace)

        cursor = request.revision or None
        synced = False
        while True:
            changed = self._changed
            steps = None if cursor is None else self._view.since(cursor)
            if steps is None:
                cursor, entries = self._view.revision, self._view.entries()
                yield pb.WatchResponse(action=pb.WatchResponse.Action.RESET)
                for entry in entries:
                    if wanted(entry.registration):
                        yield _event(Step(entry.revision, Action.CREATE, entry.registration))
                yield _synced(cursor)
                synced = True
                continue
            for step in steps:
                cursor = step.revision
                if wanted(step.registration):
                    yield _event(step)
            if not synced:
                yield _synced(self._view.revision if not steps else steps[-1].revision)
                synced = True
                continue
            await changed.wait()

    def _in(self, namespace: str) -> list[Entry]:
        return [entry for entry in self._view.entries() if entry.registration.namespace == namespace]

    def _near(self, newcomer: Registration) -> list[Registration]:
        """What the newcomer could be in the way of: all of its namespace, and what the platform has anywhere."""
        around = (newcomer.namespace, names.DEFAULT_NAMESPACE)
        found = (entry.registration for entry in self._view.entries())
        return [one for one in found if one.namespace in around and one.key != newcomer.key]

    def _check_exists(self, namespace: str) -> None:
        if not self._exists(namespace):
            raise identity.no_namespace(namespace)

    # --- the state, followed -------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        delays = backoff.exponential(first=0.1, cap=5.0)
        after = 0
        while True:
            try:
                async with aclosing(self._state.watch(after)) as changes:
                    if after == 0:
                        await self._begin(changes.__aiter__())
                    async for change in changes:
                        if isinstance(change, Change):
                            self._take(change)
                        delays = backoff.exponential(first=0.1, cap=5.0)
            except errors.Error as error:
                log.warning("the registry's state is read again: %s", error)
                after = 0 if error.kind is errors.Kind.OUT_OF_RANGE else self._view.revision
            await asyncio.sleep(next(delays))

    async def _begin(self, changes: AsyncIterator[Change | Synced]) -> None:
        """Read all that is there and put it in the place of what was known."""
        fresh = Registrations()
        revision = 0
        async for change in changes:
            revision = change.revision
            if isinstance(change, Synced):
                break
            fresh.apply(change)
        known = {entry.registration.key for entry in self._view.entries()}
        entries = fresh.entries()
        self._view.reset(revision, entries)
        self._addresses.clear()
        for entry in entries:
            self._arrived(entry.registration)
        for key in known:
            if self._view.get(key) is None:
                self._leases.drop(key)
        self._synced.set()
        self._tell()

    def _take(self, change: Change) -> None:
        if change.revision <= self._view.revision:
            return
        before = self._view.get(change.key)
        if before is not None:
            self._left(before.registration)
        step = self._view.apply(change)
        if step is not None and (before is None or before.registration != change.registration):
            self._announce(step)
        if change.registration is not None:
            self._arrived(change.registration)
        else:
            self._leases.drop(change.key)
        self._tell()

    def _arrived(self, registration: Registration) -> None:
        self._addresses.setdefault(registration.node.address, set()).add(registration.key)
        if registration.key not in self._leases:
            self._grant(registration.key, self._ttl)

    def _left(self, registration: Registration) -> None:
        holders = self._addresses[registration.node.address]
        holders.discard(registration.key)
        if not holders:
            del self._addresses[registration.node.address]

    def _announce(self, step: Step) -> None:
        one = step.registration
        data = {"service": one.name, "version": one.version, "instance": one.node.id, "address": one.node.address}
        self._announcements.tell(one.namespace, REGISTRY, _TYPES[step.action], data)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- changing the state --------------------------------------------------------------------------------------

    def _lock(self, key: Key) -> asyncio.Lock:
        """One writer an instance, so that an expiry and a renewal never cross."""
        return self._locks.setdefault(key, asyncio.Lock())

    async def _remove(self, key: Key, *, expired: bool = False) -> int:
        if self._view.get(key) is None and key not in self._uncertain:
            return self._view.revision
        self._uncertain.add(key)
        revision = await self._state.delete(key, expired=expired)
        await self._visible(key, revision)
        return revision

    async def _visible(self, key: Key, revision: int) -> None:
        """Return once the view has come as far. Until then, what the view says of the key is not to be relied on."""
        try:
            async with asyncio.timeout(VISIBLE_SECONDS):
                while self._view.revision < revision:
                    await self._changed.wait()
        except TimeoutError as error:
            raise errors.unavailable("the change is stored but not visible yet: try again") from error
        self._uncertain.discard(key)

    async def _evict(self, newcomer: Registration, revision: int, account: Account) -> None:
        """Two cannot listen on one address: who was registered there before is gone, even if it could not say so.

        An address is a claim, though: nobody can push out by it what they could not deregister.
        """
        address = newcomer.node.address
        for key in sorted(self._addresses.get(address, set()) - {newcomer.key}):
            if not may_register(account, key[0], key[1]):
                continue
            async with self._lock(key):
                entry = self._view.get(key)
                if entry is not None and entry.registration.node.address == address and entry.revision < revision:
                    log.info("%s is at %s now, where %s was", newcomer.node.id, address, key[2])
                    await self._remove(key)

    # --- leases --------------------------------------------------------------------------------------------------

    def _grant(self, key: Key, seconds: float) -> None:
        if self._leases.grant(key, self._clock.now() + seconds):
            self._sooner.set()

    async def _expire(self) -> None:
        while True:
            self._sooner.clear()
            now, end = self._clock.now(), self._leases.next_end()
            await self._clock.wait(self._sooner, None if end is None else max(0.0, end - now))
            late = 0.0 if end is None else self._clock.now() - max(now, end)
            if late > OVERSLEPT_SECONDS:
                log.warning("stood still for %.0f s: every lease begins anew", late)
                self._leases.postpone(late + self._ttl)
            for key in self._leases.due(self._clock.now()):
                await self._expire_one(key)

    async def _expire_one(self, key: Key) -> None:
        async with self._lock(key):
            if not self._leases.ended(key, self._clock.now()):
                return
            try:
                if not self._state.healthy():
                    raise errors.unavailable("the state cannot be reached")
                await self._remove(key, expired=True)
                self._leases.drop(key)
                log.info("the lease of %s has ended", "/".join(key))
            except errors.Error as error:
                log.warning("the lease of %s has ended, which cannot be stored yet: %s", "/".join(key), error)
                self._grant(key, RETRY_SECONDS)


def _event(step: Step) -> pb.WatchResponse:
    service = convert.to_service(step.registration)
    service.descriptors = b""
    return pb.WatchResponse(action=_ACTIONS[step.action], service=service, revision=step.revision)


def _synced(revision: int) -> pb.WatchResponse:
    return pb.WatchResponse(action=pb.WatchResponse.Action.SYNCED, revision=revision)


def _grouped(entries: list[Entry], *, descriptors: bool) -> list[pb.Service]:
    """One message a service and version, with all its nodes; the rest is told by the one that registered last."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        one = entry.registration
        groups.setdefault((one.namespace, one.name, one.version), []).append(entry)
    services: list[pb.Service] = []
    for _, group in sorted(groups.items()):
        service = convert.to_service(group[-1].registration)
        if not descriptors:
            service.descriptors = b""
        nodes = sorted((entry.registration.node for entry in group), key=lambda node: node.id)
        service.nodes = [convert.to_node(node) for node in nodes]
        services.append(service)
    return services
