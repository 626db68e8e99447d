"""A disk that loses what was not synced when its power is cut, below one folder and for programs that use libc.

It is stricter than file systems are: a new name is there only when its folder was synced too.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("unsynced.c")
_PAGE = 4096


class NoCompilerError(RuntimeError):
    """The test has to be run where there is one."""


@dataclass(frozen=True)
class _Entry:
    folder: bool
    mode: int
    inode: int
    name: str


@dataclass
class Disk:
    """A folder that is there, and `env` for the one process that uses it between `begin` and `cut`.

    Args:
        folder: nothing in it is a link.
        aside: a folder for what was synced, beside it.
    """

    folder: Path
    aside: Path
    _kept: list[int] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """For a process whose LD_PRELOAD is no other."""
        synced = {"SYNCED_FOLDER": str(self.folder.resolve()), "SYNCED_COPY": str(self.aside.resolve())}
        return {"LD_PRELOAD": str(self._library()), **synced}

    def begin(self) -> None:
        """All that is there now is on disk."""
        shutil.rmtree(self._files, ignore_errors=True)
        shutil.rmtree(self._folders, ignore_errors=True)
        self._files.mkdir(parents=True)
        self._folders.mkdir()
        for path in (self.folder, *self.folder.rglob("*")):
            self._kept.append(os.open(path, os.O_PATH))  # so that no new file gets its number
            if path.is_dir():
                (self._folders / str(path.stat().st_ino)).write_bytes(_listed(path))
            elif path.is_file():
                shutil.copyfile(path, self._files / str(path.stat().st_ino))

    def cut(self, choose: random.Random | None = None) -> None:
        """The process was killed: leave what it had synced.

        Args:
            choose: leaves some of the rest too, as a file system may that was just writing it: for each folder its
                entries as they were synced or as they are, for each page of a file the one or the other.
        """
        after = self.aside / "after"
        after.mkdir(mode=self.folder.stat().st_mode & 0o777)
        current = {path.stat().st_ino: path for path in (self.folder, *self.folder.rglob("*"))}
        self._restore(self.folder.stat().st_ino, after, current, choose)
        shutil.rmtree(self.folder)
        after.rename(self.folder)
        while self._kept:
            os.close(self._kept.pop())

    def _restore(self, inode: int, target: Path, current: dict[int, Path], choose: random.Random | None) -> None:
        there = self._folders / str(inode)
        listed = there.read_bytes() if there.exists() else b""
        if choose and inode in current and choose.random() < 0.5:
            listed = _listed(current[inode])
        for entry in _entries(listed):
            path = target / entry.name
            if entry.folder:
                path.mkdir()
                self._restore(entry.inode, path, current, choose)
            else:
                synced = self._files / str(entry.inode)
                content = synced.read_bytes() if synced.exists() else b""
                if choose and entry.inode in current:
                    content = _mixed(content, current[entry.inode].read_bytes(), choose)
                path.write_bytes(content)
            path.chmod(entry.mode)

    @property
    def _files(self) -> Path:
        return self.aside / "files"

    @property
    def _folders(self) -> Path:
        return self.aside / "folders"

    def _library(self) -> Path:
        library = self.aside / "unsynced.so"
        if not library.exists():
            self.aside.mkdir(parents=True, exist_ok=True)
            compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                raise NoCompilerError("there is no C compiler: install one, such as Debian's gcc")
            argv = [compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"]
            subprocess.run(argv, check=True)
        return library


def _listed(folder: Path) -> bytes:
    """A folder's entries as the library writes them."""
    lines = []
    for path in folder.iterdir():
        if path.is_dir() or path.is_file():
            status = path.stat()
            lines.append(f"{'d' if path.is_dir() else 'f'} {status.st_mode & 0o7777:o} {status.st_ino} {path.name}\0")
    return os.fsencode("".join(lines))


def _entries(listed: bytes) -> Iterator[_Entry]:
    for line in os.fsdecode(listed).split("\0")[:-1]:
        kind, mode, inode, name = line.split(" ", 3)
        yield _Entry(kind == "d", int(mode, 8), int(inode), name)


def _mixed(synced: bytes, current: bytes, choose: random.Random) -> bytes:
    """Some pages of the one and some of the other; what neither has is zero."""
    size = len(choose.choice([synced, current]))
    pages = []
    for start in range(0, size, _PAGE):
        page = choose.choice([synced, current])[start : min(start + _PAGE, size)]
        pages.append(page.ljust(min(_PAGE, size - start), b"\0"))
    return b"".join(pages)
