"""Store and events over memory, as a process: what the framework's calls look like over the true wire."""

from __future__ import annotations

from contextlib import AsyncExitStack

from micro.backends.memory.events import MemoryEvents
from micro.backends.memory.store import MemoryStore
from micro.domain.account import Account, Type
from micro.framework.service import Service
from micro.services._store_databases import Databases
from micro.services.events import DeadLettersHandler, EventsHandler, GroupsHandler, StreamHandler, Topics
from micro.services.store import StoreHandler
from micro.testing.callers import As

topics, kept = Topics(MemoryEvents()), MemoryStore()
app = Service(
    "memory",
    *(handler(topics) for handler in (StreamHandler, EventsHandler, GroupsHandler, DeadLettersHandler)),
    StoreHandler(Databases(kept)),
)
app.guard = As(Account("mailer@latest", "micro", type=Type.SERVICE, metadata={"service": "mailer"}))


@app.on_start
async def start(stack: AsyncExitStack) -> None:
    await kept.start(stack)
    await topics.start(stack)
