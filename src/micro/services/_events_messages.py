"""Between the messages of `micro.events.v1` and what the port of events knows."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from micro.domain import errors, progress
from micro.domain.delivery import Delivered
from micro.domain.event import PAGE_EVENTS, Appended, DeadLetter, Event, New, Progress, Retention, TopicState
from micro.domain.terms import Terms
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.wkt import Timestamp

USUAL_PAGE = 100
LONGEST_WAIT = 3600.0
"""Seconds in which an event has to be acknowledged."""

LONGEST_DELAY = 86400.0
"""Seconds that a try may have to wait."""

MOST_IN_FLIGHT = 1024
_MOST_BACKOFF = 100
_LAST_OFFSET = 2**63 - 1
_LAST_TIME = 253402300800000


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a topic: an offset, a time in milliseconds since 1970, or, with neither, behind what is there."""

    offset: int | None = None
    time: int | None = None


def new(request: pb.PublishRequest | pb.NewEvent) -> New:
    """An event that is to be appended, with an id of its own."""
    when = request.timestamp
    return New(
        os.urandom(16).hex(),
        request.payload,
        request.metadata,
        milliseconds(when) if when is not None else 0,
        request.key,
        request.dedup_id,
    )


def milliseconds(when: Timestamp) -> int:
    """Milliseconds since 1970. Raises INVALID_ARGUMENT for a time that is none, or not of the years 1970 to 9999."""
    found = when.seconds * 1000 + when.nanos // 1_000_000
    if not (0 <= when.nanos < 1_000_000_000 and 0 <= found < _LAST_TIME):
        raise errors.invalid_argument(f"time {when.seconds} s {when.nanos} ns is out of range: use 1970 to 9999")
    return found


def timestamp(time: int) -> Timestamp:
    return Timestamp(seconds=time // 1000, nanos=time % 1000 * 1_000_000)


def published(appended: Appended) -> pb.PublishResponse:
    return pb.PublishResponse(id=appended.id, offset=appended.offset, duplicate=appended.duplicate)


def event(topic: str, found: Event, attempt: int = 0, delivery: int = 0) -> pb.Event:
    """An event as it is told."""
    return pb.Event(
        id=found.id,
        topic=topic,
        offset=found.offset,
        timestamp=timestamp(found.timestamp),
        metadata=dict(found.metadata),
        key=found.key,
        payload=found.payload,
        attempt=attempt,
        delivery=delivery,
    )


def frame(topic: str, delivered: Sequence[Delivered], expired: Sequence[int]) -> pb.ConsumeResponse:
    events = [event(topic, one.event, one.attempt, one.number) for one in delivered]
    return pb.ConsumeResponse(events=events, expired=list(expired))


def terms(request: pb.ConsumeRequest) -> Terms:
    """How a consumer takes events. Raises INVALID_ARGUMENT that says what may be asked for."""
    usual = Terms()
    ack_wait = request.ack_wait or usual.ack_wait
    if not 0.01 <= ack_wait <= LONGEST_WAIT:  # not a number is neither
        raise errors.invalid_argument(f"ack_wait={ack_wait:g} s is out of range: use 0.01 to {LONGEST_WAIT:g} s")
    max_deliver = request.max_deliver or usual.max_deliver
    if max_deliver < -1:
        raise errors.invalid_argument(f"max_deliver={max_deliver} is out of range: use 1 or more, or -1 for ever")
    in_flight = request.max_in_flight or usual.max_in_flight
    if not 1 <= in_flight <= MOST_IN_FLIGHT:
        raise errors.invalid_argument(f"max_in_flight={in_flight} is out of range: use 1 to {MOST_IN_FLIGHT}")
    if len(request.backoff) > _MOST_BACKOFF:
        raise errors.invalid_argument(f"backoff has {len(request.backoff)} delays: {_MOST_BACKOFF} are the most")
    backoff = tuple(seconds("backoff", value) for value in request.backoff) or usual.backoff
    return Terms(ack_wait, max_deliver, backoff, in_flight)


def seconds(name: str, value: float) -> float:
    """A delay. Raises INVALID_ARGUMENT for what is none, or more than a day."""
    if not (math.isfinite(value) and 0 <= value <= LONGEST_DELAY):
        raise errors.invalid_argument(f"{name}={value:g} s is out of range: use 0 to {LONGEST_DELAY:g} s")
    return value


def where(start: pb.Start | None, default: Where | None) -> Where:
    """A place that a request names. Raises INVALID_ARGUMENT for what is none, and without one where none is usual."""
    at = start.at if start is not None else None
    if at is None:
        if default is None:
            raise errors.invalid_argument("the place is missing: say new, all, an offset or a time")
        return default
    match at.field:
        case "new" | "all":
            if not at.value:
                raise errors.invalid_argument(f"the place {at.field} is false: set it, or name another")
            return Where() if at.field == "new" else Where(offset=1)
        case "offset":
            offset = int(at.value)
            if not 0 <= offset < _LAST_OFFSET:
                raise errors.invalid_argument(f"offset {offset} is out of range: the first event's is 1")
            return Where(offset=max(1, offset))
        case _:
            assert isinstance(at.value, Timestamp)
            return Where(time=milliseconds(at.value))


def limit(asked: int) -> int:
    """How many are told. Raises INVALID_ARGUMENT."""
    if not 0 <= asked <= PAGE_EVENTS:
        raise errors.invalid_argument(f"limit {asked} is out of range: use 1 to {PAGE_EVENTS}")
    return asked or USUAL_PAGE


def offsets(asked: Sequence[int]) -> list[int]:
    """Offsets that a request names, sorted, each once. Raises INVALID_ARGUMENT for those that cannot be."""
    for offset in asked:
        if not 1 <= offset < _LAST_OFFSET:
            raise errors.invalid_argument(f"offset {offset} is out of range: the first event's is 1")
    return sorted(set(asked))


def retention(asked: pb.Retention | None) -> Retention:
    """Raises INVALID_ARGUMENT for none, and for what cannot be kept to."""
    if asked is None:
        raise errors.invalid_argument("retention is missing: say for how long events are kept")
    if not math.isfinite(asked.age):
        raise errors.invalid_argument(f"retention age={asked.age:g} s: use 1 s to ten years, or 0 for ever")
    return Retention(asked.age, asked.bytes, asked.count).checked()


def topic(state: TopicState, groups: int) -> pb.Topic:
    kept = state.retention
    return pb.Topic(
        name=state.name,
        retention=pb.Retention(age=kept.age, bytes=kept.bytes, count=kept.count),
        bytes=state.bytes,
        count=state.count,
        first=state.first,
        last=state.last,
        groups=groups,
        created=timestamp(state.created),
    )


def group(name: str, state: TopicState, come: Progress, dead: int, at_work: Mapping[str, tuple[int, int]]) -> pb.Group:
    """A group as it is told; `at_work` says how many events are in hand, and how many members there are."""
    in_flight, members = at_work.get(name, (0, 0))
    return pb.Group(
        name=name,
        lag=progress.lag(come, state.first, state.last),
        next=come.floor + 1,
        in_flight=in_flight,
        members=members,
        dead_letters=max(0, dead - len(come.redriven)),
    )


def dead_letter(topic_name: str, dead: DeadLetter) -> pb.DeadLetter:
    return pb.DeadLetter(
        event=event(topic_name, dead.event, dead.attempts), reason=dead.reason, died=timestamp(dead.died)
    )
