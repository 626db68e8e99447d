"""One database, as the loop sees it: batches wait in a row, those that wait together share a transaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Generic, TypeVar

from micro.backends.memory.feed import Feed
from micro.backends.sqlite._store_file import StoreFile
from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import Commit, Committed, Operation, Put
from micro.ports.store import Now

T = TypeVar("T")

_GROUP = 256
"""Batches that share a transaction at most."""

_GROUP_BYTES = 32 << 20

_FEED_BYTES = 4 << 20
"""What is kept in memory for watchers that are not far behind. Others read the history."""

_log = logging.getLogger("micro.store")

_Batch = tuple[Sequence[Operation], "asyncio.Future[Committed]"]


class Database:
    """Writes happen one after the other, in threads of `writers`; the file is opened when it is first needed."""

    def __init__(self, name: str, file: StoreFile, clock: Now, writers: Executor, readers: Executor) -> None:
        self.name = name
        self.file = file
        self.feed = Feed(name)
        self.ready = False
        """Whether the file is open, or known to be absent."""
        self.watchers = 0
        self.due: int | None = None
        """When the next record ends, or before."""
        self._clock = clock
        self._writers = writers
        self._readers = readers
        self._damage: errors.Error | None = None
        self._opening = asyncio.Lock()
        self._queue: deque[_Batch] = deque()
        self._turn = asyncio.Lock()
        """Held by whoever changes the file."""
        self._draining: asyncio.Task[None] | None = None
        self._verifying: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether it may be closed."""
        return not (self._queue or self._turn.locked() or self._opening.locked() or self._draining or self._verifying)

    async def open(self) -> None:
        """Have the file open. Raises as the file's `open`; what is damaged stays so."""
        async with self._opening:
            self.check()
            if self.ready:
                return
            self.due = await self._write(self.file.open)
            if self.feed.revision != self.file.state.revision:
                self.feed.reset(self.file.state.revision)
            self.ready = True
            if not (self.file.verified or self.file.absent or self._verifying):
                self._verifying = asyncio.create_task(self._verify())  # owned: by `close`

    @property
    def damaged(self) -> bool:
        """Whether damage was found."""
        return self._damage is not None

    def check(self) -> None:
        """Raises DATA_LOSS when damage was found."""
        if self._damage is not None:
            raise errors.Error(self._damage.kind, self._damage.message)

    async def close(self) -> None:
        """Finish what was begun."""
        if self._verifying is not None:
            self._verifying.cancel()
            await asyncio.wait([self._verifying])
        if self._draining is not None:
            await asyncio.wait([self._draining])
        async with self._turn, self._opening:
            self._retire()
            await self._write(self.file.close)

    def commit(self, operations: Sequence[Operation]) -> asyncio.Future[Committed]:
        """To be awaited at once."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._queue.append((operations, future))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())  # owned: by `close`
        return future

    async def sweep(self) -> None:
        """Remove what has ended."""
        async with self._turn:
            await self.open()
            commits, self.due = await self._write(lambda: self.file.sweep(self._clock()))
            self._tell(commits)

    async def load(self, staged: Path, above: int) -> int:
        """Put the records of a file in place of all, and tell watchers to read anew. Damage is over then; the files
        that have it are kept."""
        async with self._turn:
            if self._damage is None:
                await self.open()
            async with self._opening:
                if self._damage is not None:
                    self._retire()
                    await self._write(lambda: self.file.set_aside(self._clock()))
                    self._damage, self.ready = None, True
                try:
                    count, self.due = await self._write(lambda: self.file.load(staged, self._clock(), above))
                finally:
                    if self.feed.revision != self.file.state.revision:
                        self.feed.reset(self.file.state.revision)
        return count

    async def drop(self) -> None:
        """Remove the file, damaged or not, and tell watchers that it is gone."""
        async with self._turn, self._opening:
            self._retire()
            await self._write(self.file.remove)
            self._damage = self.due = None
            self.ready = True
            feed, self.feed = self.feed, Feed(self.name)
            feed.drop()

    async def read(self, work: Callable[[], T]) -> T:
        """Do it in a thread of those that read."""
        return await self._run(self._readers, work)

    def told(self, error: errors.Error) -> None:
        """Remember damage that was found."""
        if error.kind is Kind.DATA_LOSS and self._damage is None:
            self._damage = error
            _log.error("%s: %s", self.file.path, error.message)
            self.feed.wake()

    def _retire(self) -> None:
        self.ready = False
        self.file.retire()

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._run(self._writers, work)

    async def _run(self, threads: Executor, work: Callable[[], T]) -> T:
        call = _Call(work)
        threads.submit(call.run)
        try:
            return await call.outcome()
        except errors.Error as error:
            self.told(error)
            raise

    async def _drain(self) -> None:
        try:
            while self._queue:
                async with self._turn:
                    await self._group(*self._next())
        finally:
            self._draining = None

    def _next(self) -> tuple[list[_Batch], int | None]:
        """Those that go into one transaction, and when the first of what they write ends. Who was cancelled meanwhile
        is not among them."""
        group: list[_Batch] = []
        size, due = 0, None
        while self._queue and len(group) < _GROUP and size < _GROUP_BYTES:
            operations, future = self._queue.popleft()
            if not future.done():
                group.append((operations, future))
                for each in operations:
                    if isinstance(each, Put):
                        size += len(each.value)
                        if each.expires is not None and (due is None or each.expires < due):
                            due = each.expires
        return group, due

    async def _group(self, group: list[_Batch], due: int | None) -> None:
        if not group:
            return
        try:
            self.check()
            batches, now = [operations for operations, _ in group], self._clock()
            if not self.ready:  # it was closed meanwhile
                await self.open()
            telling = self.watchers > 0
            answers, commits = await self._write(lambda: self.file.write(batches, now, telling=telling))
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            await self._failed(group, error)
            return
        self._tell(commits)
        if due is not None and (self.due is None or due < self.due):
            self.due = due
        for (_, future), answer in zip(group, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if self.file.untidy:
            await self._write(self.file.tidy)

    async def _failed(self, group: list[_Batch], error: Exception) -> None:
        """Nobody knows what is on disk after a fault of it: the file is opened anew."""
        if not isinstance(error, errors.Error) or error.kind is Kind.UNAVAILABLE:
            self._retire()
            self.file.verified = False
            await self._write(self.file.close)
        for _, future in group:
            if not future.done():
                future.set_exception(error)

    def _tell(self, commits: list[Commit]) -> None:
        now = self._clock()
        for commit in commits:
            if commit.revision > self.feed.revision + 1:  # something is on disk that nobody was told was
                self.feed.reset(commit.revision - 1)
            self.feed.add(commit, now)
        if self.feed.revision != self.file.state.revision:  # somebody may have begun to watch meanwhile: it is on disk
            self.feed.reset(self.file.state.revision)
        if self.watchers:
            self.feed.shorten(_FEED_BYTES, 0)
        elif commits:
            self.rest()

    def rest(self) -> None:
        """Keep nothing for watchers where there are none: of many databases that would be much."""
        if not self.watchers:
            self.feed.reset(self.feed.revision)

    async def _verify(self) -> None:
        """Look at all of a large file, while it is in use."""
        try:
            with contextlib.suppress(errors.Error):  # it is remembered
                await self.read(self.file.verify)
        finally:
            self._verifying = None


class _Call(Generic[T]):
    """Work for a thread. That cannot be stopped: who waits for it has to, also when cancelled, so that nobody works on
    the file at the same time. Takes fewer turns of the loop than to wait for `run_in_executor` does."""

    __slots__ = ("_ended", "_error", "_loop", "_result", "_waiter", "_work")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] = self._loop.create_future()
        self._ended = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the thread."""
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
        self._loop.call_soon_threadsafe(self._end)

    async def outcome(self) -> T:
        """What the work returned or raised; or be cancelled, when it has ended."""
        cancelled: asyncio.CancelledError | None = None
        while not self._ended:
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                cancelled = error
                self._waiter = self._loop.create_future()
        if cancelled is not None:
            raise cancelled
        if self._error is not None:
            raise self._error
        return self._result

    def _end(self) -> None:
        self._ended = True
        if not self._waiter.done():
            self._waiter.set_result(None)
