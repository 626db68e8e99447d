"""Fixtures for pytest. In conftest.py: `from micro.testing.fixtures import platform`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from micro.testing.platform import Platform, running

__all__ = ["platform"]


@pytest_asyncio.fixture
async def platform() -> AsyncIterator[Platform]:
    """The platform in this process, on memory, empty for each test."""
    async with running() as made:
        yield made
