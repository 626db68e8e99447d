"""Batches of one database, many in a transaction: one lock, one read, one write and one sync for all that wait.

Nothing here needs a savepoint: what a batch asks is decided before anything is written, and one that is refused leaves
nothing behind. When PostgreSQL refuses what several have written, each is done again by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from micro.backends.postgres import _tables
from micro.backends.postgres._server import Connection, Server
from micro.backends.postgres._tables import Transaction
from micro.domain import errors, record
from micro.domain.errors import Error, Kind
from micro.domain.record import Cause, Commit, Committed, Get, Operation, Put, Record
from micro.ports.background import OwnedTasks
from micro.ports.store import Now

GROUP_BATCHES = 256
GROUP_OPERATIONS = 4096
GROUP_BYTES = 32 << 20


@dataclass(slots=True)
class _Waiting:
    operations: Sequence[Operation]
    answer: asyncio.Future[Committed]


class Committer:
    """Takes batches, and acknowledges each after the COMMIT that it is part of."""

    def __init__(self, server: Server, clock: Now) -> None:
        self._server = server
        self._clock = clock
        self._tasks = OwnedTasks()
        self._queues: dict[str, deque[_Waiting]] = {}
        """Of the databases that somebody works on."""

    async def start(self, stack: AsyncExitStack) -> None:
        stack.callback(self._close)
        await self._tasks.start(stack)

    async def commit(self, database: str, operations: Sequence[Operation]) -> Committed:
        """As the port's."""
        for one in operations:
            one.key.encode()  # here, where it fails nobody else
        waiting = _Waiting(operations, asyncio.get_running_loop().create_future())
        if (queue := self._queues.get(database)) is None:
            queue = self._queues[database] = deque()
            self._tasks.spawn(self._work(database, queue), f"commits of {database}")
        queue.append(waiting)
        return await waiting.answer

    async def _work(self, database: str, queue: deque[_Waiting]) -> None:
        """Until nobody waits any more."""
        group: list[_Waiting] = []
        try:
            while group := list(_taken(queue)):
                await self._answer(database, group)
        except asyncio.CancelledError:
            queue.extend(group)
            raise
        del self._queues[database]

    def _close(self) -> None:
        for one in (one for queue in self._queues.values() for one in queue):
            if not one.answer.done():
                one.answer.set_exception(
                    errors.unavailable("the store was closed before it could tell whether the batch happened")
                )
        self._queues.clear()

    async def _answer(self, database: str, group: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._outcomes(database, [one.operations for one in group])
        except Error as error:
            if error.kind is not Kind.UNAVAILABLE and len(group) > 1:
                for one in group:
                    await self._answer(database, [one])
                return
            outcomes = [Error(error.kind, error.message) for _ in group]
        except Exception as error:  # noqa: BLE001 - a bug is told to those who ask, and the others go on
            outcomes = [error] * len(group)
        for one, outcome in zip(group, outcomes, strict=True):
            if one.answer.done():  # cancelled
                continue
            if isinstance(outcome, Committed):
                one.answer.set_result(outcome)
            else:
                one.answer.set_exception(outcome)

    async def _outcomes(self, database: str, batches: Sequence[Sequence[Operation]]) -> Sequence[Committed | Exception]:
        """One a batch, when they are durable. Raises what is wrong for all, none of which happened then, but for
        UNAVAILABLE, which may leave that open."""
        transaction = Transaction()

        async def work(connection: Connection) -> Sequence[Committed | Exception]:
            async with transaction.on(connection):
                return await self._apply(connection, transaction, database, batches)

        try:
            return await self._server.run(work, again=lambda: not transaction.in_doubt)
        except Error as error:
            if not transaction.in_doubt or error.kind is not Kind.UNAVAILABLE:
                raise
            raise errors.unavailable(
                f"{error.message} The batch may have happened: read before you ask again"
            ) from error

    async def _apply(
        self, connection: Connection, transaction: Transaction, database: str, batches: Sequence[Sequence[Operation]]
    ) -> Sequence[Committed | Exception]:
        operations = [one for batch in batches for one in batch]
        locked = await _tables.lock(connection, database, make=any(isinstance(one, Put) for one in operations))
        found: dict[tuple[str, str], Record | None] = {}
        if locked is not None and (wanted := _wanted(operations)):
            found = await _tables.touched(connection, locked, wanted)
        revision, now = 0 if locked is None else locked.revision, self._clock()
        outcomes: list[Committed | Exception] = []
        commits: list[Commit] = []
        for batch in batches:
            try:
                committed, commit = record.decide(batch, lambda one: found.get((one.table, one.key)), revision, now)
            except Error as error:
                outcomes.append(error)
                continue
            outcomes.append(committed)
            if commit is not None:
                revision = commit.revision
                commits.append(commit)
                for change in commit.changes:
                    written = change.record if change.cause is Cause.WRITTEN else None
                    found[change.table, change.record.key] = written
        if locked is not None and commits:
            await _tables.write(connection, locked, commits, now)
        else:
            transaction.keep = False
        return outcomes


def _taken(queue: deque[_Waiting]) -> Iterable[_Waiting]:
    """As many as one transaction should hold, at least one when there is one; those who still wait for the answer."""
    count = size = operations = 0
    while queue and count < GROUP_BATCHES and operations < GROUP_OPERATIONS and size < GROUP_BYTES:
        one = queue.popleft()
        if not one.answer.done():
            yield one
            count, operations = count + 1, operations + len(one.operations)
            size += sum(len(each.value) for each in one.operations if isinstance(each, Put))


def _wanted(operations: Iterable[Operation]) -> dict[tuple[str, str], bool]:
    """What must be read before they can be decided, and whether with its value; plain writes ask for nothing."""
    wanted: dict[tuple[str, str], bool] = {}
    for one in operations:
        if not isinstance(one, Put) or one.if_version is not None:
            wanted[one.table, one.key] = wanted.get((one.table, one.key), False) or isinstance(one, Get)
    return wanted
