"""What the runtime throws away, and what it keeps because somebody may need it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_world import World, running

from micro.backends.process.logs import LogWriter
from micro.domain import errors
from micro.domain.errors import Error
from micro.ports.builder import Build


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    made = World(tmp_path)
    made.settings = replace(made.settings, upkeep=600)
    async with running(made):
        yield made


async def true(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not seen():
            await asyncio.sleep(0.005)


async def test_environments_are_kept_for_code_that_runs_or_may_soon_and_for_processes(world: World) -> None:
    await true(lambda: world.builder.swept == [(set(), set())])
    await world.create()
    await world.update("better")
    await true(lambda: len(world.builder.swept) == 2)
    code = world.home / "micro/services/hello/latest"
    assert world.builder.swept[-1] == ({code / "2", code / "3"}, {Path(sys.executable)})
    await world.delete()
    await true(lambda: len(world.builder.swept) == 3)
    assert world.builder.swept[-1] == (set(), set())


async def test_a_restarted_runtime_looks_once_it_knows_what_runs(world: World) -> None:
    await world.create()
    before = len(world.builder.swept)
    await world.restart()
    await true(lambda: len(world.builder.swept) > before)
    code = world.home / "micro/services/hello/latest"
    assert world.builder.swept[-1] == ({code / "1", code / "2"}, {Path(sys.executable)})


async def test_a_kill_leaves_the_output_and_nothing_else(world: World) -> None:
    await world.create()
    [spec] = world.launcher.started
    LogWriter(spec.log).write(spec.id, [("info", "hello")])
    socket = world.host.admin_socket(spec.id)
    socket.parent.mkdir()
    socket.touch()
    await world.delete()
    assert world.left(".") == ["micro/logs/hello/latest.log"]


async def test_uploads_and_output_expire_while_the_runtime_runs(world: World) -> None:
    await world.create()
    gone, kept = (world.home / f"micro/logs/{name}/latest.log" for name in ("gone", "hello"))
    for log in (gone, kept):
        LogWriter(log).write("x", [("info", "old")])
        os.utime(log, (0, 0))
    await world.upload()
    [upload] = (world.home / "micro/uploads").iterdir()
    os.utime(upload, (0, 0))
    world.settings = replace(world.settings, upkeep=0.01)
    await world.restart()
    await true(lambda: not upload.exists() and not gone.exists())
    assert kept.exists()
    await world.upload()
    [later] = (world.home / "micro/uploads").iterdir()
    os.utime(later, (0, 0))
    await true(lambda: not later.exists())


async def test_a_look_that_fails_is_told_and_the_next_one_comes(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse() -> list[object]:
        raise errors.unavailable("no launcher")

    await true(lambda: len(world.builder.swept) == 1)
    await world.create()
    with monkeypatch.context() as patched:
        patched.setattr(world.launcher, "list", refuse)
        await world.update("better")
        await true(lambda: "no launcher" in caplog.text and "left over" in caplog.text)
    await world.delete()
    await true(lambda: len(world.builder.swept) == 2)


async def test_only_starts_that_somebody_waits_for_are_built_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    build = world.builder.build

    async def recorded(folder: Path, *, background: bool = False) -> Build:
        asked.append(background)
        return await build(folder, background=background)

    monkeypatch.setattr(world.builder, "build", recorded)
    await world.create()
    assert asked
    assert not any(asked)
    asked.clear()
    with pytest.raises(Error):
        await world.update("crash")
    assert asked
    assert not any(asked)
    asked.clear()
    [running] = world.launcher.running
    world.launcher.end(running, 1, "oh")
    await true(lambda: bool(asked))
    assert asked == [True]
