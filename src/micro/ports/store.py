"""Where records are kept: databases of tables of keys, changed by batches, with a history that can be followed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from micro.domain.record import Commit, Committed, Durability, Keys, Operation, Page, Query, Record

HISTORY_SECONDS = 300.0
"""How long a change can be watched afterwards, at least; as far as HISTORY_BYTES hold it."""

HISTORY_BYTES = 256 << 20
"""What a database's history may hold before its oldest part goes early."""

PAGE_RECORDS = 1000
PAGE_BYTES = 4 << 20
"""What one page holds at most. At least one record, however large."""

PAGE_KEYS = 4096
"""Keys that are told alone, at most."""

SWEEP_SECONDS = 1.0
"""How soon after its end an expired record is removed and told to watchers, at most, while nothing is in the way."""

Now = Callable[[], int]
"""The time, in milliseconds since 1970."""


def now() -> int:
    """The machine's own time."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A record in a copy of a database, and its table."""

    table: str
    record: Record


class Store(ABC):
    """Databases, which know nothing of each other.

    A database has a revision, 0 at first, that each batch which changes something raises by one; nothing else does but
    a sweep. Batches happen one after the other, and reads see each of them whole: after `commit` has returned, every
    read that begins sees it. An expired record is absent at once, for conditions too; a sweep removes it later.

    Args that names go into are checked by the caller (`micro.domain.record`), times are milliseconds since 1970.
    Everything may raise UNAVAILABLE when the state cannot be reached, and DATA_LOSS when it is damaged: what is damaged
    is never told and never made anew.
    """

    @property
    @abstractmethod
    def durability(self) -> Durability:
        """What an acknowledged batch outlives."""

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open the state, and check it. Raises UNAVAILABLE, DATA_LOSS, FAILED_PRECONDITION for one of a newer
        release."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether the state can be reached, as far as is known without asking."""

    def damaged(self) -> Sequence[str]:
        """Databases that are known to be damaged, sorted; the others go on. For backends that remember it."""
        return ()

    @abstractmethod
    async def commit(self, database: str, operations: Sequence[Operation]) -> Committed:
        """Do all operations, in order, or none. Durable, as `durability` says, when it returns.

        Conditions are about what was there before the batch; Gets see the changes before them. A Delete of what is
        absent changes nothing. A Put always writes, also what is there already. The first change makes the database.

        Raises ALREADY_EXISTS and ABORTED for a condition that does not hold (`record.check_condition`), and
        RESOURCE_EXHAUSTED when there is no room, or Gets find more than BATCH_BYTES; then nothing changed. When it
        raises UNAVAILABLE or is cancelled, the batch happened whole or not at all.
        """

    @abstractmethod
    async def read(self, database: str, table: str, key: str) -> Record | None:
        """The record; None when it is absent."""

    @abstractmethod
    async def scan(self, database: str, table: str, query: Query) -> Page:
        """The records that a query asks for, of one state of the database: at most the query's limit, PAGE_RECORDS
        and, for their keys, values and metadata, PAGE_BYTES."""

    async def keys(self, database: str, table: str, query: Query) -> Keys:
        """The keys that a query asks for, as `scan` does, but up to PAGE_KEYS. For backends that can tell them for less
        than records without values."""
        page = await self.scan(database, table, replace(query, keys_only=True))
        return Keys(tuple(record.key for record in page.records), page.revision, page.more)

    @abstractmethod
    async def databases(self) -> list[str]:
        """Those that something was ever written to, sorted."""

    @abstractmethod
    async def tables(self, database: str) -> list[str]:
        """Those with live records, sorted by bytes."""

    @abstractmethod
    async def revision(self, database: str) -> int:
        """The database's, 0 for one that there is none of."""

    @abstractmethod
    def watch(self, database: str, after: int | None = None) -> AsyncGenerator[Commit]:
        """Every batch with a revision above `after`, in order, none missing, none twice, each whole; for ever. None for
        `after` begins with the first one after the call's first await.

        Goes on by itself through a lost connection. Raises OUT_OF_RANGE, at the beginning or later, when the history
        does not reach back to `after`, or never came as far: read anew, and watch after the page's revision.
        """

    @abstractmethod
    def dump(self, database: str) -> AsyncIterator[Kept]:
        """Every live record of one state of the database, by table and key, while others write."""

    @abstractmethod
    async def load(self, database: str, records: AsyncIterator[Kept], *, above: int = 0) -> int:
        """Replace all that a database holds, in one step that watchers are told as OUT_OF_RANGE; returns how many there
        are now. Versions go on growing: each record gets the new revision, which is above `above` as well, as where the
        database comes from another store. Nothing changed when it raises, which it does with whatever `records`
        raises."""

    @abstractmethod
    async def drop(self, database: str) -> None:
        """Remove a database with its history; its watches raise OUT_OF_RANGE. Absent: nothing to do."""
