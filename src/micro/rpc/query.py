"""Requests out of query strings and forms: their types come from the schema, not from what the text looks like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    Message,
    ScalarType,
)

from micro.domain import errors
from micro.rpc import errors as wire
from micro.rpc import json_codec

_MAX_FIELDS = 1000
_MAX_DEPTH = 32
_BOOLS = {
    "": True,
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_FLOATS = {ScalarType.DOUBLE, ScalarType.FLOAT}


def request(message: type[Message], texts: Iterable[bytes], body: bytes) -> Message:
    """One message out of query string and form, and a JSON body, which wins field by field; its nulls delete.

    Args:
        texts: urlencoded, the later winning over the earlier.
        body: JSON, or empty.

    Raises:
        Error: INVALID_ARGUMENT that names the field with a bad value.
    """
    desc = message.desc()
    tree: dict[str, Any] = {}
    for text in texts:
        tree = _merged(desc, tree, parse(desc, text))
    if body:
        try:
            given = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise wire.malformed(error) from error
        if not isinstance(given, dict):
            raise errors.invalid_argument(f"cannot read the request: a JSON object is expected, not {body[:40]!r}")
        tree = _merged(desc, tree, given)
    try:
        return json_codec.decoder(message)(json.dumps(tree).encode())
    except Exception as error:
        raise wire.malformed(error) from error


def parse(desc: DescMessage, text: bytes) -> dict[str, Any]:
    """A JSON value of an urlencoded text: `a=1&b.c=2&d[e]=3&f=1&f=2`. Unknown names are ignored.

    Raises:
        Error: INVALID_ARGUMENT that names the field with a bad value.
    """
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise errors.invalid_argument(f"cannot read the query: {error}") from error
    tree: dict[str, Any] = {}
    for name, value in pairs:
        _put(desc, tree, [part for part in re.split(r"[.\[\]]+", name) if part], name, value)
    return tree


def _put(desc: DescMessage, tree: dict[str, Any], parts: list[str], name: str, text: str) -> None:
    if len(parts) > _MAX_DEPTH:
        raise errors.invalid_argument(f"{name[:80]!r} is nested deeper than {_MAX_DEPTH} levels")
    for position, part in enumerate(parts):
        field = fields(desc).get(part)
        if field is None:
            return
        value, left = field.value, parts[position + 1 :]
        if isinstance(value, DescFieldValueMessage) and left:
            tree = tree.setdefault(field.json_name, {})
            if not isinstance(tree, dict):
                raise errors.invalid_argument(f"{name!r} is given twice, whole and in parts")
            desc = value.message
            continue
        _leaf(field, tree, left, name, text)
        return


def _leaf(field: DescField, tree: dict[str, Any], left: list[str], name: str, text: str) -> None:
    value, key = field.value, field.json_name
    if isinstance(value, DescFieldValueMap):
        if not left or isinstance(value.value, DescMessage):
            raise errors.invalid_argument(f"{name!r} is a map: write {name}[key]=value, or send it as JSON")
        tree.setdefault(key, {})[".".join(left)] = _typed(value.value, name, text)
    elif isinstance(value, DescFieldValueList):
        if isinstance(value.element, DescMessage) and not _is_text(value.element):
            raise errors.invalid_argument(f"{name!r} is a list of messages: send it as JSON in the body")
        tree.setdefault(key, []).append(_typed(value.element, name, text))
    elif left:
        raise errors.invalid_argument(f"{name!r} is not known: {field.name} has no fields")
    elif isinstance(value, DescFieldValueMessage):
        if not _is_text(value.message):
            raise errors.invalid_argument(f"{name!r} is a message: write {name}.field=value, or send it as JSON")
        tree[key] = _well_known(value.message, name, text)
    elif isinstance(value, DescFieldValueEnum):
        tree[key] = _typed(value.enum, name, text)
    else:
        assert isinstance(value, DescFieldValueScalar)
        tree[key] = _typed(value.scalar, name, text)


def _is_text(desc: DescMessage) -> bool:
    """Whether a message is written as one text in JSON."""
    return desc.file.name.startswith("google/protobuf/") and desc.name not in {"Any", "Empty", "Struct", "ListValue"}


def _well_known(desc: DescMessage, name: str, text: str) -> Any:
    wrapped = fields(desc).get("value")
    if desc.name.endswith("Value") and wrapped is not None and isinstance(wrapped.value, DescFieldValueScalar):
        return _typed(wrapped.value.scalar, name, text)
    try:
        desc.type.from_json(json.dumps(text))
    except (ValueError, TypeError) as error:
        raise errors.invalid_argument(f"{name}={text!r} is not a {desc.name}: {error}") from error
    return text


def _typed(kind: ScalarType | DescEnum | DescMessage, name: str, text: str) -> Any:
    if isinstance(kind, DescMessage):
        return _well_known(kind, name, text)
    if isinstance(kind, DescEnum):
        known = {value.name for value in kind.values}
        if text in known:
            return text
        if _INTEGER.fullmatch(text) and -(2**31) <= int(text) < 2**31:
            return int(text)
        raise errors.invalid_argument(f"{name}={text!r} is none of {', '.join(sorted(known))}")
    if kind in {ScalarType.STRING, ScalarType.BYTES}:
        return text
    if kind is ScalarType.BOOL:
        if text.lower() not in _BOOLS:
            raise errors.invalid_argument(f"{name}={text!r} is neither true nor false")
        return _BOOLS[text.lower()]
    if kind in _FLOATS:
        try:
            float(text)
        except ValueError:
            raise errors.invalid_argument(f"{name}={text!r} is not a number") from None
        return text
    if not _INTEGER.fullmatch(text):
        raise errors.invalid_argument(f"{name}={text!r} is not a whole number")
    return str(int(text))


def fields(desc: DescMessage) -> dict[str, DescField]:
    """A message's fields by both names that JSON knows them by."""
    return {name: field for field in desc.fields for name in (field.name, field.json_name)}


def _merged(desc: DescMessage | None, under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both, `over` winning; its nulls delete. Fields are known by their JSON names after that."""
    known = fields(desc) if desc is not None else {}
    merged = dict(under)
    for name, value in over.items():
        field = known.get(name)
        key = field.json_name if field is not None else name
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            inner = (
                field.value.message if field is not None and isinstance(field.value, DescFieldValueMessage) else None
            )
            merged[key] = _merged(inner, merged[key], value)
        else:
            merged[key] = value
    return merged
