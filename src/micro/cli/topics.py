"""Topics as people type and read them: places in them, how long they are kept, their events and groups. Pure."""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

from micro.cli import failures, messages, news, records
from micro.domain import topic

TOPIC_COLUMNS = ("NAME", "EVENTS", "SIZE", "FIRST", "LAST", "GROUPS", "KEPT FOR", "UP TO")
GROUP_COLUMNS = ("GROUP", "LAG", "NEXT", "IN FLIGHT", "MEMBERS", "DEAD LETTERS")
DEAD_COLUMNS = ("OFFSET", "DIED", "TRIES", "KEY", "REASON", "PAYLOAD")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST = (1 << 63) - 1
_UNLIMITED = ("0", "unlimited", "forever", "none")


# --- typed ------------------------------------------------------------------------------------------------------------


def start(text: str, now: float, flag: str = "--from") -> dict[str, Any]:
    """A place in a topic: "new", "all", an offset, how long ago, or a time.

    Args:
        now: seconds since 1970, which "10m" is before.
        flag: what errors call it.

    Raises:
        UsageError: it is none of them.
    """
    if text in ("new", "all"):
        return {text: True}
    if text.isascii() and text.isdecimal() and int(text) <= _MOST:
        return {"offset": text}
    return {"time": instant(text, now, flag, "new, all, an offset such as 42, ")}


def instant(text: str, now: float, flag: str, more: str = "") -> str:
    """A time in RFC 3339 of how long ago it is, or of a time as it is typed.

    Args:
        now: seconds since 1970, which "10m" is before.
        flag: what errors call it.
        more: what else the flag takes, for errors.

    Raises:
        UsageError: it is neither.
    """
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", text):
        seconds = max(now - int(match[1]) * _SECONDS[match[2]], 0.0)
        return rfc3339(dt.datetime.fromtimestamp(seconds, dt.UTC))
    try:
        return time(text)
    except ValueError:
        what = f"{more}how long ago such as 10m, or a time such as 2026-01-31T08:00Z"
        raise failures.UsageError(f"{flag} takes {what}, not {text!r}") from None


def time(text: str) -> str:
    """A time in RFC 3339; one without a zone is of this machine's. Raises ValueError for what is none."""
    if not re.match(r"\d{4}-\d\d", text):
        raise ValueError(f"{text!r} is no time")
    try:
        return rfc3339(dt.datetime.fromisoformat(text).astimezone(dt.UTC))
    except OverflowError:
        raise ValueError(f"{text!r} is out of range") from None


def rfc3339(moment: dt.datetime) -> str:
    """A time in UTC, to the millisecond."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def age(text: str) -> float:
    """Seconds of "7d" or "90m"; 0 for ever. Raises ValueError that says what is taken."""
    if text in _UNLIMITED:
        return 0.0
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if not match:
        raise ValueError(f"takes a time such as 12h, 7d or 4w, 0 for ever, not {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def size(text: str) -> int:
    """Bytes of "512M" or "1G"; 0 for no limit. Raises ValueError that says what is taken."""
    if text in _UNLIMITED:
        return 0
    match = re.fullmatch(r"(\d{1,12})([kmgt]?)(?:i?b)?", text.lower())
    if not match:
        raise ValueError(f"takes a size such as 512M or 1G, 0 for no limit, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def count(text: str) -> int:
    """A number, 0 or more. Raises ValueError that says so."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ValueError(f"takes a number, 0 or more, not {text!r}")
    return int(text)


# --- shown ------------------------------------------------------------------------------------------------------------


def payload(event: Mapping[str, Any]) -> bytes:
    """What an event carries."""
    return base64.b64decode(event.get("payload", ""))


def event_record(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as `-o json` promises it; `attempt` only where it was consumed, `key` and `metadata` where they are."""
    found: dict[str, Any] = {name: event.get(name, "") for name in ("topic", "id")}
    found |= {"offset": int(event.get("offset", 0)), "timestamp": event.get("timestamp", "")}
    found |= {name: event[name] for name in ("key", "metadata", "attempt") if event.get(name)}
    return found | messages.carried(payload(event), "payload")


def event_line(event: Mapping[str, Any], *, verbose: bool = False) -> str:
    """An event for people: offset, local time, key and payload; which try it is from the second on."""
    key = records.printable(event.get("key") or "-", line=True)
    shown = [str(event.get("offset", "")), moment(event.get("timestamp", "")), key]
    if verbose:
        said = ", ".join(f"{name}={value}" for name, value in sorted(event.get("metadata", {}).items()))
        shown += [event.get("id", ""), f"{{{records.printable(said, line=True)}}}"]
    tries = int(event.get("attempt", 1))
    shown += [f"(try {tries})"] if tries > 1 else []
    told = news.words(payload(event), event.get("key", "")) if topic.platforms(event.get("topic", "")) else ""
    return "  ".join([*shown, told or messages.line(payload(event))])


def moment(timestamp: str) -> str:
    """An RFC 3339 time in this machine's zone, to the second."""
    try:
        return f"{dt.datetime.fromisoformat(timestamp).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return timestamp


def topic_record(one: Mapping[str, Any]) -> dict[str, Any]:
    """A topic as `-o json` promises it; limits that are 0 are none."""
    found: dict[str, Any] = {"name": one.get("name", "")}
    found |= {name: int(one.get(name, 0)) for name in ("count", "bytes", "first", "last", "groups")}
    return found | {"retention": retention(one), "created": one.get("created", "")}


def retention(one: Mapping[str, Any]) -> dict[str, Any]:
    """How long a topic keeps its events, in numbers."""
    kept = one.get("retention", {})
    return {"age": float(kept.get("age", 0)), "bytes": int(kept.get("bytes", 0)), "count": int(kept.get("count", 0))}


def topic_row(found: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    one = topic_record(found)
    told = str(one["name"]), f"{one['count']:,}", shown_size(one["bytes"]), str(one["first"]), str(one["last"])
    return *told, str(one["groups"]), kept_for(one["retention"]), up_to(one["retention"])


def kept_for(kept: Mapping[str, Any]) -> str:
    """An age as it is typed: "7d"; "ever" for no limit."""
    seconds = kept["age"]
    if not seconds:
        return "ever"
    unit, length = next(one for one in reversed(_SECONDS.items()) if seconds % one[1] == 0 or one[1] == 1)
    unit, length = ("d", 86400) if unit == "w" else (unit, length)
    return f"{seconds / length:g}{unit}"


def up_to(kept: Mapping[str, Any]) -> str:
    """What is kept at most: "1G, 1,000 events"."""
    limits = [shown_size(kept["bytes"])] if kept["bytes"] else []
    limits += [f"{kept['count']:,} event{'s' if kept['count'] != 1 else ''}"] if kept["count"] else []
    return ", ".join(limits) or "the quota"


def shown_size(number: int) -> str:
    """Bytes in the unit that fits: "1G", "1.5k"."""
    unit, length = next((one for one in reversed(_UNITS.items()) if number >= one[1]), ("", 1))
    amount, unit = number / length, unit if unit == "k" else unit.upper()
    return f"{amount:.0f}{unit}" if amount >= 100 or amount == int(amount) else f"{amount:.1f}{unit}"


def group_record(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group as `-o json` promises it."""
    found: dict[str, Any] = {"name": group.get("name", "")}
    for name, wire in (("lag", "lag"), ("next", "next"), ("in_flight", "inFlight"), ("members", "members")):
        found[name] = int(group.get(wire, 0))
    return found | {"dead_letters": int(group.get("deadLetters", 0))}


def group_row(group: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    one = group_record(group)
    return str(one["name"]), *(f"{one[name]:,}" for name in ("lag", "next", "in_flight", "members", "dead_letters"))


def dead_record(dead: Mapping[str, Any]) -> dict[str, Any]:
    """A dead letter as `-o json` promises it: the event, why it was given up, and when."""
    found = event_record(dead.get("event", {}))
    return found | {"reason": dead.get("reason", ""), "died": dead.get("died", "")}


def dead_row(dead: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    event = dead.get("event", {})
    key = records.printable(event.get("key") or "-", line=True)
    why = records.printable(dead.get("reason", ""), line=True)
    offset, died, tries = str(event.get("offset", "")), moment(dead.get("died", "")), str(event.get("attempt", ""))
    return offset, died, tries, key, records.cut(why), records.brief(payload(event))
