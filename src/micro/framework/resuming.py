"""What every stream that is begun again by itself goes by: what passes, and how long to wait."""

from __future__ import annotations

from collections.abc import Iterator

from micro.domain import backoff
from micro.domain.errors import Kind

PASSING = (Kind.UNAVAILABLE, Kind.CANCELED, Kind.DEADLINE_EXCEEDED, Kind.INTERNAL, Kind.UNKNOWN, Kind.NOT_FOUND)
"""What a stream ends with when its server does, or the way there, or while that server is not back yet."""


def delays() -> Iterator[float]:
    """Seconds before one try and the next."""
    return backoff.exponential(first=0.1, cap=2.0)
