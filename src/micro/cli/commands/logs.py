"""`micro logs NAME`: the output of a service, or of a core service."""

from __future__ import annotations

import argparse

from micro.cli import failures, plan
from micro.cli.session import Session

_STYLES = {"error": "red", "critical": "red", "warning": "yellow", "debug": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[@VERSION]", help="of a service, or a core service such as registry")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until Ctrl-C")
    parser.add_argument("-n", "--lines", metavar="N", type=_lines, default=15, help="how many of the last lines [15]")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: one object a line")
    parser.add_argument("--version", metavar="VERSION", default="", help="of the service [latest]")


def _lines(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"takes a number from 1, not {text!r}")
    return int(text)


def run(args: argparse.Namespace, session: Session) -> int:
    reference = plan.reference(args.name, args.version)
    shown = False
    for line in session.platform.logs(reference.name, reference.version, args.lines, args.follow):
        shown = True
        record = {name: line.get(name, "") for name in ("timestamp", "level", "message", "instance")}
        if args.output == "json":
            session.out.json_line(record)
        else:
            session.out.line(session.out.styled(record["message"], _STYLES.get(record["level"], "")))
    if not shown:
        session.err.line(f"{reference} has written nothing yet")
    return failures.OK
