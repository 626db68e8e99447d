"""`micro logs NAME`: the output of a service, or of a core service."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from micro.cli import failures, plan, view
from micro.cli.commands import run as run_command
from micro.cli.output import Console
from micro.cli.session import Session
from micro.domain import names

_STYLES = {"error": "red", "critical": "red", "warning": "yellow", "debug": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[@VERSION]", help="of a service, or a core service such as registry")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until Ctrl-C")
    parser.add_argument(
        "-n",
        "--lines",
        metavar="N",
        type=run_command.count,
        default=15,
        help="how many of the last messages [15]; a traceback is one",
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json: one object a message, times in UTC"
    )
    parser.add_argument("--version", metavar="VERSION", default="", help="of the service [latest]")


def run(args: argparse.Namespace, session: Session) -> int:
    reference = plan.reference(args.name, args.version)
    try:
        return _print(reference, args, session)
    except failures.NoServiceError:
        near = session.platform.nearest(reference.name, names.CORE_SERVICES)
        if not near:
            raise
        raise failures.NoServiceError(f"service {args.name!r} is not running: did you mean {near}?") from None


def _print(reference: plan.Reference, args: argparse.Namespace, session: Session) -> int:
    records: Iterable[dict[str, Any]] = session.platform.logs(
        reference.name, reference.version, args.lines, args.follow
    )
    several = False
    if args.output == "text" and args.follow:
        several = len(_instances(reference, session)) > 1
    elif args.output == "text":
        records = list(records)
        several = len({record.get("instance") for record in records}) > 1
    shown = False
    for record in records:
        shown = True
        if args.output == "json":
            session.out.json_line(
                {name: record.get(name, "") for name in ("timestamp", "level", "message", "instance")}
            )
        else:
            _show(record, several, session.out)
    if not shown:
        session.err.line(f"{reference} has written nothing yet")
    return failures.OK


def _instances(reference: plan.Reference, session: Session) -> list[Any]:
    found = session.platform.read(reference.name, reference.version)
    return found[0].get("instances", []) if found else []


def _show(record: dict[str, Any], several: bool, out: Console) -> None:
    """The local time, the instance where there are several, and the message; further lines below its first."""
    head = view.clock(str(record.get("timestamp", "")))
    if several:
        head += f" {record.get('instance', '')}"
    first, *rest = str(record.get("message", "")).splitlines() or [""]
    style = _STYLES.get(str(record.get("level", "")), "")
    out.line(f"{out.styled(head, 'dim')}  {out.styled(first, style)}".rstrip())
    for line in rest:
        out.line(f"{' ' * len(head)}  {out.styled(line, style)}".rstrip())
