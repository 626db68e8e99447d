"""`micro run SOURCE`: from a folder to a service that answers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from micro.cli import arguments, deploying, failures, pack, plan
from micro.cli.session import Session
from micro.domain.workload import MOST_INSTANCES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", nargs="?", default=".", help="folder of the service [.]")
    add_settings(parser, "1, or as many as run already")
    parser.add_argument("--no-wait", "--no_wait", action="store_true", help="return without waiting until it answers")
    parser.add_argument("--watch", "-w", action="store_true", help="take every saved change live, until Ctrl-C")
    parser.epilog = "For example: micro run . --instances 2 --env-vars GREETING=Moin"


def add_settings(parser: argparse.ArgumentParser, usual: str) -> None:
    """The flags that `run` and `update` share; `usual` says how many run when no number is given."""
    parser.add_argument("--name", metavar="NAME", default="", help="name of the service [the folder's]")
    parser.add_argument("--version", metavar="VERSION", default="", help="version of the service [latest]")
    parser.add_argument(
        "-e",
        "--env-vars",
        "--env_vars",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a variable of the service; repeatable. The environment is --env",
    )
    parser.add_argument("-i", "--instances", metavar="N", type=instances, default=0, help=f"how many to run [{usual}]")
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="attach a pair to the service; repeatable"
    )


def count(text: str) -> int:
    """How many, from 1; argparse shows the error. The server has the upper limit."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number from 1, not {text!r}")
    return int(text)


def instances(text: str) -> int:
    """How many processes; argparse shows the error. Told here, before the code is uploaded for nothing."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_INSTANCES:
        raise argparse.ArgumentTypeError(f"takes a number from 1 to {MOST_INSTANCES}, not {text!r}")
    return int(text)


def workload(args: argparse.Namespace, path: Path, session: Session, wait: bool) -> plan.Workload:
    """What the flags and a folder ask for."""
    name = args.name or plan.name_of_folder(path.name)
    return plan.Workload(
        reference=plan.reference(plan.own_name(name), args.version),
        namespace=session.namespace,
        source=str(path),
        env=variables(args.env_vars),
        instances=args.instances,
        metadata=arguments.pairs(args.metadata, "--metadata"),
        wait=wait,
    )


def variables(given: Sequence[str]) -> dict[str, str]:
    """The variables that -e gives; raises UsageError, which also helps those who meant an environment."""
    for pair in given:
        if "=" not in pair:
            raise failures.UsageError(
                f"-e takes KEY=VALUE, a variable of the service, not {pair!r}; to choose an environment: --env {pair}"
            )
    return arguments.pairs(given, "-e")


def run(args: argparse.Namespace, session: Session) -> int:
    path = deploying.folder(args.source)
    wanted = workload(args, path, session, wait=not args.no_wait)
    archive = pack.pack(path)
    seen = ""
    try:
        existed = deploying.create(wanted, archive, session)
    except deploying.StartError as error:
        if not args.watch:
            raise
        existed, seen = False, str(error)
        session.err.line(f"micro: {seen}")
    if args.no_wait and not args.watch:
        session.out.line(f"{wanted.reference} is starting; see: micro status {wanted.reference.name}")
        return failures.OK
    if not seen:
        deploying.report(wanted.reference, "is updated and running" if existed else "is running", session)
    if args.watch:
        session.out.line()
        session.out.line(f"watching {args.source}; Ctrl-C ends that and leaves {wanted.reference} as it is")
        try:
            deploying.watch(wanted, path, archive, _saved(path), session, seen)
        except KeyboardInterrupt:
            session.out.line(
                f"\nno longer watching. {wanted.reference} goes on running; to stop it: micro kill {wanted.reference}"
            )
    return failures.OK


def _saved(path: Path) -> Iterator[object]:
    """What was saved; nothing every two seconds in which nothing was."""
    import watchfiles

    return watchfiles.watch(path, debounce=300, step=30, rust_timeout=2000, yield_on_timeout=True, raise_interrupt=True)
