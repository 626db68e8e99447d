"""Background work with an owner: it ends when the owner does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

_log = logging.getLogger(__name__)


class OwnedTasks:
    """Tasks that are cancelled and awaited when the stack given to `start` is closed.

    One that ends by an error of its own is a fault: it is logged with its traceback, and the others go on.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._cancel)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)  # owned: by this set
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the task %r ended unexpectedly", task.get_name(), exc_info=error)

    async def _cancel(self) -> None:
        while self._tasks:  # one that is being cancelled may start another
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
