"""The platform in this process, on memory: what services and their tests reach without a server.

async with platform.running():
    await store.write("ann", "hello")

In it `from micro import store, events, client, …` lead here, and the consumers of services are at work:

    async with platform.running(main.app) as running:
        await running.publish("orders", Order("7"))  # returns once all groups have handled it
        assert await running.dead_letters("orders", "mailer") == []

What a handler could not do is tried again at once, whatever its backoff says. In a test of the standard library's:

    async def asyncSetUp(self) -> None:
        await self.enterAsyncContext(platform.running())

and for pytest there is a fixture: `from micro.testing.fixtures import platform` in conftest.py.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.blobs import MemoryBlobs
from micro.backends.memory.broker import MemoryBroker
from micro.backends.memory.events import MemoryEvents
from micro.backends.memory.store import MemoryStore
from micro.domain import errors, names
from micro.domain.account import Account, Type
from micro.domain.event import DeadLetter, Progress
from micro.domain.terms import Terms
from micro.framework import client, config, events
from micro.framework.events import Published
from micro.framework.service import Service
from micro.ports.events import Events
from micro.ports.store import Now, Store, now
from micro.rpc.app import Application
from micro.rpc.context import Context
from micro.rpc.guard import Guard
from micro.services._events_groups import Place, Seat
from micro.services._events_messages import Where
from micro.services._store_databases import Databases
from micro.services._store_leases import Leases
from micro.services.blobs import BlobHandler
from micro.services.broker import BrokerHandler
from micro.services.config import ConfigService
from micro.services.events import (
    DeadLettersHandler,
    EventsHandler,
    GroupsHandler,
    StreamHandler,
    Topics,
    TopicsHandler,
)
from micro.services.store import StoreHandler
from micro.services.store_backup import BackupHandler
from micro.services.store_lock import LeaderHandler, LockHandler
from micro.testing.app import started
from micro.testing.local import CALLER, LocalChannel, serving

PATIENCE = 30.0
"""Seconds that events have to be handled in."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What runs.

    Attributes:
        services: by name, the core services among them.
        store: what `store` keeps, for looking into it.
        events: what `events` keeps.
        namespace: where all this is.
    """

    services: Mapping[str, Application]
    store: Store
    events: Events
    namespace: str
    _progress: _Events

    async def publish(
        self, topic: str, message: object, *, group: str = "", seconds: float = PATIENCE, **more: Any
    ) -> Published:
        """Publish an event, and return once it is handled, as `handled` does; `more` is for `events.publish`."""
        published = await events.publish(topic, message, **more)
        await self.handled(topic, group, upto=published.offset, seconds=seconds)
        return published

    async def handled(self, topic: str, group: str = "", *, upto: int = 0, seconds: float = PATIENCE) -> None:
        """Return once all groups of a topic, or the one that is named, have handled what has been published so far, or
        have given it up.

        Args:
            upto: up to this offset only; 0 for the last one.
            seconds: how long to wait.

        Raises:
            Error: NOT_FOUND when there is no such topic, or no such group; DEADLINE_EXCEEDED.
        """
        state = await self.events.state(self.namespace, topic)
        if state is None:
            raise errors.not_found(f"there is no topic {topic!r}: nothing was published to it")
        last, behind = upto or state.last, ""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    turn = self._progress.turn
                    groups = await self.events.groups(self.namespace, topic)
                    if group and group not in groups:
                        raise errors.not_found(f"topic {topic!r} has no group {group!r}: nobody consumes it")
                    wanted = {group: groups[group]} if group else groups
                    behind = ", ".join(name for name, one in wanted.items() if one.floor < last or one.redriven)
                    if not behind:
                        return
                    await turn.wait()
        except TimeoutError:
            raise errors.deadline_exceeded(
                f"{behind} did not handle all events of {topic!r} up to {last} within {seconds:g} s"
            ) from None

    async def dead_letters(self, topic: str, group: str) -> list[DeadLetter]:
        """The first thousand events that a group gave up, by offset."""
        return await self.events.buried(self.namespace, topic, group, 0, 1000)


@asynccontextmanager
async def running(
    *services: Application, service: str = "test", namespace: str = names.DEFAULT_NAMESPACE, clock: Now = now
) -> AsyncIterator[Platform]:
    """Run the platform until the block ends; it begins empty, and what was kept is gone with it.

    Calls that are made in the block, by the running event loop, are answered by `services` and the platform's own.

    Args:
        services: others that can be called; they are started and stopped, with their consumers.
        service: whose calls the test's are; a service's own calls are its own.
        namespace: where all this is.
        clock: the time, in milliseconds since 1970, by which records expire.
    """
    async with AsyncExitStack() as stack:
        kept, callers = MemoryStore(clock=clock), _Callers(service, namespace)
        log = _Events(clock=clock)
        core = [
            await _store(kept, clock, callers, stack),
            await _config(clock, callers, stack),
            await _events(log, clock, callers, stack),
            Application("broker", (BrokerHandler(MemoryBroker()),), guard=callers),
        ]
        every = {one.name: one for one in (*core, *services)}
        stack.enter_context(client.pool.through(LocalChannel(every)))
        stack.push_async_callback(config.close)
        for one in services:
            with serving(one.name):
                await stack.enter_async_context(started(one))
            if isinstance(one, Service):
                await one.consumers.joined()
        yield Platform(every, kept, log, namespace, log)


async def _store(kept: Store, clock: Now, guard: Guard, stack: AsyncExitStack) -> Application:
    blobs, databases = MemoryBlobs(), Databases(kept)
    leases = Leases(databases, clock=clock)
    for one in (kept, blobs, leases):
        await one.start(stack)
    handlers = (
        StoreHandler(databases, clock=clock),
        BlobHandler(blobs, databases),
        LockHandler(leases),
        LeaderHandler(leases),
        BackupHandler(databases, blobs.drop),
    )
    return Application("store", handlers, guard=guard)


async def _config(clock: Now, guard: Guard, stack: AsyncExitStack) -> Application:
    key = base64.b64encode(os.urandom(32)).decode()
    handler = ConfigService(MemoryStore(clock=clock), AesGcmSealing(Keyring(key, Path(os.devnull))), clock=clock)
    await handler.start(stack)
    return Application("config", (handler,), guard=guard)


async def _events(log: _Events, clock: Now, guard: Guard, stack: AsyncExitStack) -> Application:
    topics = _Topics(log, clock=clock)
    await topics.start(stack)
    handlers = (StreamHandler, EventsHandler, TopicsHandler, GroupsHandler, DeadLettersHandler)
    return Application("events", [handler(topics) for handler in handlers], guard=guard)


class _Events(MemoryEvents):
    """Tells when a group has come further, by `turn`, which is another one each time."""

    def __init__(self, *, clock: Now) -> None:
        super().__init__(clock=clock)
        self.turn = asyncio.Event()

    async def advance(self, namespace: str, topic: str, group: str, progress: Progress) -> None:
        await super().advance(namespace, topic, group, progress)
        turn, self.turn = self.turn, asyncio.Event()
        turn.set()


class _Topics(Topics):
    """Has what failed tried again at once."""

    async def join(self, place: Place, terms: Terms, start: Where, *, auto_ack: bool) -> Seat:
        return await super().join(place, replace(terms, backoff=()), start, auto_ack=auto_ack)


class _Callers(Guard):
    """Lets the services of this process in, each with the account that the runtime would have made for it."""

    def __init__(self, service: str, namespace: str) -> None:
        self._service = service
        self._namespace = namespace

    def admit(self, ctx: Context, headers: Mapping[bytes, bytes]) -> None:
        name = headers.get(CALLER.encode(), b"").decode() or self._service
        ctx.account = Account(
            f"{name}@{names.DEFAULT_VERSION}", self._namespace, type=Type.SERVICE, metadata={"service": name}
        )

    def reveal(self, headers: Mapping[bytes, bytes]) -> None:
        return
