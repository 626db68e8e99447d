"""The port of identity over every backend that we ship."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.identity import MemoryIdentity
from micro.backends.sqlite.store import SqliteStore
from micro.backends.stored.identity import StoredIdentity
from micro.ports.identity import IdentityStore
from micro.ports.sealing import Sealing
from micro.testing.contracts.identity import IdentityContract


class TestMemory(IdentityContract):
    @pytest.fixture
    async def store(self) -> AsyncGenerator[IdentityStore]:
        async with AsyncExitStack() as stack:
            backend = MemoryIdentity()
            await backend.start(stack)
            yield backend


class TestStoredInSqlite(IdentityContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[IdentityStore]:
        async with AsyncExitStack() as stack:
            backend = StoredIdentity(SqliteStore(tmp_path / "state"), sealing(tmp_path))
            await backend.start(stack)
            yield backend


def sealing(folder: Path) -> Sealing:
    """With a key of its own, kept in a folder."""
    made = AesGcmSealing(Keyring("", folder / "config.key"))
    made.begin()
    return made
