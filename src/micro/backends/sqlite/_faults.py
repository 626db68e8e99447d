"""What SQLite and the system say about a file, in our errors."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from micro.domain import errors

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TORN = 522
"""SQLITE_IOERR_SHORT_READ: the file ends before it should."""

_log = logging.getLogger("micro.store")


class Faults:
    """Of one file.

    Args:
        beside: the endings of the files that belong to it.
        restore: how it is brought back, with {name} for the file, {stem} for that without its ending, and {files} for
            it and those beside it.
        subject: what errors call it, where those who are told are not to know its path: that is in the log then.
    """

    def __init__(self, path: Path, beside: tuple[str, ...], restore: str, subject: str = "") -> None:
        self._path = path
        self._beside = beside
        self._restore = restore
        self._subject = subject or str(path)

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
            raise self._unavailable(f"cannot be opened: {error.strerror or error}") from error

    def translated(self, error: sqlite3.Error) -> errors.Error:
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF  # the rest says more than anybody needs
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._no_room()):
            return self.full()
        if code in _DAMAGED or extended == _TORN:
            return self.damage(str(error))
        if code == sqlite3.SQLITE_BUSY:
            return self._unavailable("is held by another process: try again")
        return self._unavailable(f"cannot be worked on: {error}")

    def full(self) -> errors.Error:
        return errors.resource_exhausted(
            f"{self._subject} cannot grow, the disk is full: make room; nothing was stored"
        )

    def damage(self, what: str) -> errors.Error:
        name, stem = self._path.name, self._path.stem
        *others, last = [f"{name}{ending}" for ending in self._beside]
        files = f"{', '.join([name, *others])} and {last}"
        return errors.data_loss(
            f"{self._subject} is damaged: {what}; {self._restore.format(name=name, stem=stem, files=files)}"
        )

    def _unavailable(self, why: str) -> errors.Error:
        if self._subject != str(self._path):
            _log.warning("%s %s: its file is %s", self._subject, why, self._path)
        return errors.unavailable(f"{self._subject} {why}")

    def _no_room(self) -> bool:
        with contextlib.suppress(OSError):
            return os.statvfs(self._path.parent).f_bavail == 0
        return False
