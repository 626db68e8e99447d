"""Every service as a command: `micro SERVICE [ENDPOINT] [--flags]`, with flags from the schema in the registry."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from micro.cli import calling, checking, failures, flags, schema
from micro.cli import help as texts
from micro.cli.catalog import COMMANDS
from micro.cli.session import Session
from micro.domain import names
from micro.domain.errors import Error
from micro.domain.service import Endpoint


def run(service: str, words: Sequence[str], session: Session) -> int:
    """Look the service up, and call an endpoint of it or show help."""
    rest, chosen = without_globals(words)
    typed = leading(rest)
    rest = rest[len(typed) :]
    there = session.elsewhere(chosen.get("env", ""), chosen.get("namespace", ""))
    try:
        known, version = _known(service, there)
    except Error as error:
        if calling.hidden(error):
            return _run_unseen(service, typed, rest, error, there)
        raise
    if not typed and (not rest or flags.wants_help(rest)):
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
        checking.check(endpoint.request, request)
    except failures.UsageError as error:
        hint = "".join(f"; the field is --{flag}" for flag in flags.shadowed(rest, endpoint.request))
        raise failures.UsageError(f"{service} {schema.words(service, endpoint.name)}: {error.message}{hint}") from None
    options = calling.Options(plan.metadata, plan.timeout, plan.output, "")
    messages = None if plan.fields or plan.data is not None else calling.typed_messages(endpoint, there)
    return calling.perform(service, endpoint, json.dumps(request).encode("utf-8"), options, there, messages)


def _run_unseen(service: str, typed: Sequence[str], rest: Sequence[str], why: Error, session: Session) -> int:
    """Call an endpoint without its schema, where all of the request is given as JSON."""
    wanted = ".".join(word for part in typed for word in part.split("/") if word) or "Call"
    plan = None
    with contextlib.suppress(failures.UsageError):  # of a flag for a field
        plan = flags.parse(rest, schema.value({}))
    if plan is None or plan.data is None:
        near = failures.closest(service, list(COMMANDS))
        command = f"{session.micro} call {service} {wanted}"
        hint = f"so the flags of {service} are not known here: give JSON, {command} '{{…}}'"
        hint = f"{service!r} is no command: did you mean {near}?" if near else hint
        raise Error(why.kind, f"{why.message}; {hint}") from None
    options = calling.Options(plan.metadata, plan.timeout, plan.output, "")
    body = json.dumps(calling.data(plan.data, session)).encode("utf-8")
    return calling.perform(service, calling.unseen(service, wanted), body, options, session)


def _known(service: str, session: Session) -> tuple[list[Endpoint], str]:
    services = lookup(service, session)
    return schema.endpoints(services), str(schema.newest(services).get("version", ""))


def without_globals(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words without the global flags, and what those say: they decide where the schema is looked up."""
    rest: list[str] = []
    chosen: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        name = flags.option(word)
        if name not in ("env", "namespace"):
            rest.append(word)
            continue
        _, mark, text = word.partition("=")
        if not mark:
            if position == len(words):
                raise failures.UsageError(f"{word} needs a name: type {word} NAME")
            text = words[position]
            position += 1
        chosen[name] = text
    return rest, chosen


def leading(words: Sequence[str]) -> list[str]:
    """The words before the first flag."""
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
        raise failures.UnreachableError(f"no command {service!r}, and {error}") from None
    except failures.StartingError:
        raise
    except failures.NoServiceError:
        running = sorted({str(one["name"]) for one in session.platform.list_services() if one.get("name")})
        near = failures.closest(service, [*COMMANDS, *running])
        hint = f"did you mean {near}?" if near else "list them with: micro services"
        raise failures.NoServiceError(f"no command or service {service!r}: {hint}") from None
