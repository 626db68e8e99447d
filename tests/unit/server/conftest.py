"""The folder of a server's sockets lies outside of its home: that of a test's goes with the test."""

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="m-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
