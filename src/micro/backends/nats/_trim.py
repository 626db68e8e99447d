"""How many bytes a topic keeps: told to no server, but kept to by us.

A limit that NATS knows of is set aside on the disk from the beginning: a hundred topics with a GiB each would need a
hundred GiB before there is an event. So the oldest are purged here, after what is appended has grown a topic by a part
of what it may have.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

from micro.backends.nats import _topics
from micro.backends.nats._streams import Streams
from micro.domain import errors
from micro.ports.background import OwnedTasks

log = logging.getLogger("micro.nats")

PART = 16
"""A topic is looked at when it may have grown by this part of its limit; so much more may be there for a moment."""

MOST_BYTES = 64 << 20
_TOPICS = 20_000
_OVERHEAD = 256
"""Bytes of what lies on disk with an event, about."""


class Trim:
    """Counts what is appended to streams, and trims them in tasks of its own."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._left: dict[str, float] = {}
        """Bytes until a stream is looked at again."""

        self._busy: set[str] = set()
        self._tasks = OwnedTasks()

    async def start(self, stack: AsyncExitStack) -> None:
        await self._tasks.start(stack)

    def grown(self, stream: str, size: int, count: int) -> None:
        """So many bytes in so many events were appended."""
        left = self._left.get(stream, 0) - size - count * _OVERHEAD
        self._left[stream] = left
        if left <= 0 and stream not in self._busy:
            self._busy.add(stream)
            self._tasks.spawn(self._later(stream), f"trimming {stream}")

    def forget(self, stream: str) -> None:
        self._left.pop(stream, None)

    async def _later(self, stream: str) -> None:
        try:
            await self.trim(stream)
        except errors.Error as error:
            # The next that is appended tries again.
            log.warning("%s may keep more than it should for now: %s", stream, error)
        finally:
            self._busy.discard(stream)

    async def trim(self, stream: str) -> None:
        """Remove the oldest events until the others fit."""
        while (info := await self._streams.info(stream)) is not None:
            state = _topics.state_of(info)
            limit = state.retention.bytes
            if not limit or state.bytes <= limit or not state.count:
                if len(self._left) >= _TOPICS:
                    self._left.clear()
                self._left[stream] = min(max(limit - state.bytes, limit / PART), MOST_BYTES) if limit else MOST_BYTES
                return
            # As if all were of one size; again, when they are not.
            gone = max(1, -(-state.count * (state.bytes - limit) // state.bytes))
            await self._streams.call(f"STREAM.PURGE.{stream}", {"seq": state.first + gone})
        self._left.pop(stream, None)
