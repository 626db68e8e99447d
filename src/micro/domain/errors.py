"""The platform's only error, and the closed list of kinds it comes in.

The kinds are the codes of gRPC and Connect, by number and by name, so that an error crosses every wire unchanged.
Handlers raise them by kind: `raise errors.not_found("no such book")`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any


class Kind(enum.IntEnum):
    """What went wrong, as gRPC numbers it (https://grpc.io/docs/guides/status-codes/)."""

    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def code(self) -> str:
        """The name on the wire, as Connect writes it: "not_found"."""
        return self.name.lower()

    @property
    def http_status(self) -> int:
        """The HTTP status that Connect pairs with the kind (https://connectrpc.com/docs/protocol/#error-codes)."""
        return _HTTP_STATUS[self]

    @classmethod
    def of_code(cls, code: str) -> Kind:
        """The kind of a wire name; UNKNOWN for one that is not in the list."""
        return cls.__members__.get(code.upper(), cls.UNKNOWN)


_HTTP_STATUS = {
    Kind.CANCELED: 499,
    Kind.UNKNOWN: 500,
    Kind.INVALID_ARGUMENT: 400,
    Kind.DEADLINE_EXCEEDED: 504,
    Kind.NOT_FOUND: 404,
    Kind.ALREADY_EXISTS: 409,
    Kind.PERMISSION_DENIED: 403,
    Kind.RESOURCE_EXHAUSTED: 429,
    Kind.FAILED_PRECONDITION: 400,
    Kind.ABORTED: 409,
    Kind.OUT_OF_RANGE: 400,
    Kind.UNIMPLEMENTED: 501,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
    Kind.DATA_LOSS: 500,
    Kind.UNAUTHENTICATED: 401,
}


class Error(Exception):
    """An answer other than success.

    Attributes:
        kind: which of the closed list.
        message: one line: the subject, the cause, the next step.
        details: protobuf messages that travel with the error; empty by default.
    """

    def __init__(self, kind: Kind, message: str = "", details: Sequence[Any] = ()) -> None:
        message = str(message)  # an exception is what handlers like to pass on
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        return self.message or self.kind.code

    def __repr__(self) -> str:
        return f"Error({self.kind.name}, {self.message!r})"


def canceled(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """The caller gave up."""
    return Error(Kind.CANCELED, message, details)


def unknown(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """Nothing better is known; prefer any other kind."""
    return Error(Kind.UNKNOWN, message, details)


def invalid_argument(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """The request is wrong in itself, whatever the state."""
    return Error(Kind.INVALID_ARGUMENT, message, details)


def deadline_exceeded(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """The answer would have come too late."""
    return Error(Kind.DEADLINE_EXCEEDED, message, details)


def not_found(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """What was asked for is not there."""
    return Error(Kind.NOT_FOUND, message, details)


def already_exists(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """What was to be made is there already."""
    return Error(Kind.ALREADY_EXISTS, message, details)


def permission_denied(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """The caller is known and may not do this."""
    return Error(Kind.PERMISSION_DENIED, message, details)


def resource_exhausted(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """A limit is reached: size, rate, quota, space."""
    return Error(Kind.RESOURCE_EXHAUSTED, message, details)


def failed_precondition(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """The state forbids it; trying again does not help until the state changes."""
    return Error(Kind.FAILED_PRECONDITION, message, details)


def aborted(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """Another change came in between; read again and retry."""
    return Error(Kind.ABORTED, message, details)


def out_of_range(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """Past the end of what is there."""
    return Error(Kind.OUT_OF_RANGE, message, details)


def unimplemented(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """The service does not offer this."""
    return Error(Kind.UNIMPLEMENTED, message, details)


def internal(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """A bug."""
    return Error(Kind.INTERNAL, message, details)


def unavailable(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """Not now; trying again may help."""
    return Error(Kind.UNAVAILABLE, message, details)


def data_loss(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """Data is gone or damaged for good."""
    return Error(Kind.DATA_LOSS, message, details)


def unauthenticated(message: str = "", *, details: Sequence[Any] = ()) -> Error:
    """The caller is not known."""
    return Error(Kind.UNAUTHENTICATED, message, details)
