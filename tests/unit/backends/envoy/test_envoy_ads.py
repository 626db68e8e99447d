"""The control plane with proxies that are no more than a queue: who is woken, who is waited for, who has gone."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from micro.backends.envoy.ads import EnvoyDataplane
from micro.backends.envoy.compile import CLUSTER, ENDPOINTS, ROUTES
from micro.domain import errors
from micro.domain.route import Route, RouteTable
from micro.ports.dataplane import ProxyState
from micro.rpc.gen.envoy.config.core.v3.base_pb import Node
from micro.rpc.gen.envoy.service.discovery.v3.discovery_pb import DeltaDiscoveryRequest
from micro.rpc.gen.google.rpc.status_pb import Status


def table(*names):
    return RouteTable({("micro", name): Route("micro", name, (), ("127.0.0.1:1",)) for name in names})


class Proxy:
    """Does what Envoy does: asks for clusters and routes, then for the endpoints of what it got, and accepts all."""

    def __init__(self, name, plane, refuses=False):
        self.requests = asyncio.Queue()
        self.received = []
        self.refuses = refuses
        self.stream = plane.delta_aggregated_resources(self._sent(), None)
        self.requests.put_nowait(DeltaDiscoveryRequest(node=Node(id=name), type_url=CLUSTER))
        self.requests.put_nowait(DeltaDiscoveryRequest(type_url=ROUTES, resource_names_subscribe=[name]))

    async def _sent(self):
        while (request := await self.requests.get()) is not None:
            yield request

    async def run(self):
        async for response in self.stream:
            self.received.append((response.type_url, [one.name for one in response.resources]))
            answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
            if self.refuses and response.type_url == ROUTES:
                answer.error_detail = Status(code=3, message="not this")
            self.requests.put_nowait(answer)
            if response.type_url == CLUSTER and response.resources:
                names = [one.name for one in response.resources]
                self.requests.put_nowait(DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=names))


@asynccontextmanager
async def proxies(plane, *names, refuses=False):
    made = [Proxy(name, plane, refuses) for name in names]
    tasks = [asyncio.create_task(one.run()) for one in made]
    await settle()
    assert {state.id for state in plane.proxies()} >= set(names)
    try:
        yield made
    finally:
        for one in made:
            one.requests.put_nowait(None)
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks)


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


async def test_before_the_first_table_proxies_are_told_nothing():
    plane = EnvoyDataplane("1")
    async with proxies(plane, "api") as [api]:
        await settle()
        assert api.received == []
        plane.apply(table(), 3)
        assert await plane.sync(3, 5) == 3
        assert api.received == [(CLUSTER, []), (ROUTES, ["api"])]


async def test_sync_waits_for_every_proxy_and_tells_the_lowest():
    plane = EnvoyDataplane("1")
    async with proxies(plane, "mesh", "api") as [mesh, api]:
        plane.apply(table("a"), 5)
        assert await plane.sync(4, 5) == 5
        assert plane.proxies() == [ProxyState("api", 5), ProxyState("mesh", 5)]
        waiting = asyncio.create_task(plane.sync(6, 5))
        await settle()
        assert not waiting.done()
        plane.apply(table("a", "b"), 6)
        assert await waiting == 6
        for one in (mesh, api):
            assert (CLUSTER, ["micro|b"]) in one.received
    assert plane.proxies() == []


async def test_without_proxies_sync_waits_for_the_table_alone():
    plane = EnvoyDataplane("1")
    waiting = asyncio.create_task(plane.sync(2, 5))
    await settle()
    assert not waiting.done()
    plane.apply(table("a"), 2)
    assert await waiting == 2


async def test_who_is_behind_is_named_with_the_reason():
    plane = EnvoyDataplane("1")
    async with proxies(plane, "api", refuses=True):
        plane.apply(table("a"), 5)
        with pytest.raises(errors.Error, match=r"waiting for api \(refused: not this\)") as late:
            await plane.sync(5, 0.2)
        assert late.value.kind is errors.Kind.DEADLINE_EXCEEDED
        assert plane.proxies() == [ProxyState("api", 0, "not this")]
    with pytest.raises(errors.Error, match="the registry has not sent it yet"):
        await plane.sync(99, 0.05)


async def test_a_proxy_that_leaves_is_no_longer_waited_for():
    plane = EnvoyDataplane("1")
    async with proxies(plane, "mesh"):
        async with proxies(plane, "api", refuses=True):
            plane.apply(table("a"), 5)
            await settle()
            waiting = asyncio.create_task(plane.sync(5, 5))
            await settle()
            assert not waiting.done()
        assert await waiting == 5
        assert [state.id for state in plane.proxies()] == ["mesh"]


async def test_a_proxy_whose_connection_breaks_is_forgotten():
    plane = EnvoyDataplane("1")

    async def broken():
        yield DeltaDiscoveryRequest(node=Node(id="api"), type_url=CLUSTER)
        raise ConnectionResetError

    plane.apply(table("a"), 1)
    received = [response async for response in plane.delta_aggregated_resources(broken(), None)]
    assert len(received) <= 1
    assert plane.proxies() == []


async def test_a_proxy_that_has_to_be_there_is_waited_for_until_it_is():
    """After a restart of the control plane the proxies still have the old routes, connected or not."""
    plane = EnvoyDataplane("1", expected=("api",))
    plane.apply(table("a"), 5)
    with pytest.raises(errors.Error, match=r"waiting for api \(not connected\)"):
        await plane.sync(5, 0.05)
    waiting = asyncio.create_task(plane.sync(5, 5))
    async with proxies(plane, "mesh"):
        await settle()
        assert not waiting.done()
        async with proxies(plane, "api"):
            assert await waiting == 5


async def test_a_stranger_among_the_expected_proxies_holds_nobody_up():
    plane = EnvoyDataplane("1", expected=("mesh",))
    async with proxies(plane, "mesh"), proxies(plane, "api", refuses=True):
        plane.apply(table("a"), 5)
        assert await plane.sync(5, 5) == 5
        assert plane.proxies()[0] == ProxyState("api", 0, "not this")
        with pytest.raises(errors.Error) as late:
            await plane.sync(7, 0.05)
        assert "api" not in late.value.message


async def test_a_stream_cannot_hide_another_of_the_same_name_that_lags_behind():
    plane = EnvoyDataplane("1", expected=("mesh",))
    async with proxies(plane, "mesh", refuses=True), proxies(plane, "mesh"):
        plane.apply(table("a"), 5)
        with pytest.raises(errors.Error, match=r"waiting for mesh \(refused: not this\)"):
            await plane.sync(5, 0.05)
        assert plane.proxies() == [ProxyState("mesh", 0, "not this")]
