"""Python values as bytes and back: what `store` and `config` keep, and what `as_type` makes of it.

Bytes, strings and messages are kept as they are; all else is JSON. What was written does not tell its own type: the
reader says what it wants, and learns in words where that is not what is there.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import json
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol, Self, TypeVar, cast

from micro.domain import errors

T = TypeVar("T")

_FROM_TEXT: dict[type, Callable[[str], Any]] = {
    dt.datetime: dt.datetime.fromisoformat,
    dt.date: dt.date.fromisoformat,
    uuid.UUID: uuid.UUID,
    bytes: lambda text: base64.b64decode(text, validate=True),
}


class Message(Protocol):
    """What is generated from a contract."""

    def to_binary(self) -> bytes: ...

    @classmethod
    def from_binary(cls, data: bytes) -> Self: ...


class _MismatchError(Exception):
    """A value is not what was asked for; the text says where, and what it is."""


def encode(value: object, subject: str) -> bytes:
    """A value as it is kept.

    Args:
        subject: what errors call it: "the value of 'ann'".

    Raises:
        TypeError: it cannot be kept.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        if isinstance(value, str):
            return value.encode()
        if hasattr(value, "to_binary"):
            return cast("Message", value).to_binary()
        return json.dumps(plain(value, subject), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, OverflowError) as error:
        raise TypeError(f"{subject} cannot be kept: {error}") from None
    except RecursionError:
        raise TypeError(f"{subject} cannot be kept: it is nested too deeply") from None


def plain(value: object, subject: str) -> Any:
    """A value as what JSON has: dataclasses are objects, enums their values, times ISO 8601, bytes base64.

    Raises TypeError for what has no place in JSON.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, subject)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name), subject) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if odd := next((key for key in value if not isinstance(key, str)), None):
            raise TypeError(f"{subject} cannot be kept: {odd!r} is a key of a dict, and JSON has strings only")
        return {str(key): plain(one, subject) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one, subject) for one in value]
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    raise TypeError(
        f"{subject} cannot be kept: {type(value).__name__} is none of bytes, str, message, dataclass and JSON"
    )


def decode(data: bytes, as_type: type[T], subject: str) -> T:
    """What was kept, as the type that is asked for.

    Args:
        as_type: bytes, str, int, float, bool, list, dict, also of something: `list[int]`; a dataclass, a class of
            messages, or `object` for whatever the JSON is. Fields that a dataclass does not have are passed over, and
            those that are missing have their defaults.
        subject: what errors call it.

    Raises:
        Error: FAILED_PRECONDITION when it is something else; its content is not told.
    """
    wanted: Any = as_type
    if wanted is bytes:
        return cast("T", data)
    try:
        if wanted is str:
            return cast("T", data.decode())
        if hasattr(wanted, "from_binary"):
            return cast("T", wanted.from_binary(data))
        return cast("T", _made(_parsed(data), wanted, ""))
    except _MismatchError as error:
        raise errors.failed_precondition(f"{subject} is no {named(wanted)}: {error}") from None
    except UnicodeDecodeError:
        raise errors.failed_precondition(f"{subject} is no {named(wanted)}: it is not UTF-8 text") from None
    except ValueError:
        raise errors.failed_precondition(f"{subject} is no {named(wanted)}: it is not that message") from None


def convert(value: Any, as_type: type[T], subject: str) -> T:
    """As `decode`, of what JSON has."""
    try:
        return cast("T", _made(value, as_type, ""))
    except _MismatchError as error:
        raise errors.failed_precondition(f"{subject} is no {named(as_type)}: {error}") from None


def named(wanted: Any) -> str:
    """A type, as errors call it."""
    return wanted.__name__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except UnicodeDecodeError:
        raise
    except ValueError:
        raise _MismatchError("it is not JSON") from None
    except RecursionError:
        raise _MismatchError("it is nested too deeply") from None


def _made(value: Any, wanted: Any, place: str) -> Any:
    """`value`, which stands at `place` of the whole, as the type that is wanted there."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any or wanted is object:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, inner, place)
    if origin is typing.Literal:
        return _checked(value, value in inner, f"one of {', '.join(map(repr, inner))}", place)
    if origin is typing.Annotated:
        return _made(value, inner[0], place)
    kind = origin or wanted
    if kind in (list, tuple, set, frozenset, Sequence):
        return _listed(value, kind, inner, place)
    if kind in (dict, Mapping):
        _checked(value, isinstance(value, dict), "an object", place)
        within = inner[1] if inner else Any
        return {key: _made(one, within, f"{place}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(kind):
        return _filled(value, kind, place)
    return _scalar(value, wanted, place)


def _scalar(value: Any, wanted: Any, place: str) -> Any:
    if wanted is None or wanted is type(None):
        return _checked(value, value is None, "null", place)
    if wanted is bool:
        return _checked(value, isinstance(value, bool), "true or false", place)
    if wanted is int:
        return _checked(value, isinstance(value, int) and not isinstance(value, bool), "a whole number", place)
    if wanted is float:
        _checked(value, isinstance(value, int | float) and not isinstance(value, bool), "a number", place)
        try:
            return float(value)
        except OverflowError:
            raise _MismatchError(f"{place.lstrip('.') or 'it'} is too large for a number") from None
    if wanted is str:
        return _checked(value, isinstance(value, str), "a string", place)
    if not isinstance(wanted, type) or not (wanted in _FROM_TEXT or issubclass(wanted, enum.Enum)):
        raise TypeError(f"as_type cannot be, or hold, {wanted!r}")
    try:
        return wanted(value) if issubclass(wanted, enum.Enum) else _FROM_TEXT[wanted](value)
    except (ValueError, TypeError, AttributeError):
        raise _MismatchError(f"{place.lstrip('.') or 'it'} is no {wanted.__name__}") from None


def _one_of(value: Any, choices: Sequence[Any], place: str) -> Any:
    """The first choice that fits, one that fits exactly before one that is converted to."""
    for choice in sorted(choices, key=lambda one: one is not type(value)):
        try:
            return _made(value, choice, place)
        except _MismatchError:
            continue
    raise _mismatch(value, " or ".join(map(named, choices)), place)


def _listed(value: Any, kind: Any, inner: Sequence[Any], place: str) -> Any:
    _checked(value, isinstance(value, list), "a list", place)
    each: Sequence[Any] = [inner[0] if inner else Any] * len(value)
    if kind is tuple and inner and inner[-1] is not ...:
        _checked(value, len(inner) == len(value), f"a list of {len(inner)}", place)
        each = inner
    pairs = zip(value, each, strict=True)
    made = [_made(one, wanted, f"{place}[{number}]") for number, (one, wanted) in enumerate(pairs)]
    return made if kind in (list, Sequence) else kind(made)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _filled(value: Any, kind: Any, place: str) -> Any:
    """A dataclass out of an object."""
    _checked(value, isinstance(value, dict), "an object", place)
    given = {}
    for one in dataclasses.fields(kind):
        if not one.init:
            continue
        if one.name in value:
            given[one.name] = _made(value[one.name], _hints(kind)[one.name], f"{place}.{one.name}")
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise _MismatchError(f"{f'{place}.{one.name}'.lstrip('.')} is missing")
    return kind(**given)


def _checked(value: Any, fits: bool, wanted: str, place: str) -> Any:
    if not fits:
        raise _mismatch(value, wanted, place)
    return value


def _mismatch(value: Any, wanted: str, place: str) -> _MismatchError:
    found = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return _MismatchError(f"{place.lstrip('.') or 'it'} is {found.get(type(value), 'a number')}, not {wanted}")
