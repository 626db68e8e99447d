"""The registry service over a state in memory and a clock that the test holds."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro.backends.memory.registry import MemoryRegistry
from micro.domain import errors
from micro.domain.service import Registration
from micro.ports.registry import Registry as State
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.services.registry import RegistryService
from micro.testing.clock import FakeClock

Action = pb.WatchResponse.Action
CTX = SimpleNamespace(namespace="micro")


def service(
    node: str = "a", name: str = "greeter", version: str = "latest", address: str | None = None, namespace: str = ""
) -> pb.Service:
    return pb.Service(
        name=name,
        version=version,
        namespace=namespace,
        nodes=[pb.Node(id=node, address=address or f"127.0.0.1:{4000 + sum(node.encode())}", metadata={"k": node})],
        endpoints=[pb.Endpoint(name="Greeter.Hello", path="/greeter.Greeter/Hello", kind="unary")],
        descriptors=b"descriptors",
    )


class Client:
    """A watcher as they are: it keeps what it was told, and where it was."""

    def __init__(self, **request: Any) -> None:
        self._request = request
        self.revision = 0
        self.nodes: dict[tuple[str, str, str], pb.Service] = {}
        self.events: list[tuple[Any, str]] = []

    async def read(self, stream: AsyncIterator[pb.WatchResponse]) -> pb.WatchResponse:
        async with asyncio.timeout(5):
            event = await anext(stream)
        if event.action == Action.RESET:
            self.nodes.clear()
        self.revision = event.revision or self.revision
        if event.service is not None:
            node = event.service.nodes[0]
            self.events.append((event.action, node.id))
            key = (event.service.namespace, event.service.name, node.id)
            if event.action in (Action.CREATE, Action.UPDATE):
                self.nodes[key] = event.service
            else:
                self.nodes.pop(key, None)
        return event

    def watch(self, registry: RegistryService) -> Any:
        return registry.watch(pb.WatchRequest(revision=self.revision, **self._request), CTX)

    async def until(self, stream: AsyncIterator[pb.WatchResponse], action: Any, node: str = "") -> pb.WatchResponse:
        while True:
            event = await self.read(stream)
            if event.action == action and (not node or event.service.nodes[0].id == node):
                return event

    def addresses(self) -> dict[tuple[str, str, str], tuple[str, str]]:
        return {key: (entry.version, entry.nodes[0].address) for key, entry in self.nodes.items()}


@asynccontextmanager
async def running(
    state: State | None = None, clock: FakeClock | None = None, history: int = 4096
) -> AsyncIterator[tuple[RegistryService, FakeClock]]:
    clock = clock or FakeClock()
    async with AsyncExitStack() as stack:
        registry = RegistryService(state or MemoryRegistry(), clock=clock, history=history)
        await registry.start(stack)
        yield registry, clock


@pytest.fixture
async def registry() -> AsyncGenerator[RegistryService]:
    async with running() as (registry, _):
        yield registry


async def register(registry: RegistryService, entry: pb.Service, ttl: float = 0) -> int:
    return (await registry.register(pb.RegisterRequest(service=entry, ttl=ttl), CTX)).revision


async def nodes(registry: RegistryService, namespace: str = "micro") -> dict[tuple[str, str, str], tuple[str, str]]:
    response = await registry.list_services(pb.ListServicesRequest(namespace=namespace), CTX)
    return {
        (entry.namespace, entry.name, node.id): (entry.version, node.address)
        for entry in response.services
        for node in entry.nodes
    }


async def refusal(call: Any) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        await call
    return caught.value


# --- what is registered ----------------------------------------------------------------------------------------------


async def test_a_registered_service_is_found_with_all_it_told(registry: RegistryService) -> None:
    await register(registry, service())
    (found,) = (await registry.get_service(pb.GetServiceRequest(name="greeter"), CTX)).services
    assert found == pb.Service(**{**_fields(service()), "namespace": "micro"})


def _fields(message: pb.Service) -> dict[str, Any]:
    names = ("name", "version", "namespace", "metadata", "nodes", "endpoints", "descriptors")
    fields = {name: getattr(message, name) for name in names}
    fields["endpoints"] = [
        pb.Endpoint(name=e.name, path=e.path, kind=e.kind, request=pb.Value(), response=pb.Value())
        for e in message.endpoints
    ]
    return fields


async def test_a_service_is_one_entry_a_version_with_all_its_nodes(registry: RegistryService) -> None:
    for entry in (service("b"), service("c", version="v2"), service("a"), service("z", name="adder")):
        await register(registry, entry)
    listed = (await registry.list_services(pb.ListServicesRequest(), CTX)).services
    assert [(entry.name, entry.version, [node.id for node in entry.nodes]) for entry in listed] == [
        ("adder", "latest", ["z"]),
        ("greeter", "latest", ["a", "b"]),
        ("greeter", "v2", ["c"]),
    ]
    assert not any(entry.descriptors for entry in listed), "descriptors are for GetService"


async def test_namespaces_do_not_see_each_other_but_all_see_the_core(registry: RegistryService) -> None:
    await register(registry, service("mine", namespace="mine"))
    await register(registry, service("store-1", name="store"))
    mine = SimpleNamespace(namespace="mine")
    assert (await registry.get_service(pb.GetServiceRequest(name="greeter"), mine)).services
    assert (await registry.get_service(pb.GetServiceRequest(name="store"), mine)).services
    error = await refusal(registry.get_service(pb.GetServiceRequest(name="greeter"), CTX))
    assert error.kind is errors.Kind.NOT_FOUND
    assert "greeter" in error.message
    assert list(await nodes(registry, "mine")) == [("mine", "greeter", "mine")]


async def test_a_name_of_the_platform_cannot_be_taken_elsewhere(registry: RegistryService) -> None:
    error = await refusal(register(registry, service(name="auth", namespace="mine")))
    assert error.kind is errors.Kind.PERMISSION_DENIED


async def test_deregistering_takes_one_instance_out_and_twice_is_fine(registry: RegistryService) -> None:
    await register(registry, service("a"))
    await register(registry, service("b"))
    request = pb.DeregisterRequest(name="greeter", node_id="a")
    first = await registry.deregister(request, CTX)
    second = await registry.deregister(request, CTX)
    assert second.revision == first.revision
    assert list(await nodes(registry)) == [("micro", "greeter", "b")]


async def test_registering_the_same_again_changes_nothing(registry: RegistryService) -> None:
    first = await register(registry, service())
    assert await register(registry, service()) == first
    assert await register(registry, service(version="v2")) > first


async def test_a_new_process_on_a_reused_address_takes_the_place_of_the_old_one(registry: RegistryService) -> None:
    await register(registry, service("old", address="127.0.0.1:5000"))
    await register(registry, service("other", address="127.0.0.1:5001"))
    await register(registry, service("new", name="adder", address="127.0.0.1:5000"))
    assert set(await nodes(registry)) == {("micro", "greeter", "other"), ("micro", "adder", "new")}


async def test_an_instance_may_move_to_another_address(registry: RegistryService) -> None:
    await register(registry, service("a", address="127.0.0.1:5000"))
    await register(registry, service("a", address="127.0.0.1:5001"))
    await register(registry, service("b", address="127.0.0.1:5000"))
    assert {key[2] for key in await nodes(registry)} == {"a", "b"}


@pytest.mark.parametrize(
    ("entry", "ttl", "word"),
    [
        (None, 0, "service is missing"),
        (pb.Service(name="greeter"), 0, "0 nodes"),
        (pb.Service(name="Not A Name", nodes=[pb.Node(id="a", address="h:1")]), 0, "not a service name"),
        (service(namespace="No!"), 0, "not a namespace"),
        (service(version="no version"), 0, "not a version"),
        (pb.Service(name="greeter", nodes=[pb.Node(id="", address="h:1")]), 0, "not a node id"),
        (pb.Service(name="greeter", nodes=[pb.Node(id="a b", address="h:1")]), 0, "not a node id"),
        *[
            (service(address=address), 0, "not an address")
            for address in ("here", "host:", ":80", "host:0", "host:65536", "host:-1", "ho st:80", "::1:80", "a:1\n")
        ],
        (service(), 0.5, "ttl"),
        (service(), 3601, "ttl"),
        (service(), -1, "ttl"),
        (service(), float("nan"), "ttl"),
        (pb.Service(name="greeter", metadata={"k": "v" * 20000}, nodes=service().nodes), 0, "too large"),
    ],
)
async def test_a_wrong_registration_is_refused_and_changes_nothing(
    registry: RegistryService, entry: pb.Service | None, ttl: float, word: str
) -> None:
    error = await refusal(registry.register(pb.RegisterRequest(service=entry, ttl=ttl), CTX))
    assert error.kind is errors.Kind.INVALID_ARGUMENT
    assert word in error.message
    assert "\n" not in error.message
    assert await nodes(registry) == {}


async def test_descriptors_beyond_the_limit_are_refused(registry: RegistryService) -> None:
    entry = service()
    entry.descriptors = bytes(4 * 1024 * 1024 + 1)
    assert (await refusal(register(registry, entry))).kind is errors.Kind.RESOURCE_EXHAUSTED


async def test_ipv6_and_host_names_are_addresses(registry: RegistryService) -> None:
    for number, address in enumerate(("[::1]:8080", "greeter.svc.cluster.local:65535")):
        await register(registry, service(f"n{number}", address=address))
    assert len(await nodes(registry)) == 2


async def test_deregistering_needs_a_name_and_a_node(registry: RegistryService) -> None:
    for request in (pb.DeregisterRequest(name="greeter"), pb.DeregisterRequest(node_id="a")):
        assert (await refusal(registry.deregister(request, CTX))).kind is errors.Kind.INVALID_ARGUMENT


# --- leases ----------------------------------------------------------------------------------------------------------


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


# --- watching --------------------------------------------------------------------------------------------------------


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
