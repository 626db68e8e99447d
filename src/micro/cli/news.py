"""What the platform tells about itself, as people read it. Pure."""

from __future__ import annotations

import json

from micro.cli import records

_SAID_ALREADY = ("type", "time")


def words(payload: bytes, key: str = "") -> str:
    """An event of a topic "micro.…": what happened, and the rest as name=value; empty for what is none.

    Args:
        key: the event's, which is shown before it, and not again.
    """
    try:
        found = json.loads(payload)
    except ValueError:
        return ""
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return ""
    pairs = [(name, str(value)) for name, value in found.items() if name not in _SAID_ALREADY and value != key]
    shown = [f"{name}={_quoted(value)}" for name, value in pairs if (name, value) != ("version", "latest")]
    return records.printable("  ".join([found["type"], *shown]), line=True)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or not text else text
