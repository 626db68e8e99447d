"""Where events are kept: a log for each topic, and how far each group of consumers has come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack

from micro.domain import errors
from micro.domain.event import Appended, DeadLetter, Event, New, Progress, Retention, TopicState
from micro.domain.record import Durability


class Events(ABC):
    """Logs, in namespaces that know nothing of each other.

    What is named is checked by the caller (`micro.domain.topic`, `micro.domain.event`). Offsets of a topic begin at 1
    and grow by one; retention removes the oldest events, and offsets are never used again while the topic is there.
    NOT_FOUND for a topic that there is none of is `no_topic`, of every method that raises it.
    Everything may raise UNAVAILABLE when the state cannot be reached; what then was changed is whole or not at all.
    """

    @property
    @abstractmethod
    def durability(self) -> Durability:
        """What an acknowledged event outlives."""

    @property
    @abstractmethod
    def atomic(self) -> bool:
        """Whether `append` takes several events all or not at all; else a failure may leave a part of them. Known once
        started."""

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open the state. Raises UNAVAILABLE, and FAILED_PRECONDITION for one of a newer release."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether the state can be reached, as far as is known without asking."""

    @abstractmethod
    async def configure(self, namespace: str, topic: str, retention: Retention) -> TopicState:
        """Make a topic, or give it another retention."""

    @abstractmethod
    async def topics(self, namespace: str) -> list[TopicState]:
        """All of a namespace, sorted by name."""

    @abstractmethod
    async def state(self, namespace: str, topic: str) -> TopicState | None:
        """A topic; None when there is none."""

    @abstractmethod
    async def delete(self, namespace: str, topic: str) -> bool:
        """Remove a topic, with its events, groups and dead letters; returns whether there was one. Its tails end."""

    @abstractmethod
    async def drop(self, namespace: str) -> None:
        """Remove all topics of a namespace."""

    @abstractmethod
    async def append(self, namespace: str, topic: str, events: Sequence[New]) -> list[Appended]:
        """Append events one behind the other, as `atomic` says; durable, as `durability` says, when it returns.

        One with a dedup id that an event of the topic had within DEDUP_SECONDS is not appended: the first one's id and
        offset are told. A backend may know ids for no longer than the topic keeps events. Where a batch cannot be told
        apart so, one duplicate in it makes all of it take the slow way, one by one. Raises NOT_FOUND when there is no
        such topic, RESOURCE_EXHAUSTED when there is no room.
        """

    @abstractmethod
    async def read(self, namespace: str, topic: str, start: int, limit: int) -> list[Event]:
        """Events from an offset on, at most `limit`, PAGE_EVENTS and PAGE_BYTES of them, at least one where there is
        one. Raises NOT_FOUND when there is no such topic."""

    @abstractmethod
    async def offset_at(self, namespace: str, topic: str, time: int) -> int:
        """The offset of the first event that was appended at a time (milliseconds since 1970) or later; that of the
        next one when there is none. Raises NOT_FOUND when there is no such topic."""

    @abstractmethod
    def tail(self, namespace: str, topic: str, start: int) -> AsyncGenerator[Sequence[Event]]:
        """Events from an offset on, in order, none twice and none missing but what retention has removed before it was
        read, as they come, some at a time, for ever. Reads ahead no more than a few MiB when nobody takes them.

        Goes on by itself through a lost connection. Raises NOT_FOUND when there is no such topic, or no more, or when
        it has lost what was read.
        """

    @abstractmethod
    async def groups(self, namespace: str, topic: str) -> Mapping[str, Progress]:
        """The progress of all groups of a topic, by name."""

    @abstractmethod
    async def group_names(self, namespace: str, topic: str) -> Sequence[str]:
        """The names of all groups of a topic, sorted."""

    @abstractmethod
    async def group_counts(self, namespace: str, topics: Sequence[str]) -> list[int]:
        """How many groups each of some topics has; thousands of topics are no more than a few requests."""

    @abstractmethod
    async def progress(self, namespace: str, topic: str, group: str) -> Progress | None:
        """A group's progress; None when there is no such group."""

    @abstractmethod
    async def advance(self, namespace: str, topic: str, group: str, progress: Progress) -> None:
        """Keep a group's progress in place of the one before; this makes a group. Durable when it returns. One writer
        a group. Raises NOT_FOUND when there is no such topic."""

    @abstractmethod
    async def forget(self, namespace: str, topic: str, group: str) -> bool:
        """Remove a group and its dead letters; returns whether there was one."""

    @abstractmethod
    async def bury(self, namespace: str, topic: str, group: str, dead: DeadLetter) -> None:
        """Keep a dead letter, in place of the one with the same offset. Durable when it returns. Raises NOT_FOUND when
        there is no such topic."""

    @abstractmethod
    async def buried(self, namespace: str, topic: str, group: str, after: int, limit: int) -> list[DeadLetter]:
        """Dead letters of a group with offsets above `after`, in order, as many as `read` would tell."""

    @abstractmethod
    async def unbury(self, namespace: str, topic: str, group: str, offsets: Sequence[int]) -> int:
        """Remove dead letters; returns how many there were."""

    @abstractmethod
    async def dead(self, namespace: str, topic: str, group: str) -> int:
        """How many dead letters a group has."""


def no_topic(name: str) -> errors.Error:
    """NOT_FOUND, in the words that everybody has for it."""
    return errors.not_found(f"there is no topic {name}: it is made when it is first published to or consumed")
