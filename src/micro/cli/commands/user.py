"""`micro user`: who is logged in, with which password, in which namespace, and a few settings of one's own."""

from __future__ import annotations

import argparse
import re

from micro.cli import asking, failures
from micro.cli.actions import Action, add_text_output, word
from micro.cli.session import Session
from micro.domain import account, names
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind, not_found

_HIDDEN = re.compile(r"credentials|secret|token|password|key", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_UNSET = "n/a"


def _who(args: argparse.Namespace, session: Session) -> int:
    own = session.identity.session()
    found = session.platform.auth("Accounts/Read", {"id": own.id, "namespace": own.namespace}).get("account", {})
    record = {
        "id": found.get("id", own.id),
        "name": found.get("name", own.name),
        "type": found.get("type", ""),
        "namespace": own.namespace,
        "scopes": sorted(found.get("scopes", [])),
        "environment": session.environment_name,
        "current_namespace": session.namespace,
    }
    if args.output == "json":
        session.out.json(record)
        return failures.OK
    rows = [
        ("user", record["name"] if record["name"] == record["id"] else f"{record['name']} (id {record['id']})"),
        (
            "namespace",
            own.namespace if own.namespace == session.namespace else f"{own.namespace}, in {session.namespace}",
        ),
        ("environment", session.environment_name),
        ("scopes", ", ".join(record["scopes"]) or "none"),
    ]
    _pairs(rows, session)
    return failures.OK


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--platform", action="store_true", help="the one for the platform's own services, for programs that call them"
    )


def _token(args: argparse.Namespace, session: Session) -> int:
    session.identity.session()
    audience = Audience.PLATFORM if args.platform else Audience.SERVICES
    token = session.identity.checked(audience)
    if args.platform:
        session.err.line("warning: show it to the platform's own services only: it lets others do there what you can")
    session.out.line(token)
    return failures.OK


# --- the password -----------------------------------------------------------------------------------------------------


def _password_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-stdin",
        action="store_true",
        help="read the old one and the new one from standard input, a line each",
    )
    parser.add_argument(
        "--old-password", metavar="TEXT", default="", help="better not: it stays in the shell's history"
    )
    parser.add_argument(
        "--new-password", metavar="TEXT", default="", help="better not: it stays in the shell's history"
    )


def _set_password(args: argparse.Namespace, session: Session) -> int:
    own = session.identity.session()
    missing = "the passwords are missing: pipe them in, a line each, with --password-stdin"
    if args.password_stdin:
        old, new = (asking.piped(session, "--password-stdin") for _ in range(2))
    else:
        old, new = args.old_password, args.new_password
        if old or new:
            asking.shown(old, "--old-password" if old else "--new-password", "--password-stdin", session)
        old = old or asking.secret("Password until now", session, missing)
        new = new or asking.new_secret(f"New password for {own.name}", session, missing)
    account.secret(new)
    request = {"id": own.id, "oldSecret": old, "newSecret": new, "namespace": own.namespace}
    session.platform.auth("Accounts/ChangeSecret", request)
    # It ended the account's sessions, this one too.
    chosen = session.identity.namespace
    session.identity.login(own.id, new, own.namespace)
    session.identity.choose(chosen)
    session.out.line("password changed; all other sessions of the account have ended")
    return failures.OK


# --- the namespace ----------------------------------------------------------------------------------------------------


def _namespace(_: argparse.Namespace, session: Session) -> int:
    session.out.line(session.namespace)
    return failures.OK


def _set_namespace(args: argparse.Namespace, session: Session) -> int:
    wanted = names.namespace(args.name)
    identity = session.identity
    own = identity.session()
    if wanted != own.namespace:
        login = f"log in to it with: micro login --namespace {wanted}"
        try:
            there = session.platform.auth("Namespaces/List", {}).get("namespaces", [])
        except Error as error:
            if error.kind is not Kind.PERMISSION_DENIED:
                raise
            there = []
        if wanted not in {str(one.get("name", "")) for one in there}:
            raise Error(Kind.PERMISSION_DENIED, f"{own.namespace}/{own.id} has no namespace {wanted!r}: {login}")
    identity.choose(wanted)
    over = session.chosen_namespace
    but = f"; MICRO_NAMESPACE={over} comes before it in this shell" if over not in ("", wanted) else ""
    session.out.line(f"{wanted} is the current namespace of {session.environment_name}{but}")
    return failures.OK


def namespaces(session: Session) -> list[str]:
    """What completion offers where a namespace is wanted."""
    found = session.platform.auth("Namespaces/List", {}, timeout=0.5).get("namespaces", [])
    return [str(one.get("name", "")) for one in found]


# --- settings ---------------------------------------------------------------------------------------------------------


def _settings(args: argparse.Namespace, session: Session) -> int:
    own = session.identity.stored.session
    kept = session.environments.settings()
    record = {"user": own.name if own else "", "namespace": session.namespace, "environment": session.environment_name}
    record |= {name: _veiled(name, kept[name]) for name in sorted(kept)}
    if args.output == "json":
        session.out.json(record)
    else:
        for name, value in record.items():
            session.out.line(f"{name}: {value or _UNSET}")
    return failures.OK


def _veiled(name: str, value: str) -> str:
    return "[hidden]" if _HIDDEN.search(name) and value else value


def _get(args: argparse.Namespace, session: Session) -> int:
    if args.key == "user":
        session.out.line(session.identity.session().name)
    elif args.key in ("namespace", "environment"):
        session.out.line(session.namespace if args.key == "namespace" else session.environment_name)
    else:
        kept = session.environments.settings()
        if args.key not in kept:
            near = failures.closest(args.key, list(kept))
            raise not_found(f"setting {args.key!r} is not set" + (f": did you mean {near}?" if near else ""))
        session.out.line(kept[args.key])
    return failures.OK


def _set(args: argparse.Namespace, session: Session) -> int:
    key = _own_key(args.key)
    value = args.value
    if value is None:
        value = asking.secret(key, session, f"the value is missing: type micro user config set {key} VALUE")
    elif value == "-":
        value = asking.piped(session, "a value of -")
    elif _HIDDEN.search(key):
        asking.shown(value, f"the value of {key}", f"micro user config set {key}, which asks for it", session)
    session.environments.set(key, value)
    session.out.line(f"{key} set")
    return failures.OK


def _delete(args: argparse.Namespace, session: Session) -> int:
    if not session.environments.unset(_own_key(args.key)):
        raise not_found(f"setting {args.key!r} is not set")
    session.out.line(f"{args.key} deleted")
    return failures.OK


def _own_key(key: str) -> str:
    """The key when it is one that can be set; raises UsageError for those that follow from something else."""
    elsewhere = {
        "user": "micro login",
        "namespace": "micro user namespace set NAME",
        "environment": "micro env set NAME",
    }
    if key in elsewhere:
        raise failures.UsageError(f"{key!r} is changed with: {elsewhere[key]}")
    if len(key) > 128 or not _KEY.fullmatch(key):
        raise failures.UsageError(f"{key!r} is not a key: use letters, digits and hyphens, with dots between words")
    return key


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="of the setting, such as team.name")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="asked for and not shown without it; - reads it")


def _keys(session: Session) -> list[str]:
    return sorted(session.environments.settings())


def _pairs(rows: list[tuple[str, str]], session: Session) -> None:
    for label, text in rows:
        session.out.line(f"{session.out.styled(label.ljust(max(len(one) for one, _ in rows)), 'dim')}  {text}")


ACTIONS = (
    Action("", "show who is logged in, where, and with which scopes", _who, add_text_output),
    Action(
        "token",
        "print the access token for calls of services",
        _token,
        _token_arguments,
        note="It is good for some minutes. Show it to services that you call, and to nobody else.",
    ),
    Action("set password", "change the password", _set_password, _password_arguments),
    Action("namespace", "print the current namespace", _namespace),
    Action("namespace set", "choose the current namespace", _set_namespace, word("NAME", "of a namespace"), namespaces),
    Action("config", "list the settings", _settings, add_text_output),
    Action("config get", "print a setting", _get, word("KEY", "of the setting"), _keys),
    Action("config set", "change a setting", _set, _set_arguments, _keys),
    Action("config delete", "remove a setting", _delete, word("KEY", "of the setting"), _keys),
)
