"""`micro namespace`: the tenants of a deployment, for admins of namespace micro."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from micro.cli import asking, failures, pack
from micro.cli.actions import Action, add_output, add_text_output, word
from micro.cli.commands.user import namespaces
from micro.cli.platform import WAIT
from micro.cli.session import Session
from micro.domain import names
from micro.domain.errors import not_found

_QUOTA = ("services", "instances", "requests", "upload", "topics", "events")
_BYTES = ("upload", "events")
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def _list(args: argparse.Namespace, session: Session) -> int:
    found = session.platform.auth("Namespaces/List", {}).get("namespaces", [])
    if args.output == "json":
        session.out.json([_record(one, session) for one in found])
        return failures.OK
    rows = [
        ("*" if one.get("name") == session.namespace else "", one.get("name", ""), one.get("created", "")[:10])
        for one in found
    ]
    session.out.table(("", "NAME", "CREATED"), rows)
    return failures.OK


def _record(one: Mapping[str, Any], session: Session) -> dict[str, Any]:
    return {
        "name": one.get("name", ""),
        "current": one.get("name", "") == session.namespace,
        "created": one.get("created", ""),
        "quota": _limits(one),
    }


def _limits(one: Mapping[str, Any]) -> dict[str, int]:
    quota = one.get("quota", {})
    return {name: int(quota.get(name, 0)) for name in _QUOTA}


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    word("NAME", "up to 63 lower-case letters, digits and hyphens")(parser)
    add_text_output(parser)


def _create(args: argparse.Namespace, session: Session) -> int:
    name = names.namespace(args.name)
    made = session.platform.auth("Namespaces/Create", {"name": name}).get("namespace", {})
    if args.output == "json":
        session.out.json(_record(made, session))
        return failures.OK
    first = f"{session.micro_there} auth create account --namespace {name} --scopes admin NAME"
    session.out.line(f"namespace {name} created; its first account: {first}")
    return failures.OK


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a namespace")
    parser.add_argument("--force", action="store_true", help="end and remove what is in it; its name must be typed")


def _delete(args: argparse.Namespace, session: Session) -> int:
    name = names.namespace(args.name)
    if args.force:
        _confirmed(name, session)
    session.platform.auth("Namespaces/Delete", {"name": name, "force": args.force}, WAIT)
    if session.identity.stored.namespace == name:
        session.identity.choose("")
    session.out.line(f"namespace {name} deleted")
    return failures.OK


def _confirmed(name: str, session: Session) -> None:
    """Have the name typed; raises UsageError for another one."""
    otherwise = f"nothing was deleted: to delete {name} with all that is in it, type its name"
    if session.stdin.isatty():
        session.err.line(f"This ends all services of namespace {name} and removes its accounts and rules, for good.")
        typed = asking.line("Its name, to go on", session, otherwise)
    else:
        typed = session.stdin.readline(asking.LONGEST).strip()
    if typed != name:
        raise failures.UsageError(otherwise)


def _quota_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="of a namespace [the current one]")
    parser.add_argument("--services", metavar="N", type=_number, help="services, each version counted")
    parser.add_argument("--instances", metavar="N", type=_number, help="instances of them all")
    parser.add_argument("--requests", metavar="N", type=_number, help="requests a second at the HTTP gateway")
    parser.add_argument("--upload", metavar="SIZE", type=_size, help="of one upload: 500k, 64M, 1G")
    parser.add_argument("--topics", metavar="N", type=_number, help="topics of event streams")
    parser.add_argument("--events", metavar="SIZE", type=_size, help="of what event streams keep: 500M, 10G")
    add_output(parser)


def _quota(args: argparse.Namespace, session: Session) -> int:
    name = names.namespace(args.name or session.namespace)
    found = session.platform.auth("Namespaces/List", {}).get("namespaces", [])
    one = next((one for one in found if one.get("name") == name), None)
    if one is None:
        raise not_found(f"namespace {name!r} not found: list them with micro namespace")
    limits = _limits(one)
    given = {limit: getattr(args, limit) for limit in _QUOTA if getattr(args, limit) is not None}
    if given:
        limits |= given
        quota = limits | {limit: str(limits[limit]) for limit in _BYTES}
        session.platform.auth("Namespaces/SetQuota", {"name": name, "quota": quota})
    if args.output == "json":
        session.out.json(limits)
    else:
        shown = {limit: str(value) if value else "no limit" for limit, value in limits.items()}
        # The runtime takes no more, whatever the quota.
        most = not 0 < limits["upload"] <= pack.LIMIT
        shown["upload"] = f"{pack.LIMIT // 2**20} MB, the most" if most else _shown_size(limits["upload"])
        shown["events"] = _shown_size(limits["events"]) if limits["events"] else "no limit"
        session.out.table(("LIMIT", "VALUE"), list(shown.items()))
    return failures.OK


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise argparse.ArgumentTypeError(f"takes a number, 0 for no limit, not {text!r}")
    return int(text)


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,12})\s*([kmg]?)(i?b)?", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"takes a size such as 64M, 0 for no limit, not {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def _shown_size(size: int) -> str:
    unit, factor = next((one for one in (("G", 2**30), ("M", 2**20), ("k", 2**10)) if size % one[1] == 0), ("", 1))
    return f"{size // factor}{unit}"


ACTIONS = (
    Action("", "list the namespaces, * marks the current one", _list, add_output),
    Action("list", "list the namespaces, * marks the current one", _list, add_output),
    Action("create", "make a namespace", _create, _create_arguments),
    Action(
        "delete",
        "remove a namespace",
        _delete,
        _delete_arguments,
        namespaces,
        "One that is not empty is removed only with --force.",
    ),
    Action("quota", "show or change the limits of a namespace; 0 is no limit", _quota, _quota_arguments, namespaces),
)
