"""The messages of a stream from a sequence on, some at a time, as a reader takes them.

A consumer that is thrown away at the first sign of trouble, as in `_tail`; but what is asked for is pulled: no more
lies here unread than one pull brings, however long nobody takes it.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

import nats.errors
from nats.aio.msg import Msg
from nats.js import api

from micro.backends.nats._connection import Connection
from micro.backends.nats._tail import HEARTBEAT_SECONDS, SILENCE_SECONDS, TailBrokenError

PULL_MESSAGES = 512
PULL_BYTES = 2 << 20
PULL_SECONDS = 60.0
FORGOTTEN_SECONDS = 300.0
"""How long the server keeps a consumer of which nobody pulls."""

Told = tuple[int, int, Msg]
"""Sequence, milliseconds since 1970 when it was stored, message."""


class Follow:
    """To be used as an async context manager; raises NATS's errors and TailBrokenError."""

    def __init__(self, connection: Connection, stream: str, start: int) -> None:
        self._connection = connection
        self._stream = stream
        self._start = start
        self._queue: asyncio.Queue[Msg | str] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self._inbox = ""
        self._pull = b""
        self._consumer = ""
        self._asked = 0
        self._asked_at = time.monotonic()
        self._count = 0
        self._broken: TailBrokenError | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._connection.reconnects(self._reconnected))
            client = self._connection.client
            self._inbox = client.new_inbox()
            subscription = await client.listen(self._inbox, self._queue.put_nowait)

            async def close() -> None:
                with suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()

            stack.push_async_callback(close)
            async with self._connection.unbroken():
                info = await self._connection.jetstream.add_consumer(self._stream, self._config())
            self._consumer = info.name
            stack.push_async_callback(self._remove)
            self._pull = json.dumps(
                {
                    "batch": PULL_MESSAGES,
                    "max_bytes": PULL_BYTES,
                    "expires": int(PULL_SECONDS * 1e9),
                    "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
                }
            ).encode()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def wake(self, reason: str) -> None:
        """Have `next` raise TailBrokenError, after what is there by now."""
        self._queue.put_nowait(reason)

    async def next(self) -> list[Told]:
        """All that is there by now, one at least, however long that takes."""
        if self._broken is not None:
            raise self._broken
        found: list[Told] = []
        while not found:
            await self._ask()
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    raw = await self._queue.get()
            except TimeoutError as error:
                raise TailBrokenError("no heartbeat") from error
            self._take(raw, found)
            try:
                while True:
                    self._take(self._queue.get_nowait(), found)
            except asyncio.QueueEmpty:
                pass
            except TailBrokenError as error:
                if not found:
                    raise
                self._broken = error
        # The next are on their way while these are handled.
        await self._ask()
        return found

    async def _ask(self) -> None:
        if not self._asked:
            if time.monotonic() - self._asked_at > FORGOTTEN_SECONDS / 2:
                raise TailBrokenError("not read for so long that the server may have forgotten it")
            self._asked = PULL_MESSAGES
            self._asked_at = time.monotonic()
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            await self._connection.client.publish(subject, self._pull, reply=self._inbox)

    def _take(self, raw: Msg | str, found: list[Told]) -> None:
        if isinstance(raw, str):
            raise TailBrokenError(raw)
        headers = raw.headers or {}
        status = headers.get("Status")
        if status is None:
            found.append(self._read(raw))
        elif status == "408" or (status == "409" and "MaxBytes" in headers.get("Description", "")):
            # The pull has ended: by time, or as the next message is more than is left of its bytes.
            self._asked = 0
        elif status != "100" and headers.get("Description") != "Batch Completed":
            raise TailBrokenError(f"status {status} {headers.get('Description', '')}")

    def _read(self, raw: Msg) -> Told:
        parts = raw.reply.split(".")
        first = 5 if len(parts) == 9 else 7
        sequence, count, stored = int(parts[first]), int(parts[first + 1]), int(parts[first + 2])
        self._count += 1
        self._asked -= 1
        if count != self._count:
            raise TailBrokenError(f"message {count} of the consumer came as number {self._count}")
        return sequence, stored // 1_000_000, raw

    def _reconnected(self) -> None:
        self.wake("the connection was lost and is back")

    async def _remove(self) -> None:
        # Without waiting for the answer: one that is not removed is forgotten by the server.
        if self._connection.connected:
            with suppress(nats.errors.Error, OSError):
                await self._connection.client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}")

    def _config(self) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._start,
            ack_policy=api.AckPolicy.NONE,
            inactive_threshold=FORGOTTEN_SECONDS,
            mem_storage=True,
            num_replicas=1,
            max_deliver=1,
        )
