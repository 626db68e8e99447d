"""What both the supervisor and the core services' processes need. Apart from either, so that a core service's process
imports nothing of the supervisor's: importing is most of a start."""

from __future__ import annotations

from pathlib import Path

from micro.backends.envoy.front import Front
from micro.rpc import asgi_server
from micro.server.settings import Settings

GATEWAYS = ("api", "mesh", "proxy")
"""The Envoys that take their routes from the control plane."""


def front(settings: Settings) -> Front:
    """How the HTTP gateway is known outside. Raises INVALID_ARGUMENT for what is no web origin."""
    return Front(settings.api_address, settings.base_domain, settings.cors_origins, settings.proxy_address)


def service_command(python: Path, folder: Path, address: str, admin: Path) -> asgi_server.Command:
    """What the runtime executes for a service: `app` of its main.py."""
    return asgi_server.command("main:app", address=address, admin=admin, folder=folder, python=python)
