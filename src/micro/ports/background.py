"""Work that goes on beside the calls: owned by an exit stack, so that it ends with what started it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

log = logging.getLogger("micro")


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


async def _end(task: asyncio.Task[None]) -> None:
    while not task.done():
        # Again and again: code below may swallow a cancellation, as asyncio.wait_for did before Python 3.12.
        task.cancel()
        await asyncio.wait([task], timeout=1.0)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical("%s has ended, which it never should", task.get_name(), exc_info=task.exception())
