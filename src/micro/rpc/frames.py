"""gRPC's frames and HTTP's bodies: read whole, within a limit, or refused before they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micro.domain import errors
from micro.domain.errors import Error
from micro.rpc.deadline import DisconnectedError
from micro.rpc.receive import Receive

PREFIX = 5
"""Bytes before a message: one of flags, four of length."""


async def rest(message: dict[str, Any], receive: Receive, limit: int, *, framed: bool) -> bytes:
    """The body that begins with an ASGI message which has more.

    Args:
        limit: bytes that one message may have.
        framed: whether the body is a gRPC frame, whose first bytes tell how long it means to be.

    Raises:
        Error: RESOURCE_EXHAUSTED as soon as it is clear that it will be too long.
        DisconnectedError: when the caller leaves before the end.
    """
    most = limit + PREFIX if framed else limit
    body = bytearray(message.get("body", b""))
    while True:
        if framed and len(body) >= PREFIX and int.from_bytes(body[1:PREFIX], "big") > limit:
            raise too_large(limit)
        if len(body) > most:
            # A second frame behind one that is within the limit is another mistake.
            raise multiple() if framed else too_large(limit)
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        body += message.get("body", b"")


def declared(headers: Mapping[bytes, bytes], limit: int) -> None:
    """Refuse a body whose length is told beforehand and is too long. Raises RESOURCE_EXHAUSTED."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and len(length) < 20 and int(length) > limit:
        raise too_large(limit)


class TooLargeError(Error):
    """A request that is too long: over HTTP a 413, which nobody sends again, where others of its kind are a 429."""


def too_large(limit: int) -> Error:
    return TooLargeError(errors.Kind.RESOURCE_EXHAUSTED, f"message is larger than configured max {limit}")


def within(message: bytes, limit: int) -> bytes:
    """A message that is about to be sent. Raises RESOURCE_EXHAUSTED when it is too long to be."""
    if len(message) > limit:
        raise answer_too_large(len(message), limit)
    return message


def answer_too_large(size: int, limit: int) -> Error:
    return errors.resource_exhausted(
        f"the answer has {size} bytes and the limit is {limit}: send a stream, or raise max_message"
    )


def multiple() -> Error:
    return errors.unimplemented("unary request has multiple messages")


def fault(body: bytes, limit: int) -> Error:
    """What is wrong with a body that is not exactly one uncompressed frame."""
    if not body:
        return errors.unimplemented("unary request has zero messages")
    if len(body) < PREFIX:
        return errors.invalid_argument("protocol error: incomplete envelope: unexpected EOF")
    if body[0] & ~1:
        return errors.invalid_argument("protocol error: invalid envelope flags")
    promised, got = int.from_bytes(body[1:PREFIX], "big"), len(body) - PREFIX
    if promised > limit:
        return too_large(limit)
    if got < promised:
        return errors.invalid_argument(
            f"protocol error: promised {promised} bytes in enveloped message, got {got} bytes"
        )
    if body[0]:
        return errors.internal("protocol error: sent compressed message without compression support")
    left = body[PREFIX + promised :]
    whole = len(left) >= PREFIX and int.from_bytes(left[1:PREFIX], "big") <= len(left) - PREFIX
    return multiple() if whole else fault(left, limit)
