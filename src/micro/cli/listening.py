"""What services consume and subscribe to, as they have registered it, and whether they are connected to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from micro.cli.platform import Platform
    from micro.cli.session import Session

_ASPECT = "consumers"


def record(service: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Topics with their groups, patterns with their queues, of one of the registry's services. An empty queue is that
    of a subscriber who shares with nobody."""
    metadata = service.get("metadata", {})
    return {
        "consumes": [{"topic": topic, "group": group} for topic, group in _places(metadata.get("consumes", ""))],
        "subscribes": [{"topic": topic, "queue": queue} for topic, queue in _places(metadata.get("subscribes", ""))],
    }


def checked(service: Mapping[str, Any], platform: Platform) -> dict[str, list[dict[str, Any]]]:
    """As `record`, with `connected` for each: None where it is not told."""
    found, name = record(service), str(service.get("name", ""))
    every = [one for part in found.values() for one in part]
    # One question is enough as long as nothing is wrong.
    well = platform.aspect(name, _ASPECT) if every else None
    for one in every:
        one["connected"] = platform.aspect(name, f"{_ASPECT}/{_place(one)}") if well is False else well
    return found


def show(service: Mapping[str, Any], session: Session) -> None:
    """Write what a service listens to, if it does."""
    found = checked(service, session.platform)
    for label, part, shared in (("Consumes", "consumes", "group"), ("Subscribes to", "subscribes", "queue")):
        if not found[part]:
            continue
        session.out.line()
        session.out.line(f"{label}:")
        rows = [(one["topic"], f"{shared} {one[shared]}" if one[shared] else "alone") for one in found[part]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row, one in zip(rows, found[part], strict=True):
            words = [word.ljust(width) for word, width in zip(row, widths, strict=True)]
            session.out.line("  ".join(["", *words, _told(one["connected"], service, session)]).rstrip())


def away(service: Mapping[str, Any], platform: Platform) -> list[str]:
    """What a service has not been connected to for long: "orders/billing"."""
    return [_place(one) for part in checked(service, platform).values() for one in part if one["connected"] is False]


def _told(connected: bool | None, service: Mapping[str, Any], session: Session) -> str:
    if connected is None:
        return ""
    return "connected" if connected else f"not connected; why: {session.micro} logs {service.get('name', '')}"


def _place(one: Mapping[str, Any]) -> str:
    shared = one.get("group", one.get("queue", ""))
    return f"{one['topic']}/{shared}" if shared else str(one["topic"])


def _places(told: str) -> Iterator[tuple[str, str]]:
    for place in told.split():
        topic, _, shared = place.partition("/")
        yield topic, shared
