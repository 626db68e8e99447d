"""Messages that are to lie in streams, sent so that the disk has least to do.

The server syncs once for each message, or once for all of an atomic batch. So what comes while a stream's last flight
is under way goes together in the next one: as a batch when there is enough of it, else one by one without waiting
between. One flight at a time keeps the order, through lost connections too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from micro.backends.nats._connection import REQUEST_SECONDS, Connection, translated
from micro.backends.nats._streams import Streams
from micro.domain import backoff, errors
from micro.ports.background import OwnedTasks

log = logging.getLogger("micro.nats")

BATCH = 12
"""From how many messages on a batch is faster than one by one."""

FLIGHT_MESSAGES = 512
FLIGHT_BYTES = 2 << 20

_NO_BATCHES, _DUPLICATE = 10174, 10201
"""Codes for a stream that takes no batches, as an older NATS has made it or somebody changed it, and for a batch with a
duplicate in it."""

_AGAIN = frozenset({10176, 10210})
"""Codes for a batch of which a part did not arrive, and for too many batches at once."""

_HEADERS = 256
"""Bytes that names of headers and what belongs to a batch may have."""

WITH_BATCHES = (2, 12, 1)
"""From this release of NATS on batches know duplicates."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is to be stored."""

    subject: str
    headers: dict[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """Where it is; `duplicate` when one with its id was there."""

    sequence: int
    duplicate: bool


@dataclass(slots=True)
class _Unit:
    """What one caller wants stored: all or nothing, as far as that is possible."""

    messages: Sequence[Outgoing]
    done: asyncio.Future[None]
    until: float
    """When it is given up."""

    stored: list[Stored | None] = field(default_factory=list)
    retried: bool = False
    apart: bool = False
    """One by one, as there is a duplicate in it."""

    @property
    def bytes(self) -> int:
        return sum(len(each.data) for each in self.messages)


class _LostError(Exception):
    """The connection was lost, or the server has not answered in time."""


class Appends:
    """Stores messages in streams.

    Args:
        patience: how many seconds it goes on trying while NATS is away.
    """

    def __init__(self, connection: Connection, streams: Streams, subject: str, patience: float) -> None:
        self._connection = connection
        self._streams = streams
        self._subject = subject
        self._patience = patience
        self._queues: dict[str, deque[_Unit]] = {}
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._tasks = OwnedTasks()
        self._prefix = ""
        self._batches = secrets.token_hex(3)
        self._opened: set[str] = set()
        """Streams that were told to take batches."""
        self._count = 0

    @property
    def atomic(self) -> bool:
        """Whether the server knows batches that are stored whole or not at all."""
        return self._connection.version >= WITH_BATCHES

    async def start(self, stack: AsyncExitStack) -> None:
        client = self._connection.client
        self._prefix = f"{client.new_inbox()}."
        subscription = await client.listen(f"{self._prefix}*", self._answered)

        async def close() -> None:
            with suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

        stack.push_async_callback(close)
        await stack.enter_async_context(self._connection.reconnects(self._lost))
        await self._tasks.start(stack)

    async def append(self, stream: str, messages: Sequence[Outgoing], spare: int = 0) -> tuple[list[Stored], bool]:
        """Where the messages are, and whether some may have been there by an earlier try of this same call.

        Args:
            spare: bytes that each has to have left of what NATS takes in one message.

        Raises NOT_FOUND when there is no such stream, RESOURCE_EXHAUSTED, UNAVAILABLE.
        """
        room = self._connection.client.max_payload - spare
        if any(len(each.data) + _HEADERS + sum(map(len, each.headers.values())) > room for each in messages):
            raise errors.resource_exhausted(f"{self._subject}: larger than NATS takes in one message: {room:,} bytes")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        unit = _Unit(messages, done, time.monotonic() + self._patience, [None] * len(messages))
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = deque()
            self._tasks.spawn(self._send_all(stream, queue), f"appending to {stream}")
        queue.append(unit)
        await done
        return [each for each in unit.stored if each is not None], unit.retried

    async def _send_all(self, stream: str, queue: deque[_Unit]) -> None:
        flight: list[_Unit] = []
        try:
            while queue:
                flight = _next_flight(queue)
                await self._fly(stream, flight)
                # What the answers have woken comes along.
                await asyncio.sleep(0)
        finally:
            del self._queues[stream]
            _fail([*flight, *queue], errors.unavailable(f"{self._subject}: stopped"))

    async def _fly(self, stream: str, flight: list[_Unit]) -> None:
        delays = backoff.exponential(first=0.02, cap=0.5)
        until = max(unit.until for unit in flight)
        while True:
            try:
                await self._connection.wait_connected(until - time.monotonic())
                await self._attempt(stream, flight)
            except (nats.errors.Error, OSError, _LostError, errors.Error) as error:
                translation = await self._judged(stream, error)
            else:
                return
            flight = [unit for unit in flight if not unit.done.done()]
            delay = next(delays)
            if translation.kind is not errors.Kind.UNAVAILABLE or time.monotonic() + delay > until:
                _fail(flight, translation)
                return
            for unit in flight:
                unit.retried = True
            await asyncio.sleep(delay)

    async def _judged(self, stream: str, error: Exception) -> errors.Error:
        if isinstance(error, nats.errors.NoRespondersError):
            # Nobody takes it: no stream, or none that is up.
            try:
                if await self._streams.info(stream) is None:
                    return errors.not_found(f"{self._subject}: there is no stream {stream}")
            except errors.Error as cause:
                return cause
        if getattr(error, "err_code", None) in _AGAIN or isinstance(error, _LostError):
            return errors.unavailable(f"{self._subject}: {error}")
        return translated(error, self._subject)

    async def _attempt(self, stream: str, flight: list[_Unit]) -> None:
        """Store what is not stored yet; raises what hindered it, and units that are done are done."""
        if self.atomic and not any(unit.apart for unit in flight):
            count = sum(len(unit.messages) for unit in flight)
            if count >= BATCH or count > len(flight):
                if await self._batch(stream, flight):
                    return
                for unit in flight:
                    unit.apart = len(flight) == 1 or len(unit.messages) == 1
        together: list[_Unit] = []
        for unit in flight:
            if len(unit.messages) > 1 and self.atomic and not unit.apart:
                await self._one_by_one(together)
                together = []
                if await self._batch(stream, [unit]):
                    continue
                unit.apart = True
            together.append(unit)
        await self._one_by_one(together)

    async def _batch(self, stream: str, units: list[_Unit]) -> bool:
        """Store all of them or nothing; False when it must be done one by one."""
        self._count += 1
        identity = f"{self._batches}{self._count:x}"
        messages = [message for unit in units for message in unit.messages]
        publish = self._connection.client.publish
        for number, message in enumerate(messages, 1):
            headers = {**message.headers, "Nats-Batch-Id": identity, "Nats-Batch-Sequence": str(number)}
            if number < len(messages):
                await publish(message.subject, message.data, headers=headers)
        headers["Nats-Batch-Commit"] = "1"
        reply, answer = self._expect()
        try:
            await publish(message.subject, message.data, reply, headers)
            self._connection.client.push()
            await self._wait([answer])
        finally:
            answer.cancel()
        try:
            told = _told(answer)
        except nats.js.errors.APIError as error:
            if error.err_code == _NO_BATCHES and stream not in self._opened:
                self._opened.add(stream)
                return await self._streams.change(stream, allow_atomic=True) and await self._batch(stream, units)
            if error.err_code in (_NO_BATCHES, _DUPLICATE):
                return False
            raise
        sequence = int(told["seq"]) - len(messages)
        for unit in units:
            for index in range(len(unit.messages)):
                sequence += 1
                unit.stored[index] = Stored(sequence, duplicate=False)
            _succeed(unit)
        return True

    async def _one_by_one(self, units: list[_Unit]) -> None:
        publish = self._connection.client.publish
        sent: list[tuple[_Unit, int, asyncio.Future[Msg]]] = []
        try:
            for unit in units:
                for index, message in enumerate(unit.messages):
                    if unit.stored[index] is None:
                        reply, answer = self._expect()
                        sent.append((unit, index, answer))
                        await publish(message.subject, message.data, reply, message.headers)
            self._connection.client.push()
            await self._wait([answer for _, _, answer in sent])
        finally:
            for _, _, answer in sent:
                answer.cancel()
        failure: Exception | None = None
        for unit, index, answer in sent:
            try:
                told = _told(answer)
                unit.stored[index] = Stored(int(told["seq"]), bool(told.get("duplicate")))
            except nats.js.errors.APIError as error:
                translation = translated(error, self._subject)
                if translation.kind is errors.Kind.UNAVAILABLE:
                    failure = error
                else:  # of this one alone
                    _fail([unit], translation)
            except (nats.errors.Error, _LostError) as error:
                failure = failure or error
            if None not in unit.stored:
                _succeed(unit)
        if failure is not None:
            raise failure

    def _expect(self) -> tuple[str, asyncio.Future[Msg]]:
        self._count += 1
        name = f"{self._count:x}"
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        answer.add_done_callback(lambda _: self._waiting.pop(name, None))
        return self._prefix + name, answer

    async def _wait(self, answers: list[asyncio.Future[Msg]]) -> None:
        """Return when each has come, or has been given up."""
        timer = asyncio.get_running_loop().call_later(REQUEST_SECONDS, _give_up, answers)
        try:
            for answer in answers:
                with suppress(_LostError):  # told by whoever looks at it
                    await answer
        finally:
            timer.cancel()

    def _answered(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject[len(self._prefix) :])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _lost(self) -> None:
        _give_up(list(self._waiting.values()), "the connection was lost")


def _next_flight(queue: deque[_Unit]) -> list[_Unit]:
    flight = [queue.popleft()]
    count, size = len(flight[0].messages), flight[0].bytes
    while queue:
        count += len(queue[0].messages)
        size += queue[0].bytes
        if count > FLIGHT_MESSAGES or size > FLIGHT_BYTES:
            break
        flight.append(queue.popleft())
    return flight


def _give_up(answers: Sequence[asyncio.Future[Msg]], why: str = "no answer in time") -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(_LostError(why))


def _told(answer: asyncio.Future[Msg]) -> dict[str, Any]:
    message = answer.result()
    if (message.headers or {}).get("Status") == "503":
        raise nats.errors.NoRespondersError
    told: dict[str, Any] = json.loads(message.data)
    if "error" in told:
        raise nats.js.errors.APIError.from_error(told["error"])
    return told


def _succeed(unit: _Unit) -> None:
    if not unit.done.done():
        unit.done.set_result(None)


def _fail(units: Sequence[_Unit], error: errors.Error) -> None:
    for unit in units:
        if not unit.done.done():
            unit.done.set_exception(error)
