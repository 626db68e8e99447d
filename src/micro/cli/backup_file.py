"""The file that `micro store backup` writes, and how it is checked.

JSON lines, UTF-8, readable by any program:

    {"micro":"backup","format":1,"created":"2031-01-31T08:00:00+00:00"}
    {"database":"micro"}
    {"table":"orders","record":{"key":"1","value":"BASE64","version":"7"},"expires":"1927000000000"}
    {"end":"micro","records":1,"checksum":"SHA-256 of the records, as the store counts it","revision":"7"}
    {"sha256":"of all bytes before this line"}

A database is a namespace; a file has one or several. `expires` is in milliseconds since 1970 and left out for ever.
`revision` is the database's: what is restored gets versions above it, in another store too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from micro.domain.errors import Error, Kind, failed_precondition

FORMAT = 1
LONGEST_LINE = 64 << 20

_BEGIN = b'{"micro":"backup"'


@dataclass(frozen=True, slots=True)
class Section:
    """One database of a file.

    Attributes:
        begin: where its records are, in bytes.
        revision: the database's, when the copy was made.
    """

    database: str
    records: int
    checksum: str
    begin: int
    revision: str = "0"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds that was checked. `created` is RFC 3339."""

    created: str
    sections: tuple[Section, ...]


class Writer:
    """Writes a file, piece by piece.

    Args:
        file: where to; empty.
        created: when, RFC 3339.
    """

    def __init__(self, file: BinaryIO, created: str) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._line({"micro": "backup", "format": FORMAT, "created": created})

    def section(self, database: str, messages: Iterable[Mapping[str, Any]]) -> Iterator[int]:
        """Write a database out of what Dump tells; yields how many records are written, again and again.

        Raises DATA_LOSS when it does not come to its end.
        """
        self._line({"database": database})
        count, checksum, revision = 0, "", "0"
        for message in messages:
            for record in message.get("records", ()):
                self._line(record)
                count += 1
            checksum, revision = message.get("checksum", ""), message.get("revision", "0")
            yield count
        if not checksum:
            raise Error(Kind.DATA_LOSS, f"the copy of {database} broke off: nothing was written, try again")
        self._line({"end": database, "records": count, "checksum": checksum, "revision": revision})

    def end(self) -> None:
        """Write the last line."""
        self._file.write(_line({"sha256": self._hash.hexdigest()}))

    def _line(self, value: Mapping[str, Any]) -> None:
        line = _line(value)
        self._hash.update(line)
        self._file.write(line)


def check(path: Path) -> Contents:
    """Read a file from its beginning to its end, and say what it holds.

    Raises:
        OSError: it cannot be read.
        Error: DATA_LOSS when it is damaged or cut off; FAILED_PRECONDITION when it is of a newer format, or no backup.
    """
    digest, sections = hashlib.sha256(), []
    with path.open("rb") as file:
        if not (line := file.readline(LONGEST_LINE)).startswith(_BEGIN):
            raise failed_precondition(f"{path} is no backup: micro store backup makes one")
        head = _parsed(line, path)
        if head.get("format") != FORMAT:
            raise failed_precondition(
                f"{path} has format {head.get('format')}, this program knows {FORMAT}: use a newer one"
            )
        digest.update(line)
        while "sha256" not in (one := _parsed(line := file.readline(LONGEST_LINE), path)):
            digest.update(line)
            if "database" not in one:
                raise _damaged(path)
            sections.append(_checked(file, str(one["database"]), digest, path))
        if one["sha256"] != digest.hexdigest() or file.read(1):
            raise _damaged(path)
    return Contents(str(head.get("created", "")), tuple(sections))


def _checked(file: BinaryIO, database: str, digest: Any, path: Path) -> Section:
    begin, count = file.tell(), 0
    while "end" not in (one := _parsed(line := file.readline(LONGEST_LINE), path)):
        digest.update(line)
        if "table" not in one:
            raise _damaged(path)
        count += 1
    digest.update(line)
    if one["end"] != database or one.get("records") != count or not one.get("checksum"):
        raise _damaged(path)
    return Section(database, count, str(one["checksum"]), begin, str(one.get("revision", "0")))


def records(path: Path, section: Section) -> Iterator[dict[str, Any]]:
    """The records of a database, in order."""
    with path.open("rb") as file:
        file.seek(section.begin)
        for _ in range(section.records):
            yield _parsed(file.readline(LONGEST_LINE), path)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    """A line of the file; whole, and an object. Raises DATA_LOSS."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not line.endswith(b"\n") or not isinstance(found, dict):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> Error:
    return Error(Kind.DATA_LOSS, f"{path} is damaged or cut off, its checksum does not fit: nothing was changed")
