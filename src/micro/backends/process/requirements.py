"""What a service asks for: read from its requirements.txt or pyproject.toml, together with the files these name."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from micro.domain import errors

_FILES = ("requirements.txt", "pyproject.toml")
_MAX_FILE = 1024 * 1024
_ARCHIVES = (".whl", ".tar.gz", ".zip")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OPTION = re.compile(
    r"(?:-(?P<short>[rcef])\s*=?|--(?P<long>requirement|constraint|editable|find-links)(?:\s*=|\s))\s*(?P<value>.+)"
)
_DIRECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[^\]]*\])?\s*@\s*(?P<value>.+)")
_END = re.compile(r"\s+(?:;|#|--)|\s*;\s")
_EXTRAS = re.compile(r"\[[^\]/]*\]$")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def find(folder: Path) -> Path | None:
    """The file that says what the source in `folder` asks for; None when that is nothing beside the framework, which
    every service has anyway.

    Raises:
        Error: FAILED_PRECONDITION when it cannot be understood.
    """
    wanted = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if wanted is None:
        return None
    try:
        if wanted.name == "pyproject.toml":
            asks = _project_asks(tomllib.loads(wanted.read_text()))
        else:
            asks = any(name(line) != "micro" for line in _lines(wanted.read_text()))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise errors.failed_precondition(f"{wanted.name} cannot be read: {error}") from error
    return wanted if asks else None


def digest(wanted: Path, made_for: Iterable[str]) -> str:
    """Equal for sources that may share an environment.

    Covers the file and the files it names: other requirements, constraints, wheels and archives, by content; those
    outside of the source by size and time of change. Where a folder is named, the environment may lead back into it:
    then the source shares with nobody, also not with another generation of itself.

    Args:
        wanted: what `find` found.
        made_for: all else that environments differ by.

    Raises:
        Error: FAILED_PRECONDITION when a file is too large or cannot be understood.
        OSError: a file cannot be read.
    """
    reading = _Reading(wanted.parent)
    for part in made_for:
        reading.add(part)
    try:
        reading.read(wanted)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise errors.failed_precondition(f"{wanted.name} cannot be read: {error}") from error
    if (settings := wanted.parent / "uv.toml").is_file():
        reading.file(settings)
    return reading.digest()


def name(requirement: str) -> str:
    """The package that a requirement names; empty for options and addresses."""
    match = _NAME.match(requirement.strip())
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


class _Reading:
    """Follows what a file names."""

    def __init__(self, source: Path) -> None:
        self._source = Path(os.path.normpath(source))
        self._hash = hashlib.sha256()
        self._seen: set[Path] = set()

    def digest(self) -> str:
        return self._hash.hexdigest()[:16]

    def add(self, part: str | bytes) -> None:
        content = part.encode(errors="replace") if isinstance(part, str) else part
        self._hash.update(b"%d:" % len(content) + content)

    def read(self, file: Path) -> None:
        """A file of requirements, of constraints, or a project's."""
        if file in self._seen:
            return
        self._seen.add(file)
        with file.open("rb") as stream:
            content = stream.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise errors.failed_precondition(f"{file.name} is larger than {_MAX_FILE // 1024} KiB")
        self.add(file.name)
        self.add(content)
        text = content.decode(errors="replace")
        if file.suffix == ".toml":
            self._project(tomllib.loads(text))
            return
        for line in _lines(text):
            self._line(line, file.parent)

    def file(self, file: Path) -> None:
        """A file that is installed from, or looked at."""
        self.add(file.name)
        if file.is_relative_to(self._source):
            with file.open("rb") as stream:
                self.add(hashlib.file_digest(stream, "sha256").digest())
        else:
            status = file.stat()
            self.add(f"{status.st_size} {status.st_mtime_ns}")

    def _line(self, line: str, base: Path) -> None:
        option = _OPTION.fullmatch(line)
        if option is None:
            self._requirement(line, base)
            return
        kind = option["short"] or option["long"][0]
        for path in self._paths(option["value"].strip("\"'"), base):
            if kind in "rc" and path.is_file():
                self.read(path)
            elif kind == "f":
                self._links(path)
            else:
                self._installed(path)

    def _links(self, path: Path) -> None:
        """A folder of wheels; one elsewhere is an index like others, which may grow without a need to build anew."""
        if path.is_dir() and path.is_relative_to(self._source):
            for archive in sorted(path.iterdir()):
                if archive.name.endswith(_ARCHIVES) and archive.is_file():
                    self.file(archive)

    def _requirement(self, line: str, base: Path) -> None:
        direct = _DIRECT.fullmatch(line)
        value = _END.split(direct["value"] if direct else line, maxsplit=1)[0].strip()
        if direct or "/" in value or value.startswith((".", "file:")) or _EXTRAS.sub("", value).endswith(_ARCHIVES):
            for path in self._paths(value, base):
                self._installed(path)

    def _project(self, project: dict[str, Any]) -> None:
        asked = project.get("project", {})
        for requirement in asked.get("dependencies", ()):
            self._requirement(requirement, self._source)
        if "dependencies" in asked.get("dynamic", ()):
            self._share_with_nobody()
        settings = project.get("tool", {}).get("uv", {})
        for links in settings.get("find-links", ()):
            self._line(f"-f {links}", self._source)
        for index in settings.get("index", ()):
            self._line(f"-f {index.get('url', '')}", self._source)
        for source in settings.get("sources", {}).values():
            for one in source if isinstance(source, list) else [source]:
                if one.get("workspace") or one.get("editable"):
                    self._share_with_nobody()
                for path in self._paths(str(one.get("path", "https:")), self._source):
                    self._installed(path)

    def _installed(self, path: Path) -> None:
        if path.is_file():
            self.file(path)
        elif path.is_dir():
            self._share_with_nobody()

    def _share_with_nobody(self) -> None:
        """Not by the folder's content, which a build or the running service may change."""
        self.add(str(self._source))
        for file in (self._source / name for name in _FILES):
            if file.is_file():
                self.add(str(file.stat().st_mtime_ns))

    def _paths(self, value: str, base: Path) -> Iterator[Path]:
        """Where a path that is written in a file below `base` may lead; nothing for what comes from elsewhere."""
        value = _EXTRAS.sub("", value.replace("${PROJECT_ROOT}", str(self._source)))
        if value.startswith("file:"):
            value = unquote(value.removeprefix("file:").partition("#")[0])
            value = re.sub(r"^//(?:localhost)?(?=/)", "", value).removeprefix("//")
        elif _SCHEME.match(value) or not value:
            return
        # Without `..`: a path tells whether it leads out of the source, and circles end.
        yield from dict.fromkeys(Path(os.path.normpath(start / value)) for start in (base, self._source))


def _project_asks(project: dict[str, Any]) -> bool:
    asked = project.get("project", {})
    return "dependencies" in asked.get("dynamic", ()) or any(
        name(requirement) != "micro" for requirement in asked.get("dependencies", ())
    )


def _lines(text: str) -> Iterator[str]:
    """The lines that say something, continued ones as one."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        stripped = re.sub(r"(^|\s)#.*", "", line).strip()
        if stripped:
            yield stripped
