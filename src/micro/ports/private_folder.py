"""Folders that only their owner enters."""

from __future__ import annotations

from pathlib import Path

from micro.ports.private_file import sync_folder


def make(folder: Path) -> None:
    """Make the folder, and what is missing above it, with mode 0700 each; on disk when this returns. Raises OSError."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        sync_folder(each.parent)
