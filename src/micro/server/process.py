"""What runs inside each core service's process: `app`, put together from the settings file when it starts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from micro._version import __version__
from micro.domain import names
from micro.domain.namespace import Quota
from micro.domain.record import Durability
from micro.domain.service import Registration
from micro.framework import client as calls
from micro.framework.guard import CoreGuard
from micro.framework.policy import Policy, PolicyFollower
from micro.framework.service import Service
from micro.rpc import pages
from micro.rpc.app import DEFAULT_TIMEOUT, MAX_MESSAGE
from micro.rpc.client import Client
from micro.rpc.credentials import Credentials
from micro.rpc.gen.micro.auth.v1.auth_connect import PolicyClient
from micro.rpc.gen.micro.auth.v1.auth_pb import PolicyWatchRequest, PolicyWatchResponse
from micro.rpc.health import Readiness
from micro.rpc.registrar import RemoteRegistrar
from micro.rpc.tokens import JwtVerifier
from micro.server import catalog, shared, storage
from micro.server.settings import Layout, Settings
from micro.services import _auth_core as core_accounts

if TYPE_CHECKING:
    from micro.backends.remote.announcements import RemoteAnnouncements

BUILD_SECONDS = 900.0
"""How long a call of the runtime may take: it builds, starts and drains."""

JWKS = "/.well-known/jwks.json"
"""Where the public keys are: open to everybody, programs and pages."""

BATCH_AS_JSON = 48 << 20
"""Bytes of a message of the store: what one batch may hold is a third more as JSON."""

SYNC_SECONDS = 60.0
"""How long a call of the control plane may take: it waits for proxies."""


Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class Core(NamedTuple):
    """One of the platform's services, and what it answers to web pages too: by path, and by what paths begin with."""

    service: Service
    pages: Mapping[str, Asgi] = MappingProxyType({})
    below: Mapping[str, Asgi] = MappingProxyType({})

    def page(self, scope: Any) -> Asgi | None:
        """What answers a request that is no call; None for a call."""
        path = scope.get("path", "")
        if scope["type"] != "http":
            return None
        return self.pages.get(path) or next((app for head, app in self.below.items() if path.startswith(head)), None)


class _Lasting(RemoteRegistrar):
    """For who cannot take itself back when it ends: the registry has ended by then, or who tells it who asks. Both
    begin again where they were, or the whole server ends."""

    async def deregister(self, registration: Registration) -> None:
        return


class Member:
    """One core service among the others: as whom it calls them, and who may call it."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        secret = core_accounts.secret(settings.server_secret, name)
        nobody = Client(settings.auth_address, pool=calls.pool)
        self._identity = Credentials.over(nobody, name, secret, names.DEFAULT_NAMESPACE)
        self.policy = Policy(JwtVerifier())

    def client(self, address: str) -> Client:
        """Calls to the service at an address, as this one."""
        return Client(address, pool=calls.pool, identity=self._identity)

    def announcements(self) -> RemoteAnnouncements:
        """What tells of this one's doings, once it is started."""
        from micro.backends.remote.announcements import RemoteAnnouncements

        return RemoteAnnouncements(self.client(self._settings.events_address))

    def _registrar(self) -> RemoteRegistrar:
        kind = _Lasting if self._name in ("registry", "auth") else RemoteRegistrar
        return kind(self.client(self._settings.registry_address))

    def quota(self, namespace: str) -> Quota | None:
        """The limits of a namespace; None when there is no such namespace."""
        found = self.policy.namespaces.get(namespace)
        return None if found is None else found.quota

    def service(
        self,
        *handlers: object,
        timeout: float = DEFAULT_TIMEOUT,
        max_message: int = MAX_MESSAGE,
        watch: Callable[[], AsyncIterator[PolicyWatchResponse]] | None = None,
        durability: Durability | None = None,
    ) -> Service:
        """The service, which registers itself as soon as it knows who may call.

        Args:
            watch: how it hears that; from auth by default.
            durability: of what it keeps, shown by `micro health`.
        """
        auth = self.client(self._settings.auth_address).of(PolicyClient, "auth")
        return Service(
            self._name,
            *handlers,
            version=__version__,
            metadata={"durability": durability.name.lower()} if durability else None,
            timeout=timeout,
            max_message=max_message,
            registrar=self._registrar(),
            guard=CoreGuard(self.policy, self._settings.server_secret),
            policy=PolicyFollower(self.policy, watch or (lambda: auth.watch(PolicyWatchRequest()))),
        )


def auth(settings: Settings, layout: Layout) -> Core:
    """Identity: accounts, rules, tokens, namespaces."""
    from micro.backends.argon.secrets import ArgonHasher
    from micro.backends.jwt.tokens import JwtSigner
    from micro.backends.remote.tenants import RemoteTenants
    from micro.services.auth import AuthService

    member = Member("auth", settings)
    announcements = member.announcements()
    service = AuthService(
        catalog.identity(settings, layout),
        JwtSigner(),
        JwtVerifier(),
        ArgonHasher(),
        RemoteTenants(
            member.client(settings.runtime_address),
            member.client(settings.registry_address),
            member.client(settings.store_address),
            member.client(settings.config_address),
            member.client(settings.events_address),
        ),
        server_secret=settings.server_secret,
        public=settings.open,
        local_login=not settings.no_local_login,
        announcements=announcements,
    )
    read = asyncio.Event()

    async def watch() -> AsyncIterator[PolicyWatchResponse]:
        await read.wait()  # before, nothing of what is told would be true
        async for told in service.watch():
            yield told

    app = member.service(*service.handlers, watch=watch)

    @app.on_start
    async def start(stack: AsyncExitStack) -> None:
        await announcements.start(stack)
        await service.start(stack)
        read.set()

    app.readiness.add("state", lambda: "" if service.healthy() else "its state cannot be reached")
    return Core(app, {JWKS: service.jwks})


def registry(settings: Settings, layout: Layout) -> Core:
    """The registry, over the state that the settings name."""
    from micro.services.registry import RegistryService

    state = catalog.registry(settings, layout)
    member = Member("registry", settings)
    announcements = member.announcements()
    handler = RegistryService(
        state.registry,
        exists=lambda namespace: namespace in member.policy.namespaces,
        announcements=announcements,
    )
    app = member.service(handler, durability=state.durability)

    @app.on_start
    async def start(stack: AsyncExitStack) -> None:
        await announcements.start(stack)
        for below in state.below:
            await below.start(stack)
        await handler.start(stack)

    app.readiness.add("state", lambda: "" if handler.healthy() else "its state cannot be reached")
    return Core(app)


def network(settings: Settings, layout: Layout) -> Core:
    """The control plane, with the discovery service that Envoys connect to."""
    from micro.backends.envoy.ads import EnvoyDataplane
    from micro.rpc.gen.micro.registry.v1.registry_connect import RegistryClient
    from micro.services.network import NetworkService

    member = Member("network", settings)
    watched = member.client(settings.registry_address).of(RegistryClient, "registry")
    dataplane = EnvoyDataplane(__version__, shared.front(settings), expected=shared.GATEWAYS)
    handler = NetworkService(watched.watch, dataplane)
    app = member.service(handler, dataplane, timeout=SYNC_SECONDS)
    app.on_start(handler.start)
    app.readiness.add("registry", lambda: "" if handler.healthy() else "the registry has not been heard yet")
    member.policy.on_change(
        lambda: handler.limit({name: found.quota.requests for name, found in member.policy.namespaces.items()})
    )
    return Core(app)


def runtime(settings: Settings, layout: Layout) -> Core:
    """The runtime on this host; its processes are the supervisor's."""
    from micro.backends.envoy.admin import Admin
    from micro.backends.files.sources import FileSources
    from micro.backends.process.builder import UvBuilder
    from micro.backends.process.launcher_client import RemoteLauncher
    from micro.backends.process.logs import LogFolder
    from micro.backends.remote.accounts import RemoteAccounts
    from micro.backends.remote.liveness import HealthChecks
    from micro.backends.remote.traffic import RemoteTraffic
    from micro.backends.stored.accounts import StoredAccounts
    from micro.backends.stored.workloads import RuntimeRecords, StoredWorkloads
    from micro.rpc import asgi_server
    from micro.services.host import Host, RuntimeSettings
    from micro.services.runtime import Runtime, Source

    member = Member("runtime", settings)
    announcements = member.announcements()
    namespaces = layout.namespaces(settings.store)
    records = RuntimeRecords(catalog.store(settings, layout, "runtime"), catalog.sealing(layout))
    sources = FileSources(namespaces, foreign=storage.foreign_code(settings, layout))
    host = Host(
        launcher=RemoteLauncher(layout.launcher),
        builder=UvBuilder(layout.runtime / "environments", asgi_server.interpreter()),
        store=StoredWorkloads(records),
        sources=sources,
        logs=LogFolder(layout.logs, namespaces),
        traffic=RemoteTraffic(member.client(settings.registry_address), member.client(settings.network_address)),
        accounts=StoredAccounts(records, RemoteAccounts(member.client(settings.auth_address))),
        command=shared.service_command,
        admin_socket=layout.admin,
        admin=Admin,
        liveness=HealthChecks(),
        settings=RuntimeSettings(network=settings.mesh_address, ready_timeout=settings.ready_timeout),
        announcements=announcements,
    )
    handler = Runtime(host, member.quota)
    app = member.service(handler, Source(sources, member.quota), timeout=BUILD_SECONDS)

    @app.on_start
    async def start(stack: AsyncExitStack) -> None:
        await announcements.start(stack)
        await records.start(stack)
        await handler.start(stack)

    app.readiness.add("state", lambda: "" if records.healthy() else "its state cannot be reached")
    return Core(app)


def store(settings: Settings, layout: Layout) -> Core:
    """Records, blobs, locks, and copies of whole databases."""
    from micro.services._store_databases import Databases
    from micro.services._store_leases import Leases
    from micro.services.blob_pages import PREFIX, BlobPages
    from micro.services.blobs import BlobHandler
    from micro.services.store import StoreHandler
    from micro.services.store_backup import BackupHandler
    from micro.services.store_lock import LeaderHandler, LockHandler

    member = Member("store", settings)
    state = catalog.store(settings, layout, "store")
    databases = Databases(state, lambda namespace: namespace in member.policy.namespaces)
    leases = Leases(databases)
    blobs = catalog.blobs(settings, layout)
    app = member.service(
        StoreHandler(databases),
        BlobHandler(blobs, databases),
        LockHandler(leases),
        LeaderHandler(leases),
        BackupHandler(databases, blobs.drop),
        max_message=BATCH_AS_JSON,
        durability=state.durability,
    )

    @app.on_start
    async def start(stack: AsyncExitStack) -> None:
        await state.start(stack)
        await blobs.start(stack)
        await leases.start(stack)

    app.readiness.add("state", lambda: "" if state.healthy() else "its state cannot be reached")
    _tell_damage(app, state.damaged)
    app.readiness.add("blobs", lambda: "" if blobs.healthy() else "its blobs cannot be reached")
    return Core(app, below={PREFIX: BlobPages(blobs)})


def config(settings: Settings, layout: Layout) -> Core:
    """Settings and secrets."""
    from micro.services.config import ConfigService

    member = Member("config", settings)
    announcements = member.announcements()
    handler = ConfigService(
        catalog.store(settings, layout, "config"),
        catalog.sealing(layout),
        exists=lambda namespace: namespace in member.policy.namespaces,
        announcements=announcements,
    )
    app = member.service(handler)
    app.on_start(announcements.start)
    app.on_start(handler.start)
    app.readiness.add("state", lambda: "" if handler.healthy() else "its state cannot be reached")
    _tell_damage(app, handler.damaged)
    return Core(app)


def _tell_damage(app: Service, damaged: Callable[[], Sequence[str]]) -> None:
    """Have the service's health tell whether databases are damaged, apart from whether it takes calls: it does, for
    all others."""
    app.aspects["databases"] = Readiness()
    app.aspects["databases"].add("databases", lambda: ", ".join(damaged()))


def broker(settings: Settings, layout: Layout) -> Core:
    """Messages to whoever listens."""
    from micro.services.broker import BrokerHandler

    member = Member("broker", settings)
    state = catalog.broker(settings, layout)
    app = member.service(BrokerHandler(state.broker, lambda namespace: namespace in member.policy.namespaces))

    @app.on_start
    async def start(stack: AsyncExitStack) -> None:
        for one in (*state.below, state.broker):
            await one.start(stack)

    app.readiness.add("messages", lambda: "" if state.broker.healthy() else "NATS cannot be reached")
    return Core(app)


def events(settings: Settings, layout: Layout) -> Core:
    """Event streams: topics, consumer groups, dead letters."""
    from micro.services._events_topics import Topics
    from micro.services.events import EventsHandler, StreamHandler
    from micro.services.events_dead import DeadLettersHandler
    from micro.services.events_groups import GroupsHandler
    from micro.services.events_topics import TopicsHandler

    member = Member("events", settings)
    state = catalog.events(settings, layout)
    topics = Topics(state.events, lambda namespace: namespace in member.policy.namespaces, quota=member.quota)
    app = member.service(
        StreamHandler(topics),
        EventsHandler(topics),
        TopicsHandler(topics),
        GroupsHandler(topics),
        DeadLettersHandler(topics),
        durability=state.events.durability,
    )

    @app.on_start
    async def start(stack: AsyncExitStack) -> None:
        for below in state.below:
            await below.start(stack)
        await topics.start(stack)
        if not state.events.atomic:
            app.metadata["batches"] = "apart"

    app.readiness.add("state", lambda: "" if topics.healthy() else "its state cannot be reached")
    return Core(app)


ASSEMBLIES: Mapping[str, Callable[[Settings, Layout], Core]] = MappingProxyType(
    {
        "auth": auth,
        "registry": registry,
        "network": network,
        "runtime": runtime,
        "store": store,
        "config": config,
        "broker": broker,
        "events": events,
    }
)
"""How each core service is put together, by name."""


class Process:
    """An ASGI application that becomes one of the core services at its first event."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._core: Core | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._core is None:
            self._core = self._assemble()
        page = self._core.page(scope)
        if page is not None:
            await page(scope, receive, send)
        elif pages.made_by_one(scope):
            await pages.refuse(scope, send)
        else:
            await self._core.service(scope, receive, send)

    def _assemble(self) -> Core:
        settings = Settings.load(Path(self._environ["MICRO_SETTINGS"]).read_text())
        return ASSEMBLIES[self._environ["MICRO_SERVICE_NAME"]](settings, Layout(settings.home))


app = Process(os.environ)
