"""From a flag's text to the JSON of a protobuf field (https://protobuf.dev/programming-guides/json/). Pure."""

from __future__ import annotations

import base64
import binascii
import json
import math
import os.path
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from micro.domain.service import Value

_INTEGERS = {
    "int32": (-(2**31), 2**31 - 1),
    "sint32": (-(2**31), 2**31 - 1),
    "sfixed32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "fixed32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "sint64": (-(2**63), 2**63 - 1),
    "sfixed64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
    "fixed64": (0, 2**64 - 1),
}
_WORDS = {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False}
_FLOATS = {"nan": "NaN", "inf": "Infinity", "infinity": "Infinity", "-inf": "-Infinity", "-infinity": "-Infinity"}
_SHOWN_CHOICES = 8
_LARGEST_FLOAT = 3.4028235677973366e38
_WRAPPED = {
    "google.protobuf.BoolValue": "bool",
    "google.protobuf.BytesValue": "bytes",
    "google.protobuf.DoubleValue": "double",
    "google.protobuf.FloatValue": "float",
    "google.protobuf.Int32Value": "int32",
    "google.protobuf.Int64Value": "int64",
    "google.protobuf.StringValue": "string",
    "google.protobuf.UInt32Value": "uint32",
    "google.protobuf.UInt64Value": "uint64",
}
_TEXTS = {
    "google.protobuf.Timestamp": (
        "timestamp",
        re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)"),
    ),
    "google.protobuf.Duration": ("duration", re.compile(r"-?\d{1,12}(\.\d{1,9})?s")),
    "google.protobuf.FieldMask": ("field mask", re.compile(r"[A-Za-z0-9_.,]*")),
}
_EXAMPLES = {"timestamp": "2026-01-31T08:00:00Z", "duration": "1.5s", "field mask": "name,address.city"}

ReadFile = Callable[[str], bytes]
"""Reads the file that `@file` names; raises OSError."""


class WrongTypeError(ValueError):
    """A text is not what its field wants; the message says what would be, without the flag's name."""


def kind(field: Value) -> str:
    """The scalar type that a field is set by: its own, or the one that a well-known type wraps."""
    return _WRAPPED.get(field.type_name, field.type)


def label(field: Value) -> str:
    """The type of a field as help shows it."""
    if field.type == "enum":
        known = choices(field)
        more = ["…"] if len(known) > _SHOWN_CHOICES else []
        shown = "|".join([*known[:_SHOWN_CHOICES], *more]) or "enum"
    elif field.type == "map":
        inner = label(field.values[0]) if field.values else "json"
        shown = f"map of {field.key_type} to {inner}"
    elif field.type_name in _TEXTS:
        shown = _TEXTS[field.type_name][0]
    elif field.type == "message":
        shown = _WRAPPED.get(field.type_name, "json")
    else:
        shown = field.type
    return f"{shown}, repeated" if field.repeated else shown


def choices(field: Value) -> list[str]:
    """The names of an enum as people type them, without the unset one; each is accepted as it stands.

    In lower case, without what all of them begin with; in full where what is left would be taken for a number.
    """
    prefix = _common(field.enum_values)
    shown = []
    for name in field.enum_values:
        short = name.removeprefix(prefix).lower()
        typed = short if _folded_enum(field, short) == name and not short.isdecimal() else name.lower()
        shown.append(typed if _folded_enum(field, typed) == name else name)
    return [name for name in shown if name not in ("unspecified", "")]


def _common(enum_names: Sequence[str]) -> str:
    prefix = os.path.commonprefix(enum_names)  # noqa: RUF071 - cut at an underscore next
    return prefix[: prefix.rfind("_") + 1] if len(enum_names) > 1 else ""


def convert(field: Value, text: str, read_file: ReadFile) -> Any:
    """The JSON value of one text for one field; a list for a repeated field.

    Raises:
        WrongTypeError: the text does not fit.
    """
    if field.repeated:
        return [_single(field, part, read_file) for part in _parts(field, text)]
    return _single(field, text, read_file)


def check(field: Value, found: Any, read_file: ReadFile) -> Any:
    """The JSON value for what was JSON already, as inside a map: texts are converted, the rest is kept."""
    return _single(field, found, read_file) if isinstance(found, str) else _of_json(field, found)


def accept(field: Value, found: Any) -> None:
    """Return when JSON is what a scalar, an enum or a well-known type takes, or one item of a list of them.

    Raises:
        WrongTypeError: it is not.
    """
    one, scalar = replace(field, repeated=False), kind(field)
    if scalar == "message" and field.type_name not in _TEXTS:
        return
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if isinstance(found, str):
        fits = scalar != "bool" and (scalar != "enum" or not field.enum_values or found in field.enum_values)
    elif number and scalar in _INTEGERS:
        fits = isinstance(found, int) or found.is_integer()
        found = int(found) if fits else found
    elif scalar == "enum":
        fits = isinstance(found, int) and number
    else:
        fits = number if scalar in ("double", "float") else isinstance(found, bool) and scalar == "bool"
    if not fits:
        wanted = f"one of {', '.join(field.enum_values)}" if scalar == "enum" and field.enum_values else label(one)
        raise WrongTypeError(f"takes {wanted}, not {short(json.dumps(found))}")
    if scalar not in ("string", "enum", "bool"):
        _single(one, str(found), _no_file)


def _no_file(name: str) -> bytes:
    raise ValueError("in JSON bytes are base64")


def _parts(field: Value, text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return [part if isinstance(part, str) else json.dumps(part) for part in found]
    if field.type in ("message", "map") and field.type_name not in _WRAPPED and field.type_name not in _TEXTS:
        return [text]
    return text.split(",")


def _single(field: Value, text: str, read_file: ReadFile) -> Any:
    scalar = kind(field)
    if scalar in _INTEGERS:
        return _integer(scalar, text)
    if scalar in ("double", "float"):
        return _float(scalar, text)
    if scalar == "bool":
        if text.lower() not in _WORDS:
            raise WrongTypeError(f"takes true or false, not {text!r}")
        return _WORDS[text.lower()]
    if scalar == "bytes":
        return _bytes(text, read_file)
    if scalar == "enum":
        return _enum(field, text)
    if scalar == "map":
        return _map(field, text, read_file)
    if scalar == "message":
        return _message(field, text)
    return text


def _integer(scalar: str, text: str) -> int | str:
    low, high = _INTEGERS[scalar]
    try:
        if len(text) > 100:
            raise ValueError
        digits = text.strip().lstrip("+-").lower()
        number = int(text, 0 if digits.startswith(("0x", "0o", "0b")) else 10)
    except ValueError:
        raise WrongTypeError(f"takes a whole number ({scalar}), not {short(text)}") from None
    if not low <= number <= high:
        raise WrongTypeError(f"takes {low} to {high} ({scalar}), not {short(text)}")
    return str(number) if scalar.endswith("64") else number


def _float(scalar: str, text: str) -> float | str:
    if text.lower().lstrip("+") in _FLOATS:
        return _FLOATS[text.lower().lstrip("+")]
    try:
        number = float(text)
    except ValueError:
        raise WrongTypeError(f"takes a number ({scalar}), not {short(text)}") from None
    if not math.isfinite(number) or (scalar == "float" and abs(number) > _LARGEST_FLOAT):
        raise WrongTypeError(f"{short(text)} is too large for a {scalar}")
    return number


def _bytes(text: str, read_file: ReadFile) -> str:
    if text.startswith("@"):
        try:
            content = read_file(text[1:])
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise WrongTypeError(f"cannot read {text[1:]!r}: {reason}") from None
        return base64.b64encode(content).decode("ascii")
    standard = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        decoded = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise WrongTypeError(f"takes base64, or @FILE to send a file's content, not {short(text)}") from None
    return base64.b64encode(decoded).decode("ascii")


def _enum(field: Value, text: str) -> str | int:
    if re.fullmatch(r"-?[0-9]{1,10}", text):
        return int(text)
    found = _folded_enum(field, text)
    if found:
        return found
    if not field.enum_values and text:
        return text
    raise WrongTypeError(f"takes one of {', '.join(choices(field))}, not {short(text)}")


def _folded_enum(field: Value, text: str) -> str:
    """The one name that a text means: spelled out, or without the common beginning, or else its end; empty for none."""
    if text in field.enum_values:
        return text
    folded, prefix = text.upper().replace("-", "_"), _common(field.enum_values).upper()
    for wanted in (folded, prefix + folded):
        same = [name for name in field.enum_values if name.upper() == wanted]
        if same:
            return same[0] if len(same) == 1 else ""
    ends = [name for name in field.enum_values if folded and name.upper().endswith(f"_{folded}")]
    return ends[0] if len(ends) == 1 else ""


def _map(field: Value, text: str, read_file: ReadFile) -> dict[str, Any]:
    inner = field.values[0] if field.values else Value(name="value", type="string")
    if not text.lstrip().startswith("{"):
        key, mark, rest = text.partition("=")
        if not mark:
            raise WrongTypeError(f"takes a JSON object, or KEY=VALUE, not {short(text)}")
        return {map_key(field, key): _single(inner, rest, read_file)}
    return {map_key(field, key): check(inner, item, read_file) for key, item in _object(text).items()}


def map_key(field: Value, text: str) -> str:
    """The key of a map as JSON has it; raises WrongTypeError."""
    if field.key_type in _INTEGERS:
        return str(_integer(field.key_type, text))
    if field.key_type == "bool" and text not in ("true", "false"):
        raise WrongTypeError(f"has keys true and false, not {text!r}")
    return text


def _message(field: Value, text: str) -> Any:
    if field.type_name in _TEXTS:
        shown, pattern = _TEXTS[field.type_name]
        if not pattern.fullmatch(text):
            raise WrongTypeError(f"takes a {shown} such as {_EXAMPLES[shown]}, not {short(text)}")
        return text
    if field.type_name == "google.protobuf.Value":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    if field.type_name == "google.protobuf.ListValue":
        return _json(text, list, "a JSON array")
    return _object(text)


def _object(text: str) -> dict[str, Any]:
    found: dict[str, Any] = _json(text, dict, "a JSON object")
    return found


def _json(text: str, wanted: type, shown: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongTypeError(f"takes {shown}, and {short(text)} is not JSON: {_where(error)}") from None
    if not isinstance(found, wanted):
        raise WrongTypeError(f"takes {shown}, not {short(text)}")
    return found


def _of_json(field: Value, found: Any) -> Any:
    if isinstance(found, bool) != (kind(field) == "bool") and kind(field) not in ("message", "map"):
        raise WrongTypeError(f"takes {label(field)}, not {short(json.dumps(found))}")
    if isinstance(found, int | float) and not isinstance(found, bool) and kind(field) in _INTEGERS:
        return _integer(kind(field), str(found))
    return found


def _where(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "it is nested too deeply"


def short(text: str) -> str:
    """A text as errors quote it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
