"""Messages as ProtoJSON, the same on every path: unknown fields are ignored, as Connect does, so that callers may be
newer than the service (but see `strict`); an empty body is an empty message; absent fields stay absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protobuf import Message, Registry, wkt

WELL_KNOWN = Registry(
    *(found for found in vars(wkt).values() if isinstance(found, type) and issubclass(found, Message))
)
"""What an Any may hold without being asked for."""


def decoder(message: type[Message]) -> Callable[[bytes], Message]:
    """A function that reads one message. It raises ValueError, TypeError or RecursionError that name the place."""
    from_json = message.from_json

    def decode(body: bytes) -> Message:
        if not body:
            return message()
        return from_json(body, ignore_unknown_fields=True, registry=WELL_KNOWN)

    return decode


def encode(message: Any) -> bytes:
    text: str = message.to_json(registry=WELL_KNOWN)
    return text.encode()
