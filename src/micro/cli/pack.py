"""A service's folder as one archive, the same bytes for the same files."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from micro.cli import failures

LIMIT = 64 * 1024 * 1024
"""Bytes of all files together; what is larger is data, and belongs in a store."""

_SKIPPED = {
    ".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".hypothesis", ".tox", ".nox", ".idea", ".vscode", ".DS_Store", ".eggs",
}  # fmt: skip
_SKIPPED_ENDINGS = (".pyc", ".pyo", ".swp", "~")


class Archive(NamedTuple):
    """A gzip-compressed tar archive and the files in it, relative to the folder, sorted."""

    data: bytes
    files: tuple[str, ...]


def pack(folder: Path) -> Archive:
    """Pack a folder.

    What version control ignores stays out where the folder is in a git repository; caches and environments always do.

    Raises:
        UsageError: the files are too large together, a link leads out of the folder, or a file cannot be read.
    """
    files = sorted(_listed(folder))
    _refuse_large(folder, files)
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in files:
            try:
                content = (folder / name).read_bytes()
                executable = (folder / name).stat().st_mode & stat.S_IXUSR
            except OSError as error:
                raise failures.UsageError(f"cannot read {folder / name}: {error.strerror}") from None
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if executable else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return Archive(raw.getvalue(), tuple(files))


def _listed(folder: Path) -> Iterator[str]:
    tracked = _of_git(folder)
    for name in tracked if tracked is not None and "main.py" in tracked else _walked(folder):
        parts = name.split("/")
        if not (set(parts) & _SKIPPED or name.endswith(_SKIPPED_ENDINGS)) and _is_file(folder, name):
            yield name


def _of_git(folder: Path) -> list[str] | None:
    command = ["git", "-C", str(folder), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name] if done.returncode == 0 else None


def _walked(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        here = Path(parent).relative_to(folder)
        yield from ((here / name).as_posix() for name in files)
        yield from ((here / name).as_posix() for name in folders if (Path(parent) / name).is_symlink())


def _is_file(folder: Path, name: str) -> bool:
    path = folder / name
    if path.is_symlink():
        target = path.resolve()
        if not target.is_relative_to(folder.resolve()):
            raise failures.UsageError(f"{name} is a link that leads out of {folder}: put a copy in its place")
        if target.is_dir():
            raise failures.UsageError(f"{name} is a link to a folder: put a copy in its place")
    return path.is_file()


def _refuse_large(folder: Path, files: list[str]) -> None:
    sizes = {name: (folder / name).stat().st_size for name in files}
    total = sum(sizes.values())
    if total <= LIMIT:
        return
    biggest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    shown = ", ".join(f"{name} ({_mib(sizes[name])})" for name in biggest)
    raise failures.UsageError(
        f"{folder} holds {_mib(total)}, and {_mib(LIMIT)} is the most a service may have. "
        f"The biggest: {shown}. Leave them out with .gitignore"
    )


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MiB"
