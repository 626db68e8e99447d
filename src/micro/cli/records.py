"""How records of the store are shown, and what they are made of again. Pure.

As JSON a record is `{"table", "key", "value", "version", "expires", "metadata"}`: the value is base64, so that any
bytes survive, and `expires` a time in RFC 3339, so that it means the same later; what is not there is left out.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Mapping
from typing import Any

from micro.cli import failures

_LONGEST_SHOWN = 60
_HEX_BYTES = 20

COLUMNS = ("KEY", "VALUE", "VERSION", "EXPIRY")


def value(record: Mapping[str, Any]) -> bytes:
    """The value of a record as it came."""
    return base64.b64decode(record.get("value", ""))


def shown(record: Mapping[str, Any], now: float, table: str = "") -> dict[str, Any]:
    """A record as `-o json` promises it.

    Args:
        now: seconds since 1970, which what is left of its life is added to.
        table: where it is; empty leaves that out.
    """
    found: dict[str, Any] = {"table": table} if table else {}
    found |= {"key": record.get("key", ""), "value": record.get("value", ""), "version": int(record.get("version", 0))}
    if left := float(record.get("expiry", 0)):
        found["expires"] = dt.datetime.fromtimestamp(now + left, dt.UTC).isoformat(timespec="milliseconds")
    if metadata := record.get("metadata"):
        found["metadata"] = metadata
    return found


def sent(record: Any, now: float, place: str) -> dict[str, Any] | None:
    """What `shown` made, as it is written; None for one whose time is over.

    Args:
        place: what errors call it: "line 3 of FILE".

    Raises:
        UsageError: it is no such record.
        Error: INVALID_ARGUMENT for metadata that would not be kept as they are.
    """
    if not isinstance(record, dict) or not isinstance(record.get("key"), str) or not record["key"]:
        raise failures.UsageError(f'{place} is no record: write {{"key": "…", "value": "BASE64"}}')
    text = record.get("value", "")
    try:
        base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise failures.UsageError(f"the value of {record['key']!r} in {place} is not base64") from None
    made: dict[str, Any] = {"key": record["key"], "value": text}
    if metadata := record.get("metadata"):
        from micro.domain.record import check_exact

        check_exact(metadata, f"the metadata of {record['key']!r} in {place}")
        made["metadata"] = metadata
    expires = record.get("expires")
    if expires is None:
        return made
    try:
        left = dt.datetime.fromisoformat(expires).timestamp() - now
    except (TypeError, ValueError):
        raise failures.UsageError(f"{expires!r} in {place} is no time: write 2031-12-31T23:59:59Z") from None
    return made | {"expiry": left} if left > 0 else None


def row(record: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    left = float(record.get("expiry", 0))
    return (
        printable(str(record.get("key", ""))),
        brief(value(record)),
        str(record.get("version", "")),
        duration(left) if left else "never",
    )


def brief(data: bytes) -> str:
    """A value on one line: its text, or the beginning in hexadecimal where it is none."""
    try:
        text = printable(data.decode(), line=True)
    except UnicodeDecodeError:
        more = "…" if len(data) > _HEX_BYTES else ""
        return f"0x{data[:_HEX_BYTES].hex()}{more}"
    return cut(text)


def cut(text: str) -> str:
    """A text as far as a cell of a table shows it."""
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def printable(text: str, *, line: bool = False) -> str:
    """Text that moves no cursor and rings no bell: what is not to be printed is escaped; with `line`, line ends too."""
    kept = "" if line else "\n\t"
    return "".join(one if one.isprintable() or one in kept else ascii(one)[1:-1] for one in text)


def duration(seconds: float) -> str:
    """How long, in the unit that fits."""
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "m")):
        if seconds >= length:
            return f"{seconds / length:.1f}{unit}"
    return f"{seconds:.1f}s"
