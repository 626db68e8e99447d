"""What changes a file of records, each in one transaction that is on disk when it returns."""

from __future__ import annotations

import itertools
import operator
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeGuard

from micro.backends.sqlite._store_rows import (
    INSERT_HISTORY,
    INSERT_RECORD,
    PLACES,
    READ_STATE,
    WRITE_STATE,
    HistoryRow,
    RecordRow,
    State,
    checksum,
    history_rows,
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


class Transaction:
    """One that is under way, begun and ended by its owner, who keeps `state` when it is committed."""

    def __init__(self, connection: sqlite3.Connection, state: State, now: int) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._now = now
        self.state = replace(state)
        self.commits: list[Commit] = []
        self._history: list[HistoryRow] = []
        self._before: dict[tuple[bytes, bytes], int | None] = {}
        """Checksums of what a batch found."""

    def batches(self, batches: Sequence[Sequence[Operation]]) -> list[Answer]:
        """Do each, or leave it undone with the error in its place."""
        return [self._put(*each) if _is_put(each) else self._batch(each) for each in batches]

    def _put(self, put: Put) -> Answer:
        """A batch of nothing but this, as most are: what `decide` comes to, in fewer steps."""
        revision = self.state.revision + 1
        try:
            tab, key = put.table.encode(), put.key.encode()
            there = self._cursor.execute(_FIND, (tab, key)).fetchone()
            if there is not None:
                verify_head(tab, key, *there)
            if put.if_version is not None:
                live = there is not None and (there[1] is None or there[1] > self._now)
                check_condition(put, Record(put.key, version=there[0]) if live else None)
            record = Record(put.key, put.value, revision, put.expires, normal(put.metadata) if put.metadata else {})
            row = record_row(put.table, record)
            self._cursor.execute(INSERT_RECORD, row)
        except OverflowError:
            return _too_far()
        except (errors.Error, UnicodeError, TypeError, ValueError, RecursionError) as error:
            return error
        self.state.replace(None if there is None else there[2], row[4])
        self._record(Commit(revision, (Change(put.table, record),)), (row,))
        return Committed(revision, (record,))

    def _batch(self, operations: Sequence[Operation]) -> Answer:
        self._before.clear()
        try:
            committed, commit = decide(operations, self._there, self.state.revision, self._now)
            rows = [] if commit is None else [record_row(each.table, each.record) for each in commit.changes]
        except (errors.Error, UnicodeError, TypeError, ValueError, RecursionError) as error:
            return error
        if commit is None:
            return committed
        several = len(rows) > 1
        before = replace(self.state) if several else self.state
        if several:
            self._connection.execute("SAVEPOINT batch")
        try:
            for change, row in zip(commit.changes, rows, strict=True):
                if change.cause is Cause.WRITTEN:
                    self._connection.execute(INSERT_RECORD, row)
                    self.state.replace(self._before[row[0], row[1]], row[4])
                else:
                    self._connection.execute(_DELETE, row[:2])
                    self.state.replace(self._before[row[0], row[1]], None)
        except OverflowError:  # of a time that is too far away
            if several:
                self._connection.execute("ROLLBACK TO batch")
                self._connection.execute("RELEASE batch")
            self.state = before
            return _too_far()
        if several:
            self._connection.execute("RELEASE batch")
        self._record(commit, rows)
        return committed

    def _there(self, operation: Operation) -> Record | None:
        """What is there before an operation, with its value for a Get. Raises DamagedError."""
        place = operation.table.encode(), operation.key.encode()
        if isinstance(operation, Get | Delete):
            whole = self._connection.execute(_READ, place).fetchone()
            self._before[place] = None if whole is None else whole[4]
            return None if whole is None else record_of(whole)
        row = self._connection.execute(_FIND, place).fetchone()
        self._before[place] = None if row is None else row[2]
        if row is None:
            return None
        verify_head(*place, *row)
        return Record(operation.key, b"", row[0], row[1])

    def sweep(self) -> bool:
        """Remove what has ended, up to SWEPT records; whether there is more."""
        rows = self._connection.execute(_ENDED, (self._now, SWEPT)).fetchall()
        if rows:
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
        """Shorten the history where it is too long, and write the state if it changed."""
        if self.commits:
            self._connection.executemany(INSERT_HISTORY, self._history)
            self.state.history += history_size(self._history)
            self._shorten(history_bytes, history_after)
            self.save()

    def save(self) -> None:
        self._connection.execute(WRITE_STATE, self.state.row())

    def _record(self, commit: Commit, rows: Sequence[RecordRow]) -> None:
        self._history += history_rows(commit, rows, self._now)
        self.state.revision = commit.revision
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
