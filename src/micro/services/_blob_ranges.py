"""What a request for a public blob asks for: nothing new, a range, or all of it (RFC 9110, 13 and 14). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime

from micro.ports.blobs import Blob

_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)

Headers = Mapping[bytes, bytes]


def etag(blob: Blob) -> str:
    """What names its bytes."""
    return f'"{blob.checksum}"'


def modified(blob: Blob) -> str:
    """When it was written, as HTTP has it."""
    return formatdate(blob.modified // 1000, usegmt=True)


def unchanged(blob: Blob, headers: Headers) -> bool:
    """Whether the reader has it already."""
    if (known := _text(headers, b"if-none-match")) is not None:
        tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
        return "*" in tags or etag(blob) in tags
    since = _date(_text(headers, b"if-modified-since"))
    return since is not None and blob.modified // 1000 <= since


def span(blob: Blob, headers: Headers) -> tuple[int, int] | None:
    """First byte and number of bytes that are asked for; None for all of it.

    Several ranges are answered with all of it, as HTTP allows. Raises ValueError for one that there is nothing of.
    """
    asked = _RANGE.fullmatch(_text(headers, b"range") or "")
    if asked is None or asked[1] == asked[2] == "" or not _same(blob, headers):
        return None
    if not asked[1]:
        start, end = max(blob.size - int(asked[2]), 0), blob.size
    else:
        start = int(asked[1])
        end = min(int(asked[2]) + 1, blob.size) if asked[2] else blob.size
        if asked[2] and int(asked[2]) < start:
            return None  # is no range
    if start >= end:
        raise ValueError
    return start, end - start


def _same(blob: Blob, headers: Headers) -> bool:
    """Whether it is still what the reader has another part of."""
    known = _text(headers, b"if-range")
    return known is None or known in (etag(blob), modified(blob))


def _text(headers: Headers, name: bytes) -> str | None:
    found = headers.get(name)
    return None if found is None else found.decode("latin-1").strip()


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None
