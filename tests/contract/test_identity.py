"""The port of identity over every backend that we ship."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from micro.backends.memory.identity import MemoryIdentity
from micro.backends.sqlite.identity import SqliteIdentity
from micro.ports.identity import IdentityStore
from micro.testing.contracts.identity import IdentityContract


class TestMemory(IdentityContract):
    @pytest.fixture
    async def store(self) -> AsyncGenerator[IdentityStore]:
        async with AsyncExitStack() as stack:
            backend = MemoryIdentity()
            await backend.start(stack)
            yield backend


class TestSqlite(IdentityContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[IdentityStore]:
        async with AsyncExitStack() as stack:
            backend = SqliteIdentity(tmp_path / "auth" / "identity.db")
            await backend.start(stack)
            yield backend
