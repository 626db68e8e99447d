"""Events: what happened, at its place in a topic; and how long it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from micro.domain import errors
from micro.domain.message import check_pairs

MAX_PAYLOAD = 1 << 20
MAX_KEY = 255
"""Bytes of a key, and of a dedup id."""

MAX_BATCH = 1000
MAX_BATCH_BYTES = 4 << 20
PAGE_EVENTS = 1000
PAGE_BYTES = 4 << 20
"""What a batch and a page hold at most."""

DEDUP_SECONDS = 120.0
"""How long a dedup id is remembered."""


@dataclass(frozen=True, slots=True)
class New:
    """An event that is to be appended.

    Attributes:
        id: unique, made by the service.
        timestamp: milliseconds since 1970; 0 for when it is appended.
    """

    id: str
    payload: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    timestamp: int = 0
    key: str = ""
    dedup_id: str = ""

    @property
    def size(self) -> int:
        """Bytes of the payload and what is said about it."""
        return len(self.payload) + sum(len(name) + len(value) for name, value in self.metadata.items())


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an event is; of a duplicate, the first one's."""

    id: str
    offset: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a topic.

    Attributes:
        offset: 1 for the first, one more for each.
        timestamp: milliseconds since 1970: the publisher's, else when it was appended.
    """

    id: str
    offset: int
    timestamp: int
    payload: bytes
    metadata: Mapping[str, str]
    key: str = ""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a topic's events are kept; the oldest go first. 0 is no limit.

    Attributes:
        age: seconds.
        bytes: as they lie on disk.
        count: events.
    """

    age: float = 7 * 86400.0
    bytes: int = 1 << 30
    count: int = 0

    def checked(self) -> Retention:
        """Raises INVALID_ARGUMENT for what cannot be kept to: an age below a second, a negative number."""
        if not (self.age == 0 or 1 <= self.age <= 10 * 365 * 86400):
            raise errors.invalid_argument(f"retention age={self.age:g} s: use 1 s to ten years, or 0 for ever")
        for name, value in (("bytes", self.bytes), ("count", self.count)):
            if not 0 <= value < 1 << 60:
                raise errors.invalid_argument(f"retention {name}={value}: use 0 for no limit, or more")
        return self


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is now.

    Attributes:
        bytes: of its events, as they lie on disk.
        first: offset of the oldest event that is kept; `last` + 1 when there is none.
        last: offset of the newest, 0 before the first.
        created: milliseconds since 1970.
    """

    name: str
    retention: Retention
    bytes: int
    count: int
    first: int
    last: int
    created: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a consumer group has come. All that is not named is still to be handled.

    Attributes:
        floor: all events up to this offset are done.
        done: ranges above it that are done too, both ends included, sorted, not touching each other.
        failures: offset -> how often its handling failed, for those that are not done.
        redriven: offsets of dead letters that are to be delivered again.
    """

    floor: int = 0
    done: Sequence[tuple[int, int]] = ()
    failures: Mapping[int, int] = field(default_factory=dict)
    redriven: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a group gave up.

    Attributes:
        attempts: how often it was tried.
        reason: what the last try ended with.
        died: milliseconds since 1970.
    """

    event: Event
    attempts: int
    reason: str
    died: int


def check(event: New) -> None:
    """Raises INVALID_ARGUMENT for an event that is larger than a topic takes."""
    if len(event.payload) > MAX_PAYLOAD:
        raise errors.invalid_argument(
            f"the payload has {len(event.payload):,} bytes: {MAX_PAYLOAD:,} are the most; write what is larger as a "
            "blob, and publish its key"
        )
    check_pairs("metadata", event.metadata)
    for name, value in (("key", event.key), ("dedup id", event.dedup_id)):
        if len(value.encode()) > MAX_KEY:
            raise errors.invalid_argument(f"the {name} has {len(value.encode()):,} bytes: {MAX_KEY} are the most")
    if event.timestamp < 0 or event.timestamp >= 253402300800000:
        raise errors.invalid_argument(f"timestamp {event.timestamp} ms is out of range: use 1970 to 9999")


def check_batch(events: Sequence[New]) -> None:
    """Raises INVALID_ARGUMENT that names the first event that cannot be appended, or the whole when it is too large."""
    if not events:
        raise errors.invalid_argument("the batch is empty: name an event at least")
    if len(events) > MAX_BATCH:
        raise errors.invalid_argument(f"the batch has {len(events):,} events: {MAX_BATCH:,} are the most")
    for number, event in enumerate(events, 1):
        try:
            check(event)
        except errors.Error as error:
            raise errors.invalid_argument(f"event {number}: {error.message}") from None
    if (size := sum(event.size for event in events)) > MAX_BATCH_BYTES:
        raise errors.invalid_argument(f"the batch has {size:,} bytes: {MAX_BATCH_BYTES:,} are the most")
