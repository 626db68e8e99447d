"""What messages and events carry: how it is typed, and how it is shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NoReturn

from micro.cli import copying, failures, records
from micro.cli.session import Session

_HEX_BYTES = 20


def given(word: str | None, name: str, session: Session, *, after: str = "topic", do: str = "send") -> bytes:
    """What is to be sent or kept: the text that was typed, the bytes of @FILE, or of standard input for "-" and a pipe.

    Args:
        name: what the argument is called: "PAYLOAD".
        after: which argument comes before it.
        do: what is done with it.

    Raises:
        UsageError: there is nothing, or the file cannot be read. What is to be empty is typed as '' or is a file.
    """
    if word is None and session.stdin.isatty():
        raise failures.UsageError(f"{name} is missing: type it after the {after}, name a @FILE, or pipe it in")
    if word in (None, "-"):
        data = copying.piped(session)
        if not data:
            raise failures.UsageError(f"{name} is empty: nothing came on standard input; to {do} nothing, type ''")
        return data
    if not word.startswith("@"):
        return word.encode("utf-8", "surrogateescape")
    try:
        return Path(word[1:]).expanduser().read_bytes()
    except OSError as error:
        hint = "text that begins with @ is piped in"
        raise failures.UsageError(f"cannot read {word[1:]}: {error.strerror}; {hint}") from None


def carried(data: bytes, name: str) -> dict[str, Any]:
    """A payload as `-o json` promises it, under its name: the value of JSON, else text, else base64.

    `encoding` beside it says which of them: "json", "text" or "base64".
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {name: base64.b64encode(data).decode(), "encoding": "base64"}
    try:
        return {name: json.loads(text, parse_constant=no_json), "encoding": "json"}
    except (ValueError, RecursionError):
        return {name: text, "encoding": "text"}


def line(data: bytes) -> str:
    """A payload on one line: its text, what does not print escaped; of other bytes how many, and how they begin."""
    try:
        return records.printable(data.decode(), line=True)
    except UnicodeDecodeError:
        more = "…" if len(data) > _HEX_BYTES else ""
        return f"({len(data):,} bytes: 0x{data[:_HEX_BYTES].hex()}{more})"


def encoded(data: bytes) -> str:
    """Bytes as they travel in JSON."""
    return base64.b64encode(data).decode()


def no_json(name: str) -> NoReturn:
    """For `parse_constant`: NaN and Infinity are none of JSON's."""
    raise ValueError(f"{name} is not JSON")
