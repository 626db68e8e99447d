"""Leases: who promised to come back, and by when. Pure; the clock is the caller's."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

K = TypeVar("K")


class Leases(Generic[K]):
    """Ends of leases by key, in the seconds of whatever clock the caller reads; renewing is cheap.

    Renewals leave the queue alone: an entry whose lease was prolonged is put back when its turn comes.
    """

    def __init__(self) -> None:
        self._ends: dict[K, float] = {}
        self._queue: list[tuple[float, int, K]] = []
        self._queued: dict[K, float] = {}
        self._count = 0

    def __contains__(self, key: K) -> bool:
        return key in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def grant(self, key: K, end: float) -> bool:
        """Let the lease of `key` end at `end`. Returns whether `next_end` came nearer."""
        nearer = not self._queue or end < self._queue[0][0]
        self._ends[key] = end
        if end < self._queued.get(key, float("inf")):
            self._push(key, end)
        return nearer

    def drop(self, key: K) -> None:
        """Forget a lease; forgetting an absent one does nothing."""
        self._ends.pop(key, None)

    def ended(self, key: K, now: float) -> bool:
        return key in self._ends and self._ends[key] <= now

    def due(self, now: float) -> list[K]:
        """The keys whose leases have ended, first ended first. They stay, and are named again, until dropped."""
        found: list[tuple[float, int, K]] = []
        while self._queue and self._queue[0][0] <= now:
            queued, count, key = heapq.heappop(self._queue)
            if self._queued.get(key) != queued:
                continue
            del self._queued[key]
            end = self._ends.get(key)
            if end is None:
                continue
            if end <= now:
                found.append((end, count, key))
            else:
                self._push(key, end)
        for end, _, key in found:
            self._push(key, end)
        return [key for _, _, key in sorted(found, key=lambda item: item[:2])]

    def next_end(self) -> float | None:
        """When to call `due` next; None when there is no lease. Never later than the first lease's end."""
        return self._queue[0][0] if self._queue else None

    def postpone(self, seconds: float) -> None:
        """Prolong every lease: for time that nobody could have used to renew."""
        self._ends = {key: end + seconds for key, end in self._ends.items()}
        self._queued.clear()
        self._queue.clear()
        for key, end in self._ends.items():
            self._push(key, end)

    def _push(self, key: K, end: float) -> None:
        self._count += 1
        self._queued[key] = end
        heapq.heappush(self._queue, (end, self._count, key))
