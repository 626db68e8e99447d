"""What every launcher must do.

Subclass `LauncherContract` in a test module and override the `launcher` fixture.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from micro.backends.process.logs import LogFile
from micro.domain.errors import Error, Kind
from micro.ports.launcher import Launcher, ProcessSpec

_FOREVER = "import signal; print('up', flush=True); signal.pause()"
_ENDS = "import sys; [print(f'line {i}') for i in range(100)]; sys.exit(7)"
_DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""


class LauncherContract:
    """The contract of `micro.ports.launcher.Launcher`, as tests."""

    @pytest.fixture
    def launcher(self) -> Launcher:
        raise NotImplementedError("override the fixture `launcher`")

    @pytest.fixture
    def logs(self, tmp_path: Path) -> Path:
        return tmp_path / "logs"

    def spec(self, logs: Path, code: str, process_id: str = "one", **labels: str) -> ProcessSpec:
        """A process that runs Python code."""
        return ProcessSpec(
            id=process_id,
            argv=(sys.executable, "-c", code),
            env={"GREETING": "hello"},
            cwd=logs.parent,
            log=logs / "x.log",
            labels=labels,
        )

    async def test_what_is_started_is_listed_with_its_labels(self, launcher: Launcher, logs: Path) -> None:
        second = await launcher.start(self.spec(logs, _FOREVER, "b"))
        first = await launcher.start(self.spec(logs, _FOREVER, "a", name="helloworld", generation="3"))
        assert first.pid != second.pid
        assert await launcher.list() == [first, second]
        assert first.labels == {"name": "helloworld", "generation": "3"}
        assert first.exit_status is None

    async def test_an_id_is_taken_while_its_process_runs(self, launcher: Launcher, logs: Path) -> None:
        await launcher.start(self.spec(logs, _FOREVER))
        with pytest.raises(Error) as caught:
            await launcher.start(self.spec(logs, _FOREVER))
        assert caught.value.kind is Kind.ALREADY_EXISTS
        await launcher.stop("one")
        await launcher.start(self.spec(logs, _FOREVER))
        assert [info.id for info in await launcher.list()] == ["one"]

    async def test_a_program_that_is_not_there_is_a_failed_precondition(self, launcher: Launcher, logs: Path) -> None:
        spec = ProcessSpec(id="one", argv=("/no/such/program",), env={}, cwd=logs.parent, log=logs / "x.log")
        with pytest.raises(Error) as caught:
            await launcher.start(spec)
        assert caught.value.kind is Kind.FAILED_PRECONDITION
        assert "/no/such/program" in caught.value.message
        assert await launcher.list() == []

    async def test_a_watcher_learns_of_an_end_with_status_and_last_lines(self, launcher: Launcher, logs: Path) -> None:
        watch = launcher.watch()
        await launcher.start(self.spec(logs, _FOREVER, "keeper"))
        assert (await asyncio.wait_for(anext(watch), 30)).id == "keeper"
        started = await launcher.start(self.spec(logs, _ENDS, name="helloworld"))
        async with asyncio.timeout(30):
            async for info in watch:
                if info.exit_status is not None:
                    break
        assert info.id == "one"
        assert info.pid == started.pid
        assert info.exit_status == 7
        assert info.labels == {"name": "helloworld"}
        assert info.tail == tuple(f"line {i}" for i in range(60, 100))
        assert [info.id for info in await launcher.list()] == ["keeper"]

    async def test_every_watcher_learns_of_every_end(self, launcher: Launcher, logs: Path) -> None:
        await launcher.start(self.spec(logs, _FOREVER))
        watches = [launcher.watch() for _ in range(3)]
        for watch in watches:
            assert (await asyncio.wait_for(anext(watch), 30)).exit_status is None
        await launcher.stop("one")
        for watch in watches:
            assert (await asyncio.wait_for(anext(watch), 30)).exit_status is not None

    async def test_stop_asks_first(self, launcher: Launcher, logs: Path) -> None:
        await launcher.start(self.spec(logs, _FOREVER))
        watch = launcher.watch()
        await asyncio.wait_for(anext(watch), 30)
        await launcher.stop("one", grace=10)
        assert (await asyncio.wait_for(anext(watch), 30)).exit_status == 128 + 15
        assert await launcher.list() == []

    async def test_stop_insists_after_the_grace(self, launcher: Launcher, logs: Path) -> None:
        await launcher.start(self.spec(logs, _DEAF))
        watch = launcher.watch()
        await asyncio.wait_for(anext(watch), 30)
        await self.said(logs, "up")
        await launcher.stop("one", grace=0.05)
        assert (await asyncio.wait_for(anext(watch), 30)).exit_status == 128 + 9

    async def test_stopping_what_is_not_there_is_nothing_to_do(self, launcher: Launcher) -> None:
        await launcher.stop("nobody")

    async def said(self, logs: Path, message: str) -> None:
        """Wait until the process has written the message. A launcher whose processes write nothing overrides it."""
        async with asyncio.timeout(30):
            async for record in LogFile(logs / "x.log").follow(100):
                if record.message == message:
                    return
