"""A store in memory behind its handlers, and who calls it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from micro.backends.memory.store import MemoryStore
from micro.domain.account import Account, Type
from micro.rpc.app import Application
from micro.rpc.context import Context
from micro.services._store_databases import Databases
from micro.services._store_leases import Leases
from micro.services.store import StoreHandler
from micro.services.store_backup import BackupHandler
from micro.services.store_lock import LeaderHandler, LockHandler
from micro.testing.app import Answer, http
from micro.testing.callers import As

ANN = Account("ann", "shop", "ann")
BOOKS = Account("books@v1", "shop", "books@v1", type=Type.SERVICE, metadata={"service": "books", "version": "v1"})
BOB = Account("bob", "bank", "bob")
ROOT = Account("root", "micro", "root", scopes=frozenset({"admin"}))


class Wall:
    """A clock that is set, in milliseconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


class StoreWorld:
    """The handlers, called as somebody: ann of namespace shop where nothing else is said."""

    def __init__(self) -> None:
        self.wall = Wall()
        self.state = MemoryStore(clock=self.wall)
        self.namespaces = {"shop", "bank", "micro"}
        self.seconds = 0.0
        self.databases = Databases(self.state, lambda name: name in self.namespaces, clock=lambda: self.seconds)
        self.leases = Leases(self.databases, clock=self.wall)
        self.dropped: list[str] = []
        self.store = StoreHandler(self.databases, clock=self.wall)
        self.lock = LockHandler(self.leases)
        self.leader = LeaderHandler(self.leases)
        self.backup = BackupHandler(self.databases, self._drop)
        self.caller = As(ANN)
        handlers = (self.store, self.lock, self.leader, self.backup)
        self.app = Application("store", handlers, guard=self.caller)

    async def _drop(self, namespace: str) -> None:
        self.dropped.append(namespace)

    def ctx(self, account: Account = ANN) -> Context:
        """A call's context, for handlers that are called as functions."""
        made = Context(None, {"headers": []}, None)  # type: ignore[arg-type]
        made.account = account
        return made

    async def call(self, path: str, body: Any, account: Account = ANN) -> Answer:
        """POST JSON, or bytes as they are, to "Handler/Method"."""
        self.caller.account = account
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await http(self.app, "POST", f"/store/{path}", headers={"content-type": "application/json"}, body=sent)

    async def ok(self, path: str, body: Any, account: Account = ANN) -> dict[str, Any]:
        """The answer of a call that goes through."""
        answer = await self.call(path, body, account)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    async def error(self, path: str, body: Any, account: Account = ANN) -> tuple[int, str, str]:
        """Status, code and message of a call that fails."""
        answer = await self.call(path, body, account)
        assert answer.status >= 400, answer.body
        return answer.status, answer.json()["code"], answer.json()["message"]


@asynccontextmanager
async def running() -> AsyncIterator[StoreWorld]:
    """Started, and stopped after the block."""
    world = StoreWorld()
    async with AsyncExitStack() as stack:
        await world.state.start(stack)
        await world.leases.start(stack)
        yield world


async def sent(messages: Sequence[Any]) -> AsyncIterator[Any]:
    """A stream of requests."""
    for message in messages:
        yield message


async def turns(count: int = 20) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)
