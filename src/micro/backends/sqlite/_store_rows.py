"""How records lie in a file: tables, rows and their checksums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from zlib import crc32

from micro.domain.record import LAST_MILLISECOND, Cause, Change, Commit, Record, decode_metadata, encode_metadata

FORMAT = 1
"""Of the file, as `user_version` says it."""

_RECORD = """CREATE TABLE record (tab BLOB NOT NULL, key BLOB NOT NULL, version INTEGER NOT NULL, expires INTEGER,
checksum INTEGER NOT NULL, metadata BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (tab, key)) WITHOUT ROWID"""

_ENDS = "CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL"

_HISTORY = """CREATE TABLE history (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, changes INTEGER NOT NULL,
cause INTEGER NOT NULL, tab BLOB NOT NULL, key BLOB NOT NULL, expires INTEGER, checksum INTEGER NOT NULL,
metadata BLOB NOT NULL, value BLOB NOT NULL)"""

_STATE = """CREATE TABLE state (id INTEGER PRIMARY KEY, format INTEGER NOT NULL, revision INTEGER NOT NULL,
floor INTEGER NOT NULL, records INTEGER NOT NULL, total INTEGER NOT NULL, history INTEGER NOT NULL,
checksum INTEGER NOT NULL)"""

SCHEMA = (_RECORD, _ENDS, _HISTORY, _STATE)

PLACES = 1024
"""A change's id in the history is its revision times this, and its place in the commit."""

INSERT_RECORD = "INSERT OR REPLACE INTO record VALUES (?, ?, ?, nullif(?, ''), ?, ?, ?)"
INSERT_HISTORY = "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, nullif(?, ''), ?, ?, ?)"
WRITE_STATE = "INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?)"
READ_STATE = "SELECT format, revision, floor, records, total, history, checksum FROM state"

_TOTALS = (1 << 63) - 1
_COPIED = 64 << 10
"""Bytes; a copy of more takes longer than what it saves."""
_CAUSES = (Cause.WRITTEN, Cause.DELETED, Cause.EXPIRED)
CODES = {cause: code for code, cause in enumerate(_CAUSES)}
"""Of causes, in the history: 0 for what was written."""

RecordRow = tuple[bytes, bytes, int, int | None, int, bytes, bytes]
HeadRow = tuple[bytes, int, int | None, int]
"""Key, version, expiry and checksum of a record."""

HistoryRow = tuple[int, int, int, int, bytes, bytes, int | None, int, bytes, bytes]

Bound = bytes | bytearray
NewRecord = tuple[Bound, Bound, int, int | str, int, Bound, Bound]
"""A record's row as it is written, with "" for no expiry: Python looks for an adapter of each None and all bytes that
it hands to SQLite, which takes longer than a copy of them."""

NewHistory = tuple[int, int, int, int, Bound, Bound, int | str, int, Bound, Bound]


class DamagedError(Exception):
    """What was read is not what was written."""


@dataclass(slots=True)
class State:
    """What a file says of itself.

    Attributes:
        floor: the history begins after this revision.
        records: how many there are, expired ones too.
        total: of their checksums.
        history: bytes, about.
    """

    revision: int = 0
    floor: int = 0
    records: int = 0
    total: int = 0
    history: int = 0

    def row(self) -> tuple[int, ...]:
        values = (FORMAT, self.revision, self.floor, self.records, self.total, self.history)
        return (*values, crc32(repr(values).encode()))

    @classmethod
    def of_row(cls, row: tuple[int, ...] | None) -> State:
        if row is None or row[-1] != crc32(repr(row[:-1]).encode()):
            raise DamagedError("what it says of itself is not what was written")
        return cls(*row[1:-1])

    def replace(self, old: int | None, new: int | None) -> None:
        """Count a record's checksum in place of another's; None for no record."""
        self.records += (new is not None) - (old is not None)
        self.total = (self.total + (new or 0) - (old or 0)) & _TOTALS


def head(seed: int, key: Bound, version: int, expires: int | None) -> int:
    """The checksum of what a listing of keys tells; `seed` is the table's `crc32`."""
    seed += (version ^ version >> 32) * 0x9E3779B1
    if expires is not None:
        seed += 1 + (expires ^ expires >> 32) * 0x85EBCA6B
    return crc32(key, seed & 0xFFFFFFFF)


def checksum(table: Bound, key: Bound, version: int, expires: int | None, metadata: Bound, value: Bound) -> int:
    """Of a record, 63 bits, the upper ones from its `head`."""
    first = head(crc32(table), key, version, expires)
    return (first & 0x7FFFFFFF) << 32 | crc32(value, crc32(metadata, first) ^ len(metadata))


def bound(data: bytes) -> Bound:
    """As SQLite is given it in the least time. Raises TypeError for what are no bytes."""
    return bytearray(data) if len(data) <= _COPIED else bytes(data)


def record_row(table: str, record: Record) -> NewRecord:
    """Raises OverflowError for a time of expiry that is too far away."""
    tab, key, value = bytearray(table.encode()), bytearray(record.key.encode()), bound(record.value)
    metadata = bound(encode_metadata(record.metadata).encode()) if record.metadata else bytearray()
    version, expires = record.version, record.expires
    if expires is None:
        return tab, key, version, "", checksum(tab, key, version, None, metadata, value), metadata, value
    if not -LAST_MILLISECOND <= expires <= LAST_MILLISECOND:
        raise OverflowError
    return tab, key, version, expires, checksum(tab, key, version, expires, metadata, value), metadata, value


def verify(row: RecordRow) -> RecordRow:
    """The row, as it was written. Raises DamagedError."""
    table, key, version, expires, found, metadata, value = row
    try:
        if checksum(table, key, version, expires, metadata, value) == found:
            return row
    except TypeError:
        pass
    raise DamagedError("a record is not what was written")


def verify_head(table: bytes, key: bytes, version: int, expires: int | None, found: int) -> None:
    """Raises DamagedError."""
    try:
        if head(crc32(table), key, version, expires) & 0x7FFFFFFF == found >> 32:
            return
    except TypeError:
        pass
    raise DamagedError("a record is not what was written")


def verify_heads(table: bytes, rows: Iterable[HeadRow]) -> None:
    """Raises DamagedError unless all are as they were written."""
    seed = crc32(table)
    try:
        for key, version, expires, found in rows:
            if expires is None:  # `head`, written out for what most of thousands are
                first = crc32(key, seed + (version ^ version >> 32) * 0x9E3779B1 & 0xFFFFFFFF)
            else:
                first = head(seed, key, version, expires)
            if first & 0x7FFFFFFF != found >> 32:
                raise DamagedError("a record is not what was written")
    except TypeError:
        raise DamagedError("a record is not what was written") from None


def record_of(row: RecordRow) -> Record:
    """Raises DamagedError."""
    _, key, version, expires, _, metadata, value = verify(row)
    return Record(key.decode(), value, version, expires, decode_metadata(metadata.decode()) if metadata else {})


def history_row(row: NewRecord, now: int, place: int = 0, changes: int = 1, code: int = 0) -> NewHistory:
    """What a watcher is told of the change that left a record's row, one of so many of its commit."""
    tab, key, version, expires, written, metadata, value = row
    number = version * PLACES + place
    return number, now, changes, code, tab, key, expires, _told(number, changes, code, written), metadata, value


def history_size(rows: Iterable[NewHistory]) -> int:
    return sum([len(row[5]) + len(row[8]) + len(row[9]) + 100 for row in rows])


def commits_of(rows: Iterable[HistoryRow], after: int) -> Iterator[Commit]:
    """Whole commits that follow a revision, of rows in order. Raises DamagedError for what is missing or altered."""
    changes: list[Change] = []
    for number, _, count, cause, tab, key, expires, found, metadata, value in rows:
        if number != (after + 1) * PLACES + len(changes):
            raise DamagedError("its history has a gap")
        try:
            written = checksum(tab, key, after + 1, expires, metadata, value)
            if _told(number, count, cause, written) != found:
                raise DamagedError("its history is not what was written")
        except TypeError:
            raise DamagedError("its history is not what was written") from None
        record = Record(key.decode(), value, after + 1, expires, decode_metadata(metadata.decode()))
        changes.append(Change(tab.decode(), record, _CAUSES[cause]))
        if len(changes) == count:
            after += 1
            yield Commit(after, tuple(changes))
            changes = []
    if changes:
        raise DamagedError("its history has a gap")


def _told(number: int, changes: int, cause: int, found: int) -> int:
    return found ^ crc32(b"%d %d %d" % (number, changes, cause))
