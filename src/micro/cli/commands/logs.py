"""`micro logs NAME`: the output of a service, or of a core service."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from micro.cli import failures, following, plan, view
from micro.cli.commands import run as run_command
from micro.cli.output import Console
from micro.cli.session import Session
from micro.domain import names

_STYLES = {"error": "red", "critical": "red", "warning": "yellow", "debug": "dim"}
_MOST = 10_000
"""Lines that the server tells at once, at most."""

Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[@VERSION]", help="of a service, or a core service such as registry")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until Ctrl-C")
    parser.add_argument(
        "-n",
        "--lines",
        metavar="N",
        type=run_command.count,
        default=15,
        help="how many of the last messages [15]; a traceback is one",
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json: one object a message, times in UTC"
    )
    parser.add_argument("--version", metavar="VERSION", default="", help="of the service [latest]")


def run(args: argparse.Namespace, session: Session) -> int:
    reference = plan.reference(args.name, args.version)
    try:
        return _print(reference, args, session)
    except failures.NoServiceError:
        near = session.platform.nearest(reference.name, names.CORE_SERVICES)
        if not near:
            raise
        raise failures.NoServiceError(f"service {args.name!r} is not running: did you mean {near}?") from None


def _print(reference: plan.Reference, args: argparse.Namespace, session: Session) -> int:
    records: Iterable[Record]
    several = False
    if args.follow:
        several = args.output == "text" and len(_instances(reference, session)) > 1
        records = _followed(reference, args.lines, session)
    else:
        records = list(session.platform.logs(reference.name, reference.version, args.lines, follow=False))
        several = len({record.get("instance") for record in records}) > 1
    shown = False
    for record in records:
        shown = True
        if args.output == "json":
            session.out.json_line(
                {name: record.get(name, "") for name in ("timestamp", "level", "message", "instance")}
            )
        else:
            _show(record, several, session.out)
    if not shown:
        how = "health" if reference.name in names.CORE_SERVICES else f"status {reference}"
        session.err.line(f"{reference} has written nothing yet; how it is: {session.micro} {how}")
    return failures.OK


class _Place:
    """How far a log has been shown: its last record, and how many of the same time were equal to it."""

    def __init__(self) -> None:
        self._last: Record = {}
        self._same: list[Record] = []

    def fresh(self, records: Iterable[Record], gone: Callable[[], None]) -> Iterator[Record]:
        """Those records that come after the place, which moves with them; `gone` is told when what it was is not there
        any more."""
        last, found, left = self._last, False, self._same.count(self._last)
        for record in records:
            if left and record.get("timestamp", "") <= last.get("timestamp", ""):
                found = found or record == last
                left -= record == last
                continue
            if left and not found:
                gone()
            left = 0
            if record.get("timestamp") != self._last.get("timestamp"):
                self._same = []
            self._same.append(record)
            self._last = record
            yield record


def _followed(reference: plan.Reference, lines: int, session: Session) -> Iterator[Record]:
    """The last records and all that come after them, each once, also when the server was away in between."""
    place, asked = _Place(), lines

    def gone() -> None:
        session.err.line(f"more than {_MOST:,} lines came meanwhile: the first of them are left out")

    def connect() -> Iterator[Record | None]:
        nonlocal asked
        _instances(reference, session)
        yield None  # a log may be silent for long: this tells that the server is there
        asked, now = _MOST, asked
        yield from place.fresh(session.platform.logs(reference.name, reference.version, now, follow=True), gone)

    return (record for record in following.follow(connect, session) if record is not None)


def _instances(reference: plan.Reference, session: Session) -> list[Any]:
    found = session.platform.read(reference.name, reference.version)
    return found[0].get("instances", []) if found else []


def _show(record: dict[str, Any], several: bool, out: Console) -> None:
    """The local time, the instance where there are several, and the message; further lines below its first."""
    head = view.clock(str(record.get("timestamp", "")))
    if several:
        head += f" {record.get('instance', '')}"
    first, *rest = str(record.get("message", "")).splitlines() or [""]
    style = _STYLES.get(str(record.get("level", "")), "")
    out.line(f"{out.styled(head, 'dim')}  {out.styled(first, style)}".rstrip())
    for line in rest:
        out.line(f"{' ' * len(head)}  {out.styled(line, style)}".rstrip())
