"""`micro __complete -- WORDS`: what may come next. Shells ask at every press of Tab, so it is quick and never fails."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from micro.cli import flags
from micro.cli.catalog import COMMANDS
from micro.cli.session import Session
from micro.domain import names
from micro.domain.errors import Error
from micro.domain.service import Value

_PATIENCE = 0.5
_OF_SERVICES = ("call", "stream")
_OF_RUNNING = ("kill", "logs", "status", "update")
_GLOBALS = {"env": "environment", "namespace": "namespace"}


def run(words: Sequence[str], session: Session) -> int:
    """Print the candidates for the last word, one a line; nothing when there are none or the server is away."""
    typed = list(words[1:] if words[:1] == ["--"] else words) or [""]
    session.hurried = True
    with contextlib.suppress(Error, OSError, ValueError, KeyError):
        for candidate in candidates(typed, session):
            if candidate.startswith(typed[-1]):
                session.out.line(candidate)
    return 0


def candidates(typed: list[str], session: Session) -> list[str]:
    """Everything that may stand in the last word's place; nothing where the shell is to offer files."""
    *words, last = typed
    while words and flags.option(words[0]) in _GLOBALS:
        flag, mark, text = words[0].partition("=")
        if not mark and len(words) == 1:
            return session.environments.names() if flags.option(flag) == "env" else []
        session.choose(**{_GLOBALS[flags.option(flag)]: text if mark else words[1]})
        words = words[1 if mark else 2 :]
    if words[:1] == ["help"]:
        return sorted(COMMANDS)
    if words:
        return (_of_command if words[0] in COMMANDS else _of_service)(words[0], words[1:], last, session)
    if "=" in last and flags.option(last) == "env":
        return _assigned(last, session.environments.names())
    return ["--env", "--help", "--namespace", "--version"] if last.startswith("-") else _first(session)


def _first(session: Session) -> list[str]:
    found = sorted(COMMANDS)
    with contextlib.suppress(Error):
        found += [name for name in _services(session) if name not in COMMANDS]
    return found


def _services(session: Session) -> list[str]:
    return sorted({str(one.get("name", "")) for one in session.platform.list_services(timeout=_PATIENCE)})


def _assigned(word: str, values: Iterable[str]) -> list[str]:
    """Values as they continue a word that may begin with "--flag="."""
    flag, mark, _ = word.partition("=")
    return [f"{flag}{mark}{value}" for value in values] if mark and flag.startswith("-") else list(values)


def _of_command(command: str, rest: list[str], last: str, session: Session) -> list[str]:
    from micro.cli import app

    parser = app.parser(command, rest)
    words: list[str] = []
    waiting: argparse.Action | None = None
    for word in rest:
        flag, mark, text = word.partition("=")
        if waiting is None and word.startswith("-"):
            waiting = parser.valued(flag)
            if not mark:
                continue
        elif waiting is None:
            words.append(word)
            continue
        _choose(waiting, text if mark else word, session)
        waiting = None
    if waiting is None and last.startswith("-"):
        flag, mark, _ = last.partition("=")
        return _assigned(last, _values(parser.valued(flag), session)) if mark else parser.options()
    return _values(waiting, session) if waiting else _positional(command, words, last, session)


def _choose(flag: argparse.Action | None, value: str, session: Session) -> None:
    """Ask where a global flag says."""
    chosen = {"global_env": "environment", "global_namespace": "namespace"}.get(flag.dest if flag else "")
    if chosen:
        session.choose(**{chosen: value})


def _values(flag: argparse.Action | None, session: Session) -> list[str]:
    if flag is None:
        return []
    if flag.dest == "global_env":
        return session.environments.names()
    if flag.dest == "global_namespace":
        from micro.cli.commands.user import namespaces

        return namespaces(session)
    return [str(choice) for choice in flag.choices or ()]


def _positional(command: str, words: list[str], last: str, session: Session) -> list[str]:
    from micro.cli import app

    if known := app.actions_of(command):
        from micro.cli import actions

        return actions.offered(known, words, session)
    if command == "completion":
        return ["bash", "zsh", "fish"]
    if command in (*_OF_SERVICES, "services") and not words:
        return _services(session)
    if command in _OF_SERVICES and len(words) == 1:
        found = session.platform.get_service(words[0], timeout=_PATIENCE)
        return sorted(str(one.get("name", "")) for one in found[-1].get("endpoints", []))
    if command in _OF_SERVICES:
        return _files(last)
    if command in _OF_RUNNING and (command == "kill" or not words):
        return _running(command, last, session)
    return []


def _running(command: str, last: str, session: Session) -> list[str]:
    """What runs, with the version once an "@" was typed."""
    found = session.platform.read()
    if "@" in last:
        return sorted(f"{one.get('name', '')}@{one.get('version', '')}" for one in found)
    return sorted({*(str(one.get("name", "")) for one in found), *(names.CORE_SERVICES if command == "logs" else ())})


def _of_service(service: str, rest: list[str], last: str, session: Session) -> list[str]:
    from micro.cli import dynamic, schema

    if rest and flags.option(rest[-1]) == "env" and "=" not in rest[-1]:
        return session.environments.names()
    rest, chosen = dynamic.without_globals(rest)
    session.choose(chosen.get("env", ""), chosen.get("namespace", ""))
    known = schema.endpoints(session.platform.get_service(service, timeout=_PATIENCE))
    typed = dynamic.leading(rest)
    if not last.startswith("-") and typed == rest:
        spelled = [schema.words(service, one.name).split() for one in known]
        return sorted({one[len(typed)] for one in spelled if one[: len(typed)] == typed and len(one) > len(typed)})
    request = schema.find(service, known, typed).request
    flag, mark, text = last.partition("=")
    if mark and flag.startswith("-"):
        return _assigned(last, _of_flag(flag, text, request, session))
    if rest[-1:] != typed[-1:] and "=" not in rest[-1] and flags.takes_value(rest[-1], request):
        return _of_flag(rest[-1], last, request, session)
    found = [f"--{name}{'=' * flags.takes_value(f'--{name}', request)}" for name, _ in flags.spellings(request)]
    return [*found, *(f"--{name}" for name in flags.OPTION_NAMES)]


def _of_flag(flag: str, text: str, request: Value, session: Session) -> list[str]:
    """The values of a service's flag or of an option."""
    from micro.cli import scalars

    option = flags.option(flag)
    if option == "output":
        return ["json", "raw"]
    if option == "env":
        return session.environments.names()
    field = None if option else flags.field(request, flag.lstrip("-"))
    kind = scalars.kind(field[1]) if field else ""
    if field and kind == "enum":
        return scalars.choices(field[1])
    if kind == "bool":
        return ["true", "false"]
    return _files(text) if option == "data" or kind == "bytes" else []


def _files(text: str) -> list[str]:
    """The files that an "@" asks for; a folder ends in a slash."""
    folder, slash, start = text[1:].rpartition("/")
    if not text.startswith("@"):
        return []
    with os.scandir(Path(folder + slash or ".").expanduser()) as entries:
        return sorted(
            f"@{folder}{slash}{entry.name}{'/' * entry.is_dir()}"
            for entry in entries
            if start or not entry.name.startswith(".")
        )
