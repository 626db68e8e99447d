"""How a consumer takes events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """How one member takes events. They hold for what is delivered to it, whatever the others of its group ask for.

    Attributes:
        ack_wait: seconds.
        max_deliver: tries before an event is given up; -1 for ever.
        backoff: seconds before the second try, the third and so on; the last for all that follow.
        max_in_flight: events at a time.
    """

    ack_wait: float = 30.0
    max_deliver: int = 5
    backoff: Sequence[float] = (1.0, 5.0, 30.0, 120.0)
    max_in_flight: int = 64

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        return self.backoff[min(failures, len(self.backoff)) - 1] if self.backoff else 0.0
