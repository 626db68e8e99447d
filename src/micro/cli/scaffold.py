"""The files of a new service. Pure."""

from __future__ import annotations

import builtins
import keyword
from string import Template
from typing import NamedTuple

from micro.cli import failures
from micro.cli.catalog import TAKEN
from micro.domain import names

_TAKEN = {
    "AsyncIterator",
    "Handler",
    "Ping",
    "Pong",
    "Request",
    "Response",
    "Service",
    "StreamRequest",
    "StreamResponse",
}


class Names(NamedTuple):
    """What a service's name turns into: its own form, that of files and packages, and that of types."""

    name: str
    stem: str
    type: str


def named(text: str) -> Names:
    """The names of a new service.

    Raises:
        Error: INVALID_ARGUMENT for a path, a name that cannot be one, or one of the platform's own.
    """
    if "/" in text or "\\" in text or text in (".", ".."):
        raise failures.UsageError(f"{text!r} is a path: give a name, and the folder to make it in with --path")
    name = names.service(text)
    if name in names.CORE_SERVICES:
        raise failures.UsageError(f"{name!r} is a core service of the platform: choose another name")
    camel = names.camel(name)
    clash = camel in _TAKEN or hasattr(builtins, camel)
    stem = name.replace("-", "_").replace(".", "_")
    return Names(name, f"{stem}_service" if keyword.iskeyword(stem) else stem, f"{camel}Service" if clash else camel)


class Typed(NamedTuple):
    """What is typed to call a new service, to have its stream, and to see what it offers."""

    call: str
    stream: str
    overview: str


def typed(new: Names) -> Typed:
    """The command lines of a new service; one that is named like a command is called by `micro call`."""
    if new.name in TAKEN:
        greeting, counting = '{"name": "Ann"}', '{"count": 3}'
        return Typed(
            f"micro call {new.name} {new.type}.Call '{greeting}'",
            f"micro stream {new.name} {new.type}.Stream '{counting}'",
            f"micro services {new.name}",
        )
    named = f"micro {new.name}"
    return Typed(f"{named} call --name=Ann", f"{named} stream --count=3", f"{named} --help")


def files(new: Names, templates: dict[str, str]) -> dict[str, str]:
    """Path -> content of every file that is written by hand, so to speak; `templates` by the template's name."""
    paths = {
        "main.py": "main.py",
        f"proto/{new.stem}.proto": "service.proto",
        f"test_{new.stem}.py": "test.py",
        "README.md": "README.md",
        ".gitignore": "gitignore",
    }
    known = {**new._asdict(), **typed(new)._asdict()}
    return {path: Template(templates[name]).substitute(known) for path, name in paths.items()}


TEMPLATES = ("main.py", "service.proto", "test.py", "README.md", "gitignore")


def tree(root: str, paths: list[str]) -> list[str]:
    """The files as a tree, a line each."""
    lines = [f"{root}/"]
    top = sorted({path.partition("/")[0] for path in paths}, key=lambda one: (one.startswith("."), one.lower()))
    for name in top:
        inside = sorted(path.partition("/")[2] for path in paths if path.startswith(f"{name}/"))
        lines.append(f"  {name}/" if inside else f"  {name}")
        lines += [f"    {path}" for path in inside]
    return lines
