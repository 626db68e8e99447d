"""Instances that run and do not answer: others take their requests, and what hangs for good is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_world import World, running

from micro.backends.remote.liveness import HealthChecks
from micro.ports.free_address import free_address
from micro.ports.pulse import Pulse
from micro.rpc.gen.micro.runtime.v1.runtime_pb import Instance, Service, Status


@asynccontextmanager
async def asking(home: Path, hung: float = 3600.0) -> AsyncGenerator[World]:
    """A world that asks its instances all the time."""
    world = World(home)
    world.settings = replace(world.settings, probe=0.01, silent=0.03, hung=hung)
    async with running(world):
        yield world


def well(service: Service) -> list[Instance]:
    return [one for one in service.instances if one.status == Status.RUNNING]


async def test_one_that_is_silent_is_left_out_and_comes_back_as_soon_as_it_answers(tmp_path: Path) -> None:
    async with asking(tmp_path) as world:
        await world.create(instances=3)
        [first, *others] = (await world.one()).instances
        world.liveness.hush(first.address)
        seen = await world.until(lambda found: len(well(found)) == 2)
        assert {one.id for one in well(seen)} == {one.id for one in others}
        assert seen.status == Status.RUNNING
        assert seen.error.startswith("hello: it has not answered for more than")
        await world.traffic.until(lambda: f"deregistered {first.id}" in world.traffic.events)
        world.liveness.hush()
        # It stood still, so that it registers itself at once.
        await world.until(lambda found: not found.error)
        world.traffic.register(first.id)
        seen = await world.until(lambda found: len(well(found)) == 3)
        assert (seen.error, len(world.launcher.started)) == ("", 3)


async def test_half_of_them_stay_however_many_are_silent(tmp_path: Path) -> None:
    async with asking(tmp_path) as world:
        await world.create(instances=4)
        started = (await world.one()).instances
        world.liveness.hush(*(one.address for one in started))
        seen = await world.until(lambda found: not well(found))
        assert seen.status == Status.ERROR
        await world.traffic.until(lambda: len(world.traffic.nodes) == 2)
        world.liveness.hush()
        for one in started:
            if one.id not in world.traffic.nodes:
                world.traffic.register(one.id)
        await world.until(lambda found: len(well(found)) == 4)


async def test_the_only_one_stays_routed_since_nobody_else_answers(tmp_path: Path) -> None:
    async with asking(tmp_path) as world:
        await world.create()
        [only] = (await world.one()).instances
        world.liveness.hush(only.address)
        seen = await world.until(lambda found: found.status == Status.ERROR)
        assert "not answered" in seen.error
        assert list(world.traffic.nodes) == [only.id]
        world.liveness.hush()
        await world.until(lambda found: found.status == Status.RUNNING)


@pytest.mark.parametrize("count", [1, 2])
async def test_one_that_hangs_is_replaced_and_why_is_told(tmp_path: Path, count: int) -> None:
    async with asking(tmp_path, hung=0.1) as world:
        await world.create(instances=count)
        hanging = (await world.one()).instances[0]
        world.launcher.deaf.add(hanging.id)
        world.liveness.hush(hanging.address)
        seen = await world.until(lambda found: len(well(found)) == count and found.instances[0].id != hanging.id)
        assert seen.instances[0].restarts == 1
        assert seen.error.splitlines()[0] == "hello: it did not answer for 0.1 s"
        assert hanging.id not in world.launcher.running
        assert "did not answer for 0.1 s" in world.launcher.started[-1].note
        await world.traffic.until(lambda: hanging.id not in world.traffic.nodes)


async def test_a_silent_one_can_be_killed(tmp_path: Path) -> None:
    async with asking(tmp_path) as world:
        await world.create(instances=2)
        world.liveness.hush(*(one.address for one in (await world.one()).instances))
        await world.until(lambda found: not well(found))
        await world.delete()
        assert world.launcher.running == {}
        assert await world.read() == []


async def test_one_that_hangs_while_the_runtime_is_away_is_replaced_by_the_next_runtime(tmp_path: Path) -> None:
    async with asking(tmp_path, hung=0.1) as world:
        await world.create()
        [hanging] = (await world.one()).instances
        await world.stack.aclose()
        await world.traffic.deregister("micro", "hello", hanging.id)  # its lease has ended
        world.liveness.hush(hanging.address)
        await world.start()
        await world.until(lambda found: len(well(found)) == 1 and found.instances[0].id != hanging.id)


async def test_what_cannot_be_asked_is_not_taken_for_hanging() -> None:
    asked = asyncio.Event()
    tries = 0

    async def ask() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            asked.set()
        raise OSError(24, "Too many open files")

    def never() -> None:
        raise AssertionError

    losing = asyncio.create_task(Pulse(ask, 0.001, 0.01, 0.01, never, never).lost())
    async with asyncio.timeout(10):
        await asked.wait()
    assert not losing.done()
    losing.cancel()


@asynccontextmanager
async def listening(address: str, answer: bytes) -> AsyncGenerator[list[bytes]]:
    """Somebody who answers every connection so, and what they were told."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"{}"))
        writer.write(answer)
        writer.close()

    host, _, port = address.rpartition(":")
    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(serve, host, int(port))
        stack.callback(server.close)
        yield heard


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"]
)
async def test_any_answer_is_an_answer(answer: bytes) -> None:
    address = free_address("127.0.0.1")
    async with listening(address, answer) as heard:
        await HealthChecks().answered(address)
    assert b"/grpc.health.v1.Health/Check" in heard[0]


async def test_who_does_not_listen_yet_and_who_hangs_up_are_asked_again() -> None:
    address = free_address("127.0.0.1")
    asked = asyncio.create_task(HealthChecks().answered(address))
    async with listening(address, b"") as heard:
        async with asyncio.timeout(10):
            while not heard:
                await asyncio.sleep(0.01)
        assert not asked.done()
    async with listening(address, b"HTTP/1.1 200 OK\r\n\r\n"), asyncio.timeout(10):
        await asked
