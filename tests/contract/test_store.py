"""The port of records over every backend that we ship."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from micro.backends.memory.store import MemoryStore
from micro.backends.sqlite.store import SqliteStore
from micro.ports.store import Store
from micro.testing.contracts.store import SettableClock, StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    async def store(self, clock: SettableClock) -> AsyncGenerator[Store]:
        async with AsyncExitStack() as stack:
            backend = MemoryStore(clock=clock)
            await backend.start(stack)
            yield backend


class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self, clock: SettableClock, tmp_path: Path) -> AsyncGenerator[Store]:
        async with AsyncExitStack() as stack:
            backend = SqliteStore(tmp_path / "store", clock=clock)
            await backend.start(stack)
            yield backend
