"""How running services are shown: as the records that `-o json` promises, and as rows for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micro.domain import names

COLUMNS = ("NAME", "VERSION", "STATUS", "INSTANCES", "URL", "UPDATED")
STATUS_COLUMN = 2


def status(wire: str) -> str:
    """The word for a state: "STATUS_RUNNING" is "running"."""
    return wire.removeprefix("STATUS_").lower() if wire and wire != "STATUS_UNSPECIFIED" else "unknown"


def record(service: Mapping[str, Any], api_address: str) -> dict[str, Any]:
    """One service as `micro status -o json` promises it; `instances` counts those that run."""
    return {
        "name": service.get("name", ""),
        "namespace": service.get("namespace", "") or names.DEFAULT_NAMESPACE,
        "version": service.get("version", "") or names.DEFAULT_VERSION,
        "source": service.get("source", ""),
        "status": status(service.get("status", "")),
        "instances": sum(one.get("status") == "STATUS_RUNNING" for one in service.get("instances", [])),
        "url": url(service.get("name", ""), api_address),
        "error": service.get("error", ""),
        "updated": service.get("updated", ""),
    }


def url(name: str, api_address: str) -> str:
    """Where a service answers over HTTP; empty where the gateway's address is not known."""
    base = api_address if "://" in api_address else f"http://{api_address}"
    return f"{base}/{name}" if api_address and name else ""


def row(service: Mapping[str, Any], api_address: str, now: float) -> tuple[str, ...]:
    """One line of the table; `now` in seconds since 1970."""
    shown = record(service, api_address)
    return (
        shown["name"],
        shown["version"],
        shown["status"],
        f"{shown['instances']}/{max(len(service.get('instances', [])), shown['instances'])}",
        shown["url"] if shown["status"] == "running" else "",
        ago(shown["updated"], now),
    )


def ago(timestamp: str, now: float) -> str:
    """How long ago an RFC 3339 time is, in words; as it came when it is not one."""
    import datetime as dt

    try:
        then = dt.datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    if then.tzinfo is None:
        then = then.replace(tzinfo=dt.UTC)
    seconds = int(now - then.timestamp())
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def clock(timestamp: str) -> str:
    """The local time of day of an RFC 3339 time, HH:MM:SS; as it came when it is not one."""
    import datetime as dt

    try:
        return dt.datetime.fromisoformat(timestamp).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError):
        return timestamp
