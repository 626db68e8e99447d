"""The echo service as a process, and a client of it, for all tests of this room that want the true wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import processes
from micro.ports.free_address import free_address
from micro.rpc.client import Client


@pytest.fixture(scope="session")
def echo_module() -> Path:
    return Path(__file__).resolve().with_name("echo_app.py")


@pytest.fixture(scope="session")
def target(echo_module: Path) -> Iterator[str]:
    found = free_address()
    with processes.listening(echo_module, found, MICRO_PROXY_ADDRESS=found):
        yield found


@pytest.fixture
async def client(target: str) -> AsyncIterator[Client]:
    made = Client(target)
    yield made
    await made.close()
