"""`micro env [list|get|set|add|set-address|del]`: separate deployments by name."""

from __future__ import annotations

import argparse

from micro.cli import failures
from micro.cli.actions import Action, add_output, word
from micro.cli.environment import PLACES, Environment
from micro.cli.http1 import Tls
from micro.cli.session import Session


def _list(args: argparse.Namespace, session: Session) -> int:
    current = session.environment_name
    found = session.environments.all()
    if args.output == "json":
        session.out.json([_record(one, current) for one in found])
        return failures.OK
    rows = [
        (
            "*" if one.name == current else "",
            one.name,
            str(one.address) if one.address.host else "not configured",
            one.description,
        )
        for one in found
    ]
    session.out.table(("", "NAME", "ADDRESS", "DESCRIPTION"), rows)
    return failures.OK


def _record(one: Environment, current: str) -> dict[str, object]:
    return {
        "name": one.name,
        "address": str(one.address) if one.address.host else "",
        "current": one.name == current,
        "description": one.description,
    }


def _get(_: argparse.Namespace, session: Session) -> int:
    session.out.line(session.environment.name)
    return failures.OK


def _set(args: argparse.Namespace, session: Session) -> int:
    session.environments.choose(args.name)
    overriding = session.environ.get("MICRO_ENV", "")
    but = f"; MICRO_ENV={overriding} comes before it in this shell" if overriding not in ("", args.name) else ""
    where = session.environments.get(args.name).address
    session.out.line(f"{args.name} is the current environment, at {where}{but}")
    return failures.OK


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="for the environment")
    _place_arguments(parser)
    parser.add_argument("--description", metavar="TEXT", default="", help="for the list")


def _place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="HOST:PORT of its proxy")
    parser.add_argument("--ca", metavar="FILE", default="", help="trust certificates of this authority [the machine's]")
    parser.add_argument("--cert", metavar="FILE", default="", help="show this certificate, where one is asked for")
    parser.add_argument("--key", metavar="FILE", default="", help="the key of --cert")


def _add(args: argparse.Namespace, session: Session) -> int:
    made = session.environments.add(args.name, args.address, description=args.description, tls=_tls(args))
    session.out.line(f"{made.name} added, at {made.address}; to use it: micro env set {made.name}")
    return failures.OK


def _set_address(args: argparse.Namespace, session: Session) -> int:
    made = session.environments.set_address(args.name, args.address, tls=_tls(args))
    if made:
        session.out.line(f"{made.name} is at {made.address}; to use it: micro env set {made.name}")
    else:
        session.out.line(f"{args.name} is not configured any more")
    return failures.OK


def _tls(args: argparse.Namespace) -> Tls:
    return Tls(args.ca, args.cert, args.key)


def _place_and_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(PLACES)}, or one that was added")
    _place_arguments(parser)


def _remove(args: argparse.Namespace, session: Session) -> int:
    session.environments.remove(args.name)
    session.out.line(f"{args.name} removed")
    return failures.OK


def _names(session: Session) -> list[str]:
    return session.environments.names()


def _added(session: Session) -> list[str]:
    return [name for name in session.environments.names() if name not in ("local", *PLACES)]


_NOTE = (
    "Addresses on this machine are reached without TLS, all others with it, unless http:// or https:// says so.\n"
    "Certificates and names are always checked. FILEs are copied, so they may go away afterwards."
)

ACTIONS = (
    Action("", "list the environments, * marks the current one", _list, add_output),
    Action("list", "list the environments, * marks the current one", _list, add_output),
    Action("get", "print the current one's name", _get),
    Action("set", "talk to another one from now on", _set, word("NAME", "of the environment"), _names),
    Action(
        "add",
        "add one, reached at the address of its proxy",
        _add,
        _add_arguments,
        note=f"For example: micro env add prod proxy.example.com:443\n{_NOTE}",
    ),
    Action(
        "set-address",
        "say where one is; none takes that of dev or platform away",
        _set_address,
        _place_and_address,
        lambda session: [*PLACES, *_added(session)],
        _NOTE,
    ),
    Action("delete", "remove one, and its session", _remove, word("NAME", "of the environment"), _added, also="del"),
)
