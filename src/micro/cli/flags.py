"""From the words after an endpoint to a request: flags named by the schema, options of the call beside them. Pure.

An option comes before a field of the same name: `--data` is always the option, `--field_data` the field. Every field
may be typed with the prefix; help shows it where it is needed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from micro.cli import failures, scalars, schema
from micro.domain.service import Value

OPTION_NAMES = ("data", "metadata", "request_timeout", "output", "env", "namespace", "help")
_SHORT = {"-d": "data", "-o": "output", "-e": "env", "-h": "help"}
PREFIX = "field_"
"""Before the name of a field that an option is called like."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the words after an endpoint ask for.

    Attributes:
        fields: (path, field, text) of each flag, in the order given.
        data: what --data says: JSON, "@FILE" or "-"; None without it.
        metadata: headers to send.
        timeout: deadline in seconds; None leaves it to the service.
        output: "json" or "raw".
    """

    fields: tuple[tuple[tuple[str, ...], Value, str], ...] = ()
    data: str | None = None
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    timeout: float | None = None
    output: str = "json"


def option(token: str) -> str:
    """The option that a word such as "--data=x", "-d" or "-data" gives; empty for a field's flag."""
    flag = token.partition("=")[0]
    name = schema.names_of(flag.lstrip("-"))
    return _SHORT.get(flag, "") or (name if flag.startswith("-") and name in OPTION_NAMES else "")


def wants_help(tokens: Sequence[str]) -> bool:
    return any(option(token) == "help" for token in tokens)


def spelling(request: Value, path: Sequence[str]) -> str:
    """The flag of a field, without hyphens: its path, prefixed where an option or another field has that name.

    Empty where only --data can set it.
    """
    name = "_".join(path)
    for typed in (name, PREFIX + name):
        found = field(request, typed)
        if found and found[0] == tuple(path):
            return typed
    return ""


def spellings(request: Value) -> list[tuple[str, Value]]:
    """Every field that has a flag of its own, as (flag, field), in the contract's order."""
    every = ((spelling(request, path), field) for path, field in schema.leaves(request))
    return [(typed, field) for typed, field in every if typed]


def shadowed(tokens: Sequence[str], request: Value) -> list[str]:
    """The flags of the fields in whose place an option was typed, without hyphens."""
    taken = (schema.lookup(request, name) for name in dict.fromkeys(filter(None, map(option, tokens))))
    return [typed for found in taken if found and (typed := spelling(request, found[0]))]


def field(request: Value, name: str) -> tuple[tuple[str, ...], Value] | None:
    """The field that a flag without hyphens means, with its path; None for an option and for what is unknown."""
    if schema.names_of(name) in OPTION_NAMES:
        return None
    found = schema.lookup(request, name)
    if found is None and schema.names_of(name).startswith(PREFIX):
        return schema.lookup(request, name[len(PREFIX) :])
    return found


def parse(tokens: Sequence[str], request: Value) -> Plan:
    """Read flags and options. An option comes before a field of the same name.

    Raises:
        UsageError: an unknown flag (names the closest), a missing value, a stray word, a bad option.
    """
    fields: list[tuple[tuple[str, ...], Value, str]] = []
    options: dict[str, list[str]] = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        name, mark, text = token.lstrip("-").partition("=")
        if not token.startswith("-") or not name:
            raise failures.UsageError(f"unexpected {token!r}: flags look like --name=value")
        chosen = option(token)
        found = None if chosen else field(request, name)
        if not found and not chosen:
            raise _unknown(name, request)
        position += 1
        if not mark:
            text, used = _following(name, found[1] if found else None, tokens[position : position + 1])
            position += used
        if found:
            fields.append((*found, text))
        else:
            options.setdefault(chosen, []).append(text)
    return _plan(fields, options)


def takes_value(token: str, request: Value) -> bool:
    """Whether the word after a flag that has no `=` is its value."""
    if option(token):
        return option(token) != "help"
    found = field(request, token.lstrip("-"))
    return found is not None and scalars.kind(found[1]) != "bool"


def _following(name: str, wanted: Value | None, rest: Sequence[str]) -> tuple[str, int]:
    """The value of a flag without `=`, and how many words it took."""
    if wanted is not None and scalars.kind(wanted) == "bool":
        return (rest[0], 1) if rest and rest[0].lower() in ("true", "false") else ("true", 0)
    if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
        raise failures.UsageError(f"--{name} needs a value: type --{name}=VALUE")
    return rest[0], 1


def _unknown(name: str, request: Value) -> failures.UsageError:
    known = [*(typed for typed, _ in spellings(request)), *OPTION_NAMES]
    near = failures.closest(name, known)
    hint = f"did you mean --{near}?" if near else "see --help"
    return failures.UsageError(f"unknown flag --{name}: {hint}")


def _plan(fields: list[tuple[tuple[str, ...], Value, str]], options: dict[str, list[str]]) -> Plan:
    last = {name: texts[-1] for name, texts in options.items()}
    output = last.get("output", "json")
    if output not in ("json", "raw"):
        raise failures.UsageError(f"--output takes json or raw, not {output!r}")
    return Plan(
        fields=tuple(fields),
        data=last.get("data"),
        metadata=metadata(options.get("metadata", [])),
        timeout=duration(last["request_timeout"]) if "request_timeout" in last else None,
        output=output,
    )


def duration(text: str) -> float:
    """Seconds of "500ms", "5s", "2m", "1h" or a plain number of seconds.

    Raises:
        UsageError: it is none of these, or zero.
    """
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= 86400 * 365:
        raise failures.UsageError(f"{text!r} is not a duration: give for example 500ms, 5s or 2m")
    return seconds


def metadata(pairs: Sequence[str]) -> dict[str, str]:
    """Headers out of KEY=VALUE; raises UsageError for what cannot be one."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, mark, text = pair.partition("=")
        legal = re.fullmatch(r"[A-Za-z0-9_.-]+", key) and re.fullmatch(r"[\x20-\x7e]*", text)
        if not mark or not legal:
            raise failures.UsageError(f"--metadata takes KEY=VALUE in printable ASCII, not {pair!r}")
        found[key.lower()] = text
    return found


def build(plan: Plan, data: dict[str, Any], read_file: scalars.ReadFile) -> dict[str, Any]:
    """The request: `data` with the flags over it. Lists grow by each flag; everything else takes the last.

    Raises:
        UsageError: a value of the wrong type; names the flag.
    """
    request = dict(data)
    lists: dict[tuple[str, ...], list[Any]] = {}
    for path, wanted, text in plan.fields:
        try:
            new = scalars.convert(wanted, text, read_file)
        except scalars.WrongTypeError as error:
            raise failures.UsageError(f"--{_shown(path)} {error}") from None
        if wanted.repeated:
            new = lists[path] = [*lists.get(path, []), *new]
        schema.put(request, path, new)
    return request


def _shown(path: Sequence[str]) -> str:
    name = "_".join(path)
    return PREFIX + name if name in OPTION_NAMES else name
