"""Messages in binary. The library copies long bytes again and again while it writes a message; here it is done once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

from protobuf import DescFieldValueScalar, ScalarType

LONG = 32 << 10
"""Bytes of a field that are written beside the others."""

_HEAD = 16
"""Bytes that tag and length of a field have together, at most."""

_IMPLICIT = 2
"""The presence of a field that is there when it is not empty, and in no oneof."""


def encode(message: Any) -> bytes:
    """A message in binary."""
    return _encoder(message.__class__)(message)


def encoder(cls: Any) -> Callable[[Any], bytes]:
    """What writes the messages of a class. Those with LONG bytes in a field have it behind the others."""
    return _encoder(cls)


def parts(message: Any) -> list[bytes]:
    """A message in binary, in parts that are to follow one another: LONG bytes as they are, nothing copied."""
    fields = _fields(message.__class__)
    long = any(len(getattr(message, name)) >= LONG for name, _ in fields)
    return _apart(message, fields) if long else [message.to_binary()]


def decode(cls: Any, pieces: Sequence[bytes | memoryview]) -> Any:
    """The message of a class whose binary form arrived in pieces. One that is nothing but LONG bytes is copied once.

    Raises ValueError for what is no such message.
    """
    if pieces and len(pieces[0]) > _HEAD:
        for name, tag in _fields(cls):
            begin = len(tag)
            if pieces[0][:begin] == tag and (size := _length(pieces[0][begin:_HEAD])) is not None:
                length, digits = size
                if LONG <= length == sum(map(len, pieces)) - begin - digits:
                    return cls(**{name: b"".join((pieces[0][begin + digits :], *pieces[1:]))})
    return cls.from_binary(pieces[0] if len(pieces) == 1 else b"".join(pieces))


def _length(text: bytes | memoryview) -> tuple[int, int] | None:
    """The number that some bytes begin with, and how many of them it has; None when they do not hold all of it."""
    number = 0
    for index, byte in enumerate(text):
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, index + 1
    return None


@functools.lru_cache(maxsize=4096)
def _fields(cls: Any) -> list[tuple[str, bytes]]:
    """Names and tags of the fields that may be LONG."""
    return [
        (field.local_name, _varint(field.number << 3 | 2))
        for field in cls.desc().fields
        if field.presence == _IMPLICIT
        and isinstance(field.value, DescFieldValueScalar)
        and field.value.scalar is ScalarType.BYTES
    ]


@functools.lru_cache(maxsize=4096)
def _encoder(cls: Any) -> Callable[[Any], bytes]:
    fields = _fields(cls)
    write: Callable[[Any], bytes] = cls.to_binary
    if not fields:
        return write

    def encode(message: Any) -> bytes:
        for name, _ in fields:
            if len(getattr(message, name)) >= LONG:
                return b"".join(_apart(message, fields))
        return write(message)

    return encode


def _apart(message: Any, fields: list[tuple[str, bytes]]) -> list[bytes]:
    rest = copy.copy(message)
    found = [b""]
    for name, tag in fields:
        value = getattr(message, name)
        if len(value) >= LONG:
            rest.clear_field(name)
            found += tag, _varint(len(value)), value
    found[0] = rest.to_binary()
    return found


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
