"""An instance announces itself once it listens, keeps it up through failures, and takes it back."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from micro.domain import errors
from micro.domain.service import Node, Registration
from micro.framework.registration import Presence, accepting, standstill
from micro.rpc.registrar import Registrar

ME = Registration(namespace="micro", name="foo", version="latest", node=Node("foo-1", "127.0.0.1:1"))


class FakeRegistrar(Registrar):
    """Remembers who is registered; refuses as long as it is told to."""

    def __init__(self) -> None:
        self.present: dict[tuple[str, str, str], float] = {}
        self.history: list[str] = []
        self.broken = False

    async def register(self, registration: Registration, ttl: float) -> None:
        self.history.append("register" if not self.broken else "refused")
        if self.broken:
            raise errors.unavailable("no registry")
        self.present[registration.key] = ttl

    async def deregister(self, registration: Registration) -> None:
        self.history.append("deregister")
        if self.broken:
            raise errors.unavailable("no registry")
        self.present.pop(registration.key, None)


class Clock:
    """Sleeps only as far as the test lets it."""

    def __init__(self) -> None:
        self.asleep: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        self.asleep.put_nowait((seconds, awake))
        await awake.wait()

    async def next(self) -> float:
        """How long the sleeper means to sleep; it is woken."""
        seconds, awake = await self.asleep.get()
        awake.set()
        return seconds


@asynccontextmanager
async def presence(registrar: Registrar, clock: Clock, listening: asyncio.Event) -> AsyncIterator[None]:
    async def listens() -> None:
        await listening.wait()

    kept = Presence(
        ME, registrar, listening=listens, sleep=clock.sleep, delays=lambda: iter([1.0, 2.0, 4.0, *[5.0] * 100])
    )
    async with AsyncExitStack() as stack:
        await kept.start(stack)
        yield


async def test_nothing_is_announced_before_it_listens() -> None:
    registrar, clock, listening = FakeRegistrar(), Clock(), asyncio.Event()
    async with presence(registrar, clock, listening):
        await asyncio.sleep(0)
        assert registrar.history == []
        listening.set()
        await clock.next()
        assert registrar.present == {ME.key: 90.0}
    assert registrar.present == {}


async def test_who_never_listened_takes_nothing_back() -> None:
    registrar = FakeRegistrar()
    async with presence(registrar, Clock(), asyncio.Event()):
        await asyncio.sleep(0)
    assert registrar.history == []


async def test_the_lease_is_renewed_every_thirty_seconds() -> None:
    registrar, clock, listening = FakeRegistrar(), Clock(), asyncio.Event()
    listening.set()
    async with presence(registrar, clock, listening):
        assert [await clock.next() for _ in range(3)] == [30.0] * 3
    assert registrar.history[:3] == ["register"] * 3
    assert registrar.history[-1] == "deregister"


async def test_who_stood_still_registers_at_once() -> None:
    stood = asyncio.Event()

    async def stands() -> None:
        await stood.wait()
        stood.clear()

    async def listens() -> None:
        return

    registrar, clock = FakeRegistrar(), Clock()
    async with AsyncExitStack() as stack:
        made = Presence(ME, registrar, listening=listens, sleep=clock.sleep, standstill=stands)
        await made.start(stack)
        await clock.asleep.get()
        stood.set()
        assert (await clock.asleep.get())[0] == 30.0
        assert registrar.history == ["register", "register"]


async def test_an_event_loop_notices_that_it_stood_still() -> None:
    noticing = asyncio.create_task(standstill(tick=0.001, late=0.05))
    await asyncio.sleep(0.01)
    time.sleep(0.06)  # what is to be noticed
    async with asyncio.timeout(10):
        await noticing


async def test_a_registry_that_is_gone_is_asked_again_soon_and_then_as_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registrar, clock, listening = FakeRegistrar(), Clock(), asyncio.Event()
    listening.set()
    async with presence(registrar, clock, listening):
        assert await clock.next() == 30.0
        registrar.broken = True
        while (waited := await clock.next()) == 30.0:
            pass
        assert [waited, await clock.next(), await clock.next()] == [1.0, 2.0, 4.0]
        registrar.broken = False
        while (waited := await clock.next()) != 30.0:
            assert waited == 5.0
        assert registrar.present == {ME.key: 90.0}
        registrar.broken = True
        while (waited := await clock.next()) == 30.0:
            pass
        assert waited == 1.0
        registrar.broken = False
    assert [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()] == [
        "cannot register: no registry: trying again"
    ] * 2


async def test_a_registry_that_is_gone_does_not_hold_up_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    registrar, clock, listening = FakeRegistrar(), Clock(), asyncio.Event()
    registrar.broken = True
    listening.set()
    async with presence(registrar, clock, listening):
        await clock.next()
    assert "cannot deregister" in caplog.text


async def test_an_address_accepts_as_soon_as_somebody_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        waiting = asyncio.ensure_future(accepting(address))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        held.listen()
        await asyncio.wait_for(waiting, 10)
