"""The well-known protobuf types, for rooms that may not import the protobuf library itself."""

from __future__ import annotations

import typing
from typing import TypeVar

from protobuf import Oneof
from protobuf.wkt import Any, BoolValue, Duration, Struct, Timestamp, UInt32Value

__all__ = ["Any", "BoolValue", "Duration", "Oneof", "Struct", "Timestamp", "UInt32Value", "oneof"]

V = TypeVar("V")


def oneof(field: str, value: V) -> Oneof[typing.Any, V]:
    """The value of a oneof; its field is checked when it is assigned, which a type checker cannot for several."""
    return Oneof(field, value)
