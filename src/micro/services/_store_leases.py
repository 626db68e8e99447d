"""What locks and leaders share: leases on compare-and-set, and lines of those who wait for one.

A lease is a record that ends by itself. Who holds it is known by the SHA-256 of what it shows; its first version is the
fencing token. Who waits hears of a lease's end by a watch, and knows when it ends at the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import NamedTuple

from micro.domain import backoff, errors
from micro.domain.errors import Error, Kind
from micro.domain.record import Delete, Put, Record, check_key
from micro.ports.background import OwnedTasks
from micro.ports.store import now
from micro.services._store_databases import Databases

TABLE = ".locks"

USUAL_SECONDS = 15.0
LONGEST_SECONDS = 3600.0
NAME_CHARACTERS = 512

_TOKEN, _LEADER = "token", "leader"

log = logging.getLogger("micro.store")


class Key(NamedTuple):
    """Which lease: its database, and its record there."""

    database: str
    record: str


@dataclass(frozen=True, slots=True)
class Lease:
    """One that somebody has.

    Attributes:
        token: grows from holder to holder.
        leader: what the holder is called, where it has a name.
        expires: when it ends, in milliseconds since 1970.
    """

    token: int
    leader: str
    expires: int
    shown: bytes

    def held_by(self, holder: str) -> bool:
        """Whether that is who has it; takes as long whatever is shown."""
        return hmac.compare_digest(self.shown, _digest(holder))


def new_holder() -> str:
    """What a new holder shows: a secret of its own."""
    return secrets.token_urlsafe(24)


def key_of(database: str, kind: str, name: str) -> Key:
    """Raises INVALID_ARGUMENT for what is no name."""
    if not name:
        raise errors.invalid_argument(f"name is missing: say which {kind}")
    if len(name) > NAME_CHARACTERS:
        raise errors.invalid_argument(f"the name {name[:20]!r}… is too long: {NAME_CHARACTERS} characters are the most")
    record = f"{kind}/{name}"
    check_key(record)
    return Key(database, record)


def milliseconds(seconds: float) -> int:
    """How long a lease lasts; 0 for as long as usual. Raises INVALID_ARGUMENT."""
    if seconds == 0:
        seconds = USUAL_SECONDS
    if not 0 < seconds <= LONGEST_SECONDS:  # which not-a-number is not either
        raise errors.invalid_argument(f"lease {seconds:g} is none: use up to {LONGEST_SECONDS:,.0f} seconds")
    return max(1, round(seconds * 1000))


class Place:
    """One place in the line for a lease."""

    def __init__(self, line: list[Place], clock: Callable[[], int]) -> None:
        self._line = line
        self._clock = clock
        self.woken = asyncio.Event()

    @property
    def first(self) -> bool:
        """Whether it is this one's turn once the lease is free."""
        return self._line[0] is self

    async def change(self, until: int | None = None) -> None:
        """Return when something may have changed since the last call, or it is `until`, in milliseconds since 1970."""
        seconds = None if until is None else max(0.0, (until - self._clock()) / 1000)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.woken.wait()
        self.woken.clear()


class Lines:
    """Who waits for which lease, in the order they came. While anybody does, the database is watched."""

    def __init__(self, databases: Databases, tasks: OwnedTasks, clock: Callable[[], int]) -> None:
        self._store = databases.store
        self._tasks = tasks
        self._clock = clock
        self._lines: dict[Key, list[Place]] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}

    def empty(self, key: Key) -> bool:
        """Whether nobody waits."""
        return key not in self._lines

    @contextlib.contextmanager
    def join(self, key: Key) -> Iterator[Place]:
        """A place at the end of the line, until the block ends."""
        line = self._lines.setdefault(key, [])
        place = Place(line, self._clock)
        line.append(place)
        if key.database not in self._followers:
            follower = self._follow(key.database)
            self._followers[key.database] = self._tasks.spawn(follower, f"following the leases of {key.database}")
        try:
            yield place
        finally:
            line.remove(place)
            if line:
                line[0].woken.set()
            else:
                del self._lines[key]
                if not any(other.database == key.database for other in self._lines):
                    self._followers.pop(key.database).cancel()

    def _wake(self, database: str, record: str | None = None) -> None:
        keys = [key for key in self._lines if key.database == database] if record is None else [Key(database, record)]
        for key in keys:
            for place in self._lines.get(key, ()):
                place.woken.set()

    async def _follow(self, database: str) -> None:
        delays = backoff.exponential(first=0.05, cap=2.0)
        while True:
            try:
                begin = await self._store.revision(database)
                async with aclosing(self._store.watch(database, begin)) as commits:
                    # What changed before is not told: everybody looks.
                    self._wake(database)
                    async for commit in commits:
                        delays = backoff.exponential(first=0.05, cap=2.0)
                        for change in commit.changes:
                            if change.table == TABLE:
                                self._wake(database, change.record.key)
            except Error as error:
                if error.kind is not Kind.OUT_OF_RANGE:
                    log.warning("the leases of %s cannot be followed now: %s", database, error)
            await asyncio.sleep(next(delays))


class Leases:
    """Takes, prolongs and ends leases.

    Args:
        databases: where they are.
        clock: milliseconds since 1970.
    """

    def __init__(self, databases: Databases, *, clock: Callable[[], int] = now) -> None:
        self.databases = databases
        self.clock = clock
        self._tasks = OwnedTasks()
        self.lines = Lines(databases, self._tasks, clock)

    async def start(self, stack: AsyncExitStack) -> None:
        """The stack ends what goes on beside the calls."""
        await self._tasks.start(stack)

    async def find(self, key: Key) -> Lease | None:
        """The lease, where somebody has it."""
        found = await self._read(key)
        return None if found is None else _lease(found)

    async def take(self, key: Key, holder: str, length: int, leader: str = "") -> int | None:
        """Take it for so many milliseconds; returns the token, or None when somebody has it.

        Raises UNAVAILABLE. Who gives up meanwhile does not have it afterwards.
        """
        taking = self._tasks.spawn(self._take(key, holder, length, leader), "taking a lease")
        try:
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._tasks.spawn(self._undo(key, holder, taking), "giving a lease back")
            raise
        if isinstance(taken, Error):
            self.give_up(key, holder)
            raise taken
        return taken

    async def _take(self, key: Key, holder: str, length: int, leader: str) -> int | Error | None:
        metadata = {_LEADER: leader} if leader else {}
        put = Put(TABLE, key.record, _digest(holder), self.clock() + length, metadata, if_version=0)
        try:
            with self.databases.changing(key.database):
                return (await self.databases.store.commit(key.database, (put,))).revision
        except Error as error:
            return None if error.kind is Kind.ALREADY_EXISTS else error

    async def prolong(self, key: Key, holder: str, length: int) -> int:
        """Let it last for so many milliseconds from now; returns when it ends. Raises ABORTED when somebody else has
        it, or nobody."""
        while True:
            found = await self._read(key)
            if found is None or not (lease := _lease(found)).held_by(holder):
                raise errors.aborted(f"{key.record} is not held by the caller any more: acquire it again")
            ends = self.clock() + length
            metadata = {**found.metadata, _TOKEN: lease.token}
            put = Put(TABLE, key.record, found.value, ends, metadata, if_version=found.version)
            if await self._swap(key, put):
                return ends

    async def release(self, key: Key, holder: str) -> None:
        """End it where the caller has it."""
        while True:
            found = await self._read(key)
            if found is None or not _lease(found).held_by(holder):
                return
            if await self._swap(key, Delete(TABLE, key.record, if_version=found.version)):
                return

    def give_up(self, key: Key, holder: str) -> None:
        """End it soon where the caller has it; what cannot be done then, time does."""
        self._tasks.spawn(self._undo(key, holder), "giving a lease back")

    async def _undo(self, key: Key, holder: str, taking: asyncio.Task[int | Error | None] | None = None) -> None:
        if taking is not None:
            await asyncio.wait([taking])
        try:
            await self.release(key, holder)
        except Error as error:
            log.info("%s of %s ends by itself: %s", key.record, key.database, error)

    async def _read(self, key: Key) -> Record | None:
        return await self.databases.store.read(key.database, TABLE, key.record)

    async def _swap(self, key: Key, operation: Put | Delete) -> bool:
        """Whether it was changed; not when the record was another one by then."""
        try:
            with self.databases.changing(key.database):
                await self.databases.store.commit(key.database, (operation,))
        except Error as error:
            if error.kind in (Kind.ABORTED, Kind.ALREADY_EXISTS):
                return False
            raise
        return True


def _lease(found: Record) -> Lease:
    token, leader = found.metadata.get(_TOKEN), found.metadata.get(_LEADER)
    return Lease(
        token=token if isinstance(token, int) else found.version,
        leader=leader if isinstance(leader, str) else "",
        expires=found.expires or 0,
        shown=found.value,
    )


def _digest(holder: str) -> bytes:
    return hashlib.sha256(holder.encode()).digest()
