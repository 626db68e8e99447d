"""What a contract's comments say. Descriptors at run time have none, but the generator turns them into docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from protobuf import DescMessage

_FIELD = re.compile(r"^ {4}(\w+):$")


def of_method(handler: object, function: str) -> str:
    """The comment of the method that `function` implements; empty where the contract has none."""
    for cls in type(handler).__mro__:
        # The author's own docstring is for who reads the code; the contract's is for who calls.
        if cls.__module__.endswith("_connect"):
            return _clean(getattr(getattr(cls, function, None), "__doc__", None))
    return ""


def of_fields(desc: DescMessage) -> Mapping[str, str]:
    """The comments of a message's fields, by the name that Python has for each; without those that have none."""
    _, _, attributes = inspect.cleandoc(desc.type.__doc__ or "").partition("Attributes:\n")
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    inside = False
    for line in attributes.splitlines():
        name = _FIELD.match(line)
        if name:
            lines = found.setdefault(name.group(1), [])
            inside = True
        elif line.strip().startswith("```"):
            inside = False
        elif inside:
            lines.append(line.strip())
    return {name: text for name, lines in found.items() if (text := "\n".join(lines).strip())}


def _clean(text: str | None) -> str:
    return inspect.cleandoc(text) if text else ""
