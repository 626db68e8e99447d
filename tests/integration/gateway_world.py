"""Real Envoys for tests, fed by the real ADS code over a registry that the test writes itself."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from micro.backends.envoy import bootstrap
from micro.backends.envoy.admin import Admin
from micro.backends.envoy.ads import EnvoyDataplane
from micro.backends.envoy.compile import CLUSTER, Snapshot
from micro.backends.envoy.front import Front
from micro.domain import route
from micro.domain.address import split
from micro.domain.service import Endpoint, Node, Registration, StreamKind, Value
from micro.ports.free_address import free_address
from micro.rpc import asgi_server
from micro.rpc.gen.envoy.config.cluster.v3.cluster_pb import Cluster
from micro.rpc.gen.envoy.service.discovery.v3.discovery_pb import DeltaDiscoveryRequest, Resource
from micro.rpc.wkt import Any as Any_
from micro.rpc.wkt import Duration, oneof

HERE = Path(__file__).parent
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"
EMPTY = Value("Empty", "message")


def free_port() -> int:
    return split(free_address())[1]


def registration(
    name: str,
    address: str,
    *,
    namespace: str = "micro",
    rpc: str = "",
    streams: Sequence[tuple[str, StreamKind]] = (),
    timeout: float = 10.0,
) -> Registration:
    rpc = rpc or f"{name}.{name.title()}"
    handler = rpc.rpartition(".")[2]
    methods = [("Call", StreamKind.UNARY), *streams]
    return Registration(
        namespace=namespace,
        name=name,
        version="latest",
        node=Node(f"{name}-{address}", address),
        endpoints=tuple(
            Endpoint(f"{handler}.{method}", f"/{rpc}/{method}", EMPTY, EMPTY, kind, timeout) for method, kind in methods
        ),
    )


class Process:
    """A child that is ended with the test."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self.argv, self.env = tuple(argv), env
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._child = subprocess.Popen(self.argv, env={**os.environ, **self.env}, stdout=sys.stderr)

    def freeze(self) -> None:
        """It does nothing from now on."""
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)
        # On a busy machine its threads go on until each of them had its turn.
        os.waitid(os.P_PID, self._child.pid, os.WSTOPPED)

    def kill(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()
            self._child = None


class Counted(EnvoyDataplane):
    """Remembers what was pushed to whom: (proxy, type, names, removed names)."""

    def __init__(self, version: str, front: Front | None = None) -> None:
        super().__init__(version, front)
        self._broken = False
        self.pushed: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = []

    def apply(self, table: route.RouteTable, revision: int, quotas: Mapping[str, int] | None = None) -> None:
        super().apply(table, revision, quotas)
        if self._broken:
            self._broken = False
            assert self._snapshot is not None
            clusters = dict(self._snapshot.resources[CLUSTER])
            eds = oneof("type", Cluster.DiscoveryType.EDS)
            nonsense = Any_.pack(Cluster(name="nonsense", cluster_discovery_type=eds))
            clusters["nonsense"] = Resource(name="nonsense", version="1", resource=nonsense)
            self._snapshot = Snapshot(revision, {**self._snapshot.resources, CLUSTER: clusters})

    def alter(self, seconds: int) -> int:
        """Apply every cluster anew with another timeout, as an upgrade of the platform may; returns the revision."""
        assert self._snapshot is not None
        clusters = {}
        for name, one in self._snapshot.resources[CLUSTER].items():
            assert one.resource is not None
            cluster = Cluster.from_binary(one.resource.value)
            cluster.connect_timeout = Duration(seconds=seconds)
            clusters[name] = Resource(name=name, version=f"{seconds}", resource=Any_.pack(cluster))
        self._snapshot = Snapshot(self._snapshot.revision + 1, {**self._snapshot.resources, CLUSTER: clusters})
        for stream in self._streams:
            stream.wake.set()
        return self._snapshot.revision

    def break_next(self) -> None:
        """Let the next table contain a cluster that Envoy refuses: one that says not where its instances are."""
        self._broken = True

    async def delta_aggregated_resources(self, request: Any, ctx: Any) -> AsyncIterator[Any]:
        proxy = ""

        async def named() -> AsyncIterator[DeltaDiscoveryRequest]:
            nonlocal proxy
            async for one in request:
                proxy = one.node.id if one.node else proxy
                yield one

        async for response in super().delta_aggregated_resources(named(), ctx):
            kind = response.type_url.rpartition(".")[2]
            names = tuple(sorted(one.name for one in response.resources))
            self.pushed.append((proxy, kind, names, tuple(response.removed_resources)))
            yield response


class World:
    """Gateways, instances of an upstream, and the registry's content as a plain list."""

    def __init__(self, folder: Path, stack: AsyncExitStack, origins: Sequence[str] = (), base_domain: str = "") -> None:
        self.folder = folder
        self.ads_port = free_port()
        self.api_port = free_port()
        self.front = Front(f"127.0.0.1:{self.api_port}", base_domain, tuple(origins), "127.0.0.1:8081")
        self.plane = Counted("9.9.9", self.front)
        self.cors = bool(origins)
        self.revision = 0
        self.table = route.RouteTable()
        self.ports: dict[str, int] = {}
        self.admins: dict[str, Admin] = {}
        self.processes: dict[str, Process] = {}
        self._stack = stack

    async def start(self, *gateways: str) -> None:
        await self.control()
        self.publish([])
        for name in gateways:
            await self.gateway(name)

    async def control(self) -> None:
        """Serve ADS on its port."""
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            self.plane.delta_aggregated_resources,
            request_deserializer=DeltaDiscoveryRequest.from_binary,
            response_serializer=lambda message: message.to_binary(),
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(ADS, {"DeltaAggregatedResources": handler}),)
        )
        server.add_insecure_port(f"127.0.0.1:{self.ads_port}")
        await server.start()
        self.server = server
        self._stack.push_async_callback(server.stop, None)

    async def gateway(self, name: str, limits: bootstrap.Limits | None = None) -> None:
        port = self.api_port if name == "api" else free_port()
        admin = self.folder / f"{name}.sock"
        gateway = bootstrap.Gateway(name, f"127.0.0.1:{port}", f"127.0.0.1:{self.ads_port}", admin)
        gateway = replace(gateway, cors=self.cors)
        if limits is not None:
            gateway = replace(gateway, limits=limits)
        self._run(name, bootstrap.command(gateway, self.folder), {})
        self.ports[name] = port
        self.admins[name] = Admin(admin)
        await self.admins[name].wait_ready(20)

    async def instance(self, name: str, program: str = "gateway_upstream:app") -> str:
        """Start an upstream; returns its address."""
        address = f"127.0.0.1:{free_port()}"
        admin = self.folder / f"{name}.sock"
        command = asgi_server.command(program, address=address, admin=admin, folder=HERE)
        self._run(name, command.argv, {**command.env, "INSTANCE": name})
        self.admins[name] = Admin(admin)
        await self.admins[name].wait_ready(20)
        return address

    def publish(self, registrations: Sequence[Registration], quotas: Mapping[str, int] | None = None) -> int:
        self.revision += 1
        self.table = route.compile(registrations)
        self.plane.apply(self.table, self.revision, quotas)
        return self.revision

    async def routed(self, registrations: Sequence[Registration], quotas: Mapping[str, int] | None = None) -> None:
        await self.plane.sync(self.publish(registrations, quotas), 20)

    async def get(
        self,
        gateway: str,
        path: str,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        body: str | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded JSON (or text), headers."""
        return await asyncio.to_thread(self._get, gateway, path, headers or {}, method, body)

    def _get(
        self, gateway: str, path: str, headers: dict[str, str], method: str, body: str | None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[gateway], timeout=20)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
            told = {name.lower(): value for name, value in response.getheaders()}
            is_json = told.get("content-type", "").startswith("application/json")
            return response.status, json.loads(text) if is_json else text, told
        finally:
            connection.close()

    async def call(
        self, gateway: str, method: str, metadata: Sequence[tuple[str, str]] = (), timeout: float | None = 10
    ) -> Any:
        """A unary gRPC call of no message in particular; returns what the upstream told."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.ports[gateway]}") as channel:
            answer = await channel.unary_unary(method)(b"", metadata=tuple(metadata), timeout=timeout)
            return json.loads(answer)

    def _run(self, name: str, argv: Sequence[str], env: dict[str, str]) -> None:
        process = Process(argv, env)
        process.start()
        self.processes[name] = process
        self._stack.callback(process.kill)


@asynccontextmanager
async def world(
    folder: Path, *gateways: str, origins: Sequence[str] = (), base_domain: str = ""
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = World(folder, stack, origins, base_domain)
        await made.start(*gateways)
        yield made
