"""What watchers are told, wherever they begin and however slow they are."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_world import CTX, Action, Client, nodes, register, running, service

from micro.backends.memory.registry import MemoryRegistry
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.services.registry import RegistryService
from micro.testing.clock import FakeClock


@pytest.fixture
async def registry() -> AsyncGenerator[RegistryService]:
    async with running() as (registry, _):
        yield registry


async def test_a_watch_begins_with_a_reset_the_state_and_synced(registry: RegistryService) -> None:
    await register(registry, service("b"))
    await register(registry, service("a"))
    last = await register(registry, service("b", version="v2"))
    client = Client()
    async with aclosing(client.watch(registry)) as stream:
        events = [await client.read(stream) for _ in range(4)]
    assert [event.action for event in events] == [Action.RESET, Action.CREATE, Action.CREATE, Action.SYNCED]
    assert events[0].revision == 0, "nobody may resume from before the state"
    assert [event.service.nodes[0].id for event in events[1:3]] == ["a", "b"], "oldest change first"
    assert not any(event.service.descriptors for event in events[1:3])
    assert events[3].revision == last


async def test_a_resumed_watch_tells_what_happened_in_between_and_no_more(registry: RegistryService) -> None:
    client = Client()
    async with aclosing(client.watch(registry)) as stream:
        await register(registry, service("a"))
        await client.until(stream, Action.SYNCED)
    client.events.clear()
    await register(registry, service("b"))
    await register(registry, service("a", version="v2"))
    await registry.deregister(pb.DeregisterRequest(name="greeter", node_id="b"), CTX)
    async with aclosing(client.watch(registry)) as stream:
        await client.until(stream, Action.SYNCED)
    assert client.events == [(Action.CREATE, "b"), (Action.UPDATE, "a"), (Action.DELETE, "b")]


@pytest.mark.parametrize("revision", [10**9, 2**64 - 1])
async def test_a_watch_from_an_unknown_revision_begins_anew(registry: RegistryService, revision: int) -> None:
    await register(registry, service("a"))
    client = Client()
    client.revision = revision
    async with aclosing(client.watch(registry)) as stream:
        assert (await client.read(stream)).action == Action.RESET
        await client.until(stream, Action.SYNCED)
    assert list(client.nodes) == [("micro", "greeter", "a")]


async def test_a_watch_resumes_over_a_restart_of_the_registry() -> None:
    state = MemoryRegistry()
    client = Client()
    async with running(state) as (registry, _), aclosing(client.watch(registry)) as stream:
        await client.until(stream, Action.SYNCED)
        await register(registry, service("a"))
        await registry.deregister(pb.DeregisterRequest(name="greeter", node_id="a"), CTX)
        await client.until(stream, Action.DELETE)
    async with running(state) as (registry, _), aclosing(client.watch(registry)) as stream:
        assert (await client.read(stream)).action == Action.SYNCED


async def test_a_watcher_that_is_too_slow_is_given_the_state_anew() -> None:
    """However far it falls behind, it costs no memory: it keeps a revision, and the history is bounded."""
    async with running(history=5) as (registry, _):
        client = Client()
        async with aclosing(client.watch(registry)) as stream:
            await client.until(stream, Action.SYNCED)
            for number in range(50):
                await register(registry, service("busy", version=f"v{number}"))
            assert (await client.read(stream)).action == Action.RESET
            await client.until(stream, Action.SYNCED)
        assert client.addresses() == await nodes(registry)


async def test_a_watch_may_be_of_one_service_in_one_namespace(registry: RegistryService) -> None:
    client = Client(name="greeter", namespace="mine")
    async with aclosing(client.watch(registry)) as stream:
        await client.until(stream, Action.SYNCED)
        await register(registry, service("x", name="adder", namespace="mine"))
        await register(registry, service("y"))
        await register(registry, service("z", namespace="mine"))
        await client.until(stream, Action.CREATE)
    assert client.events == [(Action.CREATE, "z")]


async def test_many_watchers_all_see_everything(registry: RegistryService) -> None:
    async def follow() -> list[tuple[Any, str]]:
        client = Client()
        async with aclosing(client.watch(registry)) as stream:
            await client.until(stream, Action.CREATE, "last")
        return client.events

    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow()) for _ in range(50)]
        for node in ("first", "second", "last"):
            await register(registry, service(node))
    assert {tuple(name for _, name in follower.result()) for follower in followers} == {("first", "second", "last")}


class Reader:
    """Reads a client's watch as far as it goes without waiting."""

    def __init__(self, client: Client, registry: RegistryService) -> None:
        self._client = client
        self._stream = client.watch(registry)
        self._reading: asyncio.Task[pb.WatchResponse] | None = None

    async def read(self, count: int) -> None:
        for _ in range(count):
            self._reading = self._reading or asyncio.create_task(self._client.read(self._stream))
            for _ in range(5):
                await asyncio.sleep(0)
            if not self._reading.done():
                return
            self._reading.result()
            self._reading = None

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._stream.aclose()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.sampled_from("abc"), st.sampled_from(["v1", "v2"]), st.sampled_from([2, 30])),
        st.tuples(st.just("steal"), st.sampled_from("abc")),
        st.tuples(st.just("deregister"), st.sampled_from("abc")),
        st.tuples(st.just("pass"), st.sampled_from([1, 2, 29])),
        st.tuples(st.just("read"), st.integers(1, 4)),
        st.tuples(st.just("resume")),
        st.tuples(st.just("restart")),
    ),
    max_size=30,
)


@given(STEPS, st.sampled_from([1, 3, 100]))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_a_watcher_ends_up_with_what_is_there(steps: list[Any], history: int) -> None:
    """One watcher reads as it likes and resumes from where it was; the registry restarts below it."""
    asyncio.run(_scenario(steps, history))


async def _scenario(steps: list[Any], history: int) -> None:
    state = MemoryRegistry()
    client = Client()
    while True:
        async with running(state, history=history) as (registry, clock):
            rest = await _play(steps, registry, clock, client)
            if rest is None:
                async with aclosing(client.watch(registry)) as stream:
                    await client.until(stream, Action.SYNCED)
                assert client.addresses() == await nodes(registry)
                return
            steps = rest


async def _play(steps: list[Any], registry: RegistryService, clock: FakeClock, client: Client) -> list[Any] | None:
    """Play until a restart, and return what is left then; None at the end."""
    reader = Reader(client, registry)
    for number, (what, *arguments) in enumerate(steps):
        match what, arguments:
            case "register", (node, version, ttl):
                await register(registry, service(node, version=version), ttl)
            case "steal", (node,):
                await register(registry, service("thief-" + node, address=service(node).nodes[0].address))
            case "deregister", (node,):
                await registry.deregister(pb.DeregisterRequest(name="greeter", node_id=node), CTX)
            case "pass", (seconds,):
                await clock.advance(seconds)
            case "read", (count,):
                await reader.read(count)
            case "resume", _:
                await reader.close()
                reader = Reader(client, registry)
            case "restart", _:
                await reader.close()
                return steps[number + 1 :]
    await reader.close()
    return None
