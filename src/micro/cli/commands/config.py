"""`micro config`: settings and secrets of a namespace, by dotted path."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro.cli import asking, failures, following, records
from micro.cli.actions import Action, add_output, add_text_output, word
from micro.cli.session import Session

_LONGEST = 4 << 20
"""Characters of a value that are read from standard input."""

_PAGE = 1000


def _path_argument(parser: argparse.ArgumentParser, **rest: Any) -> None:
    parser.add_argument("key", metavar="KEY", help="path with dots, such as db.host", **rest)


# --- reading ----------------------------------------------------------------------------------------------------------


def _get_arguments(parser: argparse.ArgumentParser) -> None:
    _path_argument(parser, nargs="?", default="")
    parser.add_argument("-s", "--secret", action="store_true", help="show secrets; for admins")
    parser.add_argument("-a", "--all", action="store_true", help="everything, as one object")
    add_text_output(parser)


def _get(args: argparse.Namespace, session: Session) -> int:
    if bool(args.key) == args.all:
        raise failures.UsageError("say what to show: micro config get KEY, or micro config get --all")
    request = {"path": args.key, "options": {"secret": args.secret}}
    data = _data(session.platform.config("Get", request))
    shown = data if args.output == "json" else _shown(data)
    session.out.line(records.printable(shown) if session.out.terminal else shown)
    return failures.OK


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    _path_argument(parser, nargs="?", default="")
    add_output(parser)


def _list(args: argparse.Namespace, session: Session) -> int:
    found = session.platform.config("List", {"path": args.key}).get("entries", [])
    if args.output == "json":
        shown = [{"path": one["path"], "value": _value(_data(one)), "secret": bool(one.get("secret"))} for one in found]
        session.out.line(_json(shown))
    elif found:
        session.out.table(("KEY", "VALUE"), [(_cell(one["path"]), _line(_data(one))) for one in found])
    else:
        session.err.line(f"nothing is set{f' at {args.key}' if args.key else ''} in namespace {session.namespace}")
    return failures.OK


def _watch_arguments(parser: argparse.ArgumentParser) -> None:
    _path_argument(parser, nargs="?", default="")
    parser.add_argument("-s", "--secret", action="store_true", help="show secrets; for admins")


def _watch(args: argparse.Namespace, session: Session) -> int:
    request = {"path": args.key, "options": {"secret": args.secret}}
    told: str | None = None
    for answer in following.follow(lambda: session.platform.config_watch(request), session):
        if told is None:
            session.err.note(f"watching {args.key or 'all values'}; Ctrl-C ends")
        if _data(answer) != told:
            told = _data(answer)
            session.out.line(told)
    return failures.OK


def _data(answer: Mapping[str, Any]) -> str:
    """The JSON of a value; empty for none."""
    return str(answer.get("value", {}).get("data", ""))


class _Number(str):
    """A number as it was written: what Python makes of it may have other digits."""

    __slots__ = ()


def _value(data: str) -> Any:
    """What `_json` writes again as it was."""
    return json.loads(data, parse_int=_Number, parse_float=_Number)


def _json(value: Any, margin: str = "") -> str:
    """As JSON, indented."""
    deeper = f"{margin}  "
    if isinstance(value, _Number):
        return value
    if isinstance(value, dict) and value:
        items = [f"{deeper}{json.dumps(key, ensure_ascii=False)}: {_json(one, deeper)}" for key, one in value.items()]
        return "\n".join(["{", ",\n".join(items), f"{margin}}}"])
    if isinstance(value, list) and value:
        return "\n".join(["[", ",\n".join(deeper + _json(one, deeper) for one in value), f"{margin}]"])
    return json.dumps(value, ensure_ascii=False)


def _shown(data: str) -> str:
    """A value as people read it: a string without quotes."""
    value = json.loads(data) if data.startswith('"') else None
    return value if isinstance(value, str) else data


def _line(data: str) -> str:
    """As `_shown`, on one line."""
    shown = _shown(data)
    return shown if shown.isprintable() else _cell(data)


def _cell(text: str) -> str:
    """Text that stays on its line."""
    return records.printable(text, line=True)


# --- changing ---------------------------------------------------------------------------------------------------------


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    _path_argument(parser)
    parser.add_argument(
        "value", metavar="VALUE", nargs="?", help="JSON, or else text; @FILE, - or none for standard input"
    )
    parser.add_argument(
        "-s", "--secret", action="store_true", help="keep it encrypted; asked for where it is not given"
    )
    parser.add_argument("--text", action="store_true", help="take it as text, also where it is JSON")


def _set(args: argparse.Namespace, session: Session) -> int:
    value = _given(args, session)
    data = json.dumps(value, ensure_ascii=False) if args.text or not _is_json(value) else value
    session.platform.config("Set", {"path": args.key, "value": {"data": data}, "options": {"secret": args.secret}})
    return failures.OK


def _given(args: argparse.Namespace, session: Session) -> str:
    """The value: from the command line, from standard input, or asked for."""
    key = args.key
    if args.value is not None and args.value.startswith("@"):
        return _file(args.value[1:])
    if args.value is not None and args.value != "-":
        if args.secret:
            better = f"micro config set {key} --secret, which asks for it"
            asking.shown(args.value, f"the value of {key}", better, session)
        return str(args.value)
    if args.value is None and session.stdin.isatty():
        missing = f"the value is missing: type micro config set {key} VALUE"
        if not args.secret:
            raise failures.UsageError(missing)
        return asking.secret(key, session, missing)
    found = session.stdin.read(_LONGEST + 1)
    if len(found) > _LONGEST:
        raise failures.UsageError(
            f"standard input has more than {_LONGEST:,} characters: keep large values in the store"
        )
    if not found:
        raise failures.UsageError(f"the value is missing: type micro config set {key} VALUE, or pipe it in")
    return _unended(found)


def _file(name: str) -> str:
    """What is in a file, without its last line end. Raises UsageError."""
    try:
        with Path(name).expanduser().open(encoding="utf-8", newline="") as file:
            found = file.read(_LONGEST + 1)
    except OSError as error:
        hint = "text that begins with @ is piped in"
        raise failures.UsageError(f"cannot read {name}: {error.strerror}; {hint}") from None
    except UnicodeDecodeError:
        raise failures.UsageError(f"{name} is not UTF-8: keep bytes in the store, or in base64") from None
    if len(found) > _LONGEST:
        raise failures.UsageError(f"{name} has more than {_LONGEST:,} characters: keep large values in the store")
    return _unended(found)


def _unended(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _is_json(text: str) -> bool:
    """Whether it is JSON, or so deep that the server had better say so."""
    try:
        json.loads(text, parse_int=str, parse_constant=_no_number)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _no_number(text: str) -> None:
    raise ValueError(text)


def _delete(args: argparse.Namespace, session: Session) -> int:
    session.platform.config("Delete", {"path": args.key})
    return failures.OK


# --- history ----------------------------------------------------------------------------------------------------------


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    _path_argument(parser, nargs="?", default="")
    parser.add_argument("-l", "--limit", metavar="N", type=_count, default=50, help="how many at most; 0: all [50]")
    add_output(parser)


def _history(args: argparse.Namespace, session: Session) -> int:
    found: list[dict[str, Any]] = []
    while not args.limit or len(found) < args.limit:
        request = {"path": args.key, "limit": str(min(args.limit - len(found), _PAGE) if args.limit else _PAGE)}
        request |= {"before": found[-1]["revision"]} if found else {}
        page = session.platform.config("History", request).get("revisions", [])
        found += page
        if len(page) < int(request["limit"]):
            break
    if args.output == "json":
        session.out.line(_json([_record(one) for one in found]))
        return failures.OK
    rows = [
        (
            one["revision"],
            _time(one).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            one.get("account", ""),
            one.get("action", ""),
            _cell(one.get("path", "")),
            _line(_data(one)),
        )
        for one in found
    ]
    session.out.table(("REVISION", "TIME", "ACCOUNT", "ACTION", "KEY", "VALUE"), rows)
    return failures.OK


def _record(one: Mapping[str, Any]) -> dict[str, Any]:
    data = _data(one)
    return {
        "revision": int(one["revision"]),
        "time": _time(one).isoformat(timespec="milliseconds"),
        "account": one.get("account", ""),
        "action": one.get("action", ""),
        "path": one.get("path", ""),
        "value": _value(data) if data else None,
    }


def _time(one: Mapping[str, Any]) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(one.get("time", 0)) / 1000, dt.UTC)


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="path with dots; '' for everything")
    parser.add_argument("revision", metavar="REVISION", type=_number, help="after which it was as wanted")


def _rollback(args: argparse.Namespace, session: Session) -> int:
    answer = session.platform.config("Rollback", {"path": args.key, "revision": str(args.revision)})
    what = args.key or "everything"
    session.out.line(f"{what} is as it was at revision {args.revision}; this is revision {answer.get('revision', '')}")
    return failures.OK


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"takes a number, 0 or more, not {text!r}")
    return int(text)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15 and int(text)):
        raise argparse.ArgumentTypeError(f"takes a number above 0, not {text!r}")
    return int(text)


# --- the key ----------------------------------------------------------------------------------------------------------


def _rotate(_: argparse.Namespace, session: Session) -> int:
    count = int(session.platform.config("Rotate", {}).get("namespaces", 0))
    if count:
        session.out.line(f"the keys of {count} namespace{'' if count == 1 else 's'} are wrapped with the newest key")
    else:
        session.out.line("all keys are wrapped with the newest key already")
    return failures.OK


def _keys(session: Session) -> list[str]:
    """What completion offers."""
    found = session.platform.config("List", {}, timeout=0.5).get("entries", [])
    return [str(one.get("path", "")) for one in found]


ACTIONS = (
    Action("get", "show a value", _get, _get_arguments, _keys, "Missing is an error: exit code 1."),
    Action(
        "set",
        "set a value, or merge an object into what is there",
        _set,
        _set_arguments,
        _keys,
        "For example: micro config set db.host localhost\nWhat takes the place of a secret is a secret too.",
    ),
    Action("delete", "remove a value, or all below a path", _delete, word("KEY", "path with dots"), _keys, also="del"),
    Action("list", "list all values, each with its path", _list, _list_arguments, _keys),
    Action("history", "list the changes, the newest first", _history, _history_arguments, _keys),
    Action("rollback", "bring back what was there after a revision", _rollback, _rollback_arguments, _keys),
    Action(
        "watch",
        "print a value as JSON, and again after each change",
        _watch,
        _watch_arguments,
        _keys,
        "An empty line stands for nothing.",
    ),
    Action("rotate-key", "wrap the keys of all secrets with a new key; for admins of namespace micro", _rotate),
)
