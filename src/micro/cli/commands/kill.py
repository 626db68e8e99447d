"""`micro kill NAME[@VERSION]…`."""

from __future__ import annotations

import argparse
from pathlib import Path

from micro.cli import failures, plan
from micro.cli.session import Session
from micro.domain import names
from micro.domain.errors import Error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME[@VERSION]", nargs="+", help="of a running service; . for this folder's")
    parser.add_argument("--all", action="store_true", help="every version of the services named")
    parser.epilog = "A NAME of which several versions run needs its VERSION, or --all."


def run(args: argparse.Namespace, session: Session) -> int:
    """Stop each; one that fails does not keep the others, and its exit code is the command's."""
    code = failures.OK
    asked = [plan.name_of_folder(Path.cwd().name) if name == "." else name for name in args.names]
    for reference in map(plan.reference, asked):
        _refuse_core(reference.name)
    for text in asked:
        try:
            for reference in _meant(text, args.all, session):
                _stop(reference, session)
        except Error as error:
            if isinstance(error, failures.UnreachableError):
                raise
            session.err.line(f"micro: {error}")
            code = code or failures.exit_code(error)
    return code


def _refuse_core(name: str) -> None:
    if name in names.CORE_SERVICES:
        raise failures.UsageError(f"{name!r} is a core service: it ends with micro server")


def _meant(text: str, everything: bool, session: Session) -> list[plan.Reference]:
    """The versions that NAME[@VERSION] means.

    Raises:
        NoServiceError: no version runs.
        UsageError: several run and none is named.
    """
    reference = plan.reference(text)
    if "@" in text:
        if everything:
            raise failures.UsageError(f"{text!r} is one version: leave out either the version or --all")
        return [reference]
    found = session.platform.read(reference.name)
    running = [plan.Reference(reference.name, str(one.get("version", ""))) for one in found]
    if not running:
        near = session.platform.nearest(reference.name)
        hint = f"did you mean {near}?" if near else "see micro status"
        raise failures.NoServiceError(f"service {text!r} is not running: {hint}")
    if len(running) > 1 and not everything:
        listed = ", ".join(f"{one.name}@{one.version}" for one in running)
        raise failures.UsageError(f"service {text!r} runs as {listed}: type micro kill {text}@VERSION, or add --all")
    return running


def _stop(reference: plan.Reference, session: Session) -> None:
    progress = session.progress
    progress.show(f"stopping {reference}…")
    try:
        session.platform.delete(reference.name, reference.version)
    finally:
        progress.clear()
    session.out.line(f"{reference} stopped")
