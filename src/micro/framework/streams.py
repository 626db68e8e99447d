"""The calls that go on, as a guard keeps them: when the policy changes, each is decided anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from micro.domain.errors import Error
from micro.framework.policy import Policy

PAUSE = 0.1
"""Seconds between two looks at all of them: changes often come many at a time."""


class Streams:
    """Calls that were let in and are not done. Lives in the event loop of the service.

    Args:
        policy: what they are decided by.
    """

    def __init__(self, policy: Policy) -> None:
        self._kept: dict[object, tuple[Callable[[], None], Callable[[Error], None]]] = {}
        self._due: asyncio.TimerHandle | None = None
        policy.on_change(self._changed)

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, decide: Callable[[], None], end: Callable[[Error], None]) -> Callable[[], None]:
        """Have a call decided anew after changes; returns what to call when it is done.

        Args:
            decide: raises what a new call would be told that is not let in.
            end: given that, once.
        """
        key = object()
        self._kept[key] = decide, end
        return lambda: self._drop(key)

    def _drop(self, key: object) -> None:
        self._kept.pop(key, None)

    def _changed(self) -> None:
        if self._kept and self._due is None:
            self._due = asyncio.get_running_loop().call_later(PAUSE, self._decide)

    def _decide(self) -> None:
        self._due = None
        for key, (decide, end) in list(self._kept.items()):
            try:
                decide()
            except Error as error:
                self._drop(key)
                end(error)
