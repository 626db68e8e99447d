"""From the words after an endpoint to a request: flags named by the schema, options of the call beside them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from micro.cli import failures, scalars, schema
from micro.domain.service import Value

_OPTIONS = {
    "data": "data",
    "d": "data",
    "metadata": "metadata",
    "request_timeout": "request_timeout",
    "output": "output",
    "o": "output",
    "address": "address",
    "env": "env",
    "e": "env",
    "namespace": "namespace",
}
OPTION_NAMES = ("data", "metadata", "request_timeout", "output", "address", "env", "namespace")
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
        address: HOST:PORT to call instead of the environment's server.
        env: environment for this call.
        namespace: namespace for this call.
        help: whether help is wanted instead of a call.
    """

    fields: tuple[tuple[tuple[str, ...], Value, str], ...] = ()
    data: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    timeout: float | None = None
    output: str = "json"
    address: str = ""
    env: str = ""
    namespace: str = ""
    help: bool = False


def wants_help(tokens: Sequence[str]) -> bool:
    return "--help" in tokens or "-h" in tokens or "-help" in tokens


def parse(tokens: Sequence[str], request: Value) -> Plan:
    """Read flags and options. A field of the request comes before an option of the same name.

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
        found = schema.lookup(request, name)
        option = "" if found else _OPTIONS.get(schema.names_of(name), "")
        if not found and not option:
            raise _unknown(name, request)
        position += 1
        if not mark:
            text, used = _following(name, found[1] if found else None, tokens[position : position + 1])
            position += used
        if found:
            fields.append((*found, text))
        else:
            options.setdefault(option, []).append(text)
    return _plan(fields, options)


def _following(name: str, wanted: Value | None, rest: Sequence[str]) -> tuple[str, int]:
    """The value of a flag without `=`, and how many words it took."""
    if wanted is not None and scalars.kind(wanted) == "bool":
        return (rest[0], 1) if rest and rest[0].lower() in ("true", "false") else ("true", 0)
    if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
        raise failures.UsageError(f"--{name} needs a value: type --{name}=VALUE")
    return rest[0], 1


def _unknown(name: str, request: Value) -> failures.UsageError:
    known = [*("_".join(path) for path, _ in schema.leaves(request)), *OPTION_NAMES, "help"]
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
        address=last.get("address", ""),
        env=last.get("env", ""),
        namespace=last.get("namespace", ""),
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
            raise failures.UsageError(f"--{'_'.join(path)} {error}") from None
        if wanted.repeated:
            new = lists[path] = [*lists.get(path, []), *new]
        schema.put(request, path, new)
    return request
