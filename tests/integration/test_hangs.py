"""Processes that stop without ending: nothing of them answers, and nothing of them tells so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator

import pytest
import worlds

PACE = 0.05
"""Seconds between requests: hanging takes half a minute to be noticed, and others want the machine meanwhile."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    with worlds.world(tmp_path_factory.mktemp("hangs")) as made:
        made.start()
        made.cli("run", str(made.service()), "-i", "3")
        yield made


def instances(world: worlds.World) -> dict[str, int]:
    """Processes of the service, by id."""
    return {name: pid for name, pid in world.processes().items() if name.startswith("helloworld")}


def running(world: worlds.World) -> int:
    """Instances that run, as `micro status` counts them."""
    [found] = json.loads(world.cli("status", "-o", "json").stdout)
    return int(found["instances"])


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing while the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def until_running(world: worlds.World, count: int, within: float) -> bool:
    return await asyncio.to_thread(worlds.eventually, lambda: running(world) == count, within)


async def test_an_instance_that_stands_still_for_a_while_loses_its_requests_only_for_that_while(
    world: worlds.World,
) -> None:
    before = instances(world)
    with stopped(next(iter(before.values()))):
        assert await until_running(world, 2, 30)
        assert "has not answered" in world.cli("status", "helloworld").stdout
    assert await until_running(world, 3, 30)
    assert instances(world) == before, "nothing was started again"


async def test_an_instance_that_hangs_costs_a_request_of_each_caller_and_is_replaced(world: worlds.World) -> None:
    before = instances(world)
    hanging, pid = next(iter(before.items()))
    async with worlds.load(world.api, connections=4, pace=PACE) as load:
        await load.reached(40)
        with stopped(pid):
            assert await until_running(world, 2, 30)
            # Those that wait for the one that hangs hear so after the service's own ten seconds, once.
            assert await asyncio.to_thread(worlds.eventually, lambda: hanging not in instances(world), 60)
        assert await until_running(world, 3, 30)
        await load.reached(load.sent + 40)
    assert load.sent > 400
    assert len(load.failures) <= 4, load.failures
    assert "did not answer for 30 s" in world.cli("logs", "helloworld", "-n", "100").stdout
    assert not worlds.alive(pid)


async def test_core_processes_that_hang_are_started_again_and_requests_go_on(world: worlds.World) -> None:
    pids = {unit: world.processes()[unit] for unit in ("registry", "mesh", "nats")}

    def replaced() -> bool:
        now = world.processes()
        return all(now.get(unit, pid) != pid for unit, pid in pids.items())

    async with worlds.load(world.api, connections=4, pace=PACE) as load:
        with contextlib.ExitStack() as stack:
            for pid in pids.values():
                stack.enter_context(stopped(pid))
            assert await asyncio.to_thread(worlds.eventually, replaced, 90)
        await asyncio.to_thread(world.cli, "health", "--wait", "60")
        await load.reached(load.sent + 40)
    assert load.sent > 400
    assert load.failures == []
    for unit, pid in pids.items():
        assert not worlds.alive(pid)
        assert f"{unit:<10}it did not answer for 20 s; starting it again" in world.output()
        assert "started again: it did not answer for 20 s" in world.layout.core_log(unit).read_text()
