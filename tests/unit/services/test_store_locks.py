"""Locks and leaders: one at a time, in turn, with tokens that grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from store_world import BOB, StoreWorld, running, turns

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.record import Committed, Operation, Put
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.services._store_leases import key_of


@pytest.fixture
async def world() -> AsyncIterator[StoreWorld]:
    async with running() as made:
        yield made


async def acquire(world: StoreWorld, name: str = "x", *, wait: bool = False, lease: float = 0) -> pb.AcquireResponse:
    return await world.lock.acquire(pb.AcquireRequest(name=name, wait=wait, lease=lease), world.ctx())


async def release(world: StoreWorld, holder: str, name: str = "x") -> None:
    await world.lock.release(pb.ReleaseRequest(name=name, holder=holder), world.ctx())


async def renew(world: StoreWorld, holder: str, lease: float = 0) -> None:
    await world.lock.renew(pb.RenewRequest(name="x", holder=holder, lease=lease), world.ctx())


async def kind(awaitable: object) -> Kind | None:
    try:
        await awaitable  # type: ignore[misc]
    except Error as error:
        return error.kind
    return None


async def test_a_lock_is_held_by_one_until_it_is_given_back(world: StoreWorld) -> None:
    one = await acquire(world)
    assert await kind(acquire(world)) is Kind.ABORTED
    assert (await acquire(world, "another")).token > one.token
    await world.lock.acquire(pb.AcquireRequest(name="x"), world.ctx(BOB))
    await release(world, "somebody else's")
    assert await kind(acquire(world)) is Kind.ABORTED, "only its holder gives it back"
    await release(world, one.holder)
    await release(world, one.holder)
    assert (await acquire(world)).token > one.token


async def test_a_lease_ends_by_itself_and_is_renewed_by_its_holder_only(world: StoreWorld) -> None:
    one = await acquire(world, lease=10)
    world.wall.now += 9_000
    await renew(world, one.holder, lease=10)
    assert await kind(renew(world, "somebody else's")) is Kind.ABORTED
    world.wall.now += 9_000
    assert await kind(acquire(world)) is Kind.ABORTED
    world.wall.now += 1_001
    assert await kind(renew(world, one.holder)) is Kind.ABORTED, "it has ended"
    other = await acquire(world)
    assert other.token > one.token
    await release(world, one.holder)
    assert await kind(acquire(world)) is Kind.ABORTED, "who held it before does not end it"


async def test_those_who_wait_have_it_in_the_order_they_came(world: StoreWorld) -> None:
    first = await acquire(world)
    order: list[int] = []

    async def waiter(number: int) -> None:
        taken = await acquire(world, wait=True)
        order.append(number)
        assert await kind(acquire(world)) is Kind.ABORTED, "nobody passes those that wait"
        await release(world, taken.holder)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(waiter(number))
            await turns()
        await release(world, first.holder)
    assert order == [0, 1, 2, 3, 4]
    assert world.leases.lines.empty(key_of("shop", "lock", "x"))


async def test_who_waits_hears_of_a_lease_that_ends_by_itself(world: StoreWorld) -> None:
    await acquire(world, lease=0.05)
    waiting = asyncio.create_task(acquire(world, wait=True))
    await turns()
    world.wall.now += 51
    assert (await asyncio.wait_for(waiting, 10)).token


async def test_who_gives_up_waiting_is_in_nobodys_way(world: StoreWorld) -> None:
    first = await acquire(world)
    gone = asyncio.create_task(acquire(world, wait=True))
    await turns()
    stays = asyncio.create_task(acquire(world, wait=True))
    await turns()
    gone.cancel()
    await asyncio.wait([gone])
    await release(world, first.holder)
    assert (await asyncio.wait_for(stays, 10)).token > first.token


class Slow:
    """Holds commits of leases up, after they were done."""

    def __init__(self, world: StoreWorld) -> None:
        self._commit = world.state.commit
        self.done, self.go = asyncio.Event(), asyncio.Event()
        self.error: Error | None = None
        world.state.commit = self  # type: ignore[assignment, method-assign]

    async def __call__(self, database: str, operations: tuple[Operation, ...]) -> Committed:
        found = await self._commit(database, operations)
        if isinstance(operations[0], Put):
            self.done.set()
            await self.go.wait()
            if self.error is not None:
                raise self.error
        return found


async def test_who_leaves_while_a_lock_is_taken_does_not_keep_it(world: StoreWorld) -> None:
    slow = Slow(world)
    leaving = asyncio.create_task(acquire(world))
    await slow.done.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    slow.go.set()
    await turns()
    assert (await acquire(world)).token


async def test_a_lock_of_which_nobody_knows_whether_it_was_taken_is_given_back(world: StoreWorld) -> None:
    slow = Slow(world)
    slow.go.set()
    slow.error = errors.unavailable("the connection broke")
    assert await kind(acquire(world)) is Kind.UNAVAILABLE
    slow.error = None
    await turns()
    assert (await acquire(world)).token


class Campaign:
    """One candidate's stream, and what it was told."""

    def __init__(self, world: StoreWorld, name: str) -> None:
        self.told: list[tuple[bool, str, int]] = []
        self.task = asyncio.create_task(self._run(world, name))

    async def _run(self, world: StoreWorld, name: str) -> None:
        request = pb.CampaignRequest(name="boss", candidate=name, lease=9)
        stream = world.leader.campaign(request, world.ctx())
        try:
            async for message in stream:
                self.told.append((message.leads, message.leader, message.token))
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    @property
    def last(self) -> tuple[bool, str]:
        return self.told[-1][:2]

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_one_leads_as_long_as_its_stream_is_open_and_all_hear_who(world: StoreWorld) -> None:
    one = Campaign(world, "one")
    await turns()
    two, three = Campaign(world, "two"), Campaign(world, "three")
    await turns()
    assert one.last == (True, "one")
    assert two.last == three.last == (False, "one")
    await one.end()
    await turns(100)
    assert two.last == (True, "two")
    assert three.last == (False, "two")
    assert two.told[-1][2] == three.told[-1][2] > one.told[-1][2]
    await two.end()
    await turns(100)
    assert three.last == (True, "three")
    await three.end()
    await turns(100)
    assert await world.state.read("shop", ".locks", "leader/boss") is None


async def test_a_leader_keeps_its_lease_alive_and_its_token(world: StoreWorld) -> None:
    one = Campaign(world, "one")
    await turns()
    two = Campaign(world, "two")
    await turns()
    for _ in range(5):
        world.wall.now += 4_000
        await wake(world)
    assert one.told == [(True, "one", one.told[0][2])]
    assert two.told == [(False, "one", one.told[0][2])]
    await one.end()
    await two.end()


async def test_a_leader_that_lost_its_lease_meanwhile_is_told(world: StoreWorld) -> None:
    one = Campaign(world, "one")
    await turns()
    world.wall.now += 60_000
    await wake(world)
    assert [told[:2] for told in one.told] == [(True, "one"), (False, ""), (True, "one")]
    assert one.told[-1][2] > one.told[0][2]
    await one.end()


async def wake(world: StoreWorld) -> None:
    """Let those who wait look at the clock, which would have woken them."""
    world.leases.lines._wake("shop")
    await turns(100)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("Lock/Acquire", {}, "name is missing"),
        ("Lock/Acquire", {"name": "x" * 600}, "too long"),
        ("Lock/Acquire", {"name": "x", "lease": -1}, "lease -1 is none"),
        ("Lock/Acquire", {"name": "x", "lease": "NaN"}, "is none"),
        ("Lock/Acquire", {"name": "x", "lease": 4000}, "up to 3,600"),
        ("Lock/Renew", {"holder": "x"}, "name is missing"),
        ("Lock/Release", {"holder": "x"}, "name is missing"),
        ("Leader/Campaign", {}, "name is missing"),
        ("Leader/Campaign", {"name": "x", "candidate": "x" * 2000}, "candidate is too long"),
    ],
)
async def test_what_cannot_be_a_lease_is_refused(
    world: StoreWorld, path: str, body: dict[str, object], words: str
) -> None:
    status, code, message = await world.error(path, body)
    assert (status, code) == (400, "invalid_argument")
    assert words in message
    assert await world.state.databases() == []
