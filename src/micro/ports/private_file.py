"""Files that only their owner reads, replaced whole: nobody ever sees half of one, not even after a power cut."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_DRAFT = ".draft-"
_ABANDONED = 3600.0
"""Seconds after which a draft is no writer's any more: it was killed."""


def write(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace the file by `content`, whole or not at all, with mode 0600. Its folder must be there.

    Any number may write the same file at the same time: the last one wins. What killed writers left in the folder is
    removed by the first write an hour later.

    Args:
        content: text is written as UTF-8.
        durable: whether it is on disk when this returns; without it a power cut may bring the old file back.

    Raises:
        OSError: it could not be written; the old file is untouched and nothing else is left.
    """
    _remove_abandoned(path.parent)
    with replacing(path, durable=durable, prefix=_DRAFT) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, prefix: str = "") -> Iterator[BinaryIO]:
    """As `write`, for content that comes in pieces: what the block has written is the file when it ends without an
    exception; else nothing has happened.

    Args:
        prefix: what the name of the file begins with until then; by default one that tells what it is to be.
    """
    descriptor, name = tempfile.mkstemp(prefix=prefix or f".{path.name}-", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the folder's entries are on disk: what was made, renamed or removed there. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    before = time.time() - _ABANDONED
    for draft in folder.glob(f"{_DRAFT}*"):
        with contextlib.suppress(OSError):  # somebody else removed it, or it is not ours to remove
            if draft.stat().st_mtime < before:
                draft.unlink()
