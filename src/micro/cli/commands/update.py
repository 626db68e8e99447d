"""`micro update SOURCE|NAME[@VERSION]`: new code without losing a request."""

from __future__ import annotations

import argparse
from pathlib import Path

from micro.cli import deploying, failures, pack, plan
from micro.cli.commands import run as run_command
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE|NAME",
        nargs="?",
        default=".",
        help="folder of the service, or name of a running one [.]",
    )
    run_command.add_settings(parser, "as many as run")
    parser.add_argument("--no-wait", "--no_wait", action="store_true", help="return without waiting until it answers")


def run(args: argparse.Namespace, session: Session) -> int:
    if not Path(args.source).expanduser().exists() and "/" not in args.source:
        reference = plan.reference(args.source, args.version)
        args.source = _stored_source(reference, session)
        args.name, args.version = args.name or reference.name, reference.version
    path = deploying.folder(args.source)
    wanted = run_command.workload(args, path, session, wait=not args.no_wait)
    deploying.update(wanted, pack.pack(path), session)
    if args.no_wait:
        session.out.line(f"{wanted.reference} is being updated; see: micro status {wanted.reference.name}")
    else:
        deploying.report(wanted.reference, "is updated and running", session)
    return failures.OK


def _stored_source(reference: plan.Reference, session: Session) -> str:
    found = session.platform.read(reference.name, reference.version)
    if not found:
        raise failures.NoServiceError(
            f"service {str(reference)!r} is not running: see micro status, or start it: micro run"
        )
    source = str(found[0].get("source", ""))
    if not source or not Path(source).is_dir():
        raise failures.UsageError(
            f"{reference} came from {source or 'elsewhere'!r}, which is not here: give its folder"
        )
    return source
