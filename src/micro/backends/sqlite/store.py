"""Records in SQLite: a file for each database, whose writers share transactions."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from micro.backends.sqlite._store_database import Database
from micro.backends.sqlite._store_file import RESTORE, StoreFile, bury
from micro.backends.sqlite._store_staging import PREFIX, staged
from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import Commit, Committed, Durability, Keys, Operation, Page, Query, Record
from micro.ports import private_folder, store
from micro.ports.store import HISTORY_BYTES, SWEEP_SECONDS, Kept, Now, Store

_THREADS = 4
"""Each for writing and for reading, of all databases together."""


_NAME_BYTES = 200

_VERIFY_BYTES = 64 << 20

_log = logging.getLogger("micro.store")


class SqliteStore(Store):
    """FOLDER/NAME.db is the database NAME, with mode 0600 in a folder of 0700, and what begins with its name belongs to
    it. One process at a time has a folder.

    What is damaged is told by DATA_LOSS, with the way to restore it; other databases go on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Now = store.now,
        history_bytes: int = HISTORY_BYTES,
        open_files: int = 64,
        verify_bytes: int = _VERIFY_BYTES,
        restore: str = RESTORE,
    ) -> None:
        """
        Args:
            history_bytes: what the history of each database may hold.
            open_files: databases that are open at a time, but for those in use; some six descriptors each.
            verify_bytes: a file of up to so many is looked at as a whole before it is used, which takes a second at
                most; a larger one while it is.
            restore: how a damaged database is brought back: what errors tell, with {stem} for the database, {name} for
                its file, and {files} for that and those that belong to it.
        """
        self._folder = folder.absolute()
        self._clock = clock
        self._history_bytes = history_bytes
        self._open_files = open_files
        self._verify_bytes = verify_bytes
        self._restore = restore
        self._databases: dict[str, Database] = {}
        self._open: OrderedDict[str, Database] = OrderedDict()
        """Those with open files, the one that was used last at the end."""
        self._look = asyncio.Event()
        self._held: int | None = None
        self._running = False

    @property
    def durability(self) -> Durability:
        return Durability.DISK

    async def start(self, stack: AsyncExitStack) -> None:
        self._hold()
        stack.callback(self._release)
        self._writers = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-read")
        for threads in (self._writers, self._readers):
            stack.callback(threads.shutdown)
        stack.push_async_callback(self._close)
        self._running = True
        upkeep = asyncio.create_task(self._upkeep())  # owned: by the stack
        stack.push_async_callback(_end, upkeep)

    def healthy(self) -> bool:
        return self._held is not None

    def damaged(self) -> list[str]:
        return sorted(name for name, each in self._databases.items() if each.damaged)

    async def commit(self, database: str, operations: Sequence[Operation]) -> Committed:
        found = self._at_hand(database) or await self._opened(database)
        before = found.due
        committed = await found.commit(operations)
        if found.due != before:
            self._look.set()
        return committed

    async def read(self, database: str, table: str, key: str) -> Record | None:
        found = self._at_hand(database) or await self._opened(database)
        try:
            there = found.file.point(table, key)
        except errors.Error as error:
            found.told(error)
            raise
        if there is True:
            there = await found.read(lambda: found.file.large(table, key))
        if isinstance(there, Record):
            return there if there.expires is None or there.expires > self._clock() else None
        return None

    async def scan(self, database: str, table: str, query: Query) -> Page:
        found = await self._opened(database)
        if found.file.absent:
            return Page((), 0)
        return await found.read(lambda: found.file.scan(table, query, self._clock()))

    async def keys(self, database: str, table: str, query: Query) -> Keys:
        found = await self._opened(database)
        if found.file.absent:
            return Keys((), 0)
        return await found.read(lambda: found.file.keys(table, query, self._clock()))

    async def databases(self) -> list[str]:
        return _names(self._folder)

    async def tables(self, database: str) -> list[str]:
        found = await self._opened(database)
        return [] if found.file.absent else await found.read(lambda: found.file.tables(self._clock()))

    async def revision(self, database: str) -> int:
        return (self._at_hand(database) or await self._opened(database)).feed.revision

    async def watch(self, database: str, after: int | None = None) -> AsyncGenerator[Commit]:
        found = await self._opened(database)
        feed = found.feed
        place = feed.revision if after is None else after
        found.watchers += 1
        try:
            while True:
                found.check()
                feed.check(place)
                if place < feed.floor:
                    async with aclosing(self._past(found, place)) as commits:
                        async for commit in commits:
                            place = commit.revision
                            yield commit
                elif (next_one := feed.next(place)) is None:
                    await feed.wait()
                else:
                    place = next_one.revision
                    yield next_one
        finally:
            found.watchers -= 1
            found.rest()

    async def _past(self, database: Database, after: int) -> AsyncGenerator[Commit]:
        """Some of what happened after that revision, from the file."""
        await self._opened(database.name)
        feed, until = database.feed, database.feed.revision
        commits = None if database.file.absent else await database.read(lambda: database.file.history(after, until))
        if commits is None:
            feed.check(after)
            raise feed.gone(after)
        for commit in commits:
            yield commit

    async def dump(self, database: str) -> AsyncIterator[Kept]:
        found = await self._opened(database)
        if found.file.absent:
            return
        now = self._clock()
        connection = await found.read(found.file.dump)
        try:
            rows = await found.read(
                lambda: connection.execute(
                    "SELECT tab, key, version, expires, checksum, metadata, value FROM record ORDER BY tab, key"
                )
            )
            while chunk := await found.read(lambda: found.file.dumped(rows, now)):
                for each in chunk:
                    yield each
        finally:
            connection.close()

    async def load(self, database: str, records: AsyncIterator[Kept], *, above: int = 0) -> int:
        with contextlib.suppress(errors.Error):  # what is damaged can be replaced
            await self._opened(database)
        found = self._known(database)
        async with staged(self._folder, records, self._clock(), found.read) as path:
            count = await found.load(path, above)
        self._look.set()
        return count

    async def drop(self, database: str) -> None:
        await self._known(database).drop()
        self._open.pop(database, None)

    # --- files --------------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> Database:
        if not self._running:
            raise errors.unavailable("the store is closed: try again when its server is up")
        if (found := self._databases.get(name)) is None:
            if not name or name.startswith(".") or "/" in name or "\0" in name or len(name.encode()) > _NAME_BYTES:
                raise errors.invalid_argument(f"{name[:40]!r} cannot be a database: it has to be a name for a file")
            file = StoreFile(self._folder / f"{name}.db", self._history_bytes, self._verify_bytes, self._restore)
            found = self._databases[name] = Database(name, file, self._clock, self._writers, self._readers)
        return found

    def _at_hand(self, name: str) -> Database | None:
        """As `_opened`, where there is nothing to wait for and nothing ends: it runs for each call."""
        if (found := self._open.get(name)) is None or found.due is not None or not found.ready:
            return None
        found.check()
        self._open.move_to_end(name)
        return found

    async def _opened(self, name: str) -> Database:
        """The database, open and not damaged. Others are closed for it when they are too many."""
        found = self._known(name)
        if not found.ready:
            await found.open()
        found.check()
        if found.due is not None and found.due <= self._clock():
            self._look.set()
        if not found.file.absent:
            self._open[name] = found
            self._open.move_to_end(name)
            if len(self._open) > self._open_files:
                await self._close_oldest(name)
        return found

    async def _close_oldest(self, but: str) -> None:
        for name, each in list(self._open.items())[: len(self._open) - self._open_files]:
            if name != but and each.idle and self._open.pop(name, None) is not None:
                await each.close()
        await self._databases[but].open()

    def _hold(self) -> None:
        """Be the only one who works on the folder, and clear away what those before left half done."""
        try:
            private_folder.make(self._folder)
            self._folder.chmod(0o700)
            held = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(held)
                raise errors.unavailable(
                    f"{self._folder} is in use by another process: only one can work on it, end that one first"
                ) from None
            self._held = held
            for grave in self._folder.glob(".*.db.dropped"):
                bury(grave)
            for left in (*self._folder.glob(f"{PREFIX}*"), *self._folder.glob(".*.db.draft*")):
                left.unlink()
        except OSError as error:
            raise errors.unavailable(f"{self._folder} cannot be used: {error.strerror or error}") from error

    def _release(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    async def _close(self) -> None:
        self._running = False
        await asyncio.gather(*(each.close() for each in self._databases.values()))

    # --- what ends ----------------------------------------------------------------------------------------------------

    async def _upkeep(self) -> None:
        """Look at every file once, then remove what ends, when it does."""
        for name in await self.databases():
            await self._attempt(self._opened(name), name)
        while True:
            self._look.clear()
            now = self._clock()
            for each in list(self._databases.values()):
                if each.due is not None and each.due <= now and not await self._attempt(each.sweep(), each.name):
                    each.due = now + int(SWEEP_SECONDS * 1000)  # again then
            dues = [each.due for each in self._databases.values() if each.due is not None]
            # The clock may be set, so it is looked at now and then.
            delay = min(max(0.001, (min(dues) - now) / 1000), SWEEP_SECONDS / 2) if dues else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._look.wait()

    async def _attempt(self, work: Awaitable[object], name: str) -> bool:
        try:
            await work
        except errors.Error as error:
            if error.kind is not Kind.DATA_LOSS:  # that is told where it is found
                _log.warning("database %s: %s", name, error.message)
            return False
        return True


def check(folder: Path, restore: str = RESTORE) -> None:
    """Look at all files of a folder that nobody works on, as a store does that begins; nothing in them is changed.

    Raises DATA_LOSS, with the file's path, for the first one that is damaged; FAILED_PRECONDITION for one of a newer
    release; UNAVAILABLE for one that cannot be read.
    """
    for name in _names(folder):
        file = StoreFile(folder / f"{name}.db", HISTORY_BYTES, _VERIFY_BYTES, restore)
        try:
            file.examine()
        except errors.Error as error:
            raise errors.Error(error.kind, f"{file.path}: {error.message}") from None


def _names(folder: Path) -> list[str]:
    """Of databases; those that have lost their file too."""
    names = {path.name.removesuffix(".db") for path in folder.glob("*.db")}
    names |= {path.name.removesuffix(".db-mark") for path in folder.glob("*.db-mark")}
    return sorted(name for name in names if not name.startswith("."))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
