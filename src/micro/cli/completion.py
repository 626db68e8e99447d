"""`micro __complete -- WORDS`: what may come next. Shells ask at every press of Tab, so it is quick and never fails."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from micro.cli.catalog import COMMANDS
from micro.cli.session import Session
from micro.domain.errors import Error

_PATIENCE = 0.5
_OF_SERVICES = ("call", "stream")
_OF_RUNNING = ("kill", "logs", "status", "update")
_CORE_LOGS = ("api", "mesh", "nats", "network", "proxy", "registry", "runtime")


def run(words: Sequence[str], session: Session) -> int:
    """Print the candidates for the last word, one a line; nothing when there are none or the server is away."""
    typed = list(words[1:] if words[:1] == ["--"] else words) or [""]
    with contextlib.suppress(Error, OSError, ValueError, KeyError):
        for candidate in candidates(typed, session):
            if candidate.startswith(typed[-1]):
                session.out.line(candidate)
    return 0


def candidates(typed: list[str], session: Session) -> list[str]:
    """Everything that may stand in the last word's place."""
    *before, last = _without_globals(typed, session)
    if typed[-2:-1] and typed[-2] in ("-e", "--env", "-env") and typed[-2:-1] != before[-1:]:
        return session.environments.names()
    if not before:
        return ["--env", "--help", "--namespace", "--version"] if last.startswith("-") else _first(session)
    command, *rest = before
    if command not in COMMANDS:
        return _of_service(command, rest, last, session)
    if last.startswith("-"):
        from micro.cli import app

        return app.parser(command).options()
    return _positional(command, rest, session)


def _without_globals(typed: list[str], session: Session) -> list[str]:
    rest = list(typed)
    while len(rest) > 1 and rest[0].partition("=")[0] in ("-e", "-env", "--env", "-namespace", "--namespace"):
        name, mark, text = rest[0].partition("=")
        value = text if mark else rest[1]
        session.choose(**{"namespace" if "namespace" in name else "environment": value})
        if not mark and len(rest) == 2:
            return [rest[1]]
        rest = rest[1:] if mark else rest[2:]
    return rest


def _first(session: Session) -> list[str]:
    found = sorted(COMMANDS)
    with contextlib.suppress(Error):
        found += [name for name in _services(session) if name not in COMMANDS]
    return found


def _services(session: Session) -> list[str]:
    return sorted({str(one.get("name", "")) for one in session.platform.list_services(timeout=_PATIENCE)})


def _positional(command: str, rest: list[str], session: Session) -> list[str]:
    words = [word for word in rest if not word.startswith("-")]
    if command == "env":
        if not words:
            return ["list", "get", "set", "add", "del"]
        return session.environments.names() if words[0] in ("set", "del") and len(words) == 1 else []
    if command == "completion":
        return ["bash", "zsh", "fish"]
    if command in _OF_SERVICES and not words:
        return _services(session)
    if command in _OF_SERVICES and len(words) == 1:
        found = session.platform.get_service(words[0], timeout=_PATIENCE)
        return sorted(str(one.get("name", "")) for one in found[-1].get("endpoints", []))
    if command in _OF_RUNNING and (command == "kill" or not words):
        running = [str(one.get("name", "")) for one in session.platform.read()]
        return sorted({*running, *(_CORE_LOGS if command == "logs" else ())})
    return []


def _of_service(service: str, rest: list[str], last: str, session: Session) -> list[str]:
    from micro.cli import flags, scalars, schema

    known = schema.endpoints(session.platform.get_service(service, timeout=_PATIENCE))
    typed = [word for word in rest if not word.startswith("-")]
    if not last.startswith("-"):
        spelled = [schema.words(service, one.name).split() for one in known]
        return sorted({one[len(typed)] for one in spelled if one[: len(typed)] == typed and len(one) > len(typed)})
    endpoint = schema.find(service, known, typed)
    found = [
        f"--{'_'.join(path)}" + ("" if scalars.kind(field) == "bool" else "=")
        for path, field in schema.leaves(endpoint.request)
    ]
    return [*found, *(f"--{name}" for name in flags.OPTION_NAMES), "--help"]
