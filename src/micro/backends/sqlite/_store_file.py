"""One file of records: opened and checked, written by one thread at a time, read beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from micro.backends.sqlite import _store_check
from micro.backends.sqlite._faults import Faults
from micro.backends.sqlite._store_check import BESIDE, Mark, beside, connect
from micro.backends.sqlite._store_rows import (
    FORMAT,
    PLACES,
    SCHEMA,
    WRITE_STATE,
    DamagedError,
    HeadRow,
    State,
    commits_of,
    record_of,
    verify_heads,
)
from micro.backends.sqlite._store_write import Answer, Heads, Transaction, load_state
from micro.domain import errors, record
from micro.domain.errors import Kind
from micro.domain.record import Commit, Keys, Operation, Page, Query, Record, decide
from micro.ports import private_file
from micro.ports.store import HISTORY_SECONDS, PAGE_BYTES, PAGE_KEYS, PAGE_RECORDS, Kept

T = TypeVar("T")

INLINE_BYTES = 64 << 10
"""A value that is larger is read in a thread."""

RESTORE = "stop what uses it, move {files} away, put a copy of the file there as {name}, and start it again"
"""How a file is brought back, where who opens it knows no better way."""

_LOG_BYTES = 8 << 20
"""A log that is larger goes into the file."""

_PAGE = 4096

_HISTORY_READ = 2 << 20
"""Bytes of history that are read at a time."""

_POINT = (
    "SELECT version, expires, checksum, metadata, CASE WHEN length(value) <= ? THEN value END "
    "FROM record WHERE tab = ? AND key = ?"
)
_WHOLE = "SELECT tab, key, version, expires, checksum, metadata, value FROM record"
_HEADS = "SELECT key, version, expires, checksum FROM record"


class StoreFile:
    """Methods are for threads, but for `point`. `absent` is a database that nothing was ever written to. Errors call it
    by its database: its path is in the log.

    Args:
        restore: how one that is damaged is brought back, see `Faults`.
    """

    def __init__(self, path: Path, history_bytes: int, verify_bytes: int, restore: str = RESTORE) -> None:
        self.path = path
        self._subject = f"database {path.stem}"
        self.state = State()
        self.absent = False
        self.verified = False
        """Whether all of it was looked at since the disk had a fault; else `verify` is to do that."""
        self._history_bytes = history_bytes
        self._verify_bytes = verify_bytes
        self._mark = Mark(beside(path, "-mark"))
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._closing: list[sqlite3.Connection] = []
        self._latest: Heads = {}
        self._log_bytes = 0
        """What the log has grown by since it was taken into the file, about."""
        self._faults = Faults(path, BESIDE, restore, self._subject)

    def open(self) -> int | None:
        """When the next record ends.

        Raises as `examine`.
        """
        self.examine()
        if self.absent:
            self.state = State()
            return None
        with self._told():
            return self._connect()

    def examine(self) -> None:
        """Look whether it is whole, before it is opened, and change nothing of what it holds.

        Raises DATA_LOSS, UNAVAILABLE, and FAILED_PRECONDITION for a file of a newer release.
        """
        with self._told(examining=True):
            self.absent = _store_check.missing(self.path)
            if not self.absent:
                self.path.chmod(0o600)
                most = 0 if self.verified else self._verify_bytes
                self.verified = _store_check.examine(self.path, self._mark.read(), most) or self.verified

    def retire(self) -> None:
        """Be not `ready` any more. For the loop's thread, so that no `point` is under way when `close` is called."""
        self.absent = False
        self._closing += [each for each in (self._reader, *self._idle, self._writer) if each is not None]
        self._reader = self._writer = None
        self._idle = []

    def close(self) -> None:
        """After `retire`. Everything is on disk; what is in the log goes into the file."""
        closing, self._closing = self._closing, []
        for connection in closing:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        self._mark.close()

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(
        self, batches: Sequence[Sequence[Operation]], now: int, *, telling: bool = True
    ) -> tuple[list[Answer], list[Commit]]:
        """Do all batches that can be done in one transaction: an answer each, and what happened, if that is to be
        told."""
        if self.absent and not any(_changes(batch, now) for batch in batches):
            return [_answer(batch, now) for batch in batches], []
        try:
            with self._made():
                transaction, answers = self._transact(now, lambda it: it.batches(batches), telling=telling)
        except errors.Error as error:
            if error.kind is not Kind.RESOURCE_EXHAUSTED or len(batches) == 1:
                raise
            return self._one_by_one(batches, now, telling)
        return answers, transaction.commits

    def _one_by_one(
        self, batches: Sequence[Sequence[Operation]], now: int, telling: bool
    ) -> tuple[list[Answer], list[Commit]]:
        """There may be room for some."""
        answers: list[Answer] = []
        commits: list[Commit] = []
        for batch in batches:
            try:
                answer, more = self.write([batch], now, telling=telling)
            except errors.Error as error:
                answers.append(error)
            else:
                answers += answer
                commits += more
        return answers, commits

    def sweep(self, now: int) -> tuple[list[Commit], int | None]:
        """Remove what has ended; tells it, and when the next record ends."""
        commits: list[Commit] = []
        more = not self.absent
        while more:
            transaction, more = self._transact(now, Transaction.sweep)
            commits += transaction.commits
        return commits, self._due()

    def load(self, staged: Path, now: int, above: int) -> tuple[int, int | None]:
        """Put what is in another file in place of all that is here; tells how many records, and when the next ends."""
        with self._told():
            source = connect(staged, "ro")
        with contextlib.closing(source), self._made():
            rows = source.execute("SELECT tab, key, expires, metadata, value FROM kept ORDER BY tab, key")
            _, count = self._transact(now, lambda it: it.load(rows, above))
        return count, self._due()

    @property
    def untidy(self) -> bool:
        """Whether the log has grown so much that it is to be taken into the file."""
        return self._log_bytes > _LOG_BYTES

    def tidy(self) -> None:
        """Take the log into the file. Nothing is lost when that fails."""
        if self._writer is not None:
            self._log_bytes = 0
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _transact(self, now: int, work: Callable[[Transaction], T], *, telling: bool = True) -> tuple[Transaction, T]:
        with self._told():
            connection = self._writer
            if connection is None:
                raise errors.unavailable(f"{self._subject} is closed: try again")
            connection.execute("BEGIN IMMEDIATE")
            try:
                transaction = Transaction(connection, self.state, now, self._latest, telling=telling)
                found = work(transaction)
                transaction.finish(self._history_bytes, now - int(HISTORY_SECONDS * 1000))
                connection.execute("COMMIT")
            except BaseException:
                self._latest.clear()
                with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back by itself, or will when it is closed
                    connection.execute("ROLLBACK")
                raise
        self.state = transaction.state
        self._mark.write(self.state.revision)
        self._log_bytes += sum([2 * len(row[-1]) + _PAGE for row in transaction.history]) + 4 * _PAGE
        return transaction, found

    # --- reading ------------------------------------------------------------------------------------------------------

    def point(self, table: str, key: str) -> Record | bool | None:
        """A record, for the loop's thread; True for one that is to be read by `large`."""
        if self._reader is None:
            return None
        tab, name = table.encode(), key.encode()
        try:
            row = self._reader.execute(_POINT, (INLINE_BYTES, bytearray(tab), bytearray(name))).fetchone()
            if row is None:
                return None
            version, expires, found, metadata, value = row
            return True if value is None else record_of((tab, name, version, expires, found, metadata, value))
        except (sqlite3.Error, DamagedError) as error:
            with self._told():
                raise error from None

    def large(self, table: str, key: str) -> Record | None:
        with self._reading() as connection:
            row = connection.execute(f"{_WHOLE} WHERE tab = ? AND key = ?", (table.encode(), key.encode())).fetchone()
            return None if row is None else record_of(row)

    def scan(self, table: str, query: Query, now: int) -> Page:
        most = min(query.limit or PAGE_RECORDS, PAGE_RECORDS)
        if query.keys_only:  # they always fit
            rows, revision = self._heads(table, query, now, most)
            found = [Record(key.decode(), b"", version, end) for key, version, end, _ in rows[:most]]
            return Page(tuple(found), revision, len(rows) > most)
        with self._reading() as connection:
            revision = load_state(connection).revision
            sql, values = _select(_WHOLE, table, query, now)
            records, more = _page(map(record_of, connection.execute(sql, (*values, most + 1, query.offset))), most)
        return Page(tuple(records), revision, more)

    def keys(self, table: str, query: Query, now: int) -> Keys:
        most = min(query.limit or PAGE_KEYS, PAGE_KEYS)
        rows, revision = self._heads(table, query, now, most)
        return Keys(tuple([row[0].decode() for row in rows[:most]]), revision, len(rows) > most)

    def _heads(self, table: str, query: Query, now: int, most: int) -> tuple[list[HeadRow], int]:
        """One more than `most`, where there is one, and the revision."""
        with self._reading() as connection:
            revision = load_state(connection).revision
            sql, values = _select(_HEADS, table, query, now)
            rows = connection.execute(sql, (*values, most + 1, query.offset)).fetchall()
            verify_heads(table.encode(), rows)
        return rows, revision

    def tables(self, now: int) -> list[str]:
        found: list[bytes] = []
        live = "SELECT 1 FROM record WHERE tab = ? AND (expires IS NULL OR expires > ?) LIMIT 1"
        with self._reading() as connection:
            name = b""
            while row := connection.execute("SELECT tab FROM record WHERE tab > ? LIMIT 1", (name,)).fetchone():
                name = row[0]
                if connection.execute(live, (name, now)).fetchone():
                    found.append(name)
        return [name.decode() for name in found]

    def history(self, after: int, until: int) -> list[Commit] | None:
        """Some commits after a revision, at least one; None when it does not reach back so far."""
        with self._reading() as connection:
            state = load_state(connection)
            if not state.floor <= after < state.revision:  # also where it was dropped and made anew meanwhile
                return None
            rows = connection.execute(
                "SELECT * FROM history WHERE id >= ? AND id < ? ORDER BY id",
                ((after + 1) * PLACES, (until + 1) * PLACES),
            )
            commits: list[Commit] = []
            size = 0
            for commit in commits_of(rows, after):
                commits.append(commit)
                size += sum(len(each.record.value) + 200 for each in commit.changes)
                if size > _HISTORY_READ:
                    break
            if not commits:
                raise DamagedError("its history has a gap")
            return commits

    def dump(self) -> sqlite3.Connection:
        """A connection that reads one state; it is the caller's to close."""
        with self._told():
            connection = connect(self.path)
            connection.execute("BEGIN")
            load_state(connection)
            return connection

    def dumped(self, rows: sqlite3.Cursor, now: int) -> list[Kept]:
        """Some records of a dump; none after the last."""
        found: list[Kept] = []
        size = 0
        with self._told():
            while size < PAGE_BYTES // 4 and (row := rows.fetchone()) is not None:
                kept = Kept(row[0].decode(), record_of(row))
                size += len(row[6]) + 500
                if kept.record.live(now):
                    found.append(kept)
            return found

    def verify(self) -> None:
        """Look at all of it. Raises DATA_LOSS."""
        with self._told(examining=True):
            connection = connect(self.path)
            try:
                connection.execute("BEGIN")
                _store_check.verify_all(connection)
            finally:
                connection.close()
        self.verified = True

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction that reads."""
        with self._told():
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect(self.path)
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            if self._reader is not None and len(self._idle) < 2:
                self._idle.append(connection)
            else:
                connection.close()

    # --- the file itself ----------------------------------------------------------------------------------------------

    def _due(self) -> int | None:
        with self._told():
            if self._writer is None:
                return None
            query = "SELECT expires FROM record WHERE expires IS NOT NULL ORDER BY expires LIMIT 1"
            row = self._writer.execute(query).fetchone()
            return None if row is None else int(row[0])

    def _connect(self) -> int | None:
        """When the next record ends."""
        self._latest.clear()
        self._writer = connect(self.path)
        self._writer.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        with contextlib.suppress(sqlite3.OperationalError):  # as when the disk is full: it can be read
            # An empty log: what a torn transaction left in it is not taken for anything later.
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._writer.execute(f"PRAGMA journal_size_limit = {4 * _LOG_BYTES}").fetchall()
        self.state = load_state(self._writer)
        due = self._due()
        self.absent = False
        self._reader = connect(self.path)
        return due

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Have a file; without one before, none remains when this fails."""
        new = self.absent
        if new:
            self._make()
        try:
            yield
        except BaseException:
            if new:
                self.retire()  # and not closed: the loop may be reading
                with contextlib.suppress(errors.Error):
                    self._bury()
            raise

    def _make(self, revision: int = 0) -> None:
        """Make the file beside its place and put it there when it is complete."""
        with self._told():
            draft = self.path.with_name(f".{self.path.name}.draft")
            for ending in ("", "-wal", "-shm"):
                beside(draft, ending).unlink(missing_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            connection = connect(draft)
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    connection.execute(statement)
                connection.execute(WRITE_STATE, State(revision, revision).row())
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("COMMIT")
            finally:
                connection.close()  # takes in the log, so that the file is all there is
            draft.replace(self.path)
            private_file.sync_folder(self.path.parent)
            self._connect()
            self.verified = True

    def remove(self) -> None:
        """After `retire`. For good: what is left when that is interrupted goes when the store is opened."""
        self.close()
        self._bury()
        with self._told():  # what was damaged once, and kept, is the database's too
            for aside in self.path.parent.glob(f"{self.path.name}.damaged-*"):
                aside.unlink(missing_ok=True)

    def _bury(self) -> None:
        with self._told():
            grave = self.path.with_name(f".{self.path.name}.dropped")
            if self.path.exists():
                self.path.replace(grave)
            else:
                grave.touch(0o600)
            private_file.sync_folder(self.path.parent)
            bury(grave)
        self.absent, self.state = True, State()

    def set_aside(self, now: int) -> None:
        """After `retire`. Keep the damaged files under other names, and make a new one."""
        known = self._mark.read()
        self.close()
        with self._told():
            for ending in (*BESIDE, ""):
                if (file := beside(self.path, ending)).exists():
                    file.replace(self.path.with_name(f"{self.path.name}.damaged-{now}{ending}"))
            # Revisions grow also when nobody knows how far they were.
            self._make(now if known is None else known)

    @contextlib.contextmanager
    def _told(self, *, examining: bool = False) -> Iterator[None]:
        with self._faults.told():
            try:
                yield
            except DamagedError as error:
                raise self._faults.damage(str(error)) from None
            except sqlite3.OperationalError as error:
                if examining and error.sqlite_errorcode == sqlite3.SQLITE_ERROR:
                    raise self._faults.damage(str(error)) from error
                raise


def bury(grave: Path) -> None:
    """Remove what belonged to a file that was dropped, and then the file."""
    path = grave.with_name(grave.name.removeprefix(".").removesuffix(".dropped"))
    for ending in BESIDE:
        beside(path, ending).unlink(missing_ok=True)
    private_file.sync_folder(path.parent)
    grave.unlink()


def _changes(batch: Sequence[Operation], now: int) -> bool:
    answer = _answer(batch, now)
    return not isinstance(answer, Exception) and answer.revision > 0


def _answer(batch: Sequence[Operation], now: int) -> Answer:
    """Of a database that has nothing in it."""
    try:
        return decide(batch, lambda _: None, 0, now)[0]
    except (errors.Error, TypeError, ValueError, RecursionError) as error:
        return error


def _page(found: Iterable[Record], most: int) -> tuple[list[Record], bool]:
    """As many as a page holds, and whether there are others."""
    records: list[Record] = []
    size = 0
    for each in found:
        size += len(each.key) + len(each.value) if each.key.isascii() and not each.metadata else record.size(each)
        if len(records) == most or (records and size > PAGE_BYTES):
            return records, True
        records.append(each)
    return records, False


def _select(what: str, table: str, query: Query, now: int) -> tuple[str, list[object]]:
    low, high = query.bounds()
    conditions: list[tuple[str, list[object]]] = [("tab = ?", [table.encode()])]
    if low:
        conditions.append(("key >= ?", [low]))
    if high:
        conditions.append(("key < ?", [high]))
    if query.suffix:
        suffix = query.suffix.encode()
        conditions.append((f"substr(key, -{len(suffix)}) = ?", [suffix]))
    conditions.append(("(expires IS NULL OR expires > ?)", [now]))
    sql = " AND ".join(condition for condition, _ in conditions)
    order = "DESC" if query.descending else "ASC"
    return (
        f"{what} WHERE {sql} ORDER BY key {order} LIMIT ? OFFSET ?",
        [value for _, values in conditions for value in values],
    )
