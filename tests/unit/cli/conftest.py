"""A platform to talk to, and the command line in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_platform import FakePlatform
from shell import Shell


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with FakePlatform() as running:
        yield running


@pytest.fixture
def micro(tmp_path: Path, platform: FakePlatform) -> Shell:
    """The command line with a server."""
    return Shell(tmp_path / "home", platform.address)


@pytest.fixture
def lonely(tmp_path: Path) -> Shell:
    """The command line without a server."""
    return Shell(tmp_path / "home", "127.0.0.1:1")
