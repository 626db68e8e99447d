"""One SQLite file that outlives what happens to its process: opened, checked, brought up to date, and worked on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

from micro.domain import errors
from micro.ports import private_file

T = TypeVar("T")

_BUSY_MILLISECONDS = 5000
"""How long another process may hold the file, as one that makes a backup does."""

_BESIDE = ("-wal", "-shm", "-journal")

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """A file and the thread that works on it: one thing after the other, none of them in the loop.

    The file has mode 0600 and its folder 0700. What a `write` has returned from is on disk. A file that is missing is
    made, whole or not at all; one that is damaged, or has lost its content, is never.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        """`migrations` are scripts; as many as its `user_version` says have been run over a file."""
        self._path = path.absolute()
        self._migrations = migrations
        self._healthy = False
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def start(self, stack: AsyncExitStack) -> None:
        """Open the file. Raises DATA_LOSS, FAILED_PRECONDITION for one of a newer release, and as `read` does."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        stack.push_async_callback(self._stop)
        await self._run(self._open)

    @property
    def healthy(self) -> bool:
        """Whether the file could be worked on the last time."""
        return self._healthy

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, of one state of the file. Raises UNAVAILABLE, DATA_LOSS and what `work` raises."""
        return await self._run(lambda: self._transaction("BEGIN", work))

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `read`, and all that `work` changes is on disk, or nothing when this raises. Also raises
        RESOURCE_EXHAUSTED when the disk is full."""
        return await self._run(lambda: self._transaction("BEGIN IMMEDIATE", work))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise errors.unavailable(f"{self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _stop(self) -> None:
        assert self._thread is not None
        thread, self._thread = self._thread, None
        await asyncio.get_running_loop().run_in_executor(thread, self._close)
        thread.shutdown(wait=False)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._told():
            connection = self._connection
            if connection is None:
                raise errors.unavailable(f"{self._path} is not open")
            connection.execute(begin)
            try:
                found = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back by itself, or will when it is closed
                    connection.execute("ROLLBACK")
                raise
        self._healthy = True
        return found

    def _open(self) -> None:
        with self._told():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.parent.chmod(0o700)
            if not self._path.exists():
                self._make()
            self._path.chmod(0o600)
            if self._path.stat().st_size == 0:
                raise self._damage("it is empty")
            self._connection = connection = _connect(self._path)
            if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise self._damage(" ".join(str(found).split()))
            self._migrate(connection)
            _make_lasting(connection)
        self._healthy = True

    def _make(self) -> None:
        """Make the file beside its place and put it there when it is complete."""
        for suffix in _BESIDE:
            if (left := Path(f"{self._path}{suffix}")).exists() and left.stat().st_size:
                raise self._damage(f"it is gone, but {left.name} is there")
        draft = Path(f"{self._path}.draft")
        for path in (draft, *(Path(f"{draft}{suffix}") for suffix in _BESIDE)):
            path.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = _connect(draft)
        try:
            _make_lasting(connection)
            self._migrate(connection, new=True)
        finally:
            connection.close()  # takes in the log, so that the file is all there is
        draft.replace(self._path)
        private_file.sync_folder(self._path.parent)

    def _migrate(self, connection: sqlite3.Connection, *, new: bool = False) -> None:
        known = len(self._migrations)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > known:
            raise errors.failed_precondition(
                f"{self._path} was written by a newer release of micro (version {version}, {known} is known): upgrade"
            )
        if version == 0 and not new:
            raise self._damage("it has nothing of micro in it")
        for number in range(version, known):
            # All at once: a script commits what is open before it, so it brings its own transaction.
            try:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {self._migrations[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
                )
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _close(self) -> None:
        self._healthy = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what SQLite and the system say into our errors."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._full() from error
            self._healthy = False
            raise errors.unavailable(f"{self._path} cannot be opened: {error.strerror or error}") from error

    def _translated(self, error: sqlite3.Error) -> errors.Error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says more than anybody needs
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._no_room()):
            return self._full()
        if code in _DAMAGED:
            return self._damage(str(error))
        self._healthy = False
        if code == sqlite3.SQLITE_BUSY:
            return errors.unavailable(f"{self._path} is held by another process: try again")
        return errors.unavailable(f"{self._path} cannot be worked on: {error}")

    def _no_room(self) -> bool:
        with contextlib.suppress(OSError):
            return os.statvfs(self._path.parent).f_bavail == 0
        return False

    def _full(self) -> errors.Error:
        return errors.resource_exhausted(f"{self._path} cannot grow, the disk is full: make room; nothing was stored")

    def _damage(self, what: str) -> errors.Error:
        self._healthy = False
        name = self._path.name
        return errors.data_loss(
            f"{self._path} is damaged: {what}; stop the server, move {name}, {name}-wal and {name}-shm away, put a "
            f"backup there as {name}, and start it again"
        )


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file that is there; transactions are begun and ended by hand."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}").fetchall()
    connection.execute("PRAGMA trusted_schema = OFF").fetchall()
    connection.execute("PRAGMA foreign_keys = ON").fetchall()
    return connection


def _make_lasting(connection: sqlite3.Connection) -> None:
    """Have each transaction on disk when it ends, and readers not wait for writers."""
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL").fetchall()
