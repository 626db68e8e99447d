"""`micro kill NAME[@VERSION]…`."""

from __future__ import annotations

import argparse
from pathlib import Path

from micro.cli import failures, plan
from micro.cli.session import Session
from micro.domain.errors import Error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME[@VERSION]", nargs="+", help="of a running service; . for this folder's")


def run(args: argparse.Namespace, session: Session) -> int:
    references = [plan.reference(plan.name_of_folder(Path.cwd().name) if name == "." else name) for name in args.names]
    code = failures.OK
    for reference in references:
        progress = session.progress
        progress.show(f"stopping {reference}…")
        try:
            session.platform.delete(reference.name, reference.version)
        except Error as error:
            if isinstance(error, failures.UnreachableError):
                raise
            progress.clear()
            session.err.line(f"micro: {error}")
            code = code or failures.exit_code(error)
        else:
            progress.clear()
            session.out.line(f"{reference} stopped")
    return code
