"""`micro env [list|get|set|add|del]`: separate deployments by name."""

from __future__ import annotations

import argparse

from micro.cli import failures
from micro.cli.session import Session

_ACTIONS = {"list": 0, "get": 0, "set": 1, "add": 2, "del": 1}
_USAGE = {"set": "micro env set NAME", "add": "micro env add NAME HOST:PORT", "del": "micro env del NAME"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", default="list", metavar="ACTION", help="list (default), get, set, add or del"
    )
    parser.add_argument("words", nargs="*", metavar="NAME [ADDRESS]", help="of the environment")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json is for programs")
    parser.epilog = (
        "micro env                       the environments, * marks the current one\n"
        "micro env add prod HOST:PORT    add one, reached at the address of its proxy\n"
        "micro env set prod              talk to it from now on\n"
        "micro env del prod              remove it"
    )


def run(args: argparse.Namespace, session: Session) -> int:
    if args.action not in _ACTIONS:
        near = failures.closest(args.action, list(_ACTIONS))
        hint = f"did you mean: micro env {near}" if near else "see: micro env --help"
        raise failures.UsageError(f"unrecognized subcommand for micro env: {args.action}; {hint}")
    if len(args.words) != _ACTIONS[args.action]:
        raise failures.UsageError(f"type {_USAGE.get(args.action, f'micro env {args.action}')}")
    environments = session.environments
    if args.action == "get":
        session.out.line(session.environment.name)
    elif args.action == "set":
        environments.choose(*args.words)
    elif args.action == "add":
        environments.add(*args.words)
    elif args.action == "del":
        environments.remove(*args.words)
    else:
        _list(args.output, session)
    return failures.OK


def _list(style: str, session: Session) -> None:
    current = session.environment_name
    found = [session.environments.get(name) for name in session.environments.names()]
    if style == "json":
        session.out.json(
            [
                {
                    "name": one.name,
                    "address": str(one.address),
                    "current": one.name == current,
                    "description": one.description,
                }
                for one in found
            ]
        )
        return
    rows = [("*" if one.name == current else "", one.name, str(one.address), one.description) for one in found]
    session.out.table(("", "NAME", "ADDRESS", "DESCRIPTION"), rows)
