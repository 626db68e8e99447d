"""The one place where the platform's errors become those of a wire, and back.

Between: `micro.domain.errors.Error`; gRPC's status and trailers; Connect's JSON; `ConnectError`; `grpc.aio`'s errors.
Total both ways over the closed list of kinds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import urllib.parse
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any

from connectrpc._gen.google.rpc.status_pb import Status
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from protobuf import message_to_json_value, wkt

from micro.domain import errors, text
from micro.domain.errors import Error, Kind

_log = logging.getLogger(__name__)

_TYPE_URL = "type.googleapis.com/"
_MAX_MESSAGE = 4096
"""Characters of a message that travel: it is a header in gRPC, and peers refuse headers beyond some 8 KiB."""

_DETAILS = "grpc-status-details-bin"

_HTTP_KIND = {
    400: Kind.INVALID_ARGUMENT,
    401: Kind.UNAUTHENTICATED,
    403: Kind.PERMISSION_DENIED,
    404: Kind.UNIMPLEMENTED,
    408: Kind.DEADLINE_EXCEEDED,
    413: Kind.RESOURCE_EXHAUSTED,
    429: Kind.UNAVAILABLE,
    502: Kind.UNAVAILABLE,
    503: Kind.UNAVAILABLE,
    504: Kind.UNAVAILABLE,
}


def of(error: BaseException) -> Error:
    """The error that a caller may see for whatever a handler raised.

    What nobody expected becomes INTERNAL with an id, which is in the log beside the traceback; its own words, which
    may hold secrets, stay here.
    """
    if isinstance(error, Error):
        return error
    if isinstance(error, ConnectError):
        return from_connect(error)
    number = secrets.token_hex(6)
    _log.error("internal error, id %s", number, exc_info=error)
    return errors.internal(f"internal error, id {number}")


def malformed(error: Exception) -> Error:
    """What a caller is told whose request cannot be decoded."""
    return errors.invalid_argument(f"cannot read the request: {error}")


def to_connect(error: Error) -> ConnectError:
    return ConnectError(Code(error.kind.code), _message(error), details=_details(error))


def from_connect(error: ConnectError) -> Error:
    details = [value if (value := detail.value()) is not None else detail._any for detail in error.details]
    return Error(Kind.of_code(error.code.value), error.message, details)


def trailers(error: Error) -> list[tuple[bytes, bytes]]:
    """gRPC's trailers of a failed call."""
    found = [(b"grpc-status", b"%d" % error.kind)]
    message = _message(error)
    if message:
        found.append((b"grpc-message", _percent(message)))
    if anys := [detail._any for detail in _details(error)]:
        status = Status(code=int(error.kind), message=message, details=anys)
        found.append((_DETAILS.encode(), b64encode(status.to_binary()).rstrip(b"=")))
    return found


def to_value(error: Error) -> dict[str, Any]:
    """Connect's JSON of an error: code, message, details."""
    value: dict[str, Any] = {"code": error.kind.code, "message": _message(error)}
    if details := _details(error):
        value["details"] = [_detail_value(detail) for detail in details]
    return value


def to_json(error: Error) -> bytes:
    return json.dumps(to_value(error), ensure_ascii=False, separators=(",", ":")).encode()


def from_value(value: object, status: int = 500) -> Error:
    """The error of Connect's JSON; of the HTTP status alone when the body is none of ours."""
    if not isinstance(value, Mapping) or not isinstance(value.get("code"), str):
        return Error(_HTTP_KIND.get(status, Kind.UNKNOWN), f"HTTP status {status}")
    return Error(Kind.of_code(value["code"]), str(value.get("message", "")), list(_value_details(value.get("details"))))


def from_grpc(error: Any) -> Error:
    """The error of a `grpc.aio.AioRpcError`: code, words, and the details out of its trailing metadata."""
    told = [value for key, value in error.trailing_metadata() or () if key == _DETAILS]
    return _from_status(error.code().value[0], error.details() or "", told[0] if told else None)


def from_trailers(told: Mapping[str, str]) -> Error:
    """The error of gRPC's trailers, as `trailers` writes them."""
    number = told["grpc-status"]
    # Two digits are all that there are.
    code = int(number) if number.isascii() and number.isdigit() and len(number) < 3 else Kind.UNKNOWN
    return _from_status(code, urllib.parse.unquote(told.get("grpc-message", "")), told.get(_DETAILS))


def _from_status(number: int, message: str, details: str | bytes | None) -> Error:
    kind = Kind(number) if number in Kind._value2member_map_ else Kind.UNKNOWN
    if details:
        with contextlib.suppress(ValueError):  # of what is no such message the words remain
            status = Status.from_binary(details if isinstance(details, bytes) else b64decode(details + "==="))
            return Error(kind, status.message or message, status.details)
    return Error(kind, message)


def _details(error: Error) -> list[ErrorDetail]:
    """The details that can be sent: whoever is told the error is told it without the others."""
    found = []
    for detail in error.details:
        try:
            made = ErrorDetail(detail)
            made._any.to_binary()
        except Exception:  # noqa: BLE001 - whatever it is made of
            _log.exception("a detail of the error %r cannot be sent", error.message)
        else:
            found.append(made)
    return found


def _detail_value(detail: ErrorDetail) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": detail.type_name,
        "value": b64encode(detail.message_bytes).rstrip(b"=").decode(),
    }
    message = detail.value()
    if message is not None:
        with contextlib.suppress(Exception):  # not all that is binary is JSON too
            value["debug"] = message_to_json_value(message)
    return value


def _value_details(values: object) -> Iterable[wkt.Any]:
    for value in values if isinstance(values, list) else ():
        if isinstance(value, Mapping) and isinstance(value.get("type"), str) and isinstance(value.get("value"), str):
            try:
                content = b64decode(value["value"] + "===")
            except ValueError:
                continue
            yield wkt.Any(type_url=_TYPE_URL + value["type"], value=content)


def _message(error: Error) -> str:
    # Handlers pass on what others say, and the name of a file need not be UTF-8.
    message = text.well_formed(error.message)
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


def _percent(message: str) -> bytes:
    return urllib.parse.quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}", errors="replace").encode()
