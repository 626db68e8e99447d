"""Every service as a command: `micro SERVICE [ENDPOINT] [--flags]`, with flags from the schema in the registry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from micro.cli import calling, failures, flags, schema
from micro.cli import help as texts
from micro.cli.catalog import COMMANDS
from micro.cli.session import Session
from micro.domain import names
from micro.domain.errors import Error
from micro.domain.service import Endpoint


def run(service: str, words: Sequence[str], session: Session) -> int:
    """Look the service up, and call an endpoint of it or show help."""
    typed = _leading(words)
    rest = list(words[len(typed) :])
    there = session.elsewhere(**_globals(rest, session))
    known, version = _known(service, there)
    if not typed and (not rest or flags.wants_help(rest) or _only_globals(rest)):
        session.out.stream.write(texts.service(service, version, known))
        return failures.OK
    endpoint = schema.find(service, known, typed)
    if flags.wants_help(rest):
        session.out.stream.write(texts.endpoint(service, endpoint))
        return failures.OK
    try:
        plan = flags.parse(rest, endpoint.request)
        data = calling.data(plan.data, session) if plan.data is not None else {}
        request = flags.build(plan, data, lambda name: Path(name).expanduser().read_bytes())
    except failures.UsageError as error:
        raise failures.UsageError(f"{service} {schema.words(service, endpoint.name)}: {error.message}") from None
    options = calling.Options(plan.metadata, plan.timeout, plan.output, plan.address)
    messages = None if plan.fields or plan.data is not None else calling.typed_messages(endpoint.kind, session)
    where = session.elsewhere(plan.env, plan.namespace)
    return calling.perform(service, endpoint, json.dumps(request).encode("utf-8"), options, where, messages)


def _known(service: str, session: Session) -> tuple[list[Endpoint], str]:
    services = lookup(service, session)
    return schema.endpoints(services), str(schema.newest(services).get("version", ""))


def _globals(words: Sequence[str], session: Session) -> dict[str, str]:
    """The global flags among the words, as far as that can be told before the schema is known.

    A service may have fields of the same names; only a name that is an environment's is taken for one.
    """
    found: dict[str, str] = {}
    for index, word in enumerate(words):
        flag, mark, text = word.partition("=")
        value = text if mark else "".join(words[index + 1 : index + 2])
        if flag in ("-e", "-env", "--env") and value in session.environments.names():
            found["environment"] = value
        elif flag in ("-namespace", "--namespace") and _is_namespace(value):
            found["namespace"] = value
    return found


def _is_namespace(text: str) -> bool:
    try:
        return bool(text) and names.namespace(text) == text
    except Error:
        return False


def _only_globals(words: Sequence[str]) -> bool:
    rest = list(words)
    while rest and rest[0].partition("=")[0] in ("-e", "-env", "--env", "-namespace", "--namespace"):
        rest = rest[1 if "=" in rest[0] else 2 :]
    return not rest


def _leading(words: Sequence[str]) -> list[str]:
    count = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:count])


def lookup(service: str, session: Session) -> list[dict[str, Any]]:
    """The registry's records of a service.

    Raises:
        NoServiceError: there is none; names the closest command or service.
        UnreachableError: nobody can be asked.
    """
    near = failures.closest(service, list(COMMANDS))
    try:
        names.service(service)
    except Error:
        hint = f"did you mean {near}?" if near else "see: micro --help"
        raise failures.NoServiceError(f"no command or service {service!r}: {hint}") from None
    try:
        return session.platform.get_service(service)
    except failures.UnreachableError as error:
        if near:
            raise failures.UnreachableError(f"{service!r} is not a command: did you mean {near}?") from None
        raise failures.UnreachableError(f"{service!r} is not a command, and to look for a service: {error}") from None
    except failures.NoServiceError:
        running = sorted({str(one["name"]) for one in session.platform.list_services() if one.get("name")})
        near = failures.closest(service, [*COMMANDS, *running])
        hint = f"did you mean {near}?" if near else "list them with: micro services"
        raise failures.NoServiceError(f"no command or service {service!r}: {hint}") from None
