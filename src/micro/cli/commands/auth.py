"""`micro auth`: accounts, rules, sessions, keys and the audit log of the namespace."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from micro.cli import arguments, asking, failures
from micro.cli.actions import Action, add_output, add_text_output, word
from micro.cli.session import Session
from micro.domain import account, errors, rule

_PAGE = 1000
_PATIENCE = 0.5
_PUBLIC = "<public>"
_ACCESS = {"ACCESS_GRANTED": "granted", "ACCESS_DENIED": "denied"}


# --- accounts ---------------------------------------------------------------------------------------------------------


def _pages(session: Session) -> Iterator[dict[str, Any]]:
    """The accounts of the namespace, however many."""
    cursor = ""
    while True:
        request = {"namespace": session.namespace, "limit": _PAGE, "cursor": cursor}
        found = session.platform.auth("Accounts/List", request)
        yield from found.get("accounts", [])
        cursor = found.get("next", "")
        if not cursor:
            return


def _list_accounts(args: argparse.Namespace, session: Session) -> int:
    found = [_account(one) for one in _pages(session)]
    if args.output == "json":
        session.out.json(found)
        return failures.OK
    rows = [(one["id"], one["name"], one["type"], _joined(one["scopes"]), _paired(one["metadata"])) for one in found]
    session.out.table(("ID", "NAME", "TYPE", "SCOPES", "METADATA"), rows)
    return failures.OK


def _account(one: dict[str, Any]) -> dict[str, Any]:
    """An account as `-o json` promises it."""
    texts = {name: one.get(name, "") for name in ("id", "name", "type", "namespace")}
    return texts | {
        "scopes": sorted(one.get("scopes", [])),
        "metadata": dict(one.get("metadata", {})),
        "created": one.get("created", ""),
    }


def _joined(scopes: list[str]) -> str:
    return ",".join(scopes) or "-"


def _paired(metadata: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(metadata.items())) or "-"


def _create_account_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of the account")
    parser.add_argument("--name", metavar="NAME", default="", help="what people call it [the id]")
    parser.add_argument("--type", choices=("user", "service"), default="user", help="a person or a program [user]")
    parser.add_argument("--scopes", metavar="A,B", default="", help="what it may do; admin is everything there")
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="attach a pair; repeatable"
    )
    _secret_arguments(parser, "its secret")
    add_text_output(parser)


def _secret_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--secret-stdin", action="store_true", help=f"read {what} from standard input [a random one]")
    parser.add_argument("--secret", metavar="TEXT", default="", help="better not: it stays in the shell's history")


def _given_secret(args: argparse.Namespace, session: Session) -> str:
    """The secret that was given; empty for a random one."""
    if args.secret:
        return account.secret(asking.shown(args.secret, "--secret", "--secret-stdin", session))
    return account.secret(asking.piped(session, "--secret-stdin")) if args.secret_stdin else ""


def _create_account(args: argparse.Namespace, session: Session) -> int:
    chosen = _given_secret(args, session)
    request = {
        "id": account.account_id(args.id),
        "name": args.name,
        "secret": chosen,
        "scopes": _scopes(args.scopes),
        "type": args.type,
        "metadata": arguments.pairs(args.metadata, "--metadata"),
        "namespace": session.namespace,
    }
    answer = session.platform.auth("Auth/Generate", request)
    made = _account(answer.get("account", {}))
    if args.output == "json":
        session.out.json(made if chosen else made | {"secret": answer.get("secret", "")})
        return failures.OK
    session.out.line(f"account {made['id']} created in namespace {made['namespace']}")
    if not chosen:
        _show_once(str(answer.get("secret", "")), session)
    return failures.OK


def _show_once(secret: str, session: Session) -> None:
    session.out.line()
    session.out.line(f"  {session.out.styled('secret', 'dim')}  {secret}")
    session.out.line()
    session.out.line("It is not shown again.")


def _scopes(text: str) -> list[str]:
    return sorted(account.scopes(scope.strip() for scope in text.split(",") if scope.strip()))


def _update_account_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of the account")
    parser.add_argument("--scopes", metavar="A,B", required=True, help='all of its scopes from now on; "" for none')
    add_text_output(parser)


def _update_account(args: argparse.Namespace, session: Session) -> int:
    request = {"id": args.id, "scopes": _scopes(args.scopes), "namespace": session.namespace}
    updated = _account(session.platform.auth("Accounts/UpdateScopes", request).get("account", {}))
    if args.output == "json":
        session.out.json(updated)
    else:
        session.out.line(f"account {args.id} has the scopes: {', '.join(updated['scopes']) or 'none'}")
    return failures.OK


def _update_secret_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of the account")
    _secret_arguments(parser, "the new one")
    add_text_output(parser)


def _update_secret(args: argparse.Namespace, session: Session) -> int:
    chosen = _given_secret(args, session)
    about = {"id": args.id, "namespace": session.namespace}
    # Read before: with the change one's own sessions may end, and the new secret is told once.
    found = session.platform.auth("Accounts/Read", about).get("account", {}) if args.output == "json" else {}
    answer = session.platform.auth("Accounts/ChangeSecret", {**about, "newSecret": chosen})
    if args.output == "json":
        changed = _account(found)
        session.out.json(changed if chosen else changed | {"secret": answer.get("secret", "")})
        return failures.OK
    session.out.line(f"secret of {args.id} changed; its sessions have ended")
    if not chosen:
        _show_once(str(answer.get("secret", "")), session)
    return failures.OK


def _delete_account(args: argparse.Namespace, session: Session) -> int:
    session.platform.auth("Accounts/Delete", {"id": args.id, "namespace": session.namespace})
    session.out.line(f"account {args.id} deleted")
    return failures.OK


def _account_ids(session: Session) -> list[str]:
    found = session.platform.auth("Accounts/List", {"namespace": session.namespace, "limit": _PAGE}, _PATIENCE)
    return [str(one.get("id", "")) for one in found.get("accounts", [])]


# --- rules ------------------------------------------------------------------------------------------------------------


def _list_rules(args: argparse.Namespace, session: Session) -> int:
    found = session.platform.auth("Rules/List", {"namespace": session.namespace}).get("rules", [])
    records = [_rule(one) for one in found]
    if args.output == "json":
        session.out.json(records)
        return failures.OK
    rows = [
        (
            one["id"],
            one["scope"] or _PUBLIC,
            one["access"],
            one["resource"],
            "lowest" if one["priority"] == rule.LOWEST else str(one["priority"]),
        )
        for one in records
    ]
    session.out.table(("ID", "SCOPE", "ACCESS", "RESOURCE", "PRIORITY"), rows)
    return failures.OK


def _rule(one: dict[str, Any]) -> dict[str, Any]:
    """A rule as `-o json` promises it."""
    resource = one.get("resource", {})
    return {
        "id": one.get("id", ""),
        "scope": one.get("scope", ""),
        "access": _ACCESS.get(one.get("access", ""), "denied"),
        "resource": ":".join(resource.get(part, "") for part in ("type", "name", "endpoint")),
        "priority": int(one.get("priority", 0)),
        "namespace": one.get("namespace", ""),
    }


def _rule_arguments(*usual: str) -> Callable[[argparse.ArgumentParser], None]:
    """The arguments that make a rule; `usual` says what scope, resource, access and priority are when not named."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("id", metavar="ID", help="of the rule")
        scope, resource, access, priority = (f" [{text}]" if text else "" for text in usual or [""] * 4)
        about = 'whom it is about: nothing for anyone, "*", "+" or a scope'
        parser.add_argument("--scope", metavar="SCOPE", help=about + scope)
        what = "what it is about: service:NAME:ENDPOINT, * for all"
        parser.add_argument("--resource", metavar="T:N:E", help=what + resource)
        parser.add_argument("--access", choices=("granted", "denied"), help=f"whether they may{access}")
        parser.add_argument("--priority", metavar="N", type=int, help=f"higher ones are looked at first{priority}")
        add_text_output(parser)

    return add


_RULE_NOTE = (
    '--scope "*" is any account of the namespace, "+" any account of any namespace.\n'
    "Of rules of one priority, those that deny are looked at first; the first that fits decides."
)


def _named(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of a rule."""
    named: dict[str, Any] = {}
    if args.scope is not None:
        named["scope"] = rule.ANYONE if args.scope == _PUBLIC else args.scope
    if args.resource is not None:
        named["resource"] = rule.resource(args.resource)
    if args.access is not None:
        named["access"] = rule.Access(args.access)
    if args.priority is not None:
        named["priority"] = args.priority
    return named


def _sent(wanted: rule.Rule) -> dict[str, Any]:
    """A rule as auth takes it."""
    resource = wanted.resource
    return {
        "id": wanted.id,
        "scope": wanted.scope,
        "resource": {"type": resource.type, "name": resource.name, "endpoint": resource.endpoint},
        "access": f"ACCESS_{wanted.access.name}",
        "priority": wanted.priority,
        "namespace": wanted.namespace,
    }


def _create_rule(args: argparse.Namespace, session: Session) -> int:
    wanted = rule.checked(rule.Rule(args.id, session.namespace, **_named(args)))
    made = session.platform.auth("Rules/Create", {"rule": _sent(wanted)}).get("rule", {})
    if args.output == "json":
        session.out.json(_rule(made))
    else:
        session.out.line(f"rule {wanted.id} created: {wanted}")
    return failures.OK


def _update_rule(args: argparse.Namespace, session: Session) -> int:
    """Change what was named and leave the rest as it is."""
    named = _named(args)
    if not named:
        raise failures.UsageError("nothing to change: name --scope, --resource, --access or --priority")
    rule.checked(rule.Rule(args.id, session.namespace, **named))
    found = session.platform.auth("Rules/List", {"namespace": session.namespace}).get("rules", [])
    record = next((_rule(one) for one in found if one.get("id") == args.id), None)
    if record is None:
        hint = "list them with micro auth list rules"
        raise errors.not_found(f"rule {args.id!r} not found in namespace {session.namespace}: {hint}")
    kept = {
        "scope": record["scope"],
        "resource": rule.resource(record["resource"]),
        "access": rule.Access(record["access"]),
        "priority": record["priority"],
    }
    wanted = rule.checked(rule.Rule(args.id, session.namespace, **kept | named))
    changed = session.platform.auth("Rules/Update", {"rule": _sent(wanted)}).get("rule", {})
    if args.output == "json":
        session.out.json(_rule(changed))
    else:
        session.out.line(f"rule {wanted.id}: {wanted}")
    return failures.OK


def _delete_rule(args: argparse.Namespace, session: Session) -> int:
    session.platform.auth("Rules/Delete", {"id": args.id, "namespace": session.namespace})
    session.out.line(f"rule {args.id} deleted")
    return failures.OK


def _rule_ids(session: Session) -> list[str]:
    found = session.platform.auth("Rules/List", {"namespace": session.namespace}, _PATIENCE).get("rules", [])
    return [str(one.get("id", "")) for one in found if one.get("id") != rule.BUILT_IN]


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("account", metavar="ACCOUNT", help="id, NAMESPACE/ID of one elsewhere, or - for nobody")
    parser.add_argument("resource", metavar="RESOURCE", help="what would be called: service:NAME:ENDPOINT")
    add_text_output(parser)


def _explain(args: argparse.Namespace, session: Session) -> int:
    who = "" if args.account == "-" else args.account
    resource = str(rule.resource(args.resource, exact=True))
    request = {"account": who, "resource": resource, "namespace": session.namespace}
    answer = session.platform.auth("Auth/Explain", request)
    allowed = bool(answer.get("allowed", False))
    decided = _rule(answer["rule"]) if answer.get("rule") else None
    if args.output == "json":
        session.out.json({"allowed": allowed, "rule": decided, "reason": answer.get("reason", "")})
        return failures.OK
    verdict = "allowed" if allowed else "denied"
    reason = str(answer.get("reason", "")).removeprefix(f"{verdict}: ") or "no rule is about it"
    session.out.line(f"{session.out.styled(verdict, 'green' if allowed else 'red')}: {reason}")
    return failures.OK


# --- sessions, keys, audit --------------------------------------------------------------------------------------------


def _list_tokens_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("account", metavar="ACCOUNT", nargs="?", default="", help="id of an account [your own]")
    parser.add_argument("--all", action="store_true", help="of all accounts of the namespace")
    add_output(parser)


def _list_tokens(args: argparse.Namespace, session: Session) -> int:
    who = "*" if args.all else args.account
    request = {"account": who, "namespace": _namespace_of(who, session)}
    found = session.platform.auth("Tokens/List", request).get("sessions", [])
    fields = ("id", "account", "namespace", "created", "refreshed", "expires", "address")
    records = [{name: one.get(name, "") for name in fields} for one in found]
    if args.output == "json":
        session.out.json(records)
        return failures.OK
    rows = [
        (
            one["id"],
            one["account"],
            _time(one["created"]),
            _time(one["refreshed"]),
            _time(one["expires"]),
            one["address"],
        )
        for one in records
    ]
    session.out.table(("SESSION", "ACCOUNT", "BEGAN", "LAST USED", "ENDS", "FROM"), rows)
    return failures.OK


def _namespace_of(who: str, session: Session) -> str:
    """One's own sessions are in the namespace of one's account, whichever is current."""
    return session.namespace if who else session.identity.session().namespace


def _time(text: str) -> str:
    """A time of RFC 3339 as this machine's clock shows it."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return text


def _revoke_token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "session", metavar="SESSION", nargs="?", default="", help="id of the session; or with --account"
    )
    parser.add_argument("--account", metavar="ID", default="", help="of this account, all its sessions without SESSION")


def _revoke_token(args: argparse.Namespace, session: Session) -> int:
    if not (args.session or args.account):
        raise failures.UsageError("type micro auth revoke token SESSION, or --account ID for all of an account's")
    who = args.account or (_owner(args.session, session) if args.session else "")
    request = {"session": args.session, "account": who, "namespace": _namespace_of(who, session)}
    session.platform.auth("Tokens/Revoke", request)
    session.out.line(f"session {args.session} has ended" if args.session else f"all sessions of {who} have ended")
    return failures.OK


def _owner(number: str, session: Session) -> str:
    """Whose a session is; empty for one's own, and where others' are not for this account to see."""
    own = session.platform.auth("Tokens/List", {"account": "", "namespace": _namespace_of("", session)})
    if any(one.get("id") == number for one in own.get("sessions", [])):
        return ""
    found = session.platform.auth("Tokens/List", {"account": "*", "namespace": session.namespace}).get("sessions", [])
    return next((str(one.get("account", "")) for one in found if one.get("id") == number), "")


def _sessions(session: Session) -> list[str]:
    found = session.platform.auth("Tokens/List", {"account": "", "namespace": ""}, _PATIENCE).get("sessions", [])
    return [str(one.get("id", "")) for one in found]


def _rotate(args: argparse.Namespace, session: Session) -> int:
    kid = session.platform.auth("Keys/Rotate", {}).get("kid", "")
    if args.output == "json":
        found = session.platform.auth("Keys/List", {}).get("keys", [])
        session.out.json(next((one for one in found if one.get("kid") == kid), {"kid": kid}))
        return failures.OK
    session.out.line(f"key {kid} signs from now on; what the one before signed stays valid until the next rotation")
    return failures.OK


def _list_keys(args: argparse.Namespace, session: Session) -> int:
    found = session.platform.auth("Keys/List", {}).get("keys", [])
    if args.output == "json":
        session.out.json(found)
    else:
        session.out.table(
            ("KEY", "ALGORITHM", "MADE"), [(k["kid"], k["alg"], _time(k.get("created", ""))) for k in found]
        )
    return failures.OK


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-l", "--limit", "-n", "--lines", metavar="N", type=int, default=50, help="how many at most [50]"
    )
    parser.add_argument("--account", metavar="ID", default="", help="only of this account")
    parser.add_argument("--since", metavar="TIME", default="", help="only from then on: 30m, 2d or 2026-01-31T08:00Z")
    parser.add_argument("--until", metavar="TIME", default="", help="only before then, written as for --since")
    parser.add_argument("--all", action="store_true", help="of all namespaces; for admins of namespace micro")
    add_output(parser)


def _audit(args: argparse.Namespace, session: Session) -> int:
    if args.limit < 1:
        raise failures.UsageError(f"--limit takes a number from 1 on, not {args.limit}")
    fields = ("time", "actor", "action", "target", "namespace", "address", "outcome")
    records = [{name: one.get(name, "") for name in fields} for one in _audited(args, session)]
    if args.output == "json":
        session.out.json(records)
        return failures.OK
    rows = [
        (_time(one["time"]), *(one[name] or "-" for name in fields[1:] if args.all or name != "namespace"))
        for one in records
    ]
    header = ("TIME", "WHO", "WHAT", "TO", *(("NAMESPACE",) if args.all else ()), "FROM", "OUTCOME")
    session.out.table(header, rows)
    return failures.OK


def _audited(args: argparse.Namespace, session: Session) -> list[dict[str, Any]]:
    """The entries that are asked for, page after page."""
    from micro.cli import topics

    request = {"namespace": "*" if args.all else session.namespace, "account": args.account}
    now = session.now()
    for flag in ("since", "until"):
        if text := getattr(args, flag):
            request[flag] = topics.instant(text, now, f"--{flag}")
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        limit = min(_PAGE, args.limit - len(found))
        page = session.platform.auth("Audit/List", {**request, "limit": limit, "cursor": cursor})
        found += page.get("entries", [])
        cursor = str(page.get("next", ""))
        if not cursor or len(found) >= args.limit:
            return found


ACTIONS = (
    Action("list accounts", "list the accounts of the namespace", _list_accounts, add_output),
    Action("create account", "make an account", _create_account, _create_account_arguments),
    Action("update account", "change an account's scopes", _update_account, _update_account_arguments, _account_ids),
    Action("update secret", "give an account a new secret", _update_secret, _update_secret_arguments, _account_ids),
    Action("delete account", "remove an account", _delete_account, word("ID", "of the account"), _account_ids),
    Action("list rules", "list the rules in the order they are looked at", _list_rules, add_output),
    Action(
        "create rule",
        "add a rule",
        _create_rule,
        _rule_arguments("anyone", "*:*:*", "granted", "0"),
        note=f"For example: micro auth create rule books --scope librarian --resource service:books:Books.Delete\n"
        f"{_RULE_NOTE}",
    ),
    Action("update rule", "change what is named of a rule", _update_rule, _rule_arguments(), _rule_ids, _RULE_NOTE),
    Action("delete rule", "remove a rule", _delete_rule, word("ID", "of the rule"), _rule_ids),
    Action(
        "explain", "say which rule lets an account call something, or not", _explain, _explain_arguments, _account_ids
    ),
    Action(
        "list tokens",
        "list sessions: yours, an account's, or all",
        _list_tokens,
        _list_tokens_arguments,
        _account_ids,
        also="list sessions",
    ),
    Action(
        "revoke token",
        "end a session, or all of an account's",
        _revoke_token,
        _revoke_token_arguments,
        _sessions,
        also="revoke session",
    ),
    Action("list keys", "list the public keys that tokens are checked with", _list_keys, add_output),
    Action("rotate-keys", "sign with a new key from now on", _rotate, add_text_output),
    Action("audit", "show logins and changes, the newest first", _audit, _audit_arguments),
)
