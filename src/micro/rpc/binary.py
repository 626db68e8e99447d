"""Messages in binary. The library copies long bytes again and again while it writes a message; here it is done once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from protobuf import DescFieldValueScalar, ScalarType

LONG = 32 << 10
"""Bytes of a field that are written beside the others."""

_IMPLICIT = 2
"""The presence of a field that is there when it is not empty, and in no oneof."""


def encode(message: Any) -> bytes:
    """A message in binary."""
    return _encoder(message.__class__)(message)


def encoder(cls: Any) -> Callable[[Any], bytes]:
    """What writes the messages of a class. Those with LONG bytes in a field have it behind the others."""
    return _encoder(cls)


@functools.lru_cache(maxsize=4096)
def _encoder(cls: Any) -> Callable[[Any], bytes]:
    fields = [
        (field.local_name, _varint(field.number << 3 | 2))
        for field in cls.desc().fields
        if field.presence == _IMPLICIT
        and isinstance(field.value, DescFieldValueScalar)
        and field.value.scalar is ScalarType.BYTES
    ]
    write: Callable[[Any], bytes] = cls.to_binary
    if not fields:
        return write

    def encode(message: Any) -> bytes:
        for name, _ in fields:
            if len(getattr(message, name)) >= LONG:
                return _apart(message, fields)
        return write(message)

    return encode


def _apart(message: Any, fields: list[tuple[str, bytes]]) -> bytes:
    rest = copy.copy(message)
    parts = [b""]
    for name, tag in fields:
        value = getattr(message, name)
        if len(value) >= LONG:
            rest.clear_field(name)
            parts += tag, _varint(len(value)), value
    parts[0] = rest.to_binary()
    return b"".join(parts)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
