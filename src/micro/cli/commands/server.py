"""`micro server`: run the platform in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micro.cli.session import Session


_SETTINGS = (
    "api_address",
    "proxy_address",
    "public",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "insecure",
    "base_domain",
    "no_local_login",
    "reset_admin",
    "adopt_store",
    "profile",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--api-address", "--api_address", metavar="HOST:PORT", help="HTTP gateway [127.0.0.1:8080]")
    parser.add_argument("--proxy-address", "--proxy_address", metavar="HOST:PORT", help="gRPC proxy [127.0.0.1:8081]")
    parser.add_argument(
        "--public", action="store_true", default=None, help="let anyone call services, on every address"
    )
    parser.add_argument("--tls-cert", "--tls_cert", metavar="FILE", help="certificate of both listeners, PEM")
    parser.add_argument("--tls-key", "--tls_key", metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--tls-client-ca", "--tls_client_ca", metavar="FILE", help="who must have signed clients' certificates, PEM"
    )
    parser.add_argument(
        "--insecure", action="store_true", default=None, help="let the proxy listen without TLS on every address"
    )
    parser.add_argument(
        "--base-domain", "--base_domain", metavar="DOMAIN", help="make NAMESPACE.DOMAIN the host of each namespace"
    )
    parser.add_argument(
        "--no-local-login",
        "--no_local_login",
        action="store_true",
        default=None,
        help="keep no session for the command line of this home",
    )
    parser.add_argument(
        "--reset-admin",
        "--reset_admin",
        action="store_true",
        default=None,
        help="give admin a new secret, shown once: the old one is lost",
    )
    parser.add_argument(
        "--adopt-store",
        "--adopt_store",
        action="store_true",
        default=None,
        help="use what MICRO_STORE holds, though this home has used another store",
    )
    parser.add_argument("--profile", metavar="NAME", help="set of defaults: local, test [local]")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run until Ctrl-C; 0 when it was stopped so."""
    gc.disable()  # while all is imported, which leaves no garbage
    from micro.server import settings
    from micro.server.program import Program
    from micro.server.screen import Terminal

    gc.freeze()
    gc.enable()
    read = settings.read(os.environ, **{name: getattr(args, name) for name in _SETTINGS})
    colour = session.stdout.isatty() and not os.environ.get("NO_COLOR")
    screen = Terminal(session.stdout, colour=colour)
    screen.starting(read)
    asyncio.run(Program(read, screen).run(screen.running))
    screen.stopping()
    return 0
