"""The launcher's contract, over its three backends."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from micro.backends.memory.launcher import MemoryLauncher
from micro.backends.process.launcher import LocalLauncher
from micro.backends.process.launcher_client import RemoteLauncher
from micro.backends.process.launcher_server import LauncherServer
from micro.domain import errors
from micro.ports.launcher import Launcher, ProcessSpec
from micro.testing.contracts.launcher import LauncherContract


class TestMemoryLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Launcher:
        def begin(spec: ProcessSpec) -> None:
            """Do what the contract's Python snippets do."""
            if not Path(spec.argv[0]).exists():
                raise errors.failed_precondition(f"{spec.argv[0]}: No such file or directory")
            code = spec.argv[2]
            if "SIG_IGN" in code:
                launcher.deaf.add(spec.id)
            elif "exit(7)" in code:
                lines = [f"line {i}" for i in range(100)]
                asyncio.get_running_loop().call_soon(lambda: launcher.end(spec.id, 7, *lines))

        launcher = MemoryLauncher(begin)
        return launcher

    async def said(self, logs: Path, message: str) -> None:
        """A process of the memory launcher is ready at once."""


class TestLocalLauncher(LauncherContract):
    @pytest.fixture
    async def launcher(self, tmp_path: Path) -> AsyncIterator[Launcher]:
        launcher = LocalLauncher(tmp_path / "state")
        yield launcher
        await launcher.stop_all(grace=0.1)


class TestRemoteLauncher(LauncherContract):
    @pytest.fixture
    async def launcher(self, tmp_path: Path) -> AsyncIterator[Launcher]:
        local = LocalLauncher(tmp_path / "state")
        async with AsyncExitStack() as stack:
            short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="micro-")))
            await LauncherServer(local, short / "l").start(stack)
            yield RemoteLauncher(short / "l")
            await local.stop_all(grace=0.1)
