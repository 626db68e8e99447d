"""ProtoJSON of those who write it by hand: what the contract does not know is a mistake, and is told by its place."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import Any

from protobuf import DescField, DescFieldValueList, DescFieldValueMap, DescFieldValueMessage, DescMessage, Message

from micro.rpc import json_codec
from micro.rpc.query import fields

_LISTED = 8


def decoder(message: type[Message]) -> Callable[[bytes], Message]:
    """As `json_codec.decoder`, but a field or the name of an enum that is not in the contract raises ValueError."""
    from_json = message.from_json

    def decode(body: bytes) -> Message:
        if not body:
            return message()
        try:
            return from_json(body, registry=json_codec.WELL_KNOWN)
        except ValueError as error:
            raise ValueError(_unknown(message.desc(), json.loads(body), "") or str(error)) from None

    return decode


def _unknown(desc: DescMessage, found: Any, path: str) -> str:
    """What to say about the first field that a JSON value has and its message has not; empty when it has all."""
    if not isinstance(found, dict) or desc.type_name.startswith("google.protobuf."):
        return ""
    known = fields(desc)
    for name, value in found.items():
        if name not in known:
            return f"there is no field {path + name!r}: {_instead(desc, name)}"
        if said := _below(known[name], value, path + name):
            return said
    return ""


def _below(field: DescField, found: Any, path: str) -> str:
    kind = field.value
    if isinstance(kind, DescFieldValueMessage):
        return _unknown(kind.message, found, f"{path}.")
    if isinstance(kind, DescFieldValueList) and isinstance(kind.element, DescMessage) and isinstance(found, list):
        inner, items = kind.element, [(f"{path}[{at}].", item) for at, item in enumerate(found)]
    elif isinstance(kind, DescFieldValueMap) and isinstance(kind.value, DescMessage) and isinstance(found, dict):
        inner, items = kind.value, [(f"{path}.{key}.", item) for key, item in found.items()]
    else:
        return ""
    return next(filter(None, (_unknown(inner, item, at) for at, item in items)), "")


def _instead(desc: DescMessage, name: str) -> str:
    """Which field was probably meant, or which there are."""
    known = [field.name for field in desc.fields]
    if near := difflib.get_close_matches(name, fields(desc), n=1):
        return f"did you mean {fields(desc)[near[0]].name}?"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"{desc.name} has {', '.join(known[:_LISTED])}{more}" if known else f"{desc.name} has none"
