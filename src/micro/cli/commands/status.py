"""`micro status [NAME]`: what runs, and why something does not."""

from __future__ import annotations

import argparse

from micro.cli import failures, plan, view
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[@VERSION]", nargs="?", default="", help="only this service")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json is for programs")


def run(args: argparse.Namespace, session: Session) -> int:
    name = version = ""
    if args.name:
        name, version = plan.reference(args.name).name, args.name.partition("@")[2]
    services = session.platform.read(name, version)
    if args.name and not services:
        raise failures.NoServiceError(f"service {args.name!r} is not running: see micro status, or start it: micro run")
    api_address = session.environment.api_address
    if args.output == "json":
        session.out.json([view.record(one, api_address) for one in services])
        return failures.OK
    if not services:
        session.err.line("nothing runs yet; make a service: micro new greeter && cd greeter && micro run .")
        return failures.OK
    rows = [view.row(one, api_address, session.now()) for one in services]
    session.out.table(view.COLUMNS, rows, status=view.STATUS_COLUMN)
    for one in services:
        if one.get("error"):
            session.out.line()
            runs = " runs; its last update or restart said" if one.get("status") == "STATUS_RUNNING" else ""
            named = session.out.styled(f"{one.get('name', '')} {one.get('version', '')}".strip(), "bold")
            session.out.line(f"{named}{runs}:")
            for line in str(one["error"]).rstrip().splitlines():
                session.out.line(f"  {line}")
    return failures.OK
