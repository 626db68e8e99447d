"""Streams that are kept to publish over. A call of its own is read, decided, routed and written anew by each process on
its way; a message of a stream that is open is only handed on, which is most of what an event takes to its handler when
nothing else is going on (`python -m bench messaging`).

What is published goes as a call of its own as before wherever there is no lane that waits: at first, for programs that
publish now and then, for what is large, and when events was away.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from weakref import WeakKeyDictionary

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.rpc.context import CURRENT
from micro.rpc.gen.micro.events.v1 import events_pb as pb

MOST = 4
"""Lanes of one address and namespace: so many publishes are under way in them at a time."""

LARGE = 64 << 10
"""Bytes from which on the way is not what a publish costs."""

_OFTEN = 1.0
"""Seconds between two publishes of a program that is to have lanes."""

_IDLE = 30.0
"""Seconds that a lane is kept without a publish."""

_LONGEST = 600.0
"""Seconds that a lane is kept at all: another one has a new token, and may come to another instance."""

_AGAIN = 10.0
"""Seconds until another one is tried after one has failed."""

Open = Callable[[AsyncIterator[pb.PublishEachRequest], str], AsyncGenerator[pb.PublishEachResponse]]
"""Begins a stream: what it is told, for which namespace."""


class Lanes:
    """The lanes of a process, for each event loop its own.

    Args:
        begin: begins the stream of a lane; its first answer says that it is open.
        place: where events is now; None where lanes save nothing.
    """

    def __init__(self, begin: Open, place: Callable[[], str | None]) -> None:
        self._begin = begin
        self._place = place
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Pool]] = WeakKeyDictionary()

    async def publish(
        self, request: pb.PublishEachRequest, size: int, namespace: str, timeout: float | None
    ) -> pb.PublishEachResponse | None:
        """Publish over a lane; None when none waits for it, and nothing has been sent.

        Args:
            size: bytes of it.
            namespace: that is meant; empty for the caller's.
            timeout: seconds; None for as long as it takes.

        Raises:
            Error: what events answers; UNAVAILABLE when the lane breaks, DEADLINE_EXCEEDED: it may be there or not.
        """
        if size >= LARGE or (place := self._place()) is None:
            return None
        pools = self._pools.setdefault(asyncio.get_running_loop(), {})
        pool = pools.get((place, namespace))
        if pool is None:
            pool = pools[place, namespace] = _Pool(self._begin, namespace)
        lane = pool.free()
        if lane is None:
            return None
        answer = await lane.publish(request, timeout)
        if answer.code:
            raise Error(Kind.of_code(answer.code), answer.message)
        return answer


class _Pool:
    """The lanes to one place."""

    def __init__(self, begin: Open, namespace: str) -> None:
        self._begin = begin
        self._namespace = namespace
        self._waiting: list[_Lane] = []
        self._all: set[_Lane] = set()
        self._opening = False
        self._last = 0.0
        self._not_before = 0.0

    def free(self) -> _Lane | None:
        """One that waits; else one is opened for later, if there is need for it."""
        before, self._last = self._last, time.monotonic()
        if self._waiting:
            return self._waiting.pop()
        often = self._last - before < _OFTEN and self._last >= self._not_before
        if often and not self._opening and len(self._all) < MOST:
            self._opening = True
            self._all.add(_Lane(self, self._begin, self._namespace))
        return None

    def waits(self, lane: _Lane) -> None:
        """It has been opened, or has published."""
        if not lane.open:
            lane.open, self._opening = True, False
        self._waiting.append(lane)

    def left(self, lane: _Lane) -> None:
        """It takes nothing any more."""
        self._all.discard(lane)
        if lane in self._waiting:
            self._waiting.remove(lane)

    def ended(self, lane: _Lane, *, failed: bool) -> None:
        self.left(lane)
        if not lane.open:
            self._opening = False
        if failed:
            self._not_before = time.monotonic() + _AGAIN


class _Lane:
    """One stream, for one publish at a time.

    Attributes:
        open: whether it has been answered.
    """

    def __init__(self, pool: _Pool, begin: Open, namespace: str) -> None:
        self.open = False
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + _LONGEST
        self._requests: asyncio.Queue[pb.PublishEachRequest] = asyncio.Queue()
        self._answer: asyncio.Future[pb.PublishEachResponse] | None = None
        self._idle: asyncio.TimerHandle | None = None
        # The deadline of the call that is served now is not the lane's.
        context = contextvars.copy_context()
        context.run(CURRENT.set, None)
        # owned: by this lane, which ends it when nobody has published for a while
        self._task = self._loop.create_task(self._run(begin, namespace), context=context, name="lane of events")

    async def publish(self, request: pb.PublishEachRequest, timeout: float | None) -> pb.PublishEachResponse:
        if self._idle is not None:
            self._idle.cancel()
        answer = self._answer = self._loop.create_future()
        timer = None if timeout is None else self._loop.call_later(timeout, _late, answer)
        self._requests.put_nowait(request)
        try:
            told: pb.PublishEachResponse = await answer
        except BaseException:
            self._leave()  # whose answer comes next would not be told any more
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._answer = None
        if self._loop.time() >= self._until:
            self._leave()
        elif not self._task.done():
            self._wait()
        return told

    def _wait(self) -> None:
        self._idle = self._loop.call_later(_IDLE, self._leave)
        self._pool.waits(self)

    def _leave(self) -> None:
        self._pool.left(self)  # at once: the task ends later
        self._task.cancel()

    async def _run(self, begin: Open, namespace: str) -> None:
        failure = errors.unavailable("events has ended the stream that was published over")
        cancelled = False
        answers = begin(self._said(), namespace)
        try:
            async with asyncio.timeout(_AGAIN):
                await anext(answers)
            self._wait()
            async for answer in answers:
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(answer)
        except (StopAsyncIteration, TimeoutError):
            pass
        except Error as error:
            failure = error
        except asyncio.CancelledError:
            cancelled = True
        finally:
            if self._idle is not None:
                self._idle.cancel()
            self._pool.ended(self, failed=not cancelled)
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(failure)
            await answers.aclose()

    async def _said(self) -> AsyncIterator[pb.PublishEachRequest]:
        while True:
            yield await self._requests.get()


def _late(answer: asyncio.Future[pb.PublishEachResponse]) -> None:
    if not answer.done():
        answer.set_exception(errors.deadline_exceeded("the deadline passed before events had answered"))
