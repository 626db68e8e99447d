"""Which events of a topic a consumer group is through with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from micro.domain.event import Progress


class Ahead:
    """What was done before others that lie in front of it, as it was kept: passed over when it is read again."""

    def __init__(self, progress: Progress) -> None:
        self._ranges = deque(progress.done)

    def __contains__(self, offset: int) -> bool:
        return any(first <= offset <= last for first, last in self._ranges)

    def after(self, offset: int) -> int:
        """The next offset that is not done, behind one that all up to it has been offered."""
        ranges = self._ranges
        while ranges and ranges[0][1] <= offset:
            ranges.popleft()
        return ranges[0][1] + 1 if ranges and ranges[0][0] <= offset + 1 else offset + 1

    def passes(self, offset: int) -> bool:
        """Whether an event is done already. To be asked in order: what lies in front of it is forgotten."""
        ranges = self._ranges
        while ranges and ranges[0][1] < offset:
            ranges.popleft()
        return bool(ranges) and ranges[0][0] <= offset

    def reach(self, held: Iterable[int], read: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Floor and ranges, when all up to `read` is done but what is held (in order)."""
        floor, ranges, start = read, list[tuple[int, int]](), 0
        for offset in held:
            if not start:
                floor = offset - 1
            elif offset > start:
                ranges.append((start, offset - 1))
            start = offset + 1
        if start and start <= read:
            ranges.append((start, read))
        for first, last in self._ranges:
            if last <= read:
                continue
            first = max(first, read + 1)
            if not start and not ranges and floor == first - 1:
                floor = last
            elif ranges and ranges[-1][1] == first - 1:
                ranges[-1] = ranges[-1][0], last
            else:
                ranges.append((first, last))
        return floor, tuple(ranges)


def done(progress: Progress) -> Iterator[tuple[int, int]]:
    """The ranges of all that is done, from 1 on."""
    if progress.floor:
        yield 1, progress.floor
    yield from progress.done


def clipped(progress: Progress, last: int) -> Progress:
    """The progress in a topic that has no event behind `last`: what would be done there is not."""
    if max(progress.floor, progress.done[-1][1] if progress.done else 0) <= last:
        return progress
    done = tuple((start, min(end, last)) for start, end in progress.done if start <= last)
    kept = set(progress.redriven)
    failures = {offset: count for offset, count in progress.failures.items() if offset <= last or offset in kept}
    return Progress(min(progress.floor, last), done, failures, progress.redriven)


def lag(progress: Progress, first: int, last: int) -> int:
    """How many events of a topic, which keeps those from `first` to `last`, are still to be handled."""
    count = max(0, last - first + 1)
    return count - sum(max(0, min(end, last) - max(start, first) + 1) for start, end in done(progress))
