"""`micro logout`: end the session, on the server and here."""

from __future__ import annotations

import argparse

from micro.cli import failures
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The session is forgotten here even when the server cannot be told."


def run(args: argparse.Namespace, session: Session) -> int:
    """End the session; 0 also when the server is away, with a note."""
    name = session.environment_name
    why = session.identity.logout()
    session.out.line(f"logged out of {name}")
    if why:
        session.err.line(f"note: the server could not be told ({why}); the session there ends by itself within 30 days")
    return failures.OK
