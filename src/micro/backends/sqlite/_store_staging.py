"""Records on their way into a database, kept beside it until all have come."""

from __future__ import annotations

import functools
import os
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from micro.backends.sqlite._faults import Faults
from micro.domain import errors
from micro.domain.record import encode_metadata
from micro.ports.store import Kept

PREFIX = ".load-"

_CHUNK = 500
_CHUNK_BYTES = 4 << 20
_INSERT = "INSERT INTO kept VALUES (?, ?, ?, ?, ?)"

Run = Callable[[Callable[[], None]], Awaitable[None]]
"""Do something in a thread."""


@asynccontextmanager
async def staged(folder: Path, records: AsyncIterator[Kept], now: int, run: Run) -> AsyncGenerator[Path]:
    """A file with those that are live at `now`, in a table `kept`, as long as the context lasts.

    Raises INVALID_ARGUMENT for a record that comes twice, RESOURCE_EXHAUSTED, UNAVAILABLE, and what `records` raises.
    """
    descriptor, name = tempfile.mkstemp(prefix=PREFIX, dir=folder)
    os.close(descriptor)
    file = _File(Path(name))
    try:
        await run(file.open)
        chunk: list[Kept] = []
        size = 0
        async for each in records:
            if each.record.live(now):
                chunk.append(each)
                size += len(each.record.value)
            if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
                await run(functools.partial(file.add, chunk))
                chunk, size = [], 0
        await run(functools.partial(file.add, chunk))
        await run(file.close)
        yield file.path
    finally:
        file.close()
        file.path.unlink(missing_ok=True)


class _File:
    """Not synced: it is of no use to another process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        again = "it is only needed while records are loaded: load them again"
        self._faults = Faults(path, ("-journal",), again, "the file of what is loaded")

    def open(self) -> None:
        with self._faults.told():
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            for setting in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
                self._connection.execute(f"PRAGMA {setting}").fetchall()
            self._connection.execute(
                "CREATE TABLE kept (tab BLOB, key BLOB, expires INTEGER, metadata BLOB, value BLOB, "
                "PRIMARY KEY (tab, key)) WITHOUT ROWID"
            )

    def add(self, records: list[Kept]) -> None:
        assert self._connection is not None
        with self._faults.told():
            self._connection.execute("BEGIN")
            for each in records:
                record = each.record
                metadata = encode_metadata(record.metadata).encode()
                row = each.table.encode(), record.key.encode(), record.expires, metadata, bytes(record.value)
                try:
                    self._connection.execute(_INSERT, row)
                except sqlite3.IntegrityError:
                    raise errors.invalid_argument(f"{record.key!r} of table {each.table} comes twice") from None
            self._connection.execute("COMMIT")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
