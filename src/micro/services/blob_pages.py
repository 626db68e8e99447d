"""Public blobs, for whoever asks: `GET /blob/NAMESPACE/KEY`."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any
from urllib.parse import unquote_to_bytes

from micro.domain import errors, names
from micro.domain.errors import Error
from micro.domain.record import check_key
from micro.ports.blobs import Blobs, Opened
from micro.rpc import unary
from micro.rpc.send import Attentive
from micro.services import _blob_ranges as ranges

PREFIX = "/blob/"

_CACHED = b"public, max-age=60"
"""One that is made private or removed may be seen for a minute longer."""

_SANDBOX = b"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; sandbox"
"""A page that somebody uploaded runs nothing here, where readers have sessions."""


class BlobPages:
    """Answers GET and HEAD with public blobs. Private and absent ones are the same to readers.

    Any page may embed them: reading what is public changes nothing. None of them can be a page of this origin that does
    anything: whatever they say they are, browsers neither guess otherwise nor run scripts in them.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as ASGI asks it."""
        answer = _Answer(Attentive(send))
        if scope["method"] not in ("GET", "HEAD"):
            await answer.whole(405, [(b"allow", b"GET, HEAD"), (b"content-length", b"0")])
            return
        public = False
        try:
            namespace, key = _named(scope)
            async with self._blobs.open(namespace, key) as opened:
                public = opened.blob.public
                if not public:
                    raise _nothing()
                await _told(opened, scope, answer)
        except Error as error:
            if answer.begun:
                raise  # the server breaks off, which readers notice by the length
            await unary.fail_http(send, _failure(error, public=public), None)
        except OSError:
            return  # the reader is gone


class _Answer:
    """What is sent, and whether it has begun."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.begun = False

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def add(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def whole(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """An answer without a body."""
        await self.begin(status, headers)
        await self.end()


def _named(scope: Any) -> tuple[str, str]:
    """Namespace and key of a path. Raises NOT_FOUND."""
    raw = scope.get("raw_path") or scope["path"].encode()
    namespace, _, key = raw.partition(b"?")[0].removeprefix(PREFIX.encode()).partition(b"/")
    try:
        found = unquote_to_bytes(key).decode()
        check_key(found)
        # An empty one would be the default.
        return names.namespace(namespace.decode() or "?"), found
    except (ValueError, Error):
        raise _nothing() from None


def _nothing() -> Error:
    return errors.not_found("there is no public blob at this address")


def _failure(error: Error, *, public: bool) -> Error:
    """What readers are told: nothing of a blob that is not public, nor of where they are kept."""
    if error.kind in (errors.Kind.NOT_FOUND, errors.Kind.DATA_LOSS) and not public:
        return _nothing()
    if error.kind is errors.Kind.DATA_LOSS:
        return errors.data_loss("this blob is damaged: ask who wrote it to write it anew")
    return errors.unavailable("blobs cannot be read now: try again")


async def _told(opened: Opened, scope: Any, answer: _Answer) -> None:
    blob, asked = opened.blob, dict(scope["headers"])
    headers = [
        (b"etag", ranges.etag(blob).encode()),
        (b"last-modified", ranges.modified(blob).encode()),
        (b"cache-control", _CACHED),
        (b"accept-ranges", b"bytes"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", _SANDBOX),
        (b"cross-origin-resource-policy", b"cross-origin"),
    ]
    if ranges.unchanged(blob, asked):
        await answer.whole(304, headers)
        return
    try:
        span = ranges.span(blob, asked) if scope["method"] == "GET" else None
    except ValueError:
        headers += [(b"content-range", b"bytes */%d" % blob.size), (b"content-length", b"0")]
        await answer.whole(416, headers)
        return
    start, length = span or (0, blob.size)
    headers += [(b"content-type", blob.content_type.encode()), (b"content-length", b"%d" % length)]
    if span is not None:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, start + length - 1, blob.size)))
    if scope["method"] == "HEAD":
        await answer.whole(200, headers)
        return
    async with aclosing(opened.pieces(start, length)) as pieces:
        # The first piece before the status: what is damaged from the start is an error that readers can read.
        first = await anext(pieces, b"")
        await answer.begin(200 if span is None else 206, headers)
        await answer.add(first)
        async for piece in pieces:
            await answer.add(piece)
    await answer.end()
