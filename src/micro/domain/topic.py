"""Topics: names of what messages and events are about, and patterns of them."""

from __future__ import annotations

import re

from micro.domain import errors

MAX_CHARACTERS = 255

PLATFORM = "micro"
"""What topics that the platform itself tells begin with."""

_PART = r"[A-Za-z0-9_-]+"
_TOPIC = re.compile(rf"{_PART}(?:\.{_PART})*")
_PATTERN = re.compile(rf"(?:{_PART}|\*)(?:\.(?:{_PART}|\*))*(?:\.>)?|>")
_GROUP = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def topic(name: str) -> str:
    """Return the name when it is one: parts of letters, digits, "-" and "_" with dots between, up to 255 characters.

    Raises:
        Error: INVALID_ARGUMENT that says what is allowed.
    """
    if len(name) > MAX_CHARACTERS or not _TOPIC.fullmatch(name):
        raise errors.invalid_argument(
            f"{_shown(name)} is not a topic: use up to 255 letters, digits, hyphens and underscores, with single dots "
            "between"
        )
    return name


def pattern(name: str) -> str:
    """Return the name when it is a topic or a pattern of topics: "*" is any one part, ">" at the end one or more.

    Raises:
        Error: INVALID_ARGUMENT that says what is allowed.
    """
    if len(name) > MAX_CHARACTERS or not _PATTERN.fullmatch(name):
        raise errors.invalid_argument(
            f"{_shown(name)} is not a topic or a pattern of topics: use letters, digits, hyphens and underscores with "
            'single dots between; "*" for any one part, ">" at the end for all that follows'
        )
    return name


def matches(wanted: str, name: str) -> bool:
    """Whether a topic fits a pattern; both are valid."""
    parts = name.split(".")
    for number, part in enumerate(wanted.split(".")):
        if part == ">":
            return number < len(parts)
        if number >= len(parts) or part not in ("*", parts[number]):
            return False
    return len(parts) == wanted.count(".") + 1


def group(name: str) -> str:
    """Return the name when it is one for a queue or a consumer group: as topics, up to 63 characters.

    Raises:
        Error: INVALID_ARGUMENT that says what is allowed.
    """
    if len(name) > 63 or not _GROUP.fullmatch(name):
        raise errors.invalid_argument(
            f"{_shown(name)} is not a group: use up to 63 letters, digits, hyphens and underscores, with single dots "
            "between"
        )
    return name


def platforms(name: str) -> bool:
    """Whether only the platform itself publishes to a topic: "micro.auth"."""
    return name.partition(".")[0] == PLATFORM


def _shown(name: str) -> str:
    return repr(name[:80]) if name else "an empty name"
