"""Whether a request in JSON is what its contract describes. Services ignore what they do not know, so that callers may
be newer than they are; who types a request has mistyped it. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from micro.cli import failures, scalars, schema
from micro.domain.service import Value

_LISTED = 8
_WELL_KNOWN = "google.protobuf."
_ANY = "google.protobuf.Value"
_CONTAINERS = {"google.protobuf.Struct": dict, "google.protobuf.ListValue": list, "google.protobuf.Any": dict}


def check(request: Value, found: Mapping[str, Any]) -> None:
    """Return when a request has only fields that its contract has, each of its type, and of each oneof one.

    Args:
        request: the shape; one without a type is not known, and nothing is checked.
        found: the request as JSON.

    Raises:
        UsageError: names the field by its path: "user.address.city", "friends[0].name".
    """
    if request.type and not request.type_name.startswith(_WELL_KNOWN):
        _fields(request, found, "", (request,))


def _fields(shape: Value, found: Mapping[str, Any], path: str, above: tuple[Value, ...]) -> None:
    known = {name: field for field in shape.values for name in (field.name, schema.json_name(field))}
    chosen: dict[str, str] = {}
    for name, value in found.items():
        field = known.get(name)
        if field is None:
            raise failures.UsageError(f"the request has no field {path + name!r}: {_instead(known, shape, name, path)}")
        if value is None and field.type_name != _ANY:
            continue
        _field(field, value, path + name, above)
        other = chosen.setdefault(field.oneof, name) if field.oneof else name
        if known[other] is not field:
            raise failures.UsageError(f"{path}{other} and {path}{name} exclude each other: give one of them")


def _instead(known: Mapping[str, Value], shape: Value, name: str, path: str) -> str:
    near = failures.closest(name, list(known))
    if near:
        return f"did you mean {path}{known[near].name}?"
    there = [field.name for field in shape.values]
    more = f" and {len(there) - _LISTED} more" if len(there) > _LISTED else ""
    return f"it has {', '.join(there[:_LISTED])}{more}" if there else "it has none"


def _field(field: Value, found: Any, path: str, above: tuple[Value, ...]) -> None:
    if field.repeated:
        for at, item in enumerate(_of(list, "a JSON array", found, path)):
            _single(field, item, f"{path}[{at}]", above)
    elif field.type == "map":
        for key, item in _of(dict, "a JSON object", found, path).items():
            _said(path, scalars.map_key, field, key)
            if field.values:
                _single(field.values[0], item, f"{path}.{key}", above)
    else:
        _single(field, found, path, above)


def _single(field: Value, found: Any, path: str, above: tuple[Value, ...]) -> None:
    if field.type_name == _ANY:
        return
    if field.type == "message" and not field.type_name.startswith(_WELL_KNOWN):
        shape = schema.whole(field, above)
        _fields(shape, _of(dict, "a JSON object", found, path), f"{path}.", (*above, shape))
    elif container := _CONTAINERS.get(field.type_name):
        _of(container, "a JSON object" if container is dict else "a JSON array", found, path)
    else:
        _said(path, scalars.accept, field, found)


def _of(wanted: type, shown: str, found: Any, path: str) -> Any:
    if not isinstance(found, wanted):
        raise failures.UsageError(f"{path} takes {shown}, not {scalars.short(json.dumps(found))}")
    return found


def _said(path: str, accept: Callable[[Value, Any], object], field: Value, found: Any) -> None:
    try:
        accept(field, found)
    except scalars.WrongTypeError as error:
        raise failures.UsageError(f"{path} {error}") from None
