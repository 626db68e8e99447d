"""What changes a file of records, each in one transaction that is on disk when it returns."""

from __future__ import annotations

import itertools
import operator
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeGuard

from micro.backends.sqlite._store_rows import (
    CODES,
    INSERT_HISTORY,
    INSERT_RECORD,
    PLACES,
    READ_STATE,
    WRITE_STATE,
    NewHistory,
    NewRecord,
    State,
    checksum,
    history_row,
    history_size,
    record_of,
    record_row,
    verify_head,
)
from micro.domain import errors
from micro.domain.record import (
    Cause,
    Change,
    Commit,
    Committed,
    Delete,
    Get,
    Operation,
    Put,
    Record,
    check_condition,
    decide,
    normal,
)

SWEPT = 1000
"""Records that one sweep removes at most."""

_FIND = "SELECT version, expires, checksum FROM record WHERE tab = ? AND key = ?"
_READ = "SELECT tab, key, version, expires, checksum, metadata, value FROM record WHERE tab = ? AND key = ?"
_DELETE = "DELETE FROM record WHERE tab = ? AND key = ?"
_ENDED = "SELECT tab, key, version, expires, checksum FROM record WHERE expires <= ? ORDER BY expires, tab, key LIMIT ?"
_OLDEST = "SELECT id / ?, time, length(key) + length(metadata) + length(value) + 100 FROM history ORDER BY id"

Answer = Committed | Exception


def load_state(connection: sqlite3.Connection) -> State:
    """Raises DamagedError."""
    return State.of_row(connection.execute(READ_STATE).fetchone())


Head = tuple[int, int | None, int]
"""Version, expiry and checksum of a record."""

Heads = dict[tuple[str, str], Head]
"""Of records that were written lately, by table and key."""

_HEADS = 2048
"""That are remembered; when there are more, all are forgotten."""


class Transaction:
    """One that is under way, begun and ended by its owner, who keeps `state` when it is committed.

    Args:
        heads: what transactions before this one left, which it keeps up to date; to be cleared when it is not
            committed.
        telling: whether `commits` is to be filled.
    """

    def __init__(
        self, connection: sqlite3.Connection, state: State, now: int, heads: Heads, *, telling: bool = True
    ) -> None:
        self._connection = connection
        self._now = now
        self.state = replace(state)
        self.commits: list[Commit] = []
        self.history: list[NewHistory] = []
        self._rows: list[NewRecord] = []
        """To be written before anything is read or removed."""

        self._heads = heads
        self._telling = telling
        self._before: dict[tuple[str, str], int | None] = {}
        """Checksums of what a batch found."""

    def batches(self, batches: Sequence[Sequence[Operation]]) -> list[Answer]:
        """Do each, or leave it undone with the error in its place."""
        return [self._put(*each) if _is_put(each) else self._batch(each) for each in batches]

    def _put(self, put: Put) -> Answer:
        """A batch of nothing but this, as most are: what `decide` comes to, in fewer steps."""
        state = self.state
        place, revision = (put.table, put.key), state.revision + 1
        try:
            there = self._heads.get(place) or self._find(place)
            if put.if_version is not None:
                live = there if there is not None and (there[1] is None or there[1] > self._now) else None
                check_condition(put, None if live is None else Record(put.key, version=live[0]))
            record = Record(put.key, put.value, revision, put.expires, normal(put.metadata) if put.metadata else {})
            row = record_row(put.table, record)
        except OverflowError:
            return _too_far()
        except (errors.Error, UnicodeError, TypeError, ValueError, RecursionError) as error:
            return error
        self._rows.append(row)
        self.history.append(history_row(row, self._now))
        self._heads[place] = revision, put.expires, row[4]
        state.replace(None if there is None else there[2], row[4])
        state.revision = revision
        if self._telling:
            self.commits.append(Commit(revision, (Change(put.table, record),)))
        return Committed(revision, (record,))

    def _find(self, place: tuple[str, str]) -> Head | None:
        """Raises DamagedError."""
        self._flush()
        table, key = place[0].encode(), place[1].encode()
        row: Head | None = self._connection.execute(_FIND, (bytearray(table), bytearray(key))).fetchone()
        if row is not None:
            verify_head(table, key, *row)
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        return row

    def _batch(self, operations: Sequence[Operation]) -> Answer:
        self._flush()
        self._before.clear()
        try:
            committed, commit = decide(operations, self._there, self.state.revision, self._now)
            rows = [] if commit is None else [record_row(each.table, each.record) for each in commit.changes]
        except OverflowError:
            return _too_far()
        except (errors.Error, UnicodeError, TypeError, ValueError, RecursionError) as error:
            return error
        if commit is None:
            return committed
        for change, row in zip(commit.changes, rows, strict=True):
            before = self._before[change.table, change.record.key]
            if change.cause is Cause.WRITTEN:
                self._rows.append(row)
                self.state.replace(before, row[4])
            else:
                self._flush()
                self._connection.execute(_DELETE, row[:2])
                self.state.replace(before, None)
        self._record(commit, rows)
        return committed

    def _there(self, operation: Operation) -> Record | None:
        """What is there before an operation, with its value for a Get. Raises DamagedError."""
        place = operation.table, operation.key
        table, key = operation.table.encode(), operation.key.encode()
        self._heads.pop(place, None)
        if isinstance(operation, Get | Delete):
            whole = self._connection.execute(_READ, (table, key)).fetchone()
            self._before[place] = None if whole is None else whole[4]
            return None if whole is None else record_of(whole)
        row = self._connection.execute(_FIND, (table, key)).fetchone()
        self._before[place] = None if row is None else row[2]
        if row is None:
            return None
        verify_head(table, key, *row)
        return Record(operation.key, b"", row[0], row[1])

    def _flush(self) -> None:
        """Write the records that were put so far."""
        if self._rows:
            self._connection.executemany(INSERT_RECORD, self._rows)
            self._rows.clear()

    def sweep(self) -> bool:
        """Remove what has ended, up to SWEPT records; whether there is more."""
        rows = self._connection.execute(_ENDED, (self._now, SWEPT)).fetchall()
        if rows:
            self._heads.clear()
            revision = self.state.revision + 1
            for row in rows:
                verify_head(*row)
                self.state.replace(row[4], None)
            self._connection.executemany(_DELETE, [row[:2] for row in rows])
            ended = [(table.decode(), Record(key.decode(), version=revision)) for table, key, *_ in rows]
            commit = Commit(revision, tuple(Change(*each, Cause.EXPIRED) for each in ended))
            self._record(commit, [record_row(*each) for each in ended])
        return len(rows) == SWEPT

    def load(self, kept: Iterator[tuple[bytes, bytes, int | None, bytes, bytes]], above: int) -> int:
        """Put these in place of all that is there; returns how many."""
        self._heads.clear()
        self._connection.execute("DELETE FROM record")
        self._connection.execute("DELETE FROM history")
        revision = max(self.state.revision, above) + 1
        self.state = State(revision, revision)
        for table, key, expires, metadata, value in kept:
            found = checksum(table, key, revision, expires, metadata, value)
            self._connection.execute(INSERT_RECORD, (table, key, revision, expires, found, metadata, value))
            self.state.replace(None, found)
        self.save()
        return self.state.records

    def finish(self, history_bytes: int, history_after: int) -> None:
        """Write what is left, shorten the history where it is too long, and write the state if it changed."""
        self._flush()
        if self.history:
            self._connection.executemany(INSERT_HISTORY, self.history)
            self.state.history += history_size(self.history)
            self._shorten(history_bytes, history_after)
            self.save()

    def save(self) -> None:
        self._connection.execute(WRITE_STATE, self.state.row())

    def _record(self, commit: Commit, rows: Sequence[NewRecord]) -> None:
        changes = len(commit.changes)
        for place, (change, row) in enumerate(zip(commit.changes, rows, strict=True)):
            self.history.append(history_row(row, self._now, place, changes, CODES[change.cause]))
        self.state.revision = commit.revision
        if self._telling:
            self.commits.append(commit)

    def _shorten(self, most_bytes: int, before: int) -> None:
        """A part at a time, but more than is added. The newest commit stays."""
        gone, seen = 0, 0
        oldest = self._connection.execute(_OLDEST, (PLACES,))
        for revision, changes in itertools.groupby(oldest, operator.itemgetter(0)):
            rows = list(changes)
            if revision == self.state.revision or seen > 2 * PLACES:
                break
            if self.state.history <= most_bytes and rows[0][1] >= before:
                break
            gone, seen = revision, seen + len(rows)
            self.state.history -= sum(size for _, _, size in rows)
        oldest.close()
        if gone:
            self._connection.execute("DELETE FROM history WHERE id < ?", ((gone + 1) * PLACES,))
            self.state.floor = gone


def _is_put(operations: Sequence[Operation]) -> TypeGuard[tuple[Put]]:
    return len(operations) == 1 and isinstance(operations[0], Put)


def _too_far() -> errors.Error:
    return errors.invalid_argument("a time of expiry is beyond what can be kept")
