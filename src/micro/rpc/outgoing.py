"""What a client sends, written before it is handed on: what cannot be written is refused here, and never sent.

The library that carries it would log what went wrong, and send an empty message instead.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

from protobuf import Message, Oneof, message_to_json_value

from micro.domain import errors, text
from micro.domain.errors import Error
from micro.rpc import json_codec

_NAME = re.compile(r"[0-9a-z_.-]+").fullmatch

_CONNECTIONS = frozenset(
    (
        *("connection", "content-length", "content-type", "expect", "host", "keep-alive", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade", "grpc-encoding", "grpc-timeout"),
    )
)
"""Headers that say how a request is sent, which is not for who sends it to say."""

_DEEPEST = 8
"""Levels that are searched for what cannot be written."""

_ENDLESS = 2
"""Levels of what is nested too deeply, or in itself."""

_RANGE = "out of range"


class Call:
    """The calls of one path.

    Args:
        kind: as grpc names it: "unary_unary" and so on.
        path: "/echo.v1.Echo/Call".
        encode: writes a request, as the connection wants it: bytes, or pieces of them.
        decode: reads an answer.
        start: what begins such a call.
    """

    __slots__ = ("decode", "encode", "kind", "path", "start", "streams")

    def __init__(
        self,
        kind: str,
        path: str,
        encode: Callable[[Any], Any],
        decode: Callable[[Any], Any],
        start: Any = None,
    ) -> None:
        self.kind = kind
        self.streams = kind.startswith("stream")
        self.path = path
        self.encode = encode
        self.decode = decode
        self.start = start

    def written(self, request: Any) -> Any:
        """A message as it is sent. Raises INVALID_ARGUMENT."""
        try:
            return self.encode(request)
        except Exception as error:
            raise unwritable(self.path, request, error) from error

    def sent(self, request: Any) -> Any:
        """All that is sent: a message, or Requests. Raises INVALID_ARGUMENT for a message."""
        return Requests(self, request) if self.streams else self.written(request)

    def read(self, answer: Any) -> Any:
        """An answer. Raises INTERNAL for what is none."""
        if answer is None:
            raise errors.internal(f"{self.path} ended well and without an answer")
        try:
            return self.decode(answer)
        except Exception as error:
            raise errors.internal(f"{self.path} answered with what cannot be read: {error}") from error


class Requests:
    """What a stream is told, each message written when its turn comes.

    Attributes:
        failure: what ended them, if it was not their end: there was one that cannot be written, or what they come from
            raised it.
    """

    def __init__(self, call: Call, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        self.failure: Exception | None = None
        self._call = call
        self._requests = aiter(requests if isinstance(requests, AsyncIterable) else _each(requests))

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return self._call.written(await anext(self._requests))
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.failure = error
            raise


def failed(sent: Any) -> Exception | None:
    """What ended the requests of a call before their end."""
    return sent.failure if isinstance(sent, Requests) else None


def ended_by(sent: Any) -> Exception | None:
    """What has ended a call whose cancellation was just seen; None where it is the running task that is cancelled."""
    task = asyncio.current_task()
    return None if task is not None and task.cancelling() else failed(sent)


async def each(sent: Any) -> AsyncIterator[Any]:
    """The messages of what is sent, one or many."""
    if not isinstance(sent, Requests):
        yield sent
        return
    async for one in sent:
        yield one


async def _each(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for one in requests:
        yield one


_plain_json = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    default=lambda value: _plain(value),
).encode


def to_json(value: Any) -> bytes:
    """What JSON has, and messages in it. Raises whatever for anything else."""
    return _plain_json(value).encode()


def _plain(value: object) -> Any:
    if isinstance(value, Message):
        return message_to_json_value(value, registry=json_codec.WELL_KNOWN)
    raise TypeError(f"a {type(value).__name__} has no place in JSON")


def check_path(path: str) -> None:
    """Raises INVALID_ARGUMENT for what can be no path of a call."""
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise errors.invalid_argument(f"{path!a} cannot be called: a service or an endpoint has another name")


def check_headers(pairs: Iterable[tuple[str, str]]) -> None:
    """Raises INVALID_ARGUMENT for headers that cannot be sent; their values are not told."""
    for name, value in pairs:
        if not _NAME(name):
            raise errors.invalid_argument(f"{name!a} is no name of a header: use letters, digits and '-'")
        if name in _CONNECTIONS:
            raise errors.invalid_argument(f"header {name} is the connection's own: leave it out")
        if not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise errors.invalid_argument(f"header {name} cannot be sent: its value is to be printable ASCII")


def unwritable(path: str, request: Any, error: Exception) -> Error:
    """That a request cannot be written: where, and why."""
    endless = isinstance(error, RecursionError) or str(error).startswith("Circular")
    place = _place(request, isinstance(request, Message), _ENDLESS if endless else _DEEPEST).lstrip(".")
    return errors.invalid_argument(f"cannot send the request of {path}: {place or 'it'} {_why(error)}")


def _why(error: Exception) -> str:
    told = str(error)
    if told.startswith("Circular"):
        return "holds itself"
    if isinstance(error, UnicodeEncodeError):
        return "holds a lone surrogate, which is no character"
    if isinstance(error, AttributeError):
        return "is no message"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, OverflowError) and _RANGE in told:
        return f"is {told[told.index(_RANGE) :]}"
    return f"cannot be written: {text.well_formed(told)[:200]}"


def _place(value: Any, binary: bool, depth: int) -> str:
    """Where in a value that cannot be written the reason is, as far as that can be told: "body.names[1]"."""
    for name, inner, alone in _parts(value) if depth else ():
        try:
            alone.to_binary() if binary else to_json(alone)
        except Exception:  # noqa: BLE001 - whatever it is, this is where it comes from
            return name + _place(inner, binary, depth - 1)
    return ""


def _parts(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a value has in it: how that is called, the part, and something that holds nothing but that part."""
    if isinstance(value, Message):
        yield from _fields(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            plain = isinstance(key, str) and key.isidentifier() and key.isascii()
            yield (f".{key}" if plain else f"[{key!a}]"), inner, {key: inner}
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield f"[{number}]", inner, inner


def _fields(message: Message) -> Iterator[tuple[str, Any, Any]]:
    cls: Any = type(message)
    desc = message.desc()
    of_oneofs = {field.local_name for oneof in desc.oneofs for field in oneof.fields}
    names = [one.local_name for one in desc.fields] + [one.local_name for one in desc.oneofs]
    for name in names:
        value = None if name in of_oneofs else getattr(message, name)
        if isinstance(value, Oneof):
            yield f".{value.field}", value.value, cls(**{name: value})
        elif isinstance(value, list):
            yield from ((f".{name}[{number}]", inner, cls(**{name: [inner]})) for number, inner in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f".{name}[{key!a}]", inner, cls(**{name: {key: inner}})) for key, inner in value.items())
        elif value is not None:
            yield f".{name}", value, cls(**{name: value})
