"""The control plane's service between a registry that comes and goes and a data plane that must not notice."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from callers import calling

from micro.domain import errors, route
from micro.domain.route import RouteTable
from micro.domain.service import Endpoint, Node, Registration, Value
from micro.ports.dataplane import Dataplane, ProxyState
from micro.rpc import convert
from micro.rpc.gen.micro.network.v1 import network_pb as pb
from micro.rpc.gen.micro.registry.v1.registry_pb import WatchResponse
from micro.services.network import NetworkService

Action = WatchResponse.Action
EMPTY = Value("Empty", "message")
RESET = WatchResponse(action=Action.RESET)


def synced(revision):
    return WatchResponse(action=Action.SYNCED, revision=revision)


def change(action, revision, name, node="1", namespace="micro"):
    endpoint = Endpoint(f"{name}.Call", f"/{name}.{name}/Call", EMPTY, EMPTY, timeout=3.0)
    registration = Registration(namespace, name, "latest", Node(f"{name}-{node}", f"127.0.0.1:{node}"), (endpoint,))
    return WatchResponse(action=action, revision=revision, service=convert.to_service(registration))


def created(revision, name, node="1", namespace="micro"):
    return change(Action.CREATE, revision, name, node, namespace)


class Registry:
    """A watch that the test writes: each connection is what it asked for and a queue; an error ends it."""

    def __init__(self):
        self.asked = []
        self.connected = asyncio.Event()
        self._said = asyncio.Queue()

    async def watch(self, request):
        self.asked.append(request.revision)
        self.connected.set()
        while not isinstance(said := await self._said.get(), Exception):
            yield said
        self.connected.clear()
        raise said

    def say(self, *responses):
        for response in responses:
            self._said.put_nowait(response)

    async def lose(self):
        await self.connected.wait()
        self.say(errors.unavailable("connection refused"))
        while self.connected.is_set():
            await asyncio.sleep(0)


class Recorder(Dataplane):
    """Remembers each table that it was told."""

    def __init__(self):
        self.told = []
        self.broken = False
        self._news = asyncio.Event()

    def apply(self, table: RouteTable, revision: int, quotas=None) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.told.append((table, revision))
        self.quotas = dict(quotas or {})
        self._news.set()

    def proxies(self) -> list[ProxyState]:
        return [ProxyState("api", self.told[-1][1], "why not")]

    async def sync(self, revision: int, timeout: float) -> int:
        while not self.told or self.told[-1][1] < revision:
            self._news.clear()
            await self._news.wait()
        return self.told[-1][1]

    @property
    def services(self):
        return [(route.service, route.addresses) for route in self.told[-1][0]]


@asynccontextmanager
async def network():
    registry, plane = Registry(), Recorder()
    service = NetworkService(registry.watch, plane)
    async with AsyncExitStack() as stack, asyncio.timeout(10):
        await service.start(stack)
        yield registry, plane, service


async def test_what_is_registered_is_routed():
    async with network() as (registry, plane, service):
        registry.say(RESET, created(3, "books"), created(5, "books", "2"), created(4, "shop"), synced(5))
        await plane.sync(5, 1)
        assert plane.services == [("books", ("127.0.0.1:1", "127.0.0.1:2")), ("shop", ("127.0.0.1:1",))]
        registry.say(change(Action.DELETE, 6, "books", "1"), change(Action.EXPIRE, 7, "shop"))
        await plane.sync(7, 1)
        assert plane.services == [("books", ("127.0.0.1:2",))]
        assert service.healthy()


async def test_before_the_registry_has_told_everything_the_data_plane_is_told_nothing():
    async with network() as (registry, plane, service):
        registry.say(RESET, created(3, "books"))
        await registry.connected.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert plane.told == []
        assert not service.healthy()
        registry.say(synced(3))
        await plane.sync(3, 1)
        assert len(plane.told) == 1


async def test_while_the_registry_is_away_its_routes_stay_and_it_is_asked_for_what_follows():
    async with network() as (registry, plane, _):
        registry.say(RESET, created(3, "books"), synced(4))
        await plane.sync(4, 1)
        await registry.lose()
        await registry.connected.wait()
        assert registry.asked == [0, 4]
        assert plane.services == [("books", ("127.0.0.1:1",))]
        registry.say(created(9, "shop"))
        await plane.sync(9, 1)
        assert [name for name, _ in plane.services] == ["books", "shop"]


async def test_a_state_told_anew_replaces_the_old_one_and_what_is_alike_stays_the_same():
    async with network() as (registry, plane, _):
        registry.say(RESET, created(1, "kept"), created(2, "gone"), synced(2))
        await plane.sync(2, 1)
        before = plane.told[-1][0]
        registry.say(RESET, created(1, "kept"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert plane.told[-1][0] == before, "not before all of it is there"
        registry.say(created(8, "new"), synced(8))
        await plane.sync(8, 1)
        after = plane.told[-1][0]
        assert [route.service for route in after] == ["kept", "new"]
        assert after.get("micro", "kept") is before.get("micro", "kept")


async def test_a_state_that_breaks_off_half_told_changes_nothing():
    async with network() as (registry, plane, _):
        registry.say(RESET, created(1, "books"), synced(1))
        await plane.sync(1, 1)
        registry.say(RESET, created(7, "shop"))
        await registry.lose()
        await registry.connected.wait()
        assert registry.asked == [0, 1]
        registry.say(created(9, "more"))
        await plane.sync(9, 1)
        assert [name for name, _ in plane.services] == ["books", "more"]


async def test_a_burst_becomes_a_few_tables():
    async with network() as (registry, plane, _):
        registry.say(RESET, synced(0))
        registry.say(*(created(number, f"s{number}") for number in range(1, 501)))
        await plane.sync(500, 1)
        assert len(plane.services) == 500
        assert len(plane.told) < 50


async def test_what_cannot_be_routed_is_left_out():
    async with network() as (registry, plane, _):
        odd = created(2, "odd")
        odd.service.nodes = []
        registry.say(RESET, odd, created(3, "books"), synced(3))
        await plane.sync(3, 1)
        assert [name for name, _ in plane.services] == ["books"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (pb.RoutesRequest(), [("micro", "books"), ("micro", "shop"), ("other", "books")]),
        (pb.RoutesRequest(namespace="micro"), [("micro", "books"), ("micro", "shop")]),
        (pb.RoutesRequest(service="books"), [("micro", "books"), ("other", "books")]),
        (pb.RoutesRequest(namespace="none"), []),
    ],
)
async def test_routes_are_listed_and_narrowed(request_, expected):
    async with network() as (registry, plane, service):
        known = [created(1, "books", namespace="other"), created(2, "shop"), created(3, "books")]
        registry.say(RESET, *known, synced(3))
        await plane.sync(3, 1)
        told = await service.routes(request_, calling())
        assert [(route.namespace, route.service) for route in told.routes] == expected
        for route in told.routes:
            assert (route.addresses, route.timeout) == (["127.0.0.1:1"], 3.0)
            assert route.rpc_services == [f"{route.service}.{route.service}"]


async def test_limits_reach_the_data_plane_without_a_change_of_the_registry():
    async with network() as (registry, plane, service):
        registry.say(RESET, created(1, "books"), synced(1))
        await plane.sync(1, 1)
        told = len(plane.told)
        service.limit({"shop": 5, "free": 0})
        while len(plane.told) == told:
            await asyncio.sleep(0)
        assert plane.quotas == {"shop": 5}
        assert plane.told[-1][1] == 1
        told = len(plane.told)
        service.limit({"shop": 5})
        registry.say(created(2, "toys"))
        await plane.sync(2, 1)
        assert len(plane.told) == told + 1, "the same limits are no news"


async def test_proxies_and_sync_are_the_data_planes_answers():
    async with network() as (registry, _, service):
        registry.say(RESET, synced(4))
        assert (await service.sync(pb.SyncRequest(revision=4), None)).revision == 4
        [proxy] = (await service.proxies(pb.ProxiesRequest(), None)).proxies
        assert (proxy.id, proxy.revision, proxy.error) == ("api", 4, "why not")


async def test_a_service_that_no_route_can_be_made_of_costs_the_others_nothing(monkeypatch, caplog):
    made = route.of_service

    def picky(registrations):
        known = list(registrations)
        if known and known[0].name == "odd" and len(known) > 1:
            raise OverflowError("too much")
        return made(known)

    monkeypatch.setattr(route, "of_service", picky)
    async with network() as (registry, plane, service):
        registry.say(RESET, created(1, "odd"), created(2, "books"), synced(2))
        await plane.sync(2, 1)
        assert [name for name, _ in plane.services] == ["books", "odd"]
        registry.say(created(3, "odd", "2"), created(4, "shop"))
        await plane.sync(4, 1)
        assert [name for name, _ in plane.services] == ["books", "shop"]
        assert "service 'odd' of namespace 'micro' cannot be routed" in caplog.text
        registry.say(change(Action.DELETE, 5, "odd", "2"))
        await plane.sync(5, 1)
        assert [name for name, _ in plane.services] == ["books", "odd", "shop"]
        assert service.healthy()


async def test_whoever_no_longer_publishes_is_not_healthy():
    async with network() as (registry, plane, service):
        registry.say(RESET, created(1, "books"), synced(1))
        await plane.sync(1, 1)
        assert service.healthy()
        plane.broken = True
        registry.say(created(2, "shop"))
        while service.healthy():
            await asyncio.sleep(0)
