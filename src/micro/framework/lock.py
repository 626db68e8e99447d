"""Locks and leadership: a block that runs while something is held, and is cancelled when it is not any more."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from micro.domain import backoff, errors
from micro.domain.errors import Error, Kind
from micro.framework import client
from micro.rpc.context import CURRENT
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.gen.micro.store.v1.store_connect import LeaderClient, LockClient

_TURN = 60.0
"""Seconds that one call waits for a lock: a holder's end is noticed, and so is a server's."""

_AWAY = (Kind.UNAVAILABLE, Kind.CANCELED, Kind.INTERNAL, Kind.UNKNOWN, Kind.DEADLINE_EXCEEDED)
_RELEASE = 5.0

_PATIENCE = 15.0
"""Seconds that the store may be away while a lock is waited for."""


class _Guarded:
    """Runs the block of an `async with`, and cancels it when told that what it needs is lost."""

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._before = 0
        self._lost: Error | None = None

    def _guard(self, watcher: AsyncGenerator[Error]) -> None:
        """From now on: the first error that `watcher` yields cancels the current task."""
        self._task = asyncio.current_task()
        assert self._task is not None
        self._before = self._task.cancelling()
        self._watcher = asyncio.create_task(self._watch(watcher))  # owned: by the block, which ends it

    async def _watch(self, watcher: AsyncGenerator[Error]) -> None:
        async with contextlib.aclosing(watcher):
            self._lost = await anext(watcher)
        assert self._task is not None
        self._task.cancel()

    async def _end(self, error: BaseException | None) -> None:
        """Stop watching. Raises what was lost, in place of the cancellation that it caused."""
        assert self._watcher is not None
        assert self._task is not None
        self._watcher.cancel()
        cancelled: asyncio.CancelledError | None = None
        try:
            await asyncio.wait([self._watcher])
        except asyncio.CancelledError as late:
            error, cancelled = error or late, late
        if self._lost is not None and self._task.uncancel() <= self._before:
            if error is None or isinstance(error, asyncio.CancelledError):
                raise self._lost from error
        elif cancelled is not None:
            raise cancelled


class Lock(_Guarded):
    """A lock, held while the block of its `async with` runs; made by `store.lock`.

    Attributes:
        token: grows from holder to holder: what is protected refuses a smaller one than it has seen. 0 while not held.
    """

    def __init__(self, name: str, lease: float, timeout: float | None) -> None:
        super().__init__()
        self.name = name
        self.token = 0
        self._lease = lease
        self._timeout = timeout
        self._holder = ""
        self._until = 0.0
        self._locks = client.of(LockClient)

    @property
    def held(self) -> bool:
        """Whether it is still held, by the clock of this machine."""
        return bool(self._holder) and self._lost is None and time.monotonic() < self._until

    async def __aenter__(self) -> Self:
        if self._holder:
            raise RuntimeError(f"lock {self.name!r} is held by this object already: make one for each block")
        self._lost = None
        await self._acquire()
        self._guard(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holder, self._holder = self._holder, ""
        try:
            await self._end(error)
        finally:
            self.token = 0
            # Not as part of the call that this is done in, whose deadline may have passed.
            context = contextvars.copy_context()
            context.run(CURRENT.set, None)
            await asyncio.create_task(self._release(holder), context=context)  # owned: by this call

    async def _release(self, holder: str) -> None:
        """Give it back; what cannot be is free when its lease has ended."""
        with contextlib.suppress(Error, TimeoutError):
            async with asyncio.timeout(_RELEASE):
                await self._locks.release(pb.ReleaseRequest(name=self.name, holder=holder))

    async def _acquire(self) -> None:
        wait, end = self._timeout != 0, None if self._timeout is None else time.monotonic() + self._timeout
        delays, failing = _delays(), None
        while True:
            begun = time.monotonic()
            turn = _TURN if end is None else max(min(_TURN, end - begun), 0.001)
            request = pb.AcquireRequest(name=self.name, lease=self._lease, wait=wait)
            try:
                answer = await self._locks.acquire(request, timeout_ms=math.ceil(turn * 1000) if wait else None)
            except Error as error:
                now = time.monotonic()
                if not wait or error.kind not in _AWAY:
                    raise
                if end is not None and now >= end:
                    late = f"lock {self.name!r} was not free within {self._timeout:g} s"
                    raise errors.deadline_exceeded(late) from None
                whole = now - begun >= turn * 0.9
                if error.kind is not Kind.DEADLINE_EXCEEDED:
                    failing = failing or (begun if whole else now)
                elif whole:
                    failing = None
                # A deadline that came sooner is that of the call that this one is made in.
                if now - (failing or now) > _PATIENCE or (error.kind is Kind.DEADLINE_EXCEEDED and not whole):
                    raise
                await asyncio.sleep(next(delays))
                continue
            self._holder, self.token, self._until = answer.holder, answer.token, begun + self._lease
            return

    async def _keep(self) -> AsyncGenerator[Error]:
        """Renew the lease; yields why it is lost."""
        pause = self._lease / 3
        while True:
            await asyncio.sleep(min(pause, max(self._until - time.monotonic(), 0)))
            begun = time.monotonic()
            if begun >= self._until:
                yield errors.aborted(f"lock {self.name!r} is lost: its lease ended before it could be renewed")
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._until - begun):
                    request = pb.RenewRequest(name=self.name, holder=self._holder, lease=self._lease)
                    await self._locks.renew(request)
            except TimeoutError:
                continue
            except Error as error:
                if error.kind not in _AWAY:
                    yield errors.aborted(f"lock {self.name!r} is lost: {error}")
                pause = min(self._lease / 10, 1.0)
            else:
                self._until, pause = begun + self._lease, self._lease / 3


@dataclass(frozen=True, slots=True)
class Term:
    """Who leads.

    Attributes:
        leads: whether it is this candidate.
        leader: what the one that leads is called; empty while that is not known.
        token: grows from leader to leader.
    """

    leads: bool
    leader: str
    token: int


class Leadership(_Guarded):
    """A candidacy; made by `store.leader`. The block of an `async with` runs while it leads; iterated over, it tells
    each change of who leads."""

    def __init__(self, name: str, candidate: str, lease: float) -> None:
        super().__init__()
        self.name = name
        self._request = pb.CampaignRequest(name=name, candidate=candidate, lease=lease)
        self._terms: AsyncGenerator[Term] | None = None

    async def __aiter__(self) -> AsyncGenerator[Term]:
        leaders, delays, reached, led = client.of(LeaderClient), _delays(), False, False
        while True:
            try:
                async with contextlib.aclosing(leaders.campaign(self._request)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        reached, delays, led = True, _delays(), answer.leads
                        yield Term(answer.leads, answer.leader, answer.token)
            except Error as error:
                if not reached or error.kind not in _AWAY:
                    raise
            if led:  # nobody renews the lease of a candidate that is not heard
                led = False
                yield Term(False, "", 0)
            await asyncio.sleep(next(delays))

    async def __aenter__(self) -> Term:
        self._lost = None
        self._terms = self.__aiter__()
        try:
            async for term in self._terms:
                if term.leads:
                    self._guard(self._follow(self._terms))
                    return term
        except BaseException:
            await self._terms.aclose()
            raise
        raise AssertionError  # a campaign never ends by itself

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._end(error)
        finally:
            if self._terms is not None:
                await self._terms.aclose()

    async def _follow(self, terms: AsyncIterator[Term]) -> AsyncGenerator[Error]:
        try:
            async for term in terms:
                if not term.leads:
                    break
        except Error as error:
            yield errors.aborted(f"the lead of {self.name!r} is lost: {error}")
        yield errors.aborted(f"the lead of {self.name!r} is lost")


def _delays() -> Iterator[float]:
    return backoff.exponential(first=0.1, cap=2.0)
