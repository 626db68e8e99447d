"""Whether a file of records is whole, looked at before anything is changed: what is damaged is left as it is."""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path
from zlib import crc32

from micro.backends.sqlite import _store_wal
from micro.backends.sqlite._store_rows import FORMAT, READ_STATE, SCHEMA, DamagedError, State, verify
from micro.domain import errors

BESIDE = ("-wal", "-shm", "-mark")
"""What belongs to a file."""

_MARK = struct.Struct(">QI")
_ALL = "SELECT tab, key, version, expires, checksum, metadata, value FROM record"


class Mark:
    """The last revision that was acknowledged, beside the file, so that a file that lost it is found out.

    It is not synced: after a power cut it may be an older one, never one that is not on disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self) -> int | None:
        """None when there is none that can be read."""
        try:
            revision, found = _MARK.unpack(self._path.read_bytes())
        except (OSError, struct.error):
            return None
        return int(revision) if crc32(b"%d" % revision) == found else None

    def write(self, revision: int) -> None:
        """Never raises: without it the file is as good, only less is known of it."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            os.pwrite(self._descriptor, _MARK.pack(revision, crc32(b"%d" % revision)), 0)
        except OSError:
            self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Open a file that is there; transactions are begun and ended by hand, threads take turns."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    for setting in ("busy_timeout = 5000", "trusted_schema = OFF", "secure_delete = FAST", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    return connection


def missing(path: Path) -> bool:
    """Whether there never was a file. Raises DamagedError when there was."""
    if path.exists():
        return False
    for ending in BESIDE[::2]:
        left = beside(path, ending)
        if left.exists() and left.stat().st_size:
            raise DamagedError(f"it is gone, but {left.name} is there")
    return True


def examine(path: Path, mark: int | None, most_bytes: int) -> bool:
    """Whether all of it was looked at: a file of more than `most_bytes` is to be verified later.

    Raises:
        DamagedError: it is not what was written.
        sqlite3.Error: the same, or it cannot be read.
        Error: FAILED_PRECONDITION, it was written by a newer release.
    """
    with path.open("rb") as file:
        start = file.read(100)
    if len(start) < 100:
        raise DamagedError("it is empty" if not start else "it is cut off")
    if start[:16] != b"SQLite format 3\0" or start[18:20] != b"\2\2":
        raise DamagedError("its head is not what was written")
    log, size = beside(path, "-wal"), path.stat().st_size
    if log.exists():
        size += log.stat().st_size
        if found := _store_wal.damage(log):
            raise DamagedError(found)
    connection = connect(path, "ro")  # closing it leaves the log as it is
    try:
        connection.execute("BEGIN")
        state = _state(path, connection)
        if mark is not None and state.revision < mark:
            raise DamagedError(f"it ends at revision {state.revision}, and {mark} was acknowledged")
        if size <= most_bytes:
            verify_all(connection, state)
    finally:
        connection.close()
    return size <= most_bytes


def _state(path: Path, connection: sqlite3.Connection) -> State:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    row: tuple[int, ...] | None = None
    try:
        row = connection.execute(READ_STATE).fetchone()
    except sqlite3.OperationalError:
        if version <= FORMAT:
            raise DamagedError("it has nothing of micro in it") from None
    if version > FORMAT and (row is None or row[0] != FORMAT):
        raise errors.failed_precondition(
            f"database {path.stem} was written by a newer release of micro (version {version}, {FORMAT} is known): "
            "upgrade"
        )
    found = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema ORDER BY rowid")]
    if version != FORMAT or found != list(SCHEMA) or connection.execute("PRAGMA encoding").fetchone() != ("UTF-8",):
        raise DamagedError("its schema is not what was written")
    return State.of_row(row)


def verify_all(connection: sqlite3.Connection, state: State | None = None) -> None:
    """Read all of it, of one state. Raises DamagedError and sqlite3.Error."""
    if state is None:
        state = State.of_row(connection.execute(READ_STATE).fetchone())
    if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise DamagedError(" ".join(str(found).split()))
    seen = State(state.revision, state.floor, history=state.history)
    for row in connection.execute(_ALL):
        seen.replace(None, verify(row)[4])
        if row[2] > state.revision:
            raise DamagedError("a record is newer than the file")
    if seen != state:
        raise DamagedError(f"it has {seen.records:,} records, and not those {state.records:,} that were written")
    ends = "SELECT count(*) FROM record{} WHERE expires IS NOT NULL"
    if (
        connection.execute(ends.format(" INDEXED BY record_expires")).fetchone()
        != connection.execute(ends.format(" NOT INDEXED")).fetchone()
    ):
        raise DamagedError("its index of ends is not what was written")
