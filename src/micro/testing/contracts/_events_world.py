"""What the contract of event streams is told with."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.event import Appended, Event, New, Progress, Retention
from micro.ports.events import Events, no_topic

NS, OTHER, TOPIC = "shop", "other", "orders"
PATIENCE = 30.0
"""Seconds for what should come at once."""

FOR_EVER = Retention(age=0, bytes=0, count=0)

TEXTS = ("plain", "é ☃ \U00010348", "a\0b", "two\r\nlines: x", " spaces ", '"\\', "￿", "%41=+&;,")
"""What a key, and names and values of metadata, may be."""

ALL_BYTES = bytes(range(256))


def new(payload: bytes = b"", **parts: Any) -> New:
    """An event with an id of its own; `parts` as in `New`."""
    return New(parts.pop("id", "") or uuid.uuid4().hex, payload, **parts)


async def ready(events: Events, topic: str = TOPIC, namespace: str = NS, retention: Retention = FOR_EVER) -> None:
    """Make the topic."""
    await events.configure(namespace, topic, retention)


async def append(events: Events, *payloads: bytes, topic: str = TOPIC, namespace: str = NS) -> list[Appended]:
    return await events.append(namespace, topic, [new(each) for each in payloads])


async def payloads(events: Events, topic: str = TOPIC, namespace: str = NS) -> list[bytes]:
    """Of all that a topic keeps, page by page."""
    found: list[bytes] = []
    start = 1
    while page := await events.read(namespace, topic, start, 1000):
        found += [each.payload for each in page]
        start = page[-1].offset + 1
    return found


def normal(progress: Progress | None) -> Progress:
    """The same, in one kind of sequence."""
    assert progress is not None
    return replace(
        progress,
        done=tuple((first, last) for first, last in progress.done),
        failures=dict(progress.failures),
        redriven=tuple(progress.redriven),
    )


async def refused(kind: Kind, call: Awaitable[object]) -> errors.Error:
    """The call fails with that kind, and says so in one line; how it does."""
    with pytest.raises(errors.Error) as caught:
        await call
    assert caught.value.kind is kind, caught.value
    assert "\n" not in caught.value.message
    return caught.value


async def absent(call: Awaitable[object], topic: str = TOPIC) -> None:
    """The call fails as there is no such topic, in the words that all backends have for it."""
    assert (await refused(Kind.NOT_FOUND, call)).message == no_topic(topic).message


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when it holds: for what backends do in their own time."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - the backend tells nobody
            await asyncio.sleep(0.02)


class Tailing:
    """A tail that is under way."""

    def __init__(self, batches: AsyncGenerator[Sequence[Event]]) -> None:
        self._batches = batches
        self._read: list[Event] = []
        # owned: by `tailing`
        self._next: asyncio.Task[Sequence[Event]] = asyncio.ensure_future(anext(batches))

    async def take(self, count: int) -> list[Event]:
        """The next ones."""
        async with asyncio.timeout(PATIENCE):
            while len(self._read) < count:
                batch = await self._next
                assert batch
                self._read += batch
                self._next = asyncio.ensure_future(anext(self._batches))  # owned: by `tailing`
        found, self._read = self._read[:count], self._read[count:]
        return found

    async def payloads(self, count: int) -> list[bytes]:
        return [each.payload for each in await self.take(count)]

    async def ends(self, kind: Kind) -> None:
        """It does, with that error, once all was read."""
        async with asyncio.timeout(PATIENCE):
            await refused(kind, self._next)

    def quiet(self) -> bool:
        """Whether there is nothing that was not taken, as far as is known."""
        return not self._read and not self._next.done()

    async def stop(self) -> None:
        self._next.cancel()
        await asyncio.wait([self._next])


@asynccontextmanager
async def tailing(events: Events, start: int = 1, topic: str = TOPIC, namespace: str = NS) -> AsyncGenerator[Tailing]:
    async with aclosing(events.tail(namespace, topic, start)) as batches:
        tail = Tailing(batches)
        try:
            yield tail
        finally:
            await tail.stop()
