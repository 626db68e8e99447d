"""Registrations in a JetStream key-value bucket: file storage, one value a key, the stream's sequence as revision.

A removal stays behind as a marker, so that a watcher that resumes learns of it. Markers are swept away after an hour;
the highest revision that was swept is recorded first (the horizon), so that a watcher from before it is told to begin
anew instead of missing something. Revisions start at the milliseconds since 1970, so that those of a bucket that was
lost are below the horizon of the one that took its place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext, api

from micro.backends.nats import _record
from micro.backends.nats._connection import Connection, translated
from micro.backends.nats._tail import Message, Tail, TailBrokenError
from micro.domain import backoff, errors
from micro.domain.registrations import Synced
from micro.domain.service import Change, Registration
from micro.ports import background
from micro.ports.registry import Registry

log = logging.getLogger("micro.nats")

T = TypeVar("T")

SUBJECT = "registry's state"
PATIENCE_SECONDS = 5.0
"""Longer than NATS takes to restart."""

SWEEP_SECONDS = 600.0
MARKER_SECONDS = 3600.0

OPERATION = "KV-Operation"
EXPIRED = "Micro-Expired"
_LAST = "Nats-Expected-Last-Subject-Sequence"


class NatsRegistry(Registry):
    """The port over NATS.

    Args:
        connection: started by whoever made it.
        replicas: how many servers of a NATS cluster keep the bucket; 1, 3 or 5.
        bucket: its name.
        marker_seconds: how long the marker of a removal is kept.
        patience: how many seconds a call goes on trying while NATS is away.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        replicas: int = 1,
        bucket: str = "registry",
        marker_seconds: float = MARKER_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._connection = connection
        self._replicas = replicas
        self._bucket = bucket
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}.r."
        self._horizon_subject = f"$KV.{bucket}.meta.horizon"
        self._marker_seconds = marker_seconds
        self._patience = patience

    async def start(self, stack: AsyncExitStack) -> None:
        await self.prepare()
        background.spawn(stack, self._sweep_for_ever(), "sweeping the registry's state")

    async def prepare(self) -> None:
        """Make the bucket, or have the one that is there kept by as many servers as it should be."""
        await self._patiently(self._ensure_bucket)

    def healthy(self) -> bool:
        return self._connection.connected

    async def put(self, registration: Registration) -> int:
        data = _record.encode(registration)
        subject = self._prefix + _record.to_subject(registration.key)

        async def attempt() -> int:
            last = await self._last(subject)
            if last is not None and not _is_marker(last.headers) and last.data == data:
                return _sequence(last)
            return await self._publish(subject, data, last)

        return await self._patiently(attempt)

    async def delete(self, key: tuple[str, str, str], *, expired: bool = False) -> int:
        subject = self._prefix + _record.to_subject(key)
        headers = {OPERATION: "DEL"} | ({EXPIRED: "1"} if expired else {})

        async def attempt() -> int:
            last = await self._last(subject)
            if last is None:
                return 0
            if _is_marker(last.headers):
                return _sequence(last)
            return await self._publish(subject, b"", last, headers)

        return await self._patiently(attempt)

    async def snapshot(self) -> tuple[int, list[Registration]]:
        async def attempt() -> tuple[int, list[Registration]]:
            found: dict[tuple[str, str, str], Registration] = {}
            async with self._tail(0) as tail:
                revision = tail.last
                while not tail.synced:
                    if (message := await tail.next()) is None:
                        continue
                    revision = max(revision, message.sequence)
                    change = self._change(message)
                    found.pop(change.key, None)
                    if change.registration is not None:
                        found[change.key] = change.registration
            return revision, [found[key] for key in sorted(found)]

        return await self._patiently(attempt)

    async def watch(self, after: int = 0) -> AsyncGenerator[Change | Synced]:
        cursor, synced = after, False
        delays = backoff.exponential(first=0.05, cap=0.5)
        while True:
            try:
                async with aclosing(self._follow(cursor, synced)) as changes:
                    async for change in changes:
                        delays = backoff.exponential(first=0.05, cap=0.5)
                        cursor = max(cursor, change.revision)
                        if isinstance(change, Change):
                            yield change
                        elif not synced:
                            synced = True
                            yield Synced(cursor)
            except TailBrokenError as broken:
                log.debug("watch of the %s goes on from revision %d: %s", SUBJECT, cursor, broken)
            except (nats.errors.Error, OSError, errors.Error) as error:
                translation = translated(error, SUBJECT)
                if translation.kind is errors.Kind.OUT_OF_RANGE:
                    raise translation from error
                log.debug("watch of the %s: %s", SUBJECT, translation)
                if translation.kind is errors.Kind.NOT_FOUND:
                    await self._restore_bucket()
            await asyncio.sleep(next(delays))

    async def _follow(self, cursor: int, synced: bool) -> AsyncGenerator[Change | Synced]:
        """Changes after `cursor`; Synced once those that were there are through."""
        fresh = cursor == 0 and not synced
        await self._connection.wait_connected(self._patience)
        async with self._tail(cursor) as tail:
            await self._check_history(cursor, fresh, tail.last)
            caught_up = False
            seen: set[tuple[str, str, str]] = set()
            while True:
                if tail.synced and not caught_up:
                    # Once more: a sweep may have come between the first look and the last message.
                    await self._check_history(cursor, fresh, tail.last)
                    caught_up = True
                    yield Synced(tail.last)
                if (message := await tail.next()) is None:
                    continue
                change = self._change(message)
                if fresh and not caught_up:
                    if change.registration is None and change.key not in seen:
                        continue
                    seen.add(change.key)
                yield change

    def _tail(self, cursor: int) -> Tail:
        return Tail(self._connection, self._stream, self._prefix + ">", cursor)

    async def _check_history(self, cursor: int, fresh: bool, last: int) -> None:
        if fresh:
            return
        async with self._connection.unbroken():
            horizon = await self._horizon()
        if not horizon <= cursor <= last:
            raise errors.out_of_range(f"the registry's history after revision {cursor} is not known: watch from 0")

    def _change(self, message: Message) -> Change:
        key = _record.from_subject(message.subject.removeprefix(self._prefix))
        if _is_marker(message.headers):
            return Change(message.sequence, key, None, expired=EXPIRED in (message.headers or {}))
        try:
            return Change(message.sequence, key, _record.decode(message.data))
        except errors.Error as error:
            # Whoever registered it comes back with a new record; until then it is as if it were not there.
            log.error("the record of %s is left out: %s", "/".join(key), error)
            return Change(message.sequence, key, None)

    @property
    def _js(self) -> JetStreamContext:
        return self._connection.jetstream

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, or time is up, or trying again would not help. An attempt may be made twice."""
        delays = backoff.exponential(first=0.02, cap=0.5)
        until = time.monotonic() + self._patience
        while True:
            try:
                await self._connection.wait_connected(until - time.monotonic())
                async with self._connection.unbroken():
                    return await attempt()
            except (nats.errors.Error, OSError, errors.Error, TailBrokenError) as error:
                translation = translated(error, SUBJECT)
                again = translation.kind in (errors.Kind.UNAVAILABLE, errors.Kind.ABORTED)
                delay = next(delays)
                if not again or time.monotonic() + delay > until:
                    raise translation from error
            await asyncio.sleep(delay)

    async def _last(self, subject: str) -> api.RawStreamMsg | None:
        try:
            return await self._js.get_msg(self._stream, subject=subject)
        except nats.js.errors.NotFoundError as error:
            if error.err_code != _NO_MESSAGE:
                await self._ensure_bucket()
            return None

    async def _publish(
        self, subject: str, data: bytes, last: api.RawStreamMsg | None, headers: dict[str, str] | None = None
    ) -> int:
        """Only if nobody was faster since `last` was read: who was is found out by reading again."""
        expected = {_LAST: str(_sequence(last) if last is not None else 0)}
        ack = await self._js.publish(subject, data, stream=self._stream, headers=expected | (headers or {}))
        return ack.seq

    async def _ensure_bucket(self) -> None:
        config = api.StreamConfig(
            name=self._stream,
            subjects=[f"$KV.{self._bucket}.>"],
            storage=api.StorageType.FILE,
            num_replicas=self._replicas,
            max_msgs_per_subject=1,
            discard=api.DiscardPolicy.NEW,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=False,
            duplicate_window=120,
            first_seq=time.time_ns() // 1_000_000,
        )
        try:
            info = await self._js.stream_info(self._stream)
        except nats.js.errors.NotFoundError:
            info = await self._js.add_stream(config)
        if (info.config.num_replicas or 1) != self._replicas:
            # The servers move what it holds while it is used.
            info = await self._js.update_stream(info.config.evolve(num_replicas=self._replicas))
        if await self._last_or_none(self._horizon_subject) is None:
            await self._publish(self._horizon_subject, str(info.state.last_seq).encode(), None)

    async def _restore_bucket(self) -> None:
        """After NATS came back without its data: make an empty bucket; what was registered will register again."""
        try:
            async with self._connection.unbroken():
                await self._ensure_bucket()
        except (nats.errors.Error, OSError, errors.Error) as error:
            log.debug("%s", translated(error, SUBJECT))

    async def _last_or_none(self, subject: str) -> api.RawStreamMsg | None:
        try:
            return await self._js.get_msg(self._stream, subject=subject)
        except nats.js.errors.NotFoundError:
            return None

    async def _horizon(self) -> int:
        last = await self._last(self._horizon_subject)
        return int(last.data or b"0") if last is not None else 0

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except (nats.errors.Error, OSError, errors.Error, TailBrokenError) as error:
                log.warning("old markers stay for now: %s", translated(error, SUBJECT))

    async def sweep(self) -> int:
        """Take away the markers of removals that are old enough; returns how many."""
        until = time.time() - self._marker_seconds
        old: list[tuple[str, int]] = []
        async with self._tail(0) as tail:
            while not tail.synced:
                message = await tail.next()
                if message is not None and _is_marker(message.headers) and message.timestamp <= until:
                    old.append((message.subject, message.sequence))
        if old:
            async with self._connection.unbroken():
                await self._forget(old)
        return len(old)

    async def _forget(self, old: list[tuple[str, int]]) -> None:
        last = await self._last(self._horizon_subject)
        horizon = max(max(sequence for _, sequence in old), int(last.data or b"0") if last is not None else 0)
        await self._publish(self._horizon_subject, str(horizon).encode(), last)
        for subject, sequence in old:
            # Up to the marker and no further: the key may have come back.
            await self._js.purge_stream(self._stream, seq=sequence + 1, subject=subject)


_NO_MESSAGE = 10037


def _is_marker(headers: dict[str, str] | None) -> bool:
    return bool(headers) and OPERATION in (headers or {})


def _sequence(message: api.RawStreamMsg) -> int:
    if message.seq is None:
        raise errors.internal("NATS gave a message without its sequence")
    return message.seq
