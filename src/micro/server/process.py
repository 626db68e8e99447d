"""What runs inside each core service's process: `app`, put together from the settings file when it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from micro._version import __version__
from micro.framework import client as calls
from micro.framework.service import Service
from micro.rpc import pages
from micro.rpc.client import Client
from micro.server import assemble, catalog
from micro.server.settings import Layout, Settings

BUILD_SECONDS = 900.0
"""How long a call of the runtime may take: it builds, starts and drains."""

SYNC_SECONDS = 60.0
"""How long a call of the control plane may take: it waits for proxies."""


def registry(settings: Settings, layout: Layout) -> Service:
    """The registry, over the state that the settings name."""
    from micro.services.registry import RegistryService

    state = catalog.registry(settings, layout)
    handler = RegistryService(state.registry)
    app = Service("registry", handler, version=__version__)

    @app.on_start
    async def start(stack: AsyncExitStack) -> None:
        for below in state.below:
            await below.start(stack)
        await handler.start(stack)

    app.readiness.add("state", lambda: "" if handler.healthy() else "its state cannot be reached")
    return app


def network(settings: Settings, layout: Layout) -> Service:
    """The control plane, with the discovery service that Envoys connect to."""
    from micro.backends.envoy.ads import EnvoyDataplane
    from micro.rpc.gen.micro.registry.v1.registry_connect import RegistryClient
    from micro.services.network import NetworkService

    watched = _client(settings.registry_address).of(RegistryClient, "registry")
    dataplane = EnvoyDataplane(__version__, settings.cors_origins, expected=assemble.GATEWAYS)
    handler = NetworkService(watched.watch, dataplane)
    app = Service("network", handler, dataplane, version=__version__, timeout=SYNC_SECONDS)
    app.on_start(handler.start)
    app.readiness.add("registry", lambda: "" if handler.healthy() else "the registry has not been heard yet")
    return app


def runtime(settings: Settings, layout: Layout) -> Service:
    """The runtime on this host; its processes are the supervisor's."""
    from micro.backends.envoy.admin import Admin
    from micro.backends.files.sources import FileSources
    from micro.backends.files.workloads import FileWorkloads
    from micro.backends.process.builder import UvBuilder
    from micro.backends.process.launcher_client import RemoteLauncher
    from micro.backends.process.logs import LogFolder
    from micro.backends.remote.traffic import RemoteTraffic
    from micro.rpc import asgi_server
    from micro.services.host import Host, RuntimeSettings
    from micro.services.runtime import Runtime, Source

    sources = FileSources(layout.runtime)
    host = Host(
        launcher=RemoteLauncher(layout.launcher),
        builder=UvBuilder(layout.runtime / "environments", asgi_server.interpreter()),
        store=FileWorkloads(layout.runtime / "workloads"),
        sources=sources,
        logs=LogFolder(layout.logs),
        traffic=RemoteTraffic(_client(settings.registry_address), _client(settings.network_address)),
        command=assemble.service_command,
        admin_socket=layout.admin,
        admin=Admin,
        settings=RuntimeSettings(network=settings.mesh_address, ready_timeout=settings.ready_timeout),
    )
    handler = Runtime(host)
    app = Service("runtime", handler, Source(sources), version=__version__, timeout=BUILD_SECONDS)
    app.on_start(handler.start)
    return app


def _client(address: str) -> Client:
    return Client(address, pool=calls.pool)


ASSEMBLIES: Mapping[str, Callable[[Settings, Layout], Service]] = MappingProxyType(
    {"registry": registry, "network": network, "runtime": runtime}
)
"""How each core service is put together, by name."""


class Process:
    """An ASGI application that becomes one of the core services at its first event."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._service: Service | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if pages.made_by_one(scope):
            await pages.refuse(scope, send)
            return
        if self._service is None:
            self._service = self._assemble()
        await self._service(scope, receive, send)

    def _assemble(self) -> Service:
        settings = Settings.load(Path(self._environ["MICRO_SETTINGS"]).read_text())
        return ASSEMBLIES[self._environ["MICRO_SERVICE_NAME"]](settings, Layout(settings.home))


app = Process(os.environ)
