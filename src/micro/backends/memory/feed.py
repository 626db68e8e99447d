"""The latest commits of a database, for those that watch it."""

from __future__ import annotations

import asyncio
from collections import deque

from micro.domain import errors
from micro.domain.record import Commit


class Feed:
    """Commits in a row, the oldest of which go when there are too many. Watchers keep their own place, so that a slow
    one costs nothing and misses what went."""

    def __init__(self, database: str, revision: int = 0) -> None:
        self._database = database
        self._commits: deque[tuple[Commit, int, int]] = deque()
        self._changed = asyncio.Event()
        self._waiting = 0
        self._dropped = False
        self.revision = revision
        self.floor = revision
        """What comes after it is here, or has not happened."""
        self.bytes = 0

    def add(self, commit: Commit, now: int) -> None:
        """Take in what happened after all that is here, and tell those that wait."""
        size = 0
        for change in commit.changes:
            size += len(change.record.key) + len(change.record.value) + 100
        self._commits.append((commit, now, size))
        self.bytes += size
        self.revision = commit.revision
        self.wake()

    def shorten(self, most_bytes: int, before: int) -> None:
        """Let go what is older than `before`, in milliseconds since 1970, and what is too much; the last one stays."""
        while len(self._commits) > 1 and (self.bytes > most_bytes or self._commits[0][1] < before):
            commit, _, size = self._commits.popleft()
            self.bytes -= size
            self.floor = commit.revision

    def reset(self, revision: int) -> None:
        """Forget all; only what comes after `revision` can be watched."""
        self._commits.clear()
        self.bytes = 0
        self.revision = self.floor = revision
        self.wake()

    def drop(self) -> None:
        """The database is gone: everybody who watches it is told."""
        self._dropped = True
        self.wake()

    def check(self, after: int) -> None:
        """Raises OUT_OF_RANGE when the database is gone or never came as far."""
        if self._dropped:
            raise errors.out_of_range(f"database {self._database} was removed: there is nothing to watch any more")
        if after > self.revision:
            raise errors.out_of_range(
                f"database {self._database} is at revision {self.revision}, not yet at {after}: read anew, and watch "
                "after that revision"
            )

    def gone(self, after: int) -> errors.Error:
        """What a watcher is told that asks for what is not kept any more."""
        return errors.out_of_range(
            f"the history of database {self._database} does not reach back to revision {after}: read anew, and watch "
            "after that revision"
        )

    def next(self, after: int) -> Commit | None:
        """The one after that revision, None when it has not happened. Only for `after` from `floor` on."""
        if after >= self.revision:
            return None
        return self._commits[after - self.floor][0]

    async def wait(self) -> None:
        """Return when something happened since the call's first await."""
        self._waiting += 1
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1

    def wake(self) -> None:
        """Let those that wait look again."""
        if self._waiting:
            self._changed.set()
            self._changed = asyncio.Event()
