"""The runtime: what its calls answer, and what becomes of the processes that they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_world import CALLER, World, running

from micro.backends.process.logs import LogWriter
from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.ports.launcher import ProcessSpec
from micro.rpc.gen.micro.runtime.v1.runtime_pb import (
    CreateRequest,
    LogsRequest,
    Service,
    Status,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    async with running(World(tmp_path)) as made:
        yield made


async def test_create_answers_once_the_service_is_routed(world: World) -> None:
    answer = await world.create()
    [instance] = answer.service.instances
    assert answer.service.status == instance.status == Status.RUNNING
    assert answer.service.error == ""
    assert world.traffic.events == [f"registered {instance.id}", "synced 1"]
    assert list(world.launcher.running) == [instance.id]


async def test_a_process_gets_its_identity_and_nothing_of_the_server(world: World) -> None:
    await world.create(env={"COLOUR": "red", "PATH": "/mine"})
    [spec] = world.launcher.started
    [instance] = (await world.one()).instances
    assert spec.env == {
        "PATH": "/mine",
        "COLOUR": "red",
        "PYTHONPATH": str(spec.cwd),
        "MICRO_SERVICE_NAME": "hello",
        "MICRO_SERVICE_VERSION": "latest",
        "MICRO_SERVICE_ID": instance.id,
        "MICRO_SERVICE_ADDRESS": instance.address,
        "MICRO_NAMESPACE": "micro",
        "MICRO_AUTH_ID": "hello@latest",
        "MICRO_AUTH_SECRET": spec.env["MICRO_AUTH_SECRET"],
        "MICRO_NETWORK": "127.0.0.1:9",
        "MICRO_LOG_FORMAT": "json",
    }
    assert spec.log == world.home / "micro/logs/hello/latest.log"


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"name": "registry"}, Kind.INVALID_ARGUMENT),
        ({"name": "Not A Name"}, Kind.INVALID_ARGUMENT),
        ({"env": {"MICRO_NAMESPACE": "other"}}, Kind.INVALID_ARGUMENT),
        ({"env": {"A=B": ""}}, Kind.INVALID_ARGUMENT),
        ({"env": {"A": "x" * 300_000}}, Kind.INVALID_ARGUMENT),
        ({"instances": -1}, Kind.INVALID_ARGUMENT),
        ({"instances": 100_000}, Kind.INVALID_ARGUMENT),
    ],
)
async def test_a_request_that_is_wrong_in_itself_changes_nothing(world: World, asked: dict, kind: Kind) -> None:
    with pytest.raises(Error) as caught:
        await world.create(**asked)
    assert caught.value.kind is kind
    assert await world.read() == []


async def test_what_is_there_is_not_created_again(world: World) -> None:
    await world.create()
    with pytest.raises(Error, match="hello is there already") as caught:
        await world.create()
    assert caught.value.kind is Kind.ALREADY_EXISTS
    assert len(world.launcher.started) == 1


async def test_an_upload_serves_once(world: World) -> None:
    upload_id = await world.upload()
    await world.runtime.create(CreateRequest(service=Service(name="hello"), upload_id=upload_id, wait=True), CALLER)
    with pytest.raises(Error, match="there is no upload") as caught:
        await world.runtime.create(CreateRequest(service=Service(name="b"), upload_id=upload_id, wait=True), CALLER)
    assert caught.value.kind is Kind.NOT_FOUND
    assert [service.name for service in await world.read()] == ["hello"]


async def test_a_bad_archive_leaves_nothing(world: World) -> None:
    with pytest.raises(Error, match=r"cannot be read as tar\.gz") as caught:
        await world.create("bad")
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert await world.read() == []
    assert [world.left(f"micro/{folder}") for folder in ("uploads", "services")] == [[], []]
    assert await world.workloads.list() == []


async def test_a_crash_at_start_is_told_with_the_last_lines_and_stays_visible(world: World) -> None:
    with pytest.raises(Error) as caught:
        await world.create("crash")
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    first, *rest = caught.value.message.splitlines()
    assert first == "hello did not start: ModuleNotFoundError: No module named 'nope' (main.py, line 3)"
    assert rest[-1] == "    import nope", "what the first line says is not said again"
    seen = await world.one()
    assert (seen.status, seen.error, list(seen.instances)) == (Status.ERROR, caught.value.message, [])
    assert world.left("micro/services") == []
    assert len(world.launcher.started) == 1, "what never ran is not started again by itself"


async def test_what_failed_can_be_created_again_or_killed(world: World) -> None:
    for _ in range(2):
        with pytest.raises(Error):
            await world.create("crash")
    answer = await world.create("ok")
    assert (answer.service.status, answer.service.error) == (Status.RUNNING, "")
    with pytest.raises(Error):
        await world.create("crash", name="other")
    await world.delete("other")
    assert [service.name for service in await world.read()] == ["hello"]


async def test_what_failed_is_still_told_after_a_restart(world: World) -> None:
    with pytest.raises(Error) as caught:
        await world.create("crash")
    await world.restart()
    seen = await world.one()
    assert (seen.status, seen.error) == (Status.ERROR, caught.value.message)
    assert (await world.update("ok")).service.status == Status.RUNNING


async def test_a_service_that_never_becomes_ready_is_stopped(world: World) -> None:
    world.settings = replace(world.settings, ready_timeout=0.05)
    await world.restart()
    with pytest.raises(Error, match=r"hello did not start: it is not ready after 0\.05 s") as caught:
        await world.create("hang")
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert world.launcher.running == {}


async def test_without_wait_the_outcome_is_in_the_status(world: World) -> None:
    answer = await world.create("crash", wait=False)
    assert answer.service.status == Status.PENDING
    seen = await world.until(lambda service: service.status == Status.ERROR)
    assert "No module named 'nope'" in seen.error


async def test_a_build_that_fails_is_told(world: World) -> None:
    def check(folder: Path) -> None:
        raise errors.failed_precondition("requirements.txt: its requirements cannot be installed\nno such package: x")

    world.builder.check = check
    with pytest.raises(Error, match="no such package: x") as caught:
        await world.create()
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert (await world.one()).error == caught.value.message
    assert world.launcher.started == []


async def test_a_port_that_somebody_took_meanwhile_is_exchanged(world: World) -> None:
    assert (await world.create("port")).service.status == Status.RUNNING
    first, second = world.launcher.started
    assert first.id != second.id


async def test_a_killed_service_comes_back_and_its_old_node_is_deregistered(world: World) -> None:
    await world.create()
    [dead] = world.launcher.running
    world.launcher.end(dead, 137)
    seen = await world.until(
        lambda service: any(i.restarts == 1 and i.status == Status.RUNNING for i in service.instances)
    )
    [alive] = seen.instances
    assert alive.id != dead
    assert "exit status 137 (SIGKILL)" in seen.error
    assert f"deregistered {dead}" in world.traffic.events
    assert list(world.traffic.nodes) == [alive.id]


async def test_a_service_that_crashes_again_and_again_waits_longer_and_says_why(world: World) -> None:
    await world.create()
    [spec] = world.launcher.started
    (spec.cwd / "main.py").write_text("crash")
    world.launcher.end(spec.id, 1)
    seen = await world.until(lambda service: service.instances[0].restarts >= 3)
    assert seen.status == Status.ERROR
    assert "ModuleNotFoundError: No module named 'nope' (main.py, line 3)" in seen.error
    await world.delete()
    assert await world.read() == []


async def test_the_reason_of_a_crash_is_not_an_exception_that_a_call_was_answered_with(world: World) -> None:
    await world.create()
    [dead] = world.launcher.running
    traceback = ("Traceback (most recent call last):", '  File "main.py", line 1, in call', "KeyError: 'a'")
    world.launcher.end(dead, 3, "internal error, id 87f3d8983a7d", *traceback)
    seen = await world.until(lambda service: service.instances[0].restarts == 1 and service.status == Status.RUNNING)
    assert seen.error == "hello: exit status 3"
    notes = [spec.note for spec in world.launcher.started]
    assert notes == ["", "started again, restart 1, because of: exit status 3"]


async def test_of_a_failed_update_and_a_crash_the_later_one_is_told(world: World) -> None:
    await world.create()
    with pytest.raises(Error) as first:
        await world.update("crash")
    assert (await world.one()).error == first.value.message
    [dead] = world.launcher.running
    world.launcher.end(dead, 3, "no space left")
    seen = await world.until(
        lambda service: service.instances[0].status == Status.RUNNING and service.error[:7] == "hello: "
    )
    assert seen.error == "hello: exit status 3, its last line: no space left"
    with pytest.raises(Error) as second:
        await world.update("crash")
    assert (await world.one()).error == second.value.message


async def test_update_starts_the_new_before_it_ends_the_old(world: World) -> None:
    [old] = (await world.create()).service.instances
    [new] = (await world.update("better")).service.instances
    assert world.mains() == ["better"]
    assert world.traffic.events[2:] == [
        f"registered {new.id}",
        "synced 2",
        f"deregistered {old.id}",
        "synced 3",
        f"drained {old.id}",
        f"idle {old.id}",
    ]
    assert world.left("micro/services") == ["hello/latest/2.tar.gz", "hello/latest/2/main.py"]


@pytest.mark.parametrize("main", ["crash", "bad", "hang"])
async def test_an_update_that_fails_leaves_the_old_serving(world: World, main: str) -> None:
    world.settings = replace(world.settings, ready_timeout=0.2)
    await world.restart()
    [old] = (await world.create()).service.instances
    with pytest.raises(Error) as caught:
        await world.update(main)
    seen = await world.one()
    assert (seen.status, seen.error) == (Status.RUNNING, caught.value.message)
    assert list(world.launcher.running) == [old.id]
    assert old.id in world.traffic.nodes
    assert world.left("micro/services") == ["hello/latest/1.tar.gz", "hello/latest/1/main.py"]
    assert (await world.update("better")).service.error == ""


async def test_an_update_that_is_not_routed_leaves_the_old_serving(world: World) -> None:
    world.settings = replace(world.settings, ready_timeout=0.2, leave_timeout=0.1, drain_timeout=0.1)
    await world.restart()
    [old] = (await world.create()).service.instances
    world.traffic.broken = True
    with pytest.raises(Error, match="not ready"):
        await world.update("better")
    assert list(world.launcher.running) == [old.id]


async def test_an_update_without_source_restarts_with_new_settings(world: World) -> None:
    await world.create(env={"COLOUR": "red"})
    answer = await world.update(instances=2)
    assert len(answer.service.instances) == 2
    assert world.mains() == ["ok", "ok"]
    assert {spec.env["COLOUR"] for spec in world.launcher.running.values()} == {"red"}
    await world.update(env={"COLOUR": "blue"})
    assert [spec.env["COLOUR"] for spec in world.launcher.running.values()] == ["blue", "blue"]


async def test_one_bad_instance_of_many_fails_them_all(world: World) -> None:
    def begin(spec: ProcessSpec) -> None:
        if len(world.launcher.started) == 3:
            raise errors.failed_precondition("no more processes")
        asyncio.get_running_loop().call_soon(world.traffic.register, spec.id)

    world.begin = begin  # type: ignore[method-assign]
    world.launcher._begin = begin
    with pytest.raises(Error, match="no more processes"):
        await world.create(instances=4)
    assert world.launcher.running == {}
    async with asyncio.timeout(10):
        while world.traffic.nodes:
            await world.traffic.changed.wait()


async def test_updates_of_one_service_wait_for_each_other(world: World) -> None:
    await world.create()
    await asyncio.gather(*(world.update("better") for _ in range(4)))
    assert world.mains() == ["better"]
    assert world.left("micro/services") == ["hello/latest/5.tar.gz", "hello/latest/5/main.py"]
    drained = [event for event in world.traffic.events if event.startswith("drained")]
    assert len(drained) == 4


async def test_different_services_do_not_wait_for_each_other(world: World) -> None:
    hanging = await world.create("hang", name="slow", wait=False)
    assert hanging.service.status == Status.PENDING
    assert (await world.create()).service.status == Status.RUNNING
    await world.until(lambda service: service.status == Status.STARTING, "slow")


async def test_delete_drains_and_forgets(world: World) -> None:
    [instance] = (await world.create()).service.instances
    await world.delete()
    assert world.traffic.events[2:] == [
        f"deregistered {instance.id}",
        "synced 2",
        f"drained {instance.id}",
        f"idle {instance.id}",
    ]
    assert await world.read() == []
    assert world.launcher.running == {}
    assert (world.left("micro/services"), await world.workloads.list()) == ([], [])
    with pytest.raises(Error, match="hello is not there") as caught:
        await world.delete()
    assert caught.value.kind is Kind.NOT_FOUND


async def test_delete_cuts_a_start_short(world: World) -> None:
    starting = asyncio.ensure_future(world.create("hang"))
    while not world.launcher.running:
        await asyncio.sleep(0.005)
    await world.delete()
    with pytest.raises(Error) as caught:
        await starting
    assert caught.value.kind is Kind.ABORTED
    assert await world.read() == []
    assert world.launcher.running == {}
    assert (world.left("micro/services"), await world.workloads.list()) == ([], [])


async def test_what_runs_is_adopted_after_a_restart_of_the_runtime(world: World) -> None:
    [before] = (await world.create()).service.instances
    await world.create(name="other")
    await world.restart()
    seen = await world.until(lambda service: service.status == Status.RUNNING)
    [after] = seen.instances
    assert (after.id, after.address, after.pid) == (before.id, before.address, before.pid)
    assert len(world.launcher.started) == 2
    world.launcher.end(after.id, 137)
    await world.until(lambda service: [i.restarts for i in service.instances] == [1])


async def test_what_is_missing_after_a_restart_is_started_and_strangers_are_ended(world: World) -> None:
    await world.create()
    [known] = world.launcher.started
    await world.stack.aclose()
    world.launcher.end(known.id, 137)
    stranger = replace(known, id="hello-stranger", labels={**known.labels, "revision": "7"})
    await world.launcher.start(stranger)
    core = replace(known, id="registry", labels={})
    await world.launcher.start(core)
    await world.start()
    seen = await world.until(lambda service: service.status == Status.RUNNING)
    async with asyncio.timeout(10):
        while "hello-stranger" in world.launcher.running:
            await asyncio.sleep(0.005)
    assert set(world.launcher.running) == {"registry", seen.instances[0].id}


async def test_a_start_that_the_server_interrupted_is_told_not_lost(world: World) -> None:
    await world.create("hang", wait=False)
    while not world.launcher.running:
        await asyncio.sleep(0.005)
    await world.restart()
    seen = await world.one()
    assert seen.status == Status.ERROR
    assert "run it again" in seen.error
    assert world.left("micro/services") == []
    assert (await world.create()).service.status == Status.RUNNING


async def test_versions_of_one_name_are_services_of_their_own(world: World) -> None:
    await world.create()
    upload_id = await world.upload("better")
    asked = Service(name="hello", version="v2")
    await world.runtime.create(CreateRequest(service=asked, upload_id=upload_id, wait=True), CALLER)
    assert [service.version for service in await world.read("hello")] == ["latest", "v2"]
    await world.delete()
    assert world.mains() == ["better"]


async def test_logs_of_services_and_of_core_services(world: World) -> None:
    LogWriter(world.home / "core/core/registry.log").write("registry", [("info", f"line {i}") for i in range(30)])
    LogWriter(world.home / "micro/logs/hello/latest.log").write("hello-1", [("error", "oh")])

    async def lines(**asked: object) -> list[tuple[str, str, str]]:
        request = LogsRequest(**asked)  # type: ignore[arg-type]
        return [(line.level, line.message, line.instance) async for line in world.runtime.logs(request, CALLER)]

    assert await lines(name="hello") == [("error", "oh", "hello-1")]
    assert await lines(name="registry", lines=2) == [("info", "line 28", "registry"), ("info", "line 29", "registry")]
    assert len(await lines(name="registry")) == 15
    with pytest.raises(Error) as caught:
        await lines(name="nobody")
    assert caught.value.kind is Kind.NOT_FOUND
    assert await lines(name="network") == [], "a core service is there before it has written anything"
    assert await lines(name="network", namespace="shop") == [], "and whatever the namespace"


async def test_logs_are_followed(world: World) -> None:
    await world.create()
    following = world.runtime.logs(LogsRequest(name="hello", follow=True), CALLER)
    writer = LogWriter(world.home / "micro/logs/hello/latest.log")
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    writer.write("hello-1", [("info", "first")])
    assert (await asyncio.wait_for(waiting, 10)).message == "first"
    writer.write("hello-1", [("info", "second")])
    assert (await asyncio.wait_for(anext(following), 10)).message == "second"
