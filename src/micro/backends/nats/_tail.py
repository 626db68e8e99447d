"""The messages of a stream after a sequence, in order: by a consumer that is thrown away at the first sign of trouble.

The client library's own ordered consumer is not used: it re-creates itself only when a heartbeat tells of a gap, and
not when the server has forgotten it in a restart. Here everything that may lose a message (a reconnect, silence, a
jump in the consumer's count) ends the tail with TailBrokenError, and whoever reads it makes another from where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import nats.errors
from nats.aio.msg import Msg
from nats.js import api

from micro.backends.nats._connection import Connection

HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 2.5 * HEARTBEAT_SECONDS


class TailBrokenError(Exception):
    """Something may have been missed: begin again from the last message that was read."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the stream; `timestamp` in seconds since 1970."""

    subject: str
    data: bytes
    headers: dict[str, str] | None
    sequence: int
    timestamp: float


class Tail:
    """To be used as an async context manager; raises NATS's errors and TailBrokenError.

    Attributes:
        last: sequence of the stream's last message, of any subject, when the tail began, or of the last one read.
        synced: whether everything that was there when the tail began has been read.
    """

    def __init__(self, connection: Connection, stream: str, subject: str, after: int) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._after = after
        self._queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self._count = 0
        self.last = 0
        self.synced = False

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._connection.reconnects(lambda: self._queue.put_nowait(None)))
            client = self._connection.client
            inbox = client.new_inbox()
            subscription = await client.listen(inbox, self._queue.put_nowait)
            stack.push_async_callback(_quietly, subscription.unsubscribe)
            js = self._connection.jetstream
            async with self._connection.unbroken():
                info = await js.stream_info(self._stream)
                consumer = await js.add_consumer(self._stream, self._consumer(inbox))
            self.last = info.state.last_seq
            self.synced = not consumer.num_pending
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def next(self) -> Message | None:
        """The next message, however long that takes; None when a heartbeat told that there was none left."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    raw = await self._queue.get()
            except TimeoutError as error:
                raise TailBrokenError("no heartbeat") from error
            if raw is None:
                raise TailBrokenError("the connection was lost and is back")
            status = (raw.headers or {}).get("Status")
            if status is None:
                return self._read(raw)
            if status != "100":
                raise TailBrokenError(f"status {status}")
            await self._answer(raw)
            if not self.synced and not raw.reply:
                self.synced = True
                return None

    def _read(self, raw: Msg) -> Message:
        metadata = raw.metadata
        self._count += 1
        if metadata.sequence.consumer != self._count:
            raise TailBrokenError(f"message {metadata.sequence.consumer} of the consumer came as number {self._count}")
        sequence = metadata.sequence.stream
        if sequence >= self.last or not metadata.num_pending:
            self.synced = True
        self.last = max(self.last, sequence)
        return Message(raw.subject, raw.data, raw.headers, sequence, metadata.timestamp.timestamp())

    async def _answer(self, raw: Msg) -> None:
        """Let a server go on that waits until what it sent before has been read; a heartbeat tells what was sent."""
        headers = raw.headers or {}
        stalled = headers.get("Nats-Consumer-Stalled")
        if waiting := raw.reply or stalled:
            await self._connection.client.publish(waiting)
        sent = headers.get("Nats-Last-Consumer")
        if sent is not None and int(sent) != self._count:
            raise TailBrokenError(f"{sent} messages were sent, {self._count} came")

    def _consumer(self, inbox: str) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._after + 1,
            filter_subject=self._subject,
            ack_policy=api.AckPolicy.NONE,
            flow_control=True,
            idle_heartbeat=HEARTBEAT_SECONDS,
            inactive_threshold=30.0,
            mem_storage=True,
            num_replicas=1,
            max_deliver=1,
        )


async def _quietly(unsubscribe: Callable[[], Awaitable[None]]) -> None:
    with suppress(nats.errors.Error, OSError):
        await unsubscribe()
