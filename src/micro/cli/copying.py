"""Copies of records: whole databases as checked files, tables as JSON lines. `micro store` has the actions."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from micro.cli import asking, backup_file, failures, records
from micro.cli.actions import Action
from micro.cli.backup_file import Section
from micro.cli.platform import WAIT
from micro.cli.session import Session
from micro.domain import names
from micro.domain.errors import Error, Kind, data_loss

PATIENCE = 60.0

_BATCH_RECORDS = 500
_BATCH_CHARACTERS = 8 << 20
_PIECE_RECORDS = 500
_PIECE_CHARACTERS = 1 << 20
_BAR = 24
_PAUSE = 0.1


class Bar:
    """How far a copy has come, on a terminal.

    Args:
        verb: "backing up micro".
        total: how many records there are to come, or bytes; 0 where that is not known.
    """

    def __init__(self, verb: str, total: int, session: Session) -> None:
        self._verb = verb
        self.total = total
        self._progress = session.progress
        self._clock = session.monotonic
        self._next = 0.0

    def show(self, count: int, done: int | None = None) -> None:
        """So many records; `done` is how much of the total that is, where the total is of something else."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + _PAUSE
        if not self.total:
            self._progress.show(f"{self._verb}  {_counted(count)}")
            return
        share = min((count if done is None else done) / self.total, 1.0)
        filled = round(share * _BAR)
        self._progress.show(f"{self._verb} [{'#' * filled}{'-' * (_BAR - filled)}] {share:4.0%}  {_counted(count)}")

    def clear(self) -> None:
        self._progress.clear()


def piped(session: Session) -> bytes:
    """All of standard input, as its bytes."""
    buffer = getattr(session.stdin, "buffer", None)
    return buffer.read() if buffer is not None else session.stdin.read().encode("utf-8", "surrogateescape")


# --- backup and restore -----------------------------------------------------------------------------------------------


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="to write")
    parser.add_argument(
        "--all-namespaces", action="store_true", help="every namespace, each as of one moment; for admins of micro"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there, once the copy is whole")


def _backup(args: argparse.Namespace, session: Session) -> int:
    from micro.ports import private_file

    path = Path(args.file).expanduser()
    if not args.force and os.path.lexists(path):
        raise failures.UsageError(f"{path} already exists: choose another name, or replace it with --force")
    databases = [session.namespace]
    if args.all_namespaces:
        databases = session.platform.store("Store/Databases", {}).get("databases", [])
    created = dt.datetime.fromtimestamp(session.now(), dt.UTC).isoformat(timespec="seconds")
    count = 0
    try:
        with private_file.replacing(path) as file:
            writer = backup_file.Writer(file, created)
            for database in databases:
                count += _dumped(writer, database, session)
            writer.end()
    except OSError as error:
        raise failures.UsageError(f"cannot write {path}: {error.strerror}") from None
    where = f"namespace {databases[0]}" if len(databases) == 1 else f"{len(databases)} namespaces"
    session.out.line(f"{_counted(count)} of {where} in {path}")
    return failures.OK


def _dumped(writer: backup_file.Writer, database: str, session: Session) -> int:
    bar, count = Bar(f"backing up {database}", 0, session), 0
    try:
        messages = session.platform.store_stream("Backup/Dump", [{"database": database}], WAIT)
        for count in writer.section(database, _counting(messages, bar)):
            bar.show(count)
    finally:
        bar.clear()
    return count


def _counting(messages: Iterable[dict[str, Any]], bar: Bar) -> Iterator[dict[str, Any]]:
    """The messages of a dump; the first tells the bar how many records there are, about."""
    for message in messages:
        bar.total = int(message.get("count", 0)) or bar.total
        yield message


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="that micro store backup wrote")
    parser.add_argument(
        "--all-namespaces", action="store_true", help="every namespace of the file; for admins of micro"
    )
    parser.add_argument("--force", action="store_true", help="replace what is there without asking")


def _restore(args: argparse.Namespace, session: Session) -> int:
    path = Path(args.file).expanduser()
    try:
        contents = backup_file.check(path)
        chosen = _chosen(contents, path, session, every=args.all_namespaces)
        if not args.force:
            _agreed(chosen, contents.created, session)
        for database, section in chosen:
            _loaded(path, section, database, session)
    except OSError as error:
        raise failures.UsageError(f"cannot read {path}: {error.strerror}") from None
    for database, section in chosen:
        session.out.line(f"{_counted(section.records)} of {path} in namespace {database}")
    return failures.OK


def _chosen(contents: backup_file.Contents, path: Path, session: Session, *, every: bool) -> list[tuple[str, Section]]:
    """Which part of a file goes into which namespace."""
    if every:
        return [(names.namespace(one.database), one) for one in contents.sections]
    if len(contents.sections) == 1:
        return [(session.namespace, contents.sections[0])]
    found = [(session.namespace, one) for one in contents.sections if one.database == session.namespace]
    if not found:
        held = ", ".join(one.database for one in contents.sections)
        raise failures.UsageError(
            f"{path} holds {held or 'nothing'}, not {session.namespace}: choose with --namespace, or --all-namespaces"
        )
    return found


def _agreed(chosen: list[tuple[str, Section]], created: str, session: Session) -> None:
    """Have the replacement of what is there agreed to. Raises UsageError when it is not."""
    kept = [name for name, _ in chosen if _keeps_any(name, session)]
    if not kept:
        return
    listed = ", ".join(kept)
    if not session.stdin.isatty():
        raise failures.UsageError(f"nothing was restored: {listed} keeps records; to replace them, add --force")
    session.err.line(f"This replaces all records of {listed} by what they were at {created}.")
    otherwise = "nothing was restored"
    if asking.line('"yes", to go on', session, otherwise) != "yes":
        raise failures.UsageError(otherwise)


def _keeps_any(database: str, session: Session) -> bool:
    """Whether there is something to replace: what is damaged is something too."""
    try:
        return bool(session.platform.store("Store/Tables", {"database": database}).get("tables"))
    except Error as error:
        if error.kind is not Kind.DATA_LOSS:
            raise
        session.err.line(error.message)
        return True


def _loaded(path: Path, section: Section, database: str, session: Session) -> None:
    bar = Bar(f"restoring {database}", section.records, session)
    try:
        answers = list(session.platform.store_stream("Backup/Load", _pieces(path, section, database, bar), WAIT))
    finally:
        bar.clear()
    if not answers or int(answers[-1].get("count", 0)) > section.records:
        raise data_loss(f"the store did not say that {database} is restored: look at it with micro store list")


def _pieces(path: Path, section: Section, database: str, bar: Bar) -> Iterator[dict[str, Any]]:
    """The messages of a load."""
    head: dict[str, Any] = {"database": database, "above": section.revision}
    held: list[dict[str, Any]] = []
    size = 0
    for number, record in enumerate(backup_file.records(path, section), 1):
        held.append(record)
        size += len(record.get("record", {}).get("value", ""))
        if len(held) >= _PIECE_RECORDS or size >= _PIECE_CHARACTERS:
            yield head | {"records": held}
            head, held, size = {}, [], 0
            bar.show(number)
    yield head | {"records": held, "checksum": section.checksum}


# --- export and import ------------------------------------------------------------------------------------------------


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="to write [standard output]")
    parser.add_argument("-t", "--table", metavar="NAME", default="", help="this table alone [all]")
    parser.add_argument("-p", "--prefix", metavar="PREFIX", default="", help="of the keys [all]")


def _export(args: argparse.Namespace, session: Session) -> int:
    from micro.ports import private_file

    place = {"database": session.namespace}
    tables = [args.table] if args.table else session.platform.store("Store/Tables", place).get("tables", [])
    bar, count = Bar(f"exporting {session.namespace}", 0, session), 0
    try:
        if session.err.terminal:
            bar.total = sum(_size(place | {"table": table}, args.prefix, session) for table in tables)
        with ExitStack() as stack:
            file = (
                stack.enter_context(private_file.replacing(Path(args.file).expanduser())) if args.file != "-" else None
            )
            for table in tables:
                for record in _table(place | {"table": table}, args.prefix, session):
                    line = json.dumps(records.shown(record, session.now(), table), ensure_ascii=False)
                    session.out.line(line) if file is None else file.write(line.encode() + b"\n")
                    count += 1
                    bar.show(count)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise failures.UsageError(f"cannot write {args.file}: {error.strerror}") from None
    finally:
        bar.clear()
    session.err.line(f"{_counted(count)} exported")
    return failures.OK


def _table(place: Mapping[str, str], prefix: str, session: Session) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        options = {**place, "prefix": True, "cursor": cursor}
        page = session.platform.store("Store/Read", {"key": prefix, "options": options}, PATIENCE)
        yield from page.get("records", [])
        cursor = page.get("cursor", "")
        if not cursor:
            return


def _size(place: Mapping[str, str], prefix: str, session: Session) -> int:
    """How many records an export of a table has."""
    answers = session.platform.store_stream("Store/List", [{"options": {**place, "prefix": prefix}}], PATIENCE)
    return sum(len(answer.get("keys", [])) for answer in answers)


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="to read [standard input]")
    parser.add_argument(
        "-t", "--table", metavar="NAME", default="", help="for all of them [as the file says, or micro]"
    )


def _import(args: argparse.Namespace, session: Session) -> int:
    bar, done = Bar(f"importing into {session.namespace}", 0, session), 0
    file: BinaryIO | None = None
    try:
        with ExitStack() as stack:
            if args.file == "-":
                if session.stdin.isatty():
                    raise failures.UsageError("FILE is missing: name one, or pipe it in")
                lines: Iterable[bytes] = getattr(session.stdin, "buffer", None) or _encoded(session)
            else:
                file = stack.enter_context(Path(args.file).expanduser().open("rb"))
                lines, bar.total = file, os.fstat(file.fileno()).st_size
            for batch in _batches(_given(lines, args.file), args.table, session.now()):
                request = {"database": session.namespace, "operations": batch}
                session.platform.store("Store/Batch", request, PATIENCE)
                done += len(batch)
                bar.show(done, None if file is None else file.tell())
    except OSError as error:
        raise failures.UsageError(f"cannot read {args.file}: {error.strerror}") from None
    except Error as error:
        before = f"; {_counted(done)} before it were imported" if done else "; nothing was imported"
        error.message += before
        raise
    finally:
        bar.clear()
    session.err.line(f"{_counted(done)} imported")
    return failures.OK


def _encoded(session: Session) -> Iterator[bytes]:
    return (line.encode("utf-8", "surrogateescape") for line in session.stdin)


def _given(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, Any]]:
    """(where, record) of JSON lines, or of the list that `-o json` prints. Raises UsageError for what is neither."""
    shown = "standard input" if name == "-" else name
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    for number, line in numbered:
        if line.lstrip().startswith(b"["):
            rest = b"".join([line, *(more for _, more in numbered)])
            for place, record in enumerate(_json(rest, shown), 1):
                yield f"record {place} of {shown}", record
            return
        yield f"line {number} of {shown}", _json(line, f"line {number} of {shown}")


def _json(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise failures.UsageError(f"{place} is not JSON") from None


def _batches(given: Iterable[tuple[str, Any]], table: str, now: float) -> Iterator[list[dict[str, Any]]]:
    """Writes, as many as go into one transaction. A key that comes again goes into the next one."""
    held: list[dict[str, Any]] = []
    keys: set[tuple[str, str]] = set()
    size = 0
    for place, record in given:
        write = records.sent(record, now, place)
        if write is None:
            continue
        where = table or str(record.get("table", ""))
        full = len(held) >= _BATCH_RECORDS or size + len(write["value"]) > _BATCH_CHARACTERS
        if held and (full or (where, write["key"]) in keys):
            yield held
            held, keys, size = [], set(), 0
        held.append({"write": write} | ({"table": where} if where else {}))
        keys.add((where, write["key"]))
        size += len(write["value"])
    if held:
        yield held


def _counted(number: int) -> str:
    return "1 record" if number == 1 else f"{number:,} records"


ACTIONS = (
    Action(
        "backup",
        "copy all records of the namespace to a file, as of one moment",
        _backup,
        _backup_arguments,
        note="The file is readable by its owner only, and holds what the services keep, in the clear.",
    ),
    Action(
        "restore",
        "replace all records of the namespace by those of a backup",
        _restore,
        _restore_arguments,
        note="A file that is damaged or cut off changes nothing. Any store takes it, whichever wrote it.",
    ),
    Action("export", "write records as JSON, one a line", _export, _export_arguments),
    Action(
        "import",
        "write the records of an export, in place of those with their keys",
        _import,
        _import_arguments,
        note="Takes what micro store read -o json prints as well.",
    ),
)
