"""Whatever dies comes back, and requests keep flowing meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request

import pytest
import worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    with worlds.world(tmp_path_factory.mktemp("kills")) as made:
        made.start()
        made.cli("run", str(made.service()))
        yield made


def greet(world: worlds.World, name: str = "Ann") -> str:
    request = urllib.request.Request(
        f"http://{world.api}/helloworld/call", f'{{"name":"{name}"}}'.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


@pytest.mark.parametrize("unit", ["registry", "network", "nats", "runtime", "mesh", "proxy"])
async def test_requests_flow_through_the_gateway_while_a_core_process_is_killed(world: worlds.World, unit: str) -> None:
    pid = world.processes()[unit]
    async with worlds.load(world.api) as load:
        await load.reached(200)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(worlds.eventually, lambda: world.processes().get(unit, pid) != pid)
        await asyncio.to_thread(world.cli, "health", "--wait", "20")
        await load.reached(load.sent + 200)
    assert load.failures == []
    assert not worlds.alive(pid)


async def test_a_killed_gateway_fails_requests_only_until_it_is_back(world: worlds.World) -> None:
    pid = world.processes()["api"]
    async with worlds.load(world.api) as load:
        await load.reached(200)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(world.cli, "health", "--wait", "20")
        failed = len(load.failures)
        await load.reached(load.sent + 500)
    assert len(load.failures) == failed


async def test_a_killed_service_is_back_within_three_seconds(world: worlds.World) -> None:
    def back(pid: int) -> bool:
        try:
            return str(pid) not in greet(world, "pid")
        except OSError:
            return False

    # Once of three times is enough: what else this machine does is not the promise.
    for _ in range(3):
        pid = int(greet(world, "pid").split('"')[3])
        os.kill(pid, signal.SIGKILL)
        in_time = await asyncio.to_thread(worlds.eventually, lambda pid=pid: back(pid), 3.0)
        assert await asyncio.to_thread(worlds.eventually, lambda pid=pid: back(pid), 20.0)
        if in_time:
            break
    assert in_time
    assert "Hello Ann" in greet(world)


async def test_callers_of_a_service_that_restarts_hear_that_trying_again_is_worth_it(world: worlds.World) -> None:
    pid = int(greet(world, "pid").split('"')[3])
    async with worlds.load(world.api, connections=1) as load:
        await load.reached(50)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(worlds.eventually, lambda: "Hello Ann" in _try(lambda: greet(world)), 20.0)
        await load.reached(load.sent + 50)
    assert {failure.split(" ", 1)[0] for failure in load.failures} <= {"503"}, load.failures[:5]


async def test_a_service_outlives_a_killed_runtime_and_is_still_looked_after(world: worlds.World) -> None:
    before = greet(world, "pid")
    os.kill(world.processes()["runtime"], signal.SIGKILL)
    world.cli("health", "--wait", "20")
    assert greet(world, "pid") == before
    os.kill(int(before.split('"')[3]), signal.SIGKILL)

    def back() -> bool:
        try:
            return greet(world, "pid") != before
        except OSError:
            return False

    assert await asyncio.to_thread(worlds.eventually, back, 20.0)


def test_nothing_outlives_a_supervisor_that_is_killed(world: worlds.World) -> None:
    pids = world.processes()
    core = {"nats", "registry", "auth", "network", "runtime", "store", "config", "broker", "events"}
    core |= {"mesh", "api", "proxy"}
    assert core <= pids.keys()
    assert len(pids) == len(core) + 1
    world.stop(signal.SIGKILL)
    assert worlds.eventually(lambda: not any(worlds.alive(pid) for pid in pids.values()))
    world.start()
    assert worlds.eventually(lambda: "Hello Ann" in _try(lambda: greet(world)), 15)


def _try(ask) -> str:
    try:
        return ask()
    except OSError:
        return ""
