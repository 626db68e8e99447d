"""`micro version`."""

from __future__ import annotations

import argparse

from micro._version import __version__
from micro.cli import failures
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json is for programs")


def run(args: argparse.Namespace, session: Session) -> int:
    if args.output == "json":
        session.out.json({"version": __version__})
    else:
        session.out.line(f"micro {__version__}")
    return failures.OK
