"""What many publish at the same time goes in few calls: what comes while one is under way goes together with the next.

Who is alone is sent at once, so that nobody waits for company. The order of the calls is kept.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from micro.domain.errors import Error, Kind
from micro.rpc.context import CURRENT

N = TypeVar("N")
R = TypeVar("R")

_ALONE = (Kind.INVALID_ARGUMENT, Kind.RESOURCE_EXHAUSTED)
"""What one of a batch may be refused with that the others need not share."""


class _Line(Generic[N, R]):
    """What waits for one topic."""

    def __init__(self) -> None:
        self.busy = False
        self.waiting: deque[tuple[N, asyncio.Future[R]]] = deque()
        self.sending: asyncio.Task[None] | None = None


class Lines(Generic[N, R]):
    """The lines of a process: one for each topic and event loop.

    Args:
        one: publishes one.
        many: publishes several to one topic, in order; returns a result for each.
        size: bytes of one.
        most: how many go at once.
        most_bytes: how many bytes go at once; one always does.
    """

    def __init__(
        self,
        one: Callable[[Any, N], Awaitable[R]],
        many: Callable[[Any, Sequence[N]], Awaitable[Sequence[R]]],
        size: Callable[[N], int],
        most: int,
        most_bytes: int,
    ) -> None:
        self._one, self._many, self._size = one, many, size
        self._most, self._most_bytes = most, most_bytes
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Line[N, R]]] = WeakKeyDictionary()

    async def publish(self, topic: Hashable, new: N) -> R:
        """Publish one, alone or with others. Raises what the call does."""
        loop = asyncio.get_running_loop()
        lines = self._lines.setdefault(loop, {})
        line = lines.setdefault(topic, _Line())
        if line.busy:
            future: asyncio.Future[R] = loop.create_future()
            line.waiting.append((new, future))
            return await future
        line.busy = True
        try:
            return await self._one(topic, new)
        finally:
            if line.waiting:
                # The deadline of one call is not that of the others.
                context = contextvars.copy_context()
                context.run(CURRENT.set, None)
                # owned: by the line, until nobody waits
                line.sending = loop.create_task(self._send(topic, line), context=context)
            else:
                line.busy = False
                lines.pop(topic, None)

    async def _send(self, topic: Hashable, line: _Line[N, R]) -> None:
        try:
            while line.waiting:
                await self._send_some(topic, self._next(line))
        finally:
            line.busy = False
            for _, future in line.waiting:  # only when the loop ends
                future.cancel()
            self._lines.get(asyncio.get_running_loop(), {}).pop(topic, None)

    def _next(self, line: _Line[N, R]) -> list[tuple[N, asyncio.Future[R]]]:
        found: list[tuple[N, asyncio.Future[R]]] = []
        room = self._most_bytes
        while line.waiting and len(found) < self._most:
            room -= self._size(line.waiting[0][0])
            if found and room < 0:
                break
            one = line.waiting.popleft()
            if not one[1].done():  # else who asked has gone
                found.append(one)
        return found

    async def _send_some(self, topic: Hashable, some: list[tuple[N, asyncio.Future[R]]]) -> None:
        try:
            if len(some) > 1:
                results = await self._many(topic, [new for new, _ in some])
            else:
                results = [await self._one(topic, new) for new, _ in some]
        except Exception as error:  # noqa: BLE001 - theirs, and not of those who wait behind them
            if len(some) > 1 and isinstance(error, Error) and error.kind in _ALONE:
                for each in some:
                    await self._send_some(topic, [each])
                return
            for _, future in some:
                if not future.done():
                    future.set_exception(_own(error))
        except BaseException:
            for _, future in some:
                future.cancel()
            raise
        else:
            for (_, future), result in zip(some, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _own(error: Exception) -> Exception:
    """An error of one of several who share it."""
    return Error(error.kind, error.message, error.details) if isinstance(error, Error) else error
