"""How long a call may take, and what stops it: its deadline, its caller's leaving, the process's end.

All of that costs nothing for a handler that never waits: its coroutine is driven by hand up to its first suspension,
and only then is a timer armed, and a while later somebody set to watch for the caller's leaving.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Generator, Mapping
from typing import Any, TypeVar

from micro.domain import errors
from micro.domain.errors import Error
from micro.rpc.context import Scope
from micro.rpc.receive import Receive, gone

T = TypeVar("T")

WATCH_AFTER = 0.02
"""Seconds that a handler waits before its caller is watched: most are done by then, and watching costs a task."""

_LONGEST_HOLD = 0.005
"""Seconds that one stream may keep the event loop."""

_GRPC_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


CALLERS = b"micro-timeout"
"""The caller's own grpc-timeout behind a "-", as the gateways hand it on; "-" alone where there was none. They put
their patience, which is longer than any method's, into grpc-timeout itself."""


def given(headers: Mapping[bytes, bytes]) -> bytes | None:
    """What the caller of a gRPC method said of its deadline; None where it said nothing."""
    callers = headers.get(CALLERS)
    if callers is None:
        return headers.get(b"grpc-timeout")
    return callers.removeprefix(b"-") or None


def restored(scope: Scope, headers: Mapping[bytes, bytes]) -> Scope:
    """The request with grpc-timeout as its caller wrote it."""
    if CALLERS not in headers:
        return scope
    kept = [pair for pair in scope["headers"] if pair[0] not in {CALLERS, b"grpc-timeout"}]
    callers = given(headers)
    return {**scope, "headers": kept if callers is None else [*kept, (b"grpc-timeout", callers)]}


def of_grpc(value: bytes) -> float:
    """Seconds of a `grpc-timeout` header. Raises INVALID_ARGUMENT for anything but 1 to 8 digits and a unit."""
    digits, unit = value[:-1], _GRPC_UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise errors.invalid_argument(f"grpc-timeout {value.decode('latin-1')!r} is not up to 8 digits and a unit")
    return int(digits) * unit


def of_connect(value: bytes) -> float:
    """Seconds of a `connect-timeout-ms` header. Raises INVALID_ARGUMENT for anything but 1 to 10 digits."""
    if not value.isdigit() or len(value) > 10:
        raise errors.invalid_argument(f"connect-timeout-ms {value.decode('latin-1')!r} is not up to 10 digits")
    return int(value) / 1000


class DisconnectedError(Error):
    """The caller is gone; there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__(errors.Kind.CANCELED, "the caller left")


class Suspended:
    """The rest of a coroutine that has been driven by hand to its first suspension. Await it once, in the same task.

    Raises:
        Error: DEADLINE_EXCEEDED once `deadline` (monotonic seconds) has passed.
        DisconnectedError: when `receive` reports it.
        CancelledError: when the task is cancelled by somebody else, the end of the process for one.
    """

    __slots__ = ("_coroutine", "_deadline", "_loop", "_reason", "_receive", "_task", "_timer", "_watch", "_yielded")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], yielded: Any, deadline: float | None, receive: Receive | None
    ) -> None:
        self._coroutine = coroutine
        self._yielded = yielded
        self._deadline = deadline
        self._receive = receive
        self._reason: Error | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._loop = task, task.get_loop()
        cancelling = task.cancelling()
        self._arm(first=True)
        coroutine, yielded = self._coroutine, self._yielded
        try:
            while True:
                try:
                    sent = yield yielded
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - handed on to whom it is meant for
                    yielded = coroutine.throw(thrown)
                else:
                    yielded = coroutine.send(sent)
        except StopIteration as done:
            self._settle(cancelling)
            return done.value
        except asyncio.CancelledError as cancelled:
            reason = self._reason
            if self._settle(cancelling) and reason is not None:
                raise reason from cancelled
            raise
        except BaseException:
            self._settle(cancelling)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._watch is not None:
                self._watch.cancel()

    def _settle(self, cancelling: int) -> bool:
        """Take back our own cancellation of the task; whether there was none beside it."""
        return self._reason is not None and self._task.uncancel() <= cancelling

    def _arm(self, *, first: bool) -> None:
        waits = [] if self._deadline is None else [self._deadline - time.monotonic()]
        if first and self._receive is not None:
            waits.append(WATCH_AFTER)
        if waits:
            self._timer = self._loop.call_later(max(0.0, min(waits)), self._tick)

    def _tick(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline - 0.001:
            self._stop(errors.deadline_exceeded("the deadline passed before the answer was ready"))
            return
        if self._watch is None and self._receive is not None:
            # owned: by this guard, which cancels it when the handler has ended
            self._watch = self._loop.create_task(self._watch_caller(self._receive))
        self._arm(first=False)

    async def _watch_caller(self, receive: Receive) -> None:
        with contextlib.suppress(Exception):
            await gone(receive)
            self._stop(DisconnectedError())

    def _stop(self, reason: Error) -> None:
        if self._reason is None:
            self._reason = reason
            self._task.cancel()


async def run(coroutine: Coroutine[Any, Any, T], deadline: float | None, receive: Receive | None = None) -> T:
    """Run a coroutine under a deadline (monotonic seconds; None for none), watching for the caller's leaving.

    Raises what `Suspended` raises, and what the coroutine does.
    """
    try:
        yielded = coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    result: T = await Suspended(coroutine, yielded, deadline, receive)
    return result


class Breath:
    """Lets everything else have its turn, now and then.

    A server's `send` need not wait, so a handler that never does either would keep the loop to itself for as long as
    its stream lasts: no deadline, no other call.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def __call__(self) -> None:
        if time.monotonic() - self._last > _LONGEST_HOLD:
            await asyncio.sleep(0)
            self._last = time.monotonic()
