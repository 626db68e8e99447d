"""`micro server`: run the platform in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--api-address", "--api_address", metavar="HOST:PORT", help="HTTP gateway [127.0.0.1:8080]")
    parser.add_argument("--proxy-address", "--proxy_address", metavar="HOST:PORT", help="gRPC proxy [127.0.0.1:8081]")
    parser.add_argument("--profile", metavar="NAME", help="set of defaults: local, test [local]")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run until Ctrl-C; 0 when it was stopped so."""
    from micro.server import settings
    from micro.server.program import Program
    from micro.server.screen import Terminal

    read = settings.read(
        os.environ, api_address=args.api_address, proxy_address=args.proxy_address, profile=args.profile
    )
    colour = session.stdout.isatty() and not os.environ.get("NO_COLOR")
    screen = Terminal(session.stdout, colour=colour)
    screen.starting(read)
    asyncio.run(Program(read, screen).run(screen.running))
    screen.stopping()
    return 0
