"""How a registration is kept in NATS: its key as a subject, its value as JSON.

JSON rather than protobuf, so that a person can read it with the nats tool, and because backends know no protobuf.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from micro.domain import errors
from micro.domain.service import Endpoint, Node, Registration, StreamKind, Value

VERSION = 1
"""Of the format. A reader refuses versions it does not know."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")


def to_token(text: str) -> str:
    """Any text as one token of a subject: letters, digits, "_" and "-" stay, other bytes become =XX, "" becomes "="."""
    return _UNSAFE.sub(lambda match: b"=%02X" % match.group()[0], text.encode()).decode() or "="


def from_token(text: str) -> str:
    """The inverse of `to_token`."""
    if text == "=":
        return ""
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()


def to_subject(key: tuple[str, str, str]) -> str:
    """Namespace, service and node id as three tokens."""
    return ".".join(map(to_token, key))


def from_subject(subject: str) -> tuple[str, str, str]:
    """The inverse of `to_subject`; raises DATA_LOSS for what it did not make."""
    try:
        namespace, name, node = map(from_token, subject.split("."))
    except ValueError as error:
        raise errors.data_loss(f"{subject!r} is not the key of a registration") from error
    return namespace, name, node


def encode(registration: Registration) -> bytes:
    """The value to keep."""
    record = {
        "v": VERSION,
        "namespace": registration.namespace,
        "name": registration.name,
        "version": registration.version,
        "node": {
            "id": registration.node.id,
            "address": registration.node.address,
            "metadata": dict(registration.node.metadata),
        },
        "metadata": dict(registration.metadata),
        "endpoints": [_from_endpoint(endpoint) for endpoint in registration.endpoints],
        "descriptors": base64.b64encode(registration.descriptors).decode(),
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def decode(data: bytes) -> Registration:
    """The inverse of `encode`; raises DATA_LOSS for what it did not make."""
    try:
        record = json.loads(data)
        if record["v"] != VERSION:
            raise errors.data_loss(f"a registration in format {record['v']}; this version of micro reads {VERSION}")
        node = record["node"]
        return Registration(
            namespace=_text(record["namespace"]),
            name=_text(record["name"]),
            version=_text(record["version"]),
            node=Node(_text(node["id"]), _text(node["address"]), _texts(node["metadata"])),
            endpoints=tuple(_to_endpoint(endpoint) for endpoint in record["endpoints"]),
            metadata=_texts(record["metadata"]),
            descriptors=base64.b64decode(record["descriptors"], validate=True),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise errors.data_loss(f"a registration that cannot be read: {type(error).__name__}: {error}") from error


def _from_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "path": endpoint.path,
        "request": _from_value(endpoint.request),
        "response": _from_value(endpoint.response),
        "kind": endpoint.kind.value,
        "timeout": endpoint.timeout,
        "description": endpoint.description,
    }


def _to_endpoint(record: Mapping[str, Any]) -> Endpoint:
    return Endpoint(
        name=_text(record["name"]),
        path=_text(record["path"]),
        request=_to_value(record["request"]),
        response=_to_value(record["response"]),
        kind=StreamKind(record["kind"]),
        timeout=float(record["timeout"]),
        description=_text(record["description"]),
    )


def _from_value(value: Value) -> dict[str, Any]:
    """Only what differs from the default: shapes are the bulk of a record."""
    record: dict[str, Any] = {"name": value.name, "type": value.type}
    if value.type_name:
        record["type_name"] = value.type_name
    if value.repeated:
        record["repeated"] = True
    if value.optional:
        record["optional"] = True
    if value.values:
        record["values"] = [_from_value(inner) for inner in value.values]
    if value.enum_values:
        record["enum_values"] = list(value.enum_values)
    if value.key_type:
        record["key_type"] = value.key_type
    if value.description:
        record["description"] = value.description
    if value.oneof:
        record["oneof"] = value.oneof
    if value.json_name:
        record["json_name"] = value.json_name
    return record


def _to_value(record: Mapping[str, Any]) -> Value:
    return Value(
        name=_text(record["name"]),
        type=_text(record["type"]),
        type_name=_text(record.get("type_name", "")),
        repeated=bool(record.get("repeated", False)),
        optional=bool(record.get("optional", False)),
        values=tuple(_to_value(inner) for inner in record.get("values", ())),
        enum_values=tuple(_text(name) for name in record.get("enum_values", ())),
        key_type=_text(record.get("key_type", "")),
        description=_text(record.get("description", "")),
        oneof=_text(record.get("oneof", "")),
        json_name=_text(record.get("json_name", "")),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _texts(pairs: Mapping[str, Any]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in pairs.items()}
