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
    "log_level",
    "reset_admin",
    "adopt_store",
    "profile",
)


_NOTE = """A flag wins over its variable. Without a flag are MICRO_HOME, the folder of all state, and
MICRO_STORE, MICRO_BLOBS, MICRO_CONFIG_SECRET_KEY, MICRO_CORS_ORIGINS, MICRO_ACCESS_LOG, MICRO_GATEWAY_WORKERS,
MICRO_READY_TIMEOUT, MICRO_REGISTRY_STATE, MICRO_MESSAGING, MICRO_NATS_URL, MICRO_NATS_REPLICAS,
MICRO_NATS_CREDENTIALS, MICRO_NATS_NKEY, MICRO_NATS_CA, MICRO_NATS_CERT, MICRO_NATS_KEY."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags, each with the variable that says the same."""
    _addresses(parser)
    _private(parser)
    _flag(parser, "no-local-login", "keep no session for the command line of this home")
    _value(parser, "log-level", "LEVEL", "what the core services log: debug, info, warning, error [info]")
    _flag(parser, "reset-admin", "give admin a new secret, shown once: the old one is lost", variable=False)
    _flag(
        parser,
        "adopt-store",
        "use what MICRO_STORE holds, though this home has used another store",
        variable=False,
    )
    _value(parser, "profile", "NAME", "set of defaults: local, test [local]")
    parser.epilog = _NOTE


def _addresses(parser: argparse.ArgumentParser) -> None:
    _value(parser, "api-address", "HOST:PORT", "HTTP gateway [127.0.0.1:8080]")
    _value(parser, "proxy-address", "HOST:PORT", "gRPC proxy [127.0.0.1:8081]")
    _flag(parser, "public", "let anyone call services, on every address")
    _value(parser, "base-domain", "DOMAIN", "make NAMESPACE.DOMAIN the host of each namespace")


def _private(parser: argparse.ArgumentParser) -> None:
    _value(parser, "tls-cert", "FILE", "certificate of both listeners, PEM")
    _value(parser, "tls-key", "FILE", "its private key, PEM")
    _value(parser, "tls-client-ca", "FILE", "who must have signed clients' certificates, PEM")
    _flag(parser, "insecure", "let the proxy listen without TLS on every address")


def _value(parser: argparse.ArgumentParser, name: str, metavar: str, text: str) -> None:
    parser.add_argument(*_spellings(name), metavar=metavar, help=f"{text} ({_variable(name)})")


def _flag(parser: argparse.ArgumentParser, name: str, text: str, *, variable: bool = True) -> None:
    shown = f"{text} ({_variable(name)})" if variable else text
    parser.add_argument(*_spellings(name), action="store_true", default=None, help=shown)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}")))


def _variable(name: str) -> str:
    return f"MICRO_{name.replace('-', '_').upper()}"


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
