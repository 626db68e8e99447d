"""`micro store`: the records that services and people keep, by key."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from micro.cli import arguments, copying, failures, flags, following, messages, records
from micro.cli.actions import Action, add_text_output
from micro.cli.session import Session
from micro.domain.errors import Error

PATIENCE = 60.0
"""Seconds that an answer with a large value may take."""

_PAGE = 1000
_NAMED = 5
"""Tables that are named where one is empty, at most."""


# --- where and which --------------------------------------------------------------------------------------------------


def _place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--database", metavar="NAME", default="", help="the namespace [the current one]")
    parser.add_argument("-t", "--table", metavar="NAME", default="", help="of the records [micro]")


def _range_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suffix", metavar="TEXT", default="", help="what keys end with")
    parser.add_argument("-l", "--limit", metavar="N", type=_count, default=0, help="how many at most [all]")
    parser.add_argument("--offset", metavar="N", type=_count, default=0, help="how many to pass over first [0]")
    parser.add_argument("--order", choices=("asc", "desc"), default="asc", help="of the keys, by their bytes [asc]")
    parser.add_argument("--from", dest="start", metavar="KEY", default="", help="the least key of a range")
    parser.add_argument("--until", metavar="KEY", default="", help="the end of a range, itself left out")
    parser.add_argument(
        "--cursor", metavar="KEY", default="", help="go on after this key, the last one of what was shown before"
    )


def _prefix_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        "--prefix",
        nargs="?",
        const=True,
        metavar="PREFIX",
        help="all keys that begin with PREFIX, or with KEY where none is given",
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"takes a number, 0 or more, not {text!r}")
    return int(text)


def _database(args: argparse.Namespace, session: Session) -> dict[str, Any]:
    return {"database": args.database or session.namespace}


def _place(args: argparse.Namespace, session: Session) -> dict[str, Any]:
    """The database and table that the flags name; what is not named is the server's to say."""
    return _database(args, session) | ({"table": args.table} if getattr(args, "table", "") else {})


def _range(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "limit": args.limit,
        "offset": args.offset,
        "order": args.order,
        "from": args.start,
        "until": args.until,
        "cursor": args.cursor,
    }


def _narrowed(args: argparse.Namespace) -> bool:
    """Whether some of a table's records are asked for by their place."""
    return bool(args.suffix or args.offset or args.start or args.until or args.cursor)


def _prefix(args: argparse.Namespace) -> str | None:
    """What keys are to begin with; None where one key is asked for. Raises UsageError for two of them."""
    if args.prefix is None:
        return None
    if args.prefix is True:
        return args.key or ""
    if args.key:
        raise failures.UsageError(f"two prefixes, {args.key!r} and {args.prefix!r}: give one")
    return str(args.prefix)


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", nargs="?", default="", help="of the record")
    _prefix_argument(parser)
    _range_arguments(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show key, value, version and expiry")
    parser.add_argument(
        "-o",
        "--output",
        choices=("text", "json", "raw"),
        default="text",
        help="json: values as base64, for import; raw: the bytes alone, with no line end",
    )
    _place_arguments(parser)


def _read(args: argparse.Namespace, session: Session) -> int:
    prefix = _prefix(args)
    if prefix is None and not args.key and not _narrowed(args):
        raise failures.UsageError("KEY is missing: type micro store read KEY, or --prefix for all")
    if prefix is None and args.key and _narrowed(args):
        raise failures.UsageError(
            "KEY is one record: leave out --suffix, --from, --until, --cursor and --offset, or add --prefix"
        )
    if prefix and args.suffix:
        raise failures.UsageError("read takes a prefix or a suffix; micro store list takes both")
    if prefix is None and args.key:
        request = {"key": args.key, "options": _place(args, session)}
        found = iter(session.platform.store("Store/Read", request, PATIENCE).get("records", []))
    else:
        found = _pages(prefix or "", args, session)
    if args.output == "json":
        now = session.now()
        session.out.json([records.shown(one, now, args.table) for one in found])
        return failures.OK
    first = next(found, None)
    if first is None:
        _nothing(args, session, narrowed=bool(prefix) or _narrowed(args))
        return failures.OK
    found = itertools.chain([first], found)
    if args.verbose:
        session.out.table(records.COLUMNS, [records.row(one) for one in found])
    else:
        for one in found:
            _print(records.value(one), session, raw=args.output == "raw")
    return failures.OK


def _pages(prefix: str, args: argparse.Namespace, session: Session) -> Iterator[dict[str, Any]]:
    """All records that fit, fetched as they are needed."""
    left, options = args.limit, _place(args, session) | _range(args)
    options |= {"suffix": True} if args.suffix else {"prefix": True}
    while True:
        options["limit"] = min(left, _PAGE) if args.limit else 0
        page = session.platform.store("Store/Read", {"key": args.suffix or prefix, "options": options}, PATIENCE)
        found = page.get("records", [])
        yield from found
        left, options["cursor"], options["offset"] = left - len(found), page.get("cursor", ""), 0
        if not options["cursor"] or (args.limit and left <= 0):
            return


def _print(data: bytes, session: Session, *, raw: bool) -> None:
    """A value as its bytes, with a line end unless `raw`; on a terminal as text that does nothing to it."""
    stream = session.out.stream
    if session.out.terminal and not raw:
        session.out.line(records.printable(data.decode("utf-8", "backslashreplace")))
        return
    data = data if raw else data + b"\n"
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode("utf-8", "surrogateescape"))
        return
    stream.flush()
    buffer.write(data)
    buffer.flush()


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="PREFIX", nargs="?", default="", help="what keys begin with [all keys]")
    parser.add_argument("-p", "--prefix", nargs="?", const=True, metavar="PREFIX", help="the same, as a flag")
    parser.add_argument("--exact", action="store_true", help="PREFIX is a key: this one alone, if it is there")
    _range_arguments(parser)
    add_text_output(parser)
    _place_arguments(parser)


def _list(args: argparse.Namespace, session: Session) -> int:
    prefix = _prefix(args)
    which = args.key if prefix is None else prefix
    if args.exact and not which:
        raise failures.UsageError("the key is missing: type micro store list KEY --exact")
    options = _place(args, session) | _range(args) | {"key" if args.exact else "prefix": which, "suffix": args.suffix}
    keys = (
        key
        for answer in session.platform.store_stream("Store/List", [{"options": options}], PATIENCE)
        for key in answer.get("keys", [])
    )
    if args.output == "json":
        session.out.json(list(keys))
        return failures.OK
    empty = True
    for key in keys:
        empty = False
        session.out.line(records.printable(key, line=True) if session.out.terminal else key)
    if empty:
        _nothing(args, session, narrowed=bool(which) or _narrowed(args))
    return failures.OK


def _nothing(args: argparse.Namespace, session: Session, *, narrowed: bool) -> None:
    """Say that there are no records, or none that were asked for; a table is mistyped easily."""
    table, tables = args.table or "micro", []
    with contextlib.suppress(Error):
        tables = session.platform.store("Store/Tables", _database(args, session)).get("tables", [])
    if table in tables:
        said = "such records" if narrowed else "records"
    elif near := failures.closest(table, tables):
        said = f"records: did you mean {near}?"
    else:
        said = f"records; those that have: {', '.join(tables[:_NAMED])}" if tables else "records"
    session.err.line(f"table {table} has no {said}")


def _names(endpoint: str, field: str, args: argparse.Namespace, session: Session) -> int:
    request = _database(args, session) if field == "tables" else {}
    found = session.platform.store(endpoint, request).get(field, [])
    if args.output == "json":
        session.out.json(found)
    else:
        for name in found:
            session.out.line(name)
    if not found and args.output != "json":
        session.err.line(f"no {'table' if field == 'tables' else 'namespace'} holds records yet")
    return failures.OK


def _databases(args: argparse.Namespace, session: Session) -> int:
    return _names("Store/Databases", "databases", args, session)


def _tables_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--database", metavar="NAME", default="", help="the namespace [the current one]")
    add_text_output(parser)


def _tables(args: argparse.Namespace, session: Session) -> int:
    return _names("Store/Tables", "tables", args, session)


# --- changing ---------------------------------------------------------------------------------------------------------


def _write_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="up to 1,024 bytes")
    parser.add_argument(
        "value", metavar="VALUE", nargs="?", help="text; @FILE for what is in a file, - or a pipe for standard input"
    )
    parser.add_argument(
        "--expiry",
        "--ttl",
        metavar="TIME",
        type=_lifetime,
        help="how long it lives: 500ms, 10s, 2h [for ever]; also --ttl",
    )
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="attach JSON, or else text; repeatable"
    )
    _condition_argument(parser)
    _place_arguments(parser)


def _condition_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--if-version", metavar="N", type=_count, help="only if this is the version that is there; 0: only if none is"
    )


def _lifetime(text: str) -> float:
    try:
        return flags.duration(text)
    except failures.UsageError:
        raise argparse.ArgumentTypeError(f"takes a time such as 500ms, 10s or 2h, not {text!r}") from None


def _write(args: argparse.Namespace, session: Session) -> int:
    value = messages.given(args.value, "VALUE", session, after="key", do="keep")
    record: dict[str, Any] = {"key": args.key, "value": messages.encoded(value)}
    if args.expiry is not None:
        record["expiry"] = args.expiry
    if args.metadata:
        from micro.domain.record import check_exact

        pairs = arguments.pairs(args.metadata, "--metadata")
        record["metadata"] = {name: _typed(text) for name, text in pairs.items()}
        check_exact(record["metadata"], "--metadata")
    request = {"record": record, "options": _place(args, session)} | _condition(args)
    session.platform.store("Store/Write", request, PATIENCE)
    return failures.OK


def _typed(text: str) -> Any:
    """What JSON says, else the text."""
    try:
        return json.loads(text, parse_constant=messages.no_json)
    except (ValueError, RecursionError):
        return text


def _condition(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.if_version is None else {"ifVersion": args.if_version}


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="of the record; one that is absent is no error")
    _condition_argument(parser)
    _place_arguments(parser)


def _delete(args: argparse.Namespace, session: Session) -> int:
    request = {"key": args.key, "options": _place(args, session)} | _condition(args)
    if not session.platform.store("Store/Delete", request).get("deleted"):
        session.err.line(f"there was no {args.key!r} in table {args.table or 'micro'}")
    return failures.OK


# --- following --------------------------------------------------------------------------------------------------------


def _watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", nargs="?", default="", help="of the record [all]")
    _prefix_argument(parser)
    parser.add_argument("--after", metavar="N", type=_count, help="begin after this revision [now]")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: one object a line")
    _place_arguments(parser)


def _watch(args: argparse.Namespace, session: Session) -> int:
    prefix = _prefix(args)
    request = _place(args, session) | {"key": args.key if prefix is None else prefix, "prefix": prefix is not None}
    after, reached = args.after, False
    which = f"keys that begin with {prefix!r}" if prefix else repr(args.key) if args.key else "all keys"

    def connect() -> Iterator[dict[str, Any]]:
        asked = request if after is None else request | {"after": after}
        return session.platform.store_stream("Store/Watch", [asked])

    for answer in following.follow(connect, session):
        if not reached:
            session.err.note(f"watching {which} of table {args.table or 'micro'}; Ctrl-C ends")
        reached, after = True, int(answer.get("revision", 0))
        for change in answer.get("changes", []):
            _show(change, after, args, session)
    return failures.OK


def _show(change: dict[str, Any], revision: int, args: argparse.Namespace, session: Session) -> None:
    record, action = change.get("record", {}), str(change.get("action", "")).removeprefix("ACTION_").lower()
    if args.output == "json":
        session.out.json_line(
            {"action": action, "revision": revision} | records.shown(record, session.now(), args.table)
        )
        return
    key = records.printable(str(record.get("key", "")), line=True)
    told = f"  {records.brief(records.value(record))}" if action == "written" else ""
    style = {"written": "green", "deleted": "red"}.get(action, "yellow")
    session.out.line(f"{session.out.styled(action, style)}  {key}{told}")


# --- completion -------------------------------------------------------------------------------------------------------


def _keys(session: Session) -> list[str]:
    options = {"database": session.namespace, "limit": 200}
    answers = session.platform.store_stream("Store/List", [{"options": options}], 0.5)
    return [key for answer in answers for key in answer.get("keys", [])]


ACTIONS = (
    Action("read", "print the value of a key, or of all keys with a prefix", _read, _read_arguments, _keys),
    Action(
        "write",
        "keep a value under a key",
        _write,
        _write_arguments,
        _keys,
        """For example: micro store write user/ann '{"name": "Ann"}'""",
    ),
    Action("list", "list keys", _list, _list_arguments),
    Action("delete", "remove a record", _delete, _delete_arguments, _keys),
    Action("watch", "print changes as they happen", _watch, _watch_arguments, _keys),
    Action("tables", "list the tables that hold records", _tables, _tables_arguments),
    Action("databases", "list the namespaces that hold records", _databases, add_text_output),
    *copying.ACTIONS,
)
