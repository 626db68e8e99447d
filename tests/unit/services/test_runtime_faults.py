"""What the runtime does when it is interrupted, or when something it needs fails in a way that nobody foresaw."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_world import CALLER, World, running

from micro.backends.process.logs import LogFolder
from micro.backends.stored.workloads import DATABASE, WORKLOADS, RuntimeRecords, StoredWorkloads
from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.record import Put
from micro.domain.workload import Key, Workload
from micro.ports.builder import Build
from micro.ports.runtime import LogRecord
from micro.rpc.gen.micro.runtime.v1.runtime_pb import CreateRequest, DeleteRequest, LogsRequest, Service, Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    async with running(World(tmp_path)) as made:
        yield made


async def kept(world: World) -> Workload:
    """What a runtime that is killed now leaves behind."""
    [found] = await world.workloads.list()
    return found


async def survivor(world: World, found: Workload, home: Path) -> World:
    """A runtime that starts with that alone."""
    made = World(home)
    await made.records.open()
    await made.workloads.put(found)
    await made.start()
    return made


async def test_a_start_that_is_acknowledged_is_not_lost_when_the_runtime_is_killed(
    world: World, tmp_path: Path
) -> None:
    await world.create("hang", wait=False)
    after = await survivor(world, await kept(world), tmp_path / "after")
    seen = await after.one()
    assert (seen.status, seen.error) == (Status.ERROR, "its start was interrupted: run it again")
    assert (await after.create()).service.status == Status.RUNNING
    assert (await kept(after)).error == ""
    await after.stack.aclose()


@pytest.mark.parametrize("wait", [True, False])
async def test_a_start_that_cannot_be_kept_is_refused_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    async def full(self: RuntimeRecords, *kept: object) -> None:
        raise errors.resource_exhausted("the disk is full")

    monkeypatch.setattr(RuntimeRecords, "write", full)
    with pytest.raises(Error) as caught:
        await world.create(wait=wait)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert await world.read() == []
    assert world.launcher.started == []


async def test_an_update_that_is_acknowledged_is_told_when_the_runtime_is_killed(world: World, tmp_path: Path) -> None:
    await world.create()
    await world.update("hang", wait=False)
    found = await kept(world)
    assert (found.generation, found.error) == (1, "an update was interrupted: run it again")
    after = await survivor(world, found, tmp_path / "after")
    assert (await after.one()).error == found.error
    await after.stack.aclose()


async def test_an_update_that_waits_for_another_is_not_lost_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.create()
    gates = {"2": asyncio.Event(), "3": asyncio.Event()}
    building, build = asyncio.Event(), world.builder.build

    async def gated(folder: Path, *, background: bool = False) -> Build:
        building.set()
        await gates[folder.name].wait()
        return await build(folder)

    monkeypatch.setattr(world.builder, "build", gated)
    first = asyncio.ensure_future(world.update("better"))
    await building.wait()
    await world.update("better", wait=False)
    gates["2"].set()
    await first
    assert ((await kept(world)).generation, (await kept(world)).error) == (2, "an update was interrupted: run it again")
    assert (await world.one()).error == ""
    gates["3"].set()
    await world.update(env={"A": "B"})
    assert ((await kept(world)).generation, (await kept(world)).error) == (3, "")


async def test_an_update_that_ended_is_not_told_as_interrupted(world: World) -> None:
    await world.create()
    with pytest.raises(Error) as caught:
        await world.update("crash")
    assert (await kept(world)).error == caught.value.message
    await world.update("better")
    assert ((await kept(world)).error, (await kept(world)).generation) == ("", 2)


@pytest.mark.parametrize("wait", [True, False])
async def test_an_update_that_cannot_be_kept_is_refused_and_the_old_goes_on(
    world: World, wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    [old] = (await world.create()).service.instances

    async def full(self: StoredWorkloads, workload: Workload) -> None:
        raise errors.unavailable("the disk is full")

    monkeypatch.setattr(StoredWorkloads, "put", full)
    with pytest.raises(Error, match="the disk is full"):
        await world.update("better", wait=wait)
    assert list(world.launcher.running) == [old.id]


async def test_a_kill_right_after_a_create_answers_both(world: World) -> None:
    """Both are handled in one turn of the loop, so that the start is cancelled before its first step."""
    asked = CreateRequest(service=Service(name="hello"), upload_id=await world.upload(), wait=True)
    creating = asyncio.ensure_future(world.runtime.create(asked, CALLER))
    deleting = asyncio.ensure_future(world.runtime.delete(DeleteRequest(name="hello"), CALLER))
    async with asyncio.timeout(5):
        await deleting
        with pytest.raises(Error) as caught:
            await creating
    assert caught.value.kind is Kind.ABORTED
    assert await world.read() == []
    assert await world.workloads.list() == []


async def test_a_kill_that_cannot_be_kept_leaves_the_service_as_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.create()

    async def broken(self: RuntimeRecords, table: str, key: Key) -> None:
        raise errors.resource_exhausted("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(RuntimeRecords, "remove", broken)
        with pytest.raises(Error, match="hello cannot be forgotten: Input/output error") as caught:
            await world.delete()
    assert caught.value.kind is Kind.UNAVAILABLE
    assert (await world.one()).status == Status.RUNNING
    await world.delete()
    assert await world.read() == []


@pytest.mark.parametrize("fault", [ValueError("odd"), OSError(24, "Too many open files"), errors.unavailable("gone")])
async def test_a_fault_that_nobody_foresaw_is_a_failure_like_any_other(
    world: World, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    await world.create()
    [first] = world.launcher.running
    faults = [fault, fault]

    def check(folder: Path) -> None:
        if faults:
            raise faults.pop()

    world.builder.check = check
    world.launcher.end(first, 137)
    seen = await world.until(lambda service: service.status == Status.RUNNING and service.instances[0].restarts == 3)
    assert (fault.message if isinstance(fault, Error) else str(fault)) in seen.error
    if isinstance(fault, ValueError):
        assert any(record.exc_info for record in caplog.records), "with its traceback"


async def test_a_launcher_that_does_not_answer_a_stop_does_not_end_the_keeping(world: World) -> None:
    """The process never becomes ready, and stopping it fails: it is tried again all the same."""
    await world.create()
    [first] = world.launcher.started
    world.settings = replace(world.settings, ready_timeout=0.05)
    (first.cwd / "main.py").write_text("hang")
    await world.stack.aclose()
    world.launcher.end(first.id, 137)
    stop = world.launcher.stop

    async def unanswered(process_id: str, grace: float = 5.0) -> None:
        raise errors.unavailable("the launcher does not answer")

    world.launcher.stop = unanswered  # type: ignore[method-assign]
    await world.start()
    await world.until(lambda service: service.instances[0].restarts >= 2)
    world.launcher.stop = stop  # type: ignore[method-assign]
    (first.cwd / "main.py").write_text("ok")
    await world.until(lambda service: service.status == Status.RUNNING)


async def test_broken_services_do_not_keep_healthy_ones_from_starting(world: World) -> None:
    for i in range(6):
        await world.create(name=f"broken-{i}")
    await world.create(name="healthy")
    await world.stack.aclose()
    for spec in list(world.launcher.running.values()):
        world.launcher.end(spec.id, 137)
        if spec.labels["name"] != "healthy":
            (spec.cwd / "main.py").write_text("hang")
    world.settings = replace(world.settings, ready_timeout=600, start_slot=0.02)
    await world.start()
    await world.until(lambda service: service.status == Status.RUNNING, "healthy")


async def test_builds_do_not_keep_healthy_services_from_starting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        await world.create(name=f"broken-{i}")
    await world.create(name="healthy")
    await world.stack.aclose()
    for process_id in list(world.launcher.running):
        world.launcher.end(process_id, 137)
    build = world.builder.build

    async def slow(folder: Path, *, background: bool = False) -> Build:
        if "broken" in str(folder):
            await asyncio.Event().wait()
        return await build(folder)

    monkeypatch.setattr(world.builder, "build", slow)
    world.settings = replace(world.settings, start_slot=600)
    await world.start()
    await world.until(lambda service: service.status == Status.RUNNING, "healthy")


async def test_logs_are_read_beside_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[int] = []

    def read(self: LogFolder, key: Key, lines: int) -> list[LogRecord]:
        readers.append(threading.get_ident())
        return [LogRecord("now", "info", "x", "i")] * 250

    monkeypatch.setattr(LogFolder, "read", read)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    found = world.runtime.logs(LogsRequest(name="runtime", lines=250), CALLER)
    first = await anext(found)
    beside = asyncio.ensure_future(others())
    assert [first.message, *[line.message async for line in found]] == ["x"] * 250
    beside.cancel()
    with suppress(asyncio.CancelledError):
        await beside
    assert threading.get_ident() not in readers
    assert turns >= 2, "others have their turn between many lines"


async def damage(world: World) -> None:
    """What is kept of the service becomes unreadable."""
    await world.stack.aclose()
    await world.state.commit(DATABASE, [Put(WORKLOADS, "micro/hello/latest", b"{")])


async def test_what_cannot_be_read_is_told_and_neither_swept_nor_ended(world: World) -> None:
    await world.create(instances=2)
    code = world.left("micro/services")
    await damage(world)
    await world.start()
    await asyncio.sleep(0)
    seen = await world.one()
    assert (seen.status, list(seen.instances)) == (Status.ERROR, [])
    assert "cannot be read" in seen.error
    assert world.left("micro/services") == code
    assert world.mains() == ["ok", "ok"]
    with pytest.raises(Error) as caught:
        await world.create("better")
    assert caught.value.kind is Kind.ALREADY_EXISTS
    with pytest.raises(Error) as caught:
        await world.update("better")
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert world.left("micro/services") == code


async def test_what_cannot_be_read_can_be_killed(world: World) -> None:
    await world.create()
    await damage(world)
    await world.start()
    await world.delete()
    assert await world.read() == []
    assert world.mains() == []
    assert world.left("micro/services") == []
    await world.create("better")
    assert world.mains() == ["better"]


async def test_code_outlives_a_store_that_knows_of_no_service(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.create()
    code = world.left("micro/services")
    await world.stack.aclose()
    await world.state.drop(DATABASE)
    await world.start()
    assert world.left("micro/services") == code
    assert "there is code of 1 services" in caplog.text
