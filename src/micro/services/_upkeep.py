"""What the runtime throws away: environments, uploads, accounts and output that nobody needs any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from micro.domain.workload import Key
from micro.services.host import KIND, PYTHON, SERVICE, Host

_log = logging.getLogger(__name__)


class Upkeep:
    """Looks at the start, whenever it is told to, and every few minutes.

    Args:
        folders: all code that runs or may soon; it is asked at each look.
        known: whether there is such a workload; called from another thread.
    """

    def __init__(self, host: Host, folders: Callable[[], Collection[Path]], known: Callable[[Key], bool]) -> None:
        self._host = host
        self._folders = folders
        self._known = known
        self._due = asyncio.Event()

    def due(self) -> None:
        """Something may be left that nobody needs: look soon."""
        self._due.set()

    async def keep(self) -> None:
        """Look, for ever."""
        while True:
            self._due.clear()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the next look may succeed
                _log.warning("what is left over cannot be removed: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._host.settings.upkeep):
                    await self._due.wait()

    async def _look(self) -> None:
        host = self._host
        await host.sources.expire()
        await asyncio.to_thread(host.logs.sweep, self._known)
        await host.accounts.sweep(self._known)
        running = [info.labels for info in await host.launcher.list() if info.labels.get(KIND) == SERVICE]
        await host.builder.sweep(self._folders(), {Path(labels[PYTHON]) for labels in running if PYTHON in labels})
