"""Settings in, processes out: what `micro server` runs, and how each of its parts is put together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from micro.backends.envoy import bootstrap, secrets
from micro.backends.envoy.admin import Admin
from micro.backends.nats import process as nats
from micro.backends.process.launcher import LocalLauncher
from micro.backends.process.launcher_server import LauncherServer
from micro.backends.remote.liveness import HealthChecks
from micro.domain import workload
from micro.ports.launcher import Launcher, ProcessInfo, ProcessSpec
from micro.rpc import asgi_server
from micro.server import catalog
from micro.server.certificates import Certificates
from micro.server.first_start import FirstAdmin
from micro.server.settings import Layout, Settings
from micro.server.supervisor import DRAIN_SECONDS, Unit

Announce = Callable[[Settings, Layout, FirstAdmin | None], None]

_KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")

_SEALING = ("auth", "config", "runtime")

NATS_READY_SECONDS = 180.0
"""How long our NATS may take to start."""

_MESSAGING = ("registry", "broker", "events")
_STORING = ("store", "config", "auth", "runtime")


def environment() -> dict[str, str]:
    """What every process inherits: enough to run, nothing that could be a secret."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


def builds() -> dict[str, str]:
    """What the runtime gets besides: where packages come from. May hold passwords, so nobody else does."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("UV_") or name.lower() in ("http_proxy", "https_proxy", "no_proxy", "logname")
    }


def config_key() -> dict[str, str]:
    """What those get besides who seal what they keep: the key, where the operator gives one. Nobody else has it."""
    return {name: os.environ[name] for name in ("MICRO_CONFIG_SECRET_KEY",) if name in os.environ}


def storage() -> dict[str, str]:
    """What the store gets besides: as whom it asks the storage of blobs, where that is S3's. Nobody else has it."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def messaging(settings: Settings) -> dict[str, str]:
    """What those get besides who use NATS: its URL, which may hold a password. Nobody else has it."""
    return {catalog.NATS_URL: settings.nats_url} if settings.nats_url else {}


def records(settings: Settings) -> dict[str, str]:
    """What those get besides who open a store: its URL, which may hold a password. Nobody else has it."""
    return {catalog.STORE_URL: settings.store}


async def check_nats(settings: Settings, layout: Layout, note: Callable[[str], None]) -> None:
    """Return when the NATS that the settings name, where they name one, can be used; tell what could be better.

    Raises:
        Error: in one line, see `micro.backends.nats.check`.
    """
    if settings.nats_url and settings.uses_nats:
        from micro.backends.nats import check as nats_check

        found = await nats_check.check(catalog.nats_address(settings, layout), settings.nats_replicas)
        for line in found.advice:
            note(line)


async def launcher(layout: Layout, stack: AsyncExitStack) -> Launcher:
    """The owner of all processes, with what a killed server left behind ended, offered to the runtime."""
    made = LocalLauncher(layout.processes)
    await made.end_leftovers()
    stack.push_async_callback(made.stop_all, 1.0)
    await LauncherServer(made, layout.launcher).start(stack)
    return made


def units(settings: Settings, layout: Layout) -> list[Unit]:
    """The platform's processes, the needed first."""
    found = []
    if settings.uses_nats and not settings.nats_url:
        found.append(_nats(settings, layout))
    stateful = tuple(unit.name for unit in found)
    # These start side by side, because importing takes most of their time; each waits for the others by itself.
    found.append(_core(settings, layout, "registry", settings.registry_address, stateful))
    found.append(_core(settings, layout, "auth", settings.auth_address, ()))
    found.append(_core(settings, layout, "network", settings.network_address, stateful))
    found.append(_core(settings, layout, "runtime", settings.runtime_address, stateful))
    found.append(_core(settings, layout, "store", settings.store_address, ()))
    found.append(_core(settings, layout, "config", settings.config_address, ()))
    found.append(_core(settings, layout, "broker", settings.broker_address, stateful))
    found.append(_core(settings, layout, "events", settings.events_address, stateful))
    found.append(_gateway(settings, layout, "mesh", settings.mesh_address))
    found.append(_gateway(settings, layout, "api", settings.api_address))
    found.append(_gateway(settings, layout, "proxy", settings.proxy_address))
    return found


def secret_files(settings: Settings, layout: Layout) -> secrets.Files | None:
    """Where the listeners read their certificate; None without TLS."""
    if not settings.tls_cert:
        return None
    clients = layout.tls / "clients.json" if settings.tls_client_ca else None
    return secrets.Files(layout.tls / "certificate.json", clients)


def certificates(settings: Settings, layout: Layout) -> Certificates | None:
    """What hands the operator's certificate to the listeners; None without TLS."""
    files = secret_files(settings, layout)
    if files is None:
        return None
    cert, key = Path(settings.tls_cert), Path(settings.tls_key)
    if not settings.tls_client_ca:
        return Certificates(cert, key, None, files, layout.certificate)
    from micro.server.own_client import OwnClient

    own = OwnClient(layout.own_client)
    return Certificates(cert, key, Path(settings.tls_client_ca), files, layout.certificate, own)


def _folder(layout: Layout) -> None:
    """Make the folder of sockets again: it lies where others clean up."""
    layout.run.mkdir(mode=0o700, exist_ok=True)


def _spec(layout: Layout, name: str, argv: tuple[str, ...], env: dict[str, str]) -> ProcessSpec:
    return ProcessSpec(
        id=name,
        argv=argv,
        env={**environment(), **env},
        cwd=layout.root,
        log=layout.core_log(name),
        labels={"unit": name},
    )


def _nats(settings: Settings, layout: Layout) -> Unit:
    server = nats.prepare(layout.nats, settings.nats_address)
    return Unit(
        name="nats",
        detail=settings.nats_address,
        needs=(),
        spec=lambda: _spec(layout, "nats", server.argv, {}),
        # It reads all of its topics first: thousands take longer than anything else that starts.
        ready=lambda: nats.ready(server.address, max(settings.ready_timeout, NATS_READY_SECONDS)),
        answered=lambda: nats.answered(server.address),
    )


def _core(settings: Settings, layout: Layout, name: str, address: str, needs: tuple[str, ...]) -> Unit:
    admin = layout.admin(name)

    def spec() -> ProcessSpec:
        _folder(layout)
        command = asgi_server.command("micro.server.entry:app", address=address, admin=admin, websockets=False)
        env = {
            "MICRO_HOME": str(settings.home),
            "MICRO_SETTINGS": str(layout.settings),
            "MICRO_SERVICE_NAME": name,
            "MICRO_SERVICE_ID": f"{name}-0",
            "MICRO_SERVICE_ADDRESS": address,
            "MICRO_REGISTRY": settings.registry_address,
            "MICRO_NETWORK": settings.mesh_address,
            "MICRO_LOG_FORMAT": "json",
            workload.LOG_LEVEL: settings.log_level,
            # The sockets' folder is found by it.
            "TMPDIR": tempfile.gettempdir(),
        }
        more = {**(builds() if name == "runtime" else {}), **(config_key() if name in _SEALING else {})}
        more |= storage() if name == "store" else {}
        more |= messaging(settings) if name in _MESSAGING else {}
        more |= records(settings) if name in _STORING else {}
        return _spec(layout, name, command.argv, {**command.env, **more, **env})

    return Unit(
        name,
        address,
        needs,
        spec,
        ready=lambda: Admin(admin).wait_ready(settings.ready_timeout),
        answered=lambda: HealthChecks().answered(address),
        # The others take themselves out of the registry when they end, which asks auth who they are.
        outlived_by={"auth": (), "registry": ("auth",)}.get(name, ("registry", "auth")),
    )


def _gateway(settings: Settings, layout: Layout, name: str, address: str) -> Unit:
    admin = layout.admin(name)
    gateway = bootstrap.Gateway(
        id=name,  # type: ignore[arg-type]
        address=address,
        control=settings.network_address,
        admin=admin,
        access_log=settings.access_log and name != "mesh",
        cors=name == "api" and bool(settings.cors_origins),
        secret=settings.server_secret,
        tls=None if name == "mesh" else secret_files(settings, layout),
    )
    workers = 1 if name == "mesh" else settings.gateway_workers

    def spec() -> ProcessSpec:
        _folder(layout)
        return _spec(layout, name, bootstrap.command(gateway, layout.run, workers), {})

    async def drain() -> None:
        await Admin(admin).drain()
        await Admin(admin).wait_idle(DRAIN_SECONDS)

    outward = name != "mesh"
    return Unit(
        name,
        address,
        ("network",),
        spec,
        ready=lambda: Admin(admin).wait_ready(settings.ready_timeout),
        answered=Admin(admin).answered,
        drain=drain if outward else None,
    )


def service_drain(layout: Layout) -> Callable[[ProcessInfo], Awaitable[None]]:
    """How a user's process finishes what is in flight."""

    async def drain(process: ProcessInfo) -> None:
        admin = Admin(layout.admin(process.id))
        await admin.drain()
        await admin.wait_idle(DRAIN_SECONDS)

    return drain
