"""Work that goes on beside the calls: owned by an exit stack, so that it ends with what started it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

log = logging.getLogger("micro")

T = TypeVar("T")


def spawn(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Run `work`, meant to go on for ever, until the stack unwinds; then it is cancelled and waited for.

    That it ends by itself is a bug: it is logged, with the traceback, and told by the task's `done()`.
    Not a TaskGroup, which would wrap every error of the stack's body in a group.
    """
    # owned: by the stack
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_report)
    stack.push_async_callback(_end, task)
    return task


class OwnedTasks:
    """Any number of tasks that come and go; the stack given to `start` cancels those that are left and waits for them.

    Without a `start` they are only kept from being forgotten: for tasks that end in their own time.
    One that ends by an error of its own is a fault: it is logged with its traceback, and the others go on.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.cancel)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` as a task of the set."""
        task = asyncio.get_running_loop().create_task(work, name=name)  # owned: by this set
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Make the current task, which somebody else has made, one of the set for as long as this lasts."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def cancel(self) -> None:
        """Cancel what is left, once each so that it can finish in peace, and wait for it."""
        while self._tasks:  # one that is being cancelled may start another
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the task %r ended unexpectedly", task.get_name(), exc_info=error)


async def _end(task: asyncio.Task[None]) -> None:
    while not task.done():
        # Again and again: code below may swallow a cancellation, as asyncio.wait_for did before Python 3.12.
        task.cancel()
        await asyncio.wait([task], timeout=1.0)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical("%s has ended, which it never should", task.get_name(), exc_info=task.exception())
