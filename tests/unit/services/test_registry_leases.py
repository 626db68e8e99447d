"""Who stays, for how long, and what ends a lease and what does not."""

import asyncio
from contextlib import aclosing

from registry_world import Action, Client, nodes, refusal, register, running, service

from micro.backends.memory.registry import MemoryRegistry
from micro.domain import errors
from micro.domain.service import Registration


async def test_an_instance_that_does_not_renew_expires_and_watchers_are_told_so() -> None:
    async with running() as (registry, clock):
        client = Client()
        async with aclosing(client.watch(registry)) as stream:
            await client.until(stream, Action.SYNCED)
            await register(registry, service("silent"))
            await register(registry, service("loyal"))
            await clock.advance(60)
            await register(registry, service("loyal"))
            await clock.advance(30)
            event = await client.until(stream, Action.EXPIRE)
        assert event.service.nodes[0].id == "silent"
        assert event.service.nodes[0].address == service("silent").nodes[0].address
        assert list(await nodes(registry)) == [("micro", "greeter", "loyal")]
        await clock.advance(60)
        assert await nodes(registry) == {}


async def test_a_lease_lasts_exactly_as_long_as_was_asked_for() -> None:
    async with running() as (registry, clock):
        await register(registry, service("short"), ttl=1)
        await register(registry, service("default"))
        await register(registry, service("long"), ttl=3600)
        for seconds, left in ((0.99, 3), (0.01, 2), (88.99, 2), (0.02, 1), (3509.9, 1), (0.1, 0)):
            await clock.advance(seconds)
            assert len(await nodes(registry)) == left, clock.now()


async def test_a_renewal_may_shorten_the_lease() -> None:
    async with running() as (registry, clock):
        await register(registry, service(), ttl=3600)
        await register(registry, service(), ttl=2)
        await clock.advance(2)
        assert await nodes(registry) == {}


async def test_after_a_restart_every_known_instance_has_a_full_lease() -> None:
    state = MemoryRegistry()
    async with running(state) as (registry, clock):
        await register(registry, service("a"), ttl=10)
        await clock.advance(9)
    async with running(state) as (registry, clock):
        await clock.advance(89)
        assert len(await nodes(registry)) == 1
        await clock.advance(1)
        assert await nodes(registry) == {}


async def test_time_in_which_the_process_stood_still_counts_for_nobody() -> None:
    async with running() as (registry, clock):
        await register(registry, service("a"))
        await register(registry, service("short"), ttl=5)
        await clock.advance(0)
        clock.jump(8 * 3600)
        await clock.advance(1)
        assert len(await nodes(registry)) == 2
        await clock.advance(80)
        assert len(await nodes(registry)) == 2, "whoever lives has had the time to say so"
        await clock.advance(100)
        assert await nodes(registry) == {}


async def test_an_expired_instance_that_comes_back_is_there_again() -> None:
    async with running() as (registry, clock):
        await register(registry, service())
        await clock.advance(90)
        assert await nodes(registry) == {}
        await register(registry, service())
        assert len(await nodes(registry)) == 1


class Unreliable(MemoryRegistry):
    """A state that can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    def healthy(self) -> bool:
        return not self.down

    async def put(self, registration: Registration) -> int:
        self._check()
        return await super().put(registration)

    async def delete(self, key: tuple[str, str, str], *, expired: bool = False) -> int:
        self._check()
        return await super().delete(key, expired=expired)

    def _check(self) -> None:
        if self.down:
            raise errors.unavailable("down")


async def test_while_the_state_is_out_of_reach_reads_and_renewals_go_on_and_nothing_is_lost() -> None:
    state = Unreliable()
    async with running(state) as (registry, clock):
        await register(registry, service("renews"))
        await register(registry, service("silent"))
        state.down = True
        assert not registry.healthy()
        await clock.advance(60)
        await register(registry, service("renews"))
        assert (await refusal(register(registry, service("new")))).kind is errors.Kind.UNAVAILABLE
        await clock.advance(60)
        assert {key[2] for key in await nodes(registry)} == {"renews", "silent"}
        state.down = False
        assert registry.healthy()
        await clock.advance(10)
        assert {key[2] for key in await nodes(registry)} == {"renews"}
        await register(registry, service("new"))
        assert {key[2] for key in await nodes(registry)} == {"renews", "new"}


class Gated(MemoryRegistry):
    """A state whose removals take as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def delete(self, key: tuple[str, str, str], *, expired: bool = False) -> int:
        self.asked.set()
        await self.gate.wait()
        return await super().delete(key, expired=expired)


async def test_a_renewal_that_comes_while_the_lease_is_being_ended_is_not_lost() -> None:
    state = Gated()
    async with running(state) as (registry, clock), asyncio.TaskGroup() as tasks:
        await register(registry, service())
        tasks.create_task(clock.advance(90))
        await state.asked.wait()
        renewal = tasks.create_task(register(registry, service()))
        state.gate.set()
        assert await renewal == 3, "put, ended, put again"
        assert list(await nodes(registry)) == [("micro", "greeter", "a")]
