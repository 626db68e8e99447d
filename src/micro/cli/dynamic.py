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


def run(service: str, words: Sequence[str], session: Session) -> int:
    """Look the service up, and call an endpoint of it or show help."""
    services = lookup(service, session)
    known = schema.endpoints(services)
    typed = _leading(words)
    rest = list(words[len(typed) :])
    if not typed and (not rest or flags.wants_help(rest)):
        version = str(schema.newest(services).get("version", ""))
        session.out.stream.write(texts.service(service, version, known))
        return failures.OK
    endpoint = schema.find(service, known, typed)
    if flags.wants_help(rest):
        session.out.stream.write(texts.endpoint(service, endpoint))
        return failures.OK
    try:
        plan = flags.parse(rest, endpoint.request)
        session.choose(plan.env, plan.namespace)
        data = calling.data(plan.data, session) if plan.data is not None else {}
        request = flags.build(plan, data, lambda name: Path(name).expanduser().read_bytes())
    except failures.UsageError as error:
        raise failures.UsageError(f"{service} {schema.words(service, endpoint.name)}: {error.message}") from None
    options = calling.Options(plan.metadata, plan.timeout, plan.output, plan.address)
    messages = None if plan.fields or plan.data is not None else calling.typed_messages(endpoint.kind, session)
    return calling.perform(service, endpoint, json.dumps(request).encode("utf-8"), options, session, messages)


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
        return session.platform.get_service(service)
    except failures.UnreachableError as error:
        if near:
            raise failures.UnreachableError(f"{service!r} is not a command: did you mean {near}?") from None
        raise failures.UnreachableError(f"{service!r} is not a command, and to look for a service: {error}") from None
    except failures.NoServiceError:
        names = sorted({str(one["name"]) for one in session.platform.list_services() if one.get("name")})
        near = failures.closest(service, [*COMMANDS, *names])
        hint = f"did you mean {near}?" if near else "list them with: micro services"
        raise failures.NoServiceError(f"no command or service {service!r}: {hint}") from None
