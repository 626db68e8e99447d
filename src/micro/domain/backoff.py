"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Iterator


def exponential(first: float = 0.2, factor: float = 2.0, cap: float = 30.0, jitter: float = 0.2) -> Iterator[float]:
    """Yield delays in seconds for ever: each `factor` times the one before, up to `cap`, each ±`jitter` of itself.

    The jitter keeps many that failed together from coming back together.
    """
    delay = first
    while True:
        yield delay * (1 + random.uniform(-jitter, jitter))  # noqa: S311 - spreads load, guards nothing
        delay = min(delay * factor, cap)
