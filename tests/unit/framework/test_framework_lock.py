"""Locks and leadership: who holds them, and what becomes of a block that needs what is lost."""

# ruff: noqa: PT012 - what a block raises at its end is what is tested

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from micro import client, store
from micro.domain.errors import Error, Kind
from micro.ports.store import now
from micro.testing.local import LocalChannel
from micro.testing.platform import Platform, running

pytest_plugins = ("micro.testing.fixtures",)
pytestmark = pytest.mark.usefixtures("platform")


async def test_one_at_a_time_and_the_token_grows() -> None:
    inside, tokens = 0, []

    async def work() -> None:
        nonlocal inside
        async with store.lock("nightly") as lock:
            assert lock.held
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            tokens.append(lock.token)
            inside -= 1
        assert not lock.held

    await asyncio.gather(*(work() for _ in range(5)))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 5


async def test_a_lock_that_is_held_is_waited_for_as_long_as_one_likes() -> None:
    async with store.lock("nightly"):
        with pytest.raises(Error, match="held") as at_once:
            await store.lock("nightly", timeout=0).__aenter__()
        with pytest.raises(Error, match=r"'nightly' was not free within 0\.05 s") as in_time:
            await store.lock("nightly", timeout=0.05).__aenter__()
    assert (at_once.value.kind, in_time.value.kind) == (Kind.ABORTED, Kind.DEADLINE_EXCEEDED)
    async with store.lock("nightly", timeout=0):
        pass


async def test_what_the_block_raises_goes_on_and_frees_the_lock() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with store.lock("nightly"):
            raise ValueError("mine")
    async with store.lock("nightly", timeout=0) as lock:
        with pytest.raises(RuntimeError, match="held by this object"):
            await lock.__aenter__()


async def test_a_cancelled_block_frees_the_lock() -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with store.lock("nightly"):
            entered.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await entered.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    async with store.lock("nightly", timeout=0):
        pass


async def test_a_lease_is_renewed_while_the_block_runs() -> None:
    renewed = asyncio.Event()

    async with store.lock("nightly", lease=0.3) as lock:

        async def watch() -> None:
            first = lock._until
            while lock._until == first:
                await asyncio.sleep(0.01)
            renewed.set()

        async with asyncio.timeout(20):
            await watch()
        assert lock.held
    assert renewed.is_set()


class Absent:
    """A store that is there until it is not."""

    name = "store"

    def __init__(self, app: Any) -> None:
        self._app = app
        self.away = False
        self.missed = asyncio.Event()

    async def __call__(self, *asgi: Any) -> None:
        if not self.away:
            await self._app(*asgi)
        else:
            self.missed.set()


@pytest.fixture
async def absent(platform: Platform) -> AsyncIterator[Absent]:
    made: Any = Absent(platform.services["store"])
    with client.pool.through(LocalChannel({"store": made})):
        yield made


async def test_a_lock_that_cannot_be_renewed_cancels_its_block(absent: Absent) -> None:
    cancelled = False
    with pytest.raises(Error, match="lock 'nightly' is lost: its lease ended before it could be renewed") as caught:
        async with store.lock("nightly", lease=0.2) as lock:
            absent.away = True
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                assert not lock.held
                raise
    assert cancelled
    assert caught.value.kind is Kind.ABORTED
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_waits_for_a_lock_goes_on_when_the_store_comes_back(absent: Absent) -> None:
    absent.away = True

    async def work() -> int:
        async with store.lock("nightly", timeout=20) as lock:
            return lock.token

    working = asyncio.create_task(work())
    await absent.missed.wait()
    with pytest.raises(Error) as caught:
        await store.lock("nightly", timeout=0).__aenter__()
    assert caught.value.kind is Kind.UNAVAILABLE
    absent.away = False
    assert await working > 0


async def test_a_lock_that_another_holds_by_now_cancels_its_block() -> None:
    ahead = 0

    async with running(clock=lambda: now() + ahead):
        with pytest.raises(Error, match="lock 'nightly' is lost"):
            async with store.lock("nightly", lease=0.3) as lock:
                ahead = 10_000  # as if this process had been stopped for so long
                async with store.lock("nightly") as other:
                    assert other.token > lock.token
                    await asyncio.Event().wait()


async def test_who_gives_up_the_lead_is_followed_by_the_next() -> None:
    led: list[str] = []

    async def lead(name: str) -> None:
        async with store.leader("sweeper", candidate=name) as term:
            assert term.leads
            led.append(f"{term.leader} {len(led)}")

    async with asyncio.timeout(30):
        await asyncio.gather(lead("a"), lead("b"), lead("c"))
    assert sorted(one[0] for one in led) == ["a", "b", "c"]


async def test_everybody_hears_who_leads() -> None:
    async with store.leader("sweeper", candidate="ann") as term, asyncio.timeout(30):
        heard = []
        async with contextlib.aclosing(aiter(store.leader("sweeper", candidate="bob"))) as terms:
            async for other in terms:
                heard.append(other)
                if other.leader:
                    break
    assert heard[-1] == store.Term(False, "ann", term.token)


async def test_a_lead_that_is_lost_cancels_its_block(platform: Platform) -> None:
    app = platform.services["store"]
    calls: list[asyncio.Task[Any] | None] = []

    class Cut:
        name = "store"

        async def __call__(self, *asgi: Any) -> None:
            calls.append(asyncio.current_task())
            await app(*asgi)

    made: Any = Cut()
    with (
        client.pool.through(LocalChannel({"store": made})),
        pytest.raises(Error, match="the lead of 'sweeper' is lost") as caught,
    ):
        async with store.leader("sweeper") as term:
            assert term.leads
            campaign = calls[0]
            assert campaign is not None
            campaign.cancel()
            await asyncio.Event().wait()
    assert caught.value.kind is Kind.ABORTED
