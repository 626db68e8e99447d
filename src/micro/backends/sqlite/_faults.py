"""What SQLite and the system say about a file, in our errors."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from micro.domain import errors

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TORN = 522
"""SQLITE_IOERR_SHORT_READ: the file ends before it should."""


class Faults:
    """Of one file. `healthy` tells whether it could be worked on the last time."""

    def __init__(self, path: Path, beside: tuple[str, ...], restore: str) -> None:
        """`beside` are the endings of the files that belong to it; `restore` is how it is brought back."""
        self._path = path
        self._beside = beside
        self._restore = restore
        self.healthy = False

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Raise errors of ours: UNAVAILABLE, DATA_LOSS, RESOURCE_EXHAUSTED."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.translated(error) from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise self.full() from error
            self.healthy = False
            raise errors.unavailable(f"{self._path} cannot be opened: {error.strerror or error}") from error

    def translated(self, error: sqlite3.Error) -> errors.Error:
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF  # the rest says more than anybody needs
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._no_room()):
            return self.full()
        if code in _DAMAGED or extended == _TORN:
            return self.damage(str(error))
        self.healthy = False
        if code == sqlite3.SQLITE_BUSY:
            return errors.unavailable(f"{self._path} is held by another process: try again")
        return errors.unavailable(f"{self._path} cannot be worked on: {error}")

    def full(self) -> errors.Error:
        return errors.resource_exhausted(f"{self._path} cannot grow, the disk is full: make room; nothing was stored")

    def damage(self, what: str) -> errors.Error:
        self.healthy = False
        name = self._path.name
        others = [f"{name}{ending}" for ending in self._beside]
        return errors.data_loss(
            f"{self._path} is damaged: {what}; "
            + self._restore.format(name=name, files=", ".join([name, *others[:-1]]) + f" and {others[-1]}")
        )

    def _no_room(self) -> bool:
        with contextlib.suppress(OSError):
            return os.statvfs(self._path.parent).f_bavail == 0
        return False
