"""`micro status [NAME]`: what runs, and why something does not; with --watch as it changes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from micro.cli import failures, listening, plan, view
from micro.cli.session import Session
from micro.domain import names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[@VERSION]", nargs="?", default="", help="only this service")
    parser.add_argument(
        "-w", "--watch", action="store_true", help="go on showing it as it changes, until Ctrl-C; json: a line each"
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json is for programs")


def run(args: argparse.Namespace, session: Session) -> int:
    if not args.watch:
        return _show(_read(args, session), args, session)
    from micro.cli import watching

    screen = session.out.terminal and session.environ.get("TERM") != "dumb" and args.output == "table"
    before: list[dict[str, Any]] | None = None

    def show() -> None:
        nonlocal before
        services = _read(args, session, gone=before is not None)
        if services != before or screen:  # on a screen it tells how long ago, too
            if before is not None and args.output == "table" and not screen:
                session.out.line()
            before = services
            _show(services, args, session)

    watching.follow(show, session, screen=screen)
    return failures.OK


def _read(args: argparse.Namespace, session: Session, *, gone: bool = False) -> list[dict[str, Any]]:
    """What was asked for. Raises NoServiceError when that is one service and it is not there, unless it may be gone."""
    name = version = ""
    if args.name:
        name, version = plan.reference(args.name).name, args.name.partition("@")[2]
    services = session.platform.read(name, version)
    if args.name and not services and not gone:
        near = session.platform.nearest(name)
        hint = f"did you mean {near}?" if near else "see micro status, or start it: micro run"
        raise failures.NoServiceError(f"service {args.name!r} is not running: {hint}")
    return services


def _show(services: list[dict[str, Any]], args: argparse.Namespace, session: Session) -> int:
    api_address = session.environment.api_address
    if args.output == "json" and args.watch:
        session.out.json_line([view.record(one, api_address) for one in services])
        return failures.OK
    if args.output == "json":
        session.out.json([view.record(one, api_address) for one in services])
        return failures.OK
    if not services and args.name:
        session.err.line(f"{args.name} does not run any more")
        return failures.OK
    if not services:
        make = "make a service: micro new greeter && cd greeter && micro run ."
        session.err.line(f"nothing runs in namespace {session.namespace} yet; {make}")
        return failures.OK
    rows = [view.row(one, api_address, session.now()) for one in services]
    session.out.table(view.COLUMNS, rows, status=view.STATUS_COLUMN)
    failed = [one for one in services if one.get("error")]
    for one in failed if args.name else ():
        session.out.line()
        session.out.line(f"{session.out.styled(_named(one), 'bold')}{_while_running(one)}:")
        for line in _said(one).splitlines():
            session.out.line(f"  {line}")
    if failed and not args.name:
        _summary(failed, session)
    if args.name:
        _listening(plan.reference(args.name), session)
    return failures.OK


def _listening(reference: plan.Reference, session: Session) -> None:
    """A line for what the service consumes and has not been connected to for long; nothing while all is well."""
    services = session.platform.registered(reference.name)
    places = sorted({place for one in services for place in listening.away(one, session.platform)})
    if places:
        session.out.line()
        session.out.line(f"not connected to {', '.join(places)}; why: {session.micro} logs {reference.name}")


def _summary(failed: list[dict[str, Any]], session: Session) -> None:
    """A line for each service that is not well, and how to see the rest of what it says."""
    session.out.line()
    for one in failed:
        name = _named(one)
        first = _said(one).partition("\n")[0]
        line = session.out.cut(f"{name}{_while_running(one)}: {first}")
        session.out.line(session.out.styled(line[: len(name)], "bold") + line[len(name) :])
    session.out.line(session.out.styled("all that one says: micro status NAME", "dim"))


def _named(service: Mapping[str, Any]) -> str:
    return str(plan.Reference(service.get("name", ""), service.get("version", "") or names.DEFAULT_VERSION))


def _while_running(service: Mapping[str, Any]) -> str:
    """What an error is of that a service has though it runs; empty for one that does not."""
    if service.get("status") != "STATUS_RUNNING":
        return ""
    if not str(service["error"]).startswith(f"{_named(service)}: "):
        return " runs; its last update said"
    back = all(one.get("status") == "STATUS_RUNNING" for one in service.get("instances", []))
    return " crashed and was started again" if back else " runs, but not all of its instances"


def _said(service: Mapping[str, Any]) -> str:
    """An error without the name that it begins with: of a crash "greeter: exit status 3", else "greeter did not …"."""
    name, error = _named(service), str(service["error"]).strip()
    return error.removeprefix(f"{name}: ") if error.startswith(f"{name}: ") else error.removeprefix(f"{name} ")
