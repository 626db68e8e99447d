"""How far groups have come, and what they gave up: cells of two streams, one message a subject.

The id of the topic's stream is part of a cell's subject: a topic that was deleted and made anew begins without groups,
whatever was left behind.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from micro.backends.nats import _topics
from micro.backends.nats._appends import Appends, Outgoing
from micro.backends.nats._record import from_token, to_token
from micro.backends.nats._streams import FORMAT, FORMAT_NAME, ID_NAME, Streams
from micro.domain import errors
from micro.domain.event import PAGE_BYTES, PAGE_EVENTS, DeadLetter, Event, Progress

GROUPS, DEAD = "EVENTS_groups", "EVENTS_dead"
"""No namespace's: theirs have another underscore."""

T = TypeVar("T")

_SUBJECTS = {GROUPS: "micro.eventgroups", DEAD: "micro.deadevents"}
_PARTS = b"\n"
_AT_ONCE = 16
"""Cells that are read side by side; a dead letter may have a MiB."""


class Groups:
    """Cells of groups; `identity` is that of the topic's stream."""

    def __init__(self, streams: Streams, appends: Appends, replicas: int) -> None:
        self._streams = streams
        self._appends = appends
        self._replicas = replicas

    async def start(self) -> None:
        for stream, subject in _SUBJECTS.items():
            await self._streams.ensure(
                {
                    "name": stream,
                    "subjects": [f"{subject}.>"],
                    "retention": "limits",
                    "storage": "file",
                    "discard": "old",
                    "num_replicas": self._replicas,
                    "max_msgs_per_subject": 1,
                    "allow_direct": True,
                    "allow_atomic": self._appends.atomic,
                    "metadata": {FORMAT_NAME: str(FORMAT), ID_NAME: "cells"},
                }
            )

    async def all(self, topic: str, identity: str) -> dict[str, Progress]:
        prefix = f"{_SUBJECTS[GROUPS]}.{topic}.{identity}."
        subjects = await self._there(lambda: self._streams.subjects(GROUPS, f"{prefix}*"))
        found = await self._cells(GROUPS, subjects)
        pairs = zip(subjects, found, strict=True)
        return {_group(subject): _to_progress(data) for subject, data in pairs if data is not None}

    async def names(self, topic: str, identity: str) -> list[str]:
        pattern = f"{_SUBJECTS[GROUPS]}.{topic}.{identity}.*"
        return sorted(map(_group, await self._there(lambda: self._streams.subjects(GROUPS, pattern))))

    async def counts(self, namespace: str) -> dict[str, dict[str, int]]:
        """How many groups there are, by a topic's token and the id of its stream."""
        pattern = f"{_SUBJECTS[GROUPS]}.{namespace}.*.*.*"
        found: dict[str, dict[str, int]] = {}
        for subject in await self._there(lambda: self._streams.subjects(GROUPS, pattern)):
            _, topic, identity, _ = subject.rsplit(".", 3)
            ids = found.setdefault(topic, {})
            ids[identity] = ids.get(identity, 0) + 1
        return found

    async def one(self, topic: str, identity: str, group: str) -> Progress | None:
        (found,) = await self._cells(GROUPS, [f"{_SUBJECTS[GROUPS]}.{topic}.{identity}.{to_token(group)}"])
        return _to_progress(found) if found is not None else None

    async def keep(self, topic: str, identity: str, group: str, progress: Progress) -> None:
        subject = f"{_SUBJECTS[GROUPS]}.{topic}.{identity}.{to_token(group)}"
        cell = [Outgoing(subject, {}, _from_progress(progress))]
        await self._there(lambda: self._appends.append(GROUPS, cell))

    async def forget(self, topic: str, identity: str, group: str) -> bool:
        # The group last: who was interrupted forgets it again.
        await self._purge(DEAD, f"{_SUBJECTS[DEAD]}.{topic}.{identity}.{to_token(group)}.*")
        return await self._purge(GROUPS, f"{_SUBJECTS[GROUPS]}.{topic}.{identity}.{to_token(group)}") > 0

    async def clear(self, topic: str) -> None:
        """Remove all cells of a topic, or of a namespace with "NAMESPACE.*", whichever its id was."""
        for stream, subject in _SUBJECTS.items():
            await self._purge(stream, f"{subject}.{topic}.>")

    async def bury(self, topic: str, identity: str, group: str, dead: DeadLetter) -> None:
        prefix = f"{_SUBJECTS[DEAD]}.{topic}.{identity}.{to_token(group)}"
        cell = [Outgoing(f"{prefix}.{dead.event.offset}", {}, _from_dead(dead))]
        await self._there(lambda: self._appends.append(DEAD, cell))

    async def buried(self, topic: str, identity: str, group: str, after: int, limit: int) -> list[DeadLetter]:
        prefix = f"{_SUBJECTS[DEAD]}.{topic}.{identity}.{to_token(group)}."
        told = await self._there(lambda: self._streams.subjects(DEAD, f"{prefix}*"))
        offsets = sorted(offset for each in told if (offset := int(each.removeprefix(prefix))) > after)
        page: list[DeadLetter] = []
        size = 0
        offsets = offsets[: min(limit, PAGE_EVENTS)]
        for first in range(0, len(offsets), _AT_ONCE):
            subjects = [f"{prefix}{offset}" for offset in offsets[first : first + _AT_ONCE]]
            for data in await self._cells(DEAD, subjects):
                if data is None:
                    continue
                size += len(data)
                if page and size > PAGE_BYTES:
                    return page
                page.append(_to_dead(data))
        return page

    async def unbury(self, topic: str, identity: str, group: str, offsets: Sequence[int]) -> int:
        prefix = f"{_SUBJECTS[DEAD]}.{topic}.{identity}.{to_token(group)}"
        return sum([await self._purge(DEAD, f"{prefix}.{offset}") for offset in offsets])

    async def dead(self, topic: str, identity: str, group: str) -> int:
        pattern = f"{_SUBJECTS[DEAD]}.{topic}.{identity}.{to_token(group)}.*"
        if self._replicas > 1:
            # By the leader: another server may not have heard of all yet.
            return len(await self._there(lambda: self._streams.subjects(DEAD, pattern)))
        query = {"seq": 1, "next_by_subj": pattern, "batch": 1}
        found, more = await self._there(lambda: self._streams.direct(DEAD, query))
        return len(found) + more

    async def _purge(self, stream: str, subject: str) -> int:
        return await self._there(lambda: self._streams.purge(stream, subject))

    async def _there(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the streams of cells are asked; they are made again where NATS has lost them while we were running."""
        try:
            return await ask()
        except errors.Error as error:
            if error.kind is not errors.Kind.NOT_FOUND:
                raise
        await self.start()
        return await ask()

    async def _cells(self, stream: str, subjects: Sequence[str]) -> list[bytes | None]:
        """What is in each, as the stream's leader knows it."""
        found: list[bytes | None] = []
        for first in range(0, len(subjects), _AT_ONCE):
            part = subjects[first : first + _AT_ONCE]
            told = await asyncio.gather(*(self._streams.message(stream, subject=each) for each in part))
            found += [each[1] if each is not None else None for each in told]
        return found


def prefix_of(namespace: str, topic: str = "*") -> str:
    """What names a topic, or all of a namespace, in the subjects of cells."""
    return f"{_topics.token(namespace)}.{topic if topic == '*' else _topics.token(topic)}"


def _group(subject: str) -> str:
    return from_token(subject.rpartition(".")[2])


def _from_progress(progress: Progress) -> bytes:
    return _json(
        {
            "v": FORMAT,
            "floor": progress.floor,
            "done": [list(each) for each in progress.done],
            "failures": list(progress.failures.items()),
            "redriven": list(progress.redriven),
        }
    )


def _to_progress(data: bytes) -> Progress:
    try:
        told = _read(json.loads(data))
        return Progress(
            floor=told["floor"],
            done=tuple((first, last) for first, last in told["done"]),
            failures=dict(told["failures"]),
            redriven=tuple(told["redriven"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise errors.data_loss(f"a group's progress cannot be read: {type(error).__name__}: {error}") from error


def _from_dead(dead: DeadLetter) -> bytes:
    """What is said about it on one line, and the payload behind that."""
    event = dead.event
    said = {
        "v": FORMAT,
        "id": event.id,
        "offset": event.offset,
        "time": event.timestamp,
        "metadata": dict(event.metadata),
        "key": event.key,
        "attempts": dead.attempts,
        "reason": dead.reason,
        "died": dead.died,
    }
    return _json(said) + _PARTS + event.payload


def _to_dead(data: bytes) -> DeadLetter:
    line, _, payload = data.partition(_PARTS)
    try:
        told = _read(json.loads(line))
        event = Event(told["id"], told["offset"], told["time"], payload, told["metadata"], told["key"])
        return DeadLetter(event, told["attempts"], told["reason"], told["died"])
    except (ValueError, TypeError, KeyError) as error:
        raise errors.data_loss(f"a dead letter cannot be read: {type(error).__name__}: {error}") from error


def _read(told: dict[str, Any]) -> dict[str, Any]:
    if told["v"] != FORMAT:
        raise errors.data_loss(f"written in format {told['v']}, this release reads {FORMAT}")
    return told


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
