"""The platform in this process, on memory: what services and their tests reach without a server.

async with platform.running():
    await store.write("ann", "hello")

In it `from micro import store, client, …` lead here. In a test of the standard library's:

    async def asyncSetUp(self) -> None:
        await self.enterAsyncContext(platform.running())

and for pytest there is a fixture: `from micro.testing.fixtures import platform` in conftest.py.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.blobs import MemoryBlobs
from micro.backends.memory.store import MemoryStore
from micro.domain import names
from micro.domain.account import Account, Type
from micro.framework import client, config
from micro.ports.store import Now, Store, now
from micro.rpc.app import Application
from micro.rpc.context import Context
from micro.rpc.guard import Guard
from micro.services._store_databases import Databases
from micro.services._store_leases import Leases
from micro.services.blobs import BlobHandler
from micro.services.config import ConfigService
from micro.services.store import StoreHandler
from micro.services.store_backup import BackupHandler
from micro.services.store_lock import LeaderHandler, LockHandler
from micro.testing.app import started
from micro.testing.local import CALLER, LocalChannel


@dataclass(frozen=True, slots=True)
class Platform:
    """What runs.

    Attributes:
        services: by name, the core services among them.
        store: what `store` keeps, for looking into it.
    """

    services: Mapping[str, Application]
    store: Store


@asynccontextmanager
async def running(
    *services: Application, service: str = "test", namespace: str = names.DEFAULT_NAMESPACE, clock: Now = now
) -> AsyncIterator[Platform]:
    """Run the platform until the block ends; it begins empty, and what was kept is gone with it.

    Calls that are made in the block, by the running event loop, are answered by `services` and the platform's own.

    Args:
        services: others that can be called; they are started and stopped.
        service: whose calls the test's are; a service's own calls are its own.
        namespace: where all this is.
        clock: the time, in milliseconds since 1970, by which records expire.
    """
    async with AsyncExitStack() as stack:
        kept, callers = MemoryStore(clock=clock), _Callers(service, namespace)
        core = [await _store(kept, clock, callers, stack), await _config(clock, callers, stack)]
        every = {one.name: one for one in (*core, *services)}
        stack.enter_context(client.pool.through(LocalChannel(every)))
        stack.push_async_callback(config.close)
        for one in services:
            await stack.enter_async_context(started(one))
        yield Platform(every, kept)


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
