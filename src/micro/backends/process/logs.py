"""Log files: one JSON object a line, rotated by the one process that writes, followed by any number that read."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from micro.backends.process import folder_events
from micro.domain import names, text
from micro.domain.workload import Key
from micro.ports import private_folder
from micro.ports.runtime import LogRecord, Logs

MAX_BYTES = 10 * 1024 * 1024
FILES = 5
MAX_LINE = 64 * 1024
TAIL = 40
KEPT_SECONDS = 7 * 24 * 3600.0
KEPT_BYTES = 1024 * 1024 * 1024

_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
    "fatal": "critical",
    "dbg": "debug",
    "trc": "debug",
    "inf": "info",
    "wrn": "warning",
    "err": "error",
    "ftl": "critical",
}
_ENVOY = re.compile(r"\[\d{4}-\d\d-\d\d [\d:.]+\]\[\d+\]\[(\w+)\](.*)", re.DOTALL)
_NATS = re.compile(r"\[\d+\] \d{4}/\d\d/\d\d [\d:.]+ \[(\w{3})\] (.*)", re.DOTALL)
_LOG = re.compile(r"(?P<version>.+)\.log(\.\d+)?")


def parse(line: str) -> tuple[str, str]:
    """Level and message of one line of output.

    A JSON object with level and message gives its own, Envoy's and NATS's lines theirs; all else is "info".
    """
    if line.startswith("{"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):  # the latter for what nests too deep
            return "info", line
        if isinstance(found, dict) and isinstance(found.get("message"), str) and isinstance(found.get("level"), str):
            return _LEVELS.get(found["level"].lower(), "info"), text.well_formed(found["message"])
    elif line.startswith("["):
        if match := _ENVOY.fullmatch(line):
            return _LEVELS.get(match[1].lower(), "info"), match[2].strip()
        if match := _NATS.fullmatch(line):
            return _LEVELS.get(match[1].lower(), "info"), match[2]
    return "info", line


class LogWriter:
    """Appends to one log file and rotates it: `x.log` is the newest, `x.log.4` the oldest.

    One writer a file, shared by all processes whose output goes there (`LogWriters` sees to that), because two could
    not rotate it together. A full disk loses lines, never the process: how many is said once there is room again.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, files: int = FILES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._file: BinaryIO | None = None
        self._size = 0
        self._lost = 0

    def write(self, instance: str, lines: list[tuple[str, str]]) -> None:
        """Append lines of (level, message), stamped with the time of now."""
        timestamp = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if self._lost:
            lines = [("warning", f"{self._lost} lines of output were lost: the log could not be written"), *lines]
        data = b"".join(
            json.dumps(
                {"timestamp": timestamp, "level": level, "message": message, "instance": instance}, ensure_ascii=False
            ).encode(errors="replace")
            + b"\n"
            for level, message in lines
        )
        try:
            self._append(data)
        except OSError:
            self._lost += len(lines) - bool(self._lost)
        else:
            self._lost = 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._open()
        elif self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        assert self._file is not None
        self._size += self._file.write(data)

    def _open(self) -> None:
        private_folder.make(self._path.parent)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._size = os.fstat(descriptor).st_size

    def _rotate(self) -> None:
        self.close()
        for index in range(self._files - 1, 0, -1):
            older = rotated(self._path, index - 1)
            if older.exists():
                older.replace(rotated(self._path, index))
        self._open()


class LogWriters:
    """The writers of this process, one a path, closed when their last user lets go."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[LogWriter, int]] = {}

    def acquire(self, path: Path) -> LogWriter:
        writer, users = self._open.get(path) or (LogWriter(path), 0)
        self._open[path] = (writer, users + 1)
        return writer

    def release(self, path: Path) -> None:
        writer, users = self._open[path]
        if users > 1:
            self._open[path] = (writer, users - 1)
        else:
            del self._open[path]
            writer.close()


class Lines:
    """Cuts a process's output into lines for its log, and remembers the last of them."""

    def __init__(self, writer: LogWriter, instance: str) -> None:
        self._writer = writer
        self._instance = instance
        self._rest = b""
        self._skipping = False
        self.tail: deque[str] = deque(maxlen=TAIL)

    def feed(self, data: bytes) -> None:
        *complete, rest = (self._rest + data).split(b"\n")
        if self._skipping and complete:
            del complete[0]
            self._skipping = False
        if self._skipping:
            rest = b""
        elif len(rest) > MAX_LINE:
            complete.append(rest)
            rest, self._skipping = b"", True
        self._rest = rest
        self._emit(complete)

    def end(self) -> None:
        """Write the last line even though no newline ended it."""
        if self._rest:
            self._emit([self._rest])
            self._rest = b""

    def note(self, level: str, message: str) -> None:
        """Write what is said of the process, not by it."""
        self._writer.write(self._instance, [(level, message)])

    def _emit(self, raw: list[bytes]) -> None:
        lines = [parse(line[:MAX_LINE].decode(errors="replace").rstrip("\r")) for line in raw]
        lines = [(level, message) for level, message in lines if message.strip()]
        if lines:
            for _, message in lines:
                self.tail.extend(message.splitlines())
            self._writer.write(self._instance, lines)


def rotated(path: Path, index: int) -> Path:
    """The file that stands `index` rotations behind the newest."""
    return path.with_name(f"{path.name}.{index}") if index else path


def remove(path: Path) -> None:
    """Remove a log with all its rotated files."""
    for index in range(FILES):
        rotated(path, index).unlink(missing_ok=True)


class LogFile:
    """A log as its readers see it: one sequence of records over all files, whoever rotates them meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, lines: int) -> list[LogRecord]:
        """The last records, at most `lines`, oldest first; none when there is no log."""
        found: list[bytes] = []
        for index in range(FILES):
            if len(found) >= lines:
                break
            try:
                with rotated(self._path, index).open("rb") as file:
                    found = [*_last_lines(file, lines - len(found)), *found]
            except FileNotFoundError:
                break
        return list(_records(found))

    async def follow(self, lines: int = 0) -> AsyncIterator[LogRecord]:
        """The last `lines` records, then each new one as it is written, for ever.

        None is missed and none comes twice, also when the file is rotated or does not exist yet.
        """
        private_folder.make(self._path.parent)
        with folder_events.watch(self._path.parent) as events:
            reader = _Follower(self._path)
            try:
                end = reader.begin()
                # Many long lines are read in a thread, so that nobody else waits for them.
                for record in await asyncio.to_thread(reader.recent, lines, end):
                    yield record
                while True:
                    for record in reader.fresh():
                        yield record
                    await events.changed()
            finally:
                reader.close()


class _Follower:
    """Reads a log from where it stands, through rotations, by holding the file open and looking for its inode."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def begin(self) -> int:
        """Open the newest file, and return where it ends now."""
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            return 0
        return os.fstat(self._file.fileno()).st_size

    def recent(self, lines: int, end: int) -> list[LogRecord]:
        """The last records up to the end of the newest file; from there on they are fresh."""
        if self._file is None:
            return []
        found = _last_lines(self._file, lines, end) if lines else []
        index = self._index() or 0
        while len(found) < lines and index + 1 < FILES:
            index += 1
            try:
                with rotated(self._path, index).open("rb") as file:
                    found = [*_last_lines(file, lines - len(found)), *found]
            except FileNotFoundError:
                break
        self._file.seek(end)
        return list(_records(found))

    def fresh(self) -> Iterator[LogRecord]:
        """What has been written since the last call."""
        while True:
            if self._file is None:
                try:
                    self._file = self._path.open("rb")
                except FileNotFoundError:
                    return
            yield from self._read()
            index = self._index()
            if index == 0:
                return
            yield from self._read()  # what came between reading to the end and the rotation
            self._advance(index)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> Iterator[LogRecord]:
        assert self._file is not None
        while data := self._file.read(256 * 1024):
            *complete, self._rest = (self._rest + data).split(b"\n")
            yield from _records(complete)

    def _index(self) -> int | None:
        """How many rotations behind the newest the open file is; None when it is removed."""
        assert self._file is not None
        here = os.fstat(self._file.fileno())
        for index in range(FILES):
            try:
                if os.path.samestat(rotated(self._path, index).stat(), here):
                    return index
            except FileNotFoundError:
                continue
        return None

    def _advance(self, index: int | None) -> None:
        self.close()
        self._rest = b""
        oldest = FILES - 1 if index is None else index - 1
        for newer in range(oldest, -1, -1):
            try:
                self._file = rotated(self._path, newer).open("rb")
            except FileNotFoundError:
                continue
            return


def _last_lines(file: BinaryIO, lines: int, end: int | None = None) -> list[bytes]:
    """The last whole lines before `end`, read backwards in blocks."""
    position = file.seek(0, os.SEEK_END) if end is None else end
    data = b""
    while position > 0 and data.count(b"\n") <= lines:
        size = min(64 * 1024, position)
        position -= size
        file.seek(position)
        data = file.read(size) + data
    complete = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    return complete[-lines:] if lines > 0 else []


def _records(lines: list[bytes]) -> Iterator[LogRecord]:
    for line in lines:
        try:
            found: Any = json.loads(line)
            yield LogRecord(
                timestamp=str(found["timestamp"]),
                level=str(found["level"]),
                message=text.well_formed(str(found["message"])),
                instance=str(found["instance"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            continue


class LogFolder(Logs):
    """All logs of a server: `core/<name>.log`, and below a folder of their own `<namespace>/logs/<name>/<version>.log`.

    Args:
        folder: of the platform's own.
        namespaces: of all others.
        kept_seconds: how long the log of a service that is gone stays after its last line; a week by default.
        kept_bytes: how much the logs of all such services of a namespace may hold together, the youngest first; 1 GiB
            by default.
    """

    def __init__(
        self, folder: Path, namespaces: Path, *, kept_seconds: float = KEPT_SECONDS, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._folder = folder
        self._namespaces = namespaces
        self._kept_seconds = kept_seconds
        self._kept_bytes = kept_bytes

    def path(self, key: Key) -> Path:
        namespace, name, version = key
        if namespace == names.DEFAULT_NAMESPACE and name in names.CORE_SERVICES:
            return self._folder / "core" / f"{name}.log"
        return self._namespaces / namespace / "logs" / name / f"{version}.log"

    def exists(self, key: Key) -> bool:
        return self.path(key).exists()

    def read(self, key: Key, lines: int) -> list[LogRecord]:
        return LogFile(self.path(key)).read(lines)

    def follow(self, key: Key, lines: int) -> AsyncIterator[LogRecord]:
        return LogFile(self.path(key)).follow(lines)

    def remove(self, key: Key) -> None:
        remove(self.path(key))

    def sweep(self, known: Callable[[Key], bool]) -> None:
        left = [(*_age_and_size(self.path(key)), key) for key in self._keys() if not known(key)]
        held: dict[str, int] = {}
        for age, size, key in sorted(left):
            held[key[0]] = held.get(key[0], 0) + size
            old = age > self._kept_seconds or held[key[0]] > self._kept_bytes
            if old and not known(key):  # it may be there again
                self.remove(key)
                with contextlib.suppress(OSError):  # others are in there
                    self.path(key).parent.rmdir()
                    self.path(key).parent.parent.rmdir()

    def _keys(self) -> set[Key]:
        """Of the services that have a log."""
        found = set()
        for file in self._namespaces.glob("*/logs/*/*"):
            if match := _LOG.fullmatch(file.name):
                found.add((file.parents[2].name, file.parent.name, match["version"]))
        return found


def _age_and_size(path: Path) -> tuple[float, int]:
    """Seconds since the last line, and bytes of all rotated files."""
    found = []
    for index in range(FILES):
        with contextlib.suppress(FileNotFoundError):
            found.append(rotated(path, index).stat())
    last = max((status.st_mtime for status in found), default=0.0)
    return time.time() - last, sum(status.st_size for status in found)
