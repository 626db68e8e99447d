"""Events that are kept, in order: `from micro import events`, then `await events.publish("orders", order)`.

Works at once, in a service as well as in a script that has `MICRO_*` set; a topic is made when it is first named. What
is published is on disk when the call returns, and can be read again for as long as the topic keeps it.

    async for event in events.consume("orders", group="billing", as_type=Order):
        await bill(event.value)

A message is bytes, a string, a message of a contract, a dataclass or what JSON has. It comes back as bytes unless
`as_type` says as what. In a service, `@service.consume("orders")` does the loop.

Everything may raise `errors.Error`: INVALID_ARGUMENT for what no topic takes, PERMISSION_DENIED, RESOURCE_EXHAUSTED
when there is no room, UNAVAILABLE when events cannot be reached: what was being published may then be there or not.
Publish it again with the same `dedup_id`, and it is there once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, cast, overload

from micro.domain import errors, text
from micro.domain.errors import Error
from micro.framework import client, values
from micro.framework.deliveries import MAX_REASON, Deliveries, Delivery, Wanted
from micro.framework.deliveries import log as _log
from micro.framework.lanes import Lanes
from micro.framework.publishing import Lines
from micro.rpc import wkt
from micro.rpc.client import named_namespace
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import EventsClient, StreamClient

__all__ = [
    "Consumer", "Event", "New", "Published", "Start", "Topic", "consume", "publish", "publish_batch", "read", "topic",
]  # fmt: skip

V = TypeVar("V")
T = TypeVar("T")

Start = Literal["new", "all"] | int | dt.datetime
"""A place in a topic: behind what is there, its beginning, an offset, or the first event appended then or later."""

IN_FLIGHT = 64
"""Events in a consumer's hands at a time, by default."""

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Published:
    """Where an event is.

    Attributes:
        offset: its place in the topic; the first event's is 1.
        duplicate: whether it was there before, by its `dedup_id`; id and offset are the first one's.
    """

    id: str
    offset: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class New:
    """One event of a batch; the attributes are the arguments of `publish`."""

    message: object
    key: str = ""
    metadata: Mapping[str, str] | None = None
    timestamp: dt.datetime | None = None
    dedup_id: str = ""


class Event(Generic[V]):
    """Something that happened, at its place in a topic.

    Attributes:
        value: the payload, as the type that was asked for.
    """

    __slots__ = ("_delivery", "_told", "value")

    def __init__(self, told: pb.Event, value: V, delivery: Delivery | None = None) -> None:
        self.value = value
        self._told = told
        self._delivery = delivery

    @property
    def id(self) -> str:
        """Unique; the same wherever it is told."""
        return self._told.id

    @property
    def topic(self) -> str:
        return self._told.topic

    @property
    def offset(self) -> int:
        """Its place: the first event's is 1, and it grows by one."""
        return self._told.offset

    @property
    def key(self) -> str:
        """What it is about; empty for nothing."""
        return self._told.key

    @property
    def payload(self) -> bytes:
        """As it was published."""
        return self._told.payload

    @property
    def metadata(self) -> Mapping[str, str]:
        """What its publisher says about it."""
        return self._told.metadata

    @property
    def timestamp(self) -> dt.datetime:
        """When it happened, in UTC: what its publisher said, else when it was appended."""
        return (self._told.timestamp or wkt.Timestamp()).to_datetime()

    @property
    def attempt(self) -> int:
        """Which try this is, 1 for the first; 0 for one that was read and not consumed."""
        return self._told.attempt

    async def ack(self) -> None:
        """Tell that it is handled. Once is enough, and it goes out with the others of this moment."""
        if self._delivery is not None:
            self._delivery.ack()

    async def nack(self, *, delay: float | None = None, reason: str = "", give_up: bool = False) -> None:
        """Tell that it could not be handled: it is tried again, or becomes a dead letter.

        Args:
            delay: seconds until it is tried again; by default what the consumer's `backoff` says.
            reason: for whoever reads the dead letters; 1,024 characters are kept.
            give_up: make it a dead letter at once: no other try would help.

        Raises INVALID_ARGUMENT for a delay that is none, or more than a day; nothing is told then.
        """
        if self._delivery is not None:
            self._delivery.nack(reason, delay, give_up=give_up)

    async def release(self) -> None:
        """Give it back unhandled: it is delivered again at once, and this try does not count."""
        if self._delivery is not None:
            self._delivery.release()

    def __repr__(self) -> str:
        return f"Event(topic={self.topic!r}, offset={self.offset}, key={self.key!r}, attempt={self.attempt})"


class Consumer(Generic[V]):
    """The events of a topic as they come; made by `consume`. One iteration at a time."""

    def __init__(self, wanted: Wanted, as_type: Any, *, manual: bool) -> None:
        self._wanted = wanted
        self._as_type = as_type
        self._manual = manual
        self._deliveries: Deliveries | None = None
        self._current: Delivery | None = None

    async def __aiter__(self) -> AsyncGenerator[Event[V]]:
        entered = self._deliveries is not None
        deliveries = self._deliveries = self._deliveries or Deliveries(self._wanted)
        deliveries.start()
        try:
            while (taken := await deliveries.take()) is not None:
                event = decoded(taken, self._as_type)
                if event is None:
                    continue
                self._current = taken
                yield event
                if not self._manual:
                    taken.ack()
                self._current = None
        finally:
            if not entered:
                await self.aclose()

    async def __aenter__(self) -> Self:
        """Return once events has answered: what is published from then on comes."""
        self._deliveries = Deliveries(self._wanted)
        try:
            await self._deliveries.join()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and self._current is not None:
            self._current.nack(reason(error))
        await self.aclose()

    async def aclose(self) -> None:
        """Give back what is in hand, and leave."""
        deliveries, self._deliveries, self._current = self._deliveries, None, None
        if deliveries is not None:
            await deliveries.close()


class Topic(Generic[V]):
    """One topic.

    Args:
        name: of the topic.
        as_type: what its messages are, where a call does not say.
    """

    def __init__(self, name: str, as_type: type[V]) -> None:
        self.name = name
        self.as_type = as_type

    async def publish(
        self,
        message: object,
        *,
        key: str = "",
        metadata: Mapping[str, str] | None = None,
        timestamp: dt.datetime | None = None,
        dedup_id: str = "",
    ) -> Published:
        """As `events.publish`."""
        return await publish(
            self.name, message, key=key, metadata=metadata, timestamp=timestamp, dedup_id=dedup_id
        )  # fmt: skip

    async def publish_batch(self, messages: Iterable[object]) -> list[Published]:
        """As `events.publish_batch`."""
        return await publish_batch(self.name, messages)

    def consume(
        self,
        *,
        group: str = "",
        start: Start = "new",
        ack_wait: float | None = None,
        max_deliver: int | None = None,
        backoff: Sequence[float] = (),
        max_in_flight: int | None = None,
        auto_ack: bool = False,
        manual: bool = False,
    ) -> Consumer[V]:
        """As `events.consume`."""
        return consume(
            self.name, group=group, start=start, as_type=self.as_type, ack_wait=ack_wait, max_deliver=max_deliver,
            backoff=backoff, max_in_flight=max_in_flight, auto_ack=auto_ack, manual=manual,
        )  # fmt: skip

    async def read(self, *, start: Start = "all", limit: int = 100) -> list[Event[V]]:
        """As `events.read`."""
        return await read(self.name, start=start, limit=limit, as_type=self.as_type)


@overload
def topic(name: str) -> Topic[bytes]: ...
@overload
def topic(name: str, as_type: type[V]) -> Topic[V]: ...
def topic(name: str, as_type: Any = bytes) -> Topic[Any]:
    """A topic of the namespace; `as_type` is what its messages are."""
    return Topic(name, as_type)


async def publish(
    topic: str,
    message: object,
    *,
    key: str = "",
    metadata: Mapping[str, str] | None = None,
    timestamp: dt.datetime | None = None,
    dedup_id: str = "",
) -> Published:
    """Append an event to a topic; on disk when it returns. What many publish to it at the same time goes together.

    Args:
        message: up to 1 MiB; larger things are blobs, and the event names their key.
        key: what it is about, up to 255 bytes: events of one key are handled in order.
        metadata: pairs of strings beside it, up to 64 and 16 KiB.
        timestamp: when it happened; now by default.
        dedup_id: an event with the same one that was published within the last two minutes is not appended again;
            within less, where the topic keeps events for less.

    Raises:
        TypeError: a message that cannot be sent, metadata that are no strings.
    """
    fields = _fields(topic, New(message, key, metadata, timestamp, dedup_id))
    return _published(await _lines.publish(topic, fields))


async def publish_batch(topic: str, messages: Iterable[object]) -> list[Published]:
    """Append several events to one topic, in order: all of them, one behind the other, or none.

    Where one of them was published before (`dedup_id`), or NATS is older than 2.12.1, they are appended one by one, and
    a failure may leave a part of them. With a `dedup_id` for each, the same batch, published again, adds the rest.

    Args:
        messages: up to 1,000, and 4 MiB together; `events.New(message, key=…)` for one with more than its payload.
    """
    made = [one if isinstance(one, New) else New(one) for one in messages]
    request = pb.PublishBatchRequest(topic=topic, events=[pb.NewEvent(**_fields(topic, one)) for one in made])
    return [_published(one) for one in (await client.of(StreamClient).publish_batch(request)).events]


@overload
def consume(topic: str, *, group: str = ..., start: Start = ..., ack_wait: float | None = ...,
            max_deliver: int | None = ..., backoff: Sequence[float] = ..., max_in_flight: int | None = ...,
            auto_ack: bool = ..., manual: bool = ...) -> Consumer[bytes]: ...  # fmt: skip
@overload
def consume(topic: str, *, as_type: type[T], group: str = ..., start: Start = ..., ack_wait: float | None = ...,
            max_deliver: int | None = ..., backoff: Sequence[float] = ..., max_in_flight: int | None = ...,
            auto_ack: bool = ..., manual: bool = ...) -> Consumer[T]: ...  # fmt: skip
def consume(
    topic: str,
    *,
    group: str = "",
    start: Start = "new",
    as_type: Any = bytes,
    ack_wait: float | None = None,
    max_deliver: int | None = None,
    backoff: Sequence[float] = (),
    max_in_flight: int | None = None,
    auto_ack: bool = False,
    manual: bool = False,
) -> Consumer[Any]:
    """The events of a topic as they come, for ever: `async for event in events.consume("orders", group="billing")`.

    An event is acknowledged when the loop comes back for the next one. One that is in hand when the loop is left,
    however, is given back: it is delivered again at once, and that try does not count; acknowledge it yourself before a
    `break`. In `async with events.consume(…) as orders:` around the loop an exception counts as a failed try, with its
    text as the reason, and the block is entered once events has answered: what is published from then on comes.

    Goes on by itself when events, or the way there, was away: without a group behind what was handled last. Only when
    events cannot be reached for 15 s at first is that an error. A payload that is not of the type that is asked for is
    given back with that as the reason, and the loop does not see it.

    Args:
        group: whose progress is shared and remembered: each event goes to one of its consumers. Empty to get every
            event, alone.
        start: where to begin; a group that is there already goes on where it was.
        as_type: what the payloads are; see `events`.
        ack_wait: seconds to handle an event in before it is delivered again; 30 by default, 3,600 at most.
        max_deliver: how often an event is tried before it is a dead letter; 5 by default, -1 for ever.
        backoff: seconds before the second try, the third, and so on; by default 1, 5, 30, 120.
        max_in_flight: events in this consumer's hands at a time; 64 by default, 1,024 at most.
        auto_ack: an event counts as handled as soon as it has been sent: at most once, and faster.
        manual: nothing is acknowledged but by `await event.ack()` and `await event.nack()`.

    Raises:
        Error: PERMISSION_DENIED, INVALID_ARGUMENT and what else does not pass by itself.
        TypeError: a start that is none.
    """
    if auto_ack and manual:
        raise TypeError("auto_ack and manual exclude each other: what has been sent counts as handled, or you say so")
    asked = wanted(topic, group, start, ack_wait, max_deliver, backoff, max_in_flight, auto_ack=auto_ack)
    return Consumer(asked, as_type, manual=manual or auto_ack)


@overload
async def read(topic: str, *, start: Start = ..., limit: int = ...) -> list[Event[bytes]]: ...
@overload
async def read(topic: str, *, as_type: type[T], start: Start = ..., limit: int = ...) -> list[Event[T]]: ...
async def read(topic: str, *, start: Start = "all", limit: int = 100, as_type: Any = bytes) -> list[Event[Any]]:
    """Events in order, without consuming them.

    Args:
        start: where to begin.
        limit: how many at most.

    Raises:
        Error: NOT_FOUND when there is no such topic; FAILED_PRECONDITION when a payload is of another type.
    """
    found: list[Event[Any]] = []
    place, looks = at(start), client.of(EventsClient)
    while len(found) < limit:
        wanted = min(limit - len(found), _PAGE)
        answer = await looks.read(pb.ReadRequest(topic=topic, from_=place, limit=wanted))
        found += (Event(one, values.decode(one.payload, as_type, _subject(one))) for one in answer.events)
        if not answer.events:
            break
        place = pb.Start(at=wkt.oneof("offset", answer.next))
    return found


def wanted(
    topic: str,
    group: str,
    start: Start,
    ack_wait: float | None,
    max_deliver: int | None,
    backoff: Sequence[float],
    max_in_flight: int | None,
    *,
    auto_ack: bool = False,
) -> Wanted:
    """What a consumer asks for. Raises TypeError for what has no place in it."""
    waits = tuple(float(one) for one in backoff)
    return Wanted(
        topic, group, at(start), auto_ack, float(ack_wait or 0), int(max_deliver or 0), waits, int(max_in_flight or 0)
    )


def at(start: Start) -> pb.Start:
    """A place in a topic, as it is sent. Raises TypeError for what is none."""
    if isinstance(start, dt.datetime):
        return pb.Start(at=wkt.oneof("time", wkt.Timestamp.from_datetime(start.astimezone(dt.UTC))))
    if isinstance(start, int) and not isinstance(start, bool):
        return pb.Start(at=wkt.oneof("offset", start))
    if start not in ("new", "all"):
        raise TypeError(f'start={start!r} is no place in a topic: use "new", "all", an offset or a datetime')
    return pb.Start(at=wkt.oneof(start, True))


def decoded(taken: Delivery, as_type: Any) -> Event[Any] | None:
    """A delivery as its consumer sees it; None for one that is of another type: no other try would help."""
    told = taken.told
    if as_type is bytes:
        return Event(told, told.payload, taken)
    try:
        return Event(told, values.decode(told.payload, as_type, _subject(told)), taken)
    except TypeError:  # the type is none that anything could be
        raise
    except Exception as error:  # noqa: BLE001 - a class may say in its own way that it does not like what it is given
        _log.warning("%s", error if isinstance(error, Error) else f"{_subject(told)}: {reason(error)}")
        taken.nack(reason(error), give_up=True)
        return None


def reason(error: BaseException) -> str:
    """An error as one line, for whoever reads the dead letters."""
    try:
        said = " ".join(text.well_formed(str(error)).split())
    except Exception:  # noqa: BLE001 - an exception whose words cannot be had is one all the same
        said = ""
    known = isinstance(error, Error) and said
    return (said if known else f"{type(error).__name__}: {said}".rstrip(": "))[:MAX_REASON]


def _subject(told: pb.Event) -> str:
    return f"event {told.offset} of {told.topic}"


def _fields(topic: str, new: New) -> dict[str, Any]:
    given = dict(new.metadata or {})
    if not all(isinstance(one, str) for pair in given.items() for one in pair):
        raise TypeError(f"metadata of an event for {topic!r} are pairs of strings")
    moment = new.timestamp and wkt.Timestamp.from_datetime(new.timestamp.astimezone(dt.UTC))
    payload = values.encode(new.message, f"a message for {topic!r}")
    return {"payload": payload, "metadata": given, "timestamp": moment, "key": new.key, "dedup_id": new.dedup_id}


async def _one(topic: str, fields: dict[str, Any]) -> pb.PublishResponse:
    if (answers := await _quickly(topic, [fields])) is not None:
        return answers[0]
    return await client.of(StreamClient).publish(pb.PublishRequest(topic=topic, **fields))


async def _many(topic: str, every: Sequence[dict[str, Any]]) -> Sequence[pb.PublishResponse]:
    if (answers := await _quickly(topic, every)) is not None:
        return answers
    request = pb.PublishBatchRequest(topic=topic, events=[pb.NewEvent(**fields) for fields in every])
    return (await client.of(StreamClient).publish_batch(request)).events


async def _quickly(topic: str, every: Sequence[dict[str, Any]]) -> Sequence[pb.PublishResponse] | None:
    """Over a lane; None where none waits."""
    request = pb.PublishEachRequest(topic=topic, events=[pb.NewEvent(**fields) for fields in every])
    size, timeout = sum(map(_size, every)), client.default.left(None)
    answer = await _lanes.publish(request, size, named_namespace(), timeout)
    if answer is None:
        return None
    if len(answer.events) != len(every):
        raise errors.internal(f"events answered {len(every)} events with {len(answer.events)}")
    return answer.events


def _lane(requests: AsyncIterator[pb.PublishEachRequest], namespace: str) -> AsyncGenerator[pb.PublishEachResponse]:
    headers = {"micro-namespace": namespace} if namespace else None
    answers: Any = client.of(StreamClient, bulk=True).publish_each(requests, headers=headers)
    return cast("AsyncGenerator[pb.PublishEachResponse]", answers)


def _place() -> str | None:
    return client.address() if client.default.hurried else None


def _size(fields: dict[str, Any]) -> int:
    return len(fields["payload"]) + sum(len(name) + len(value) for name, value in fields["metadata"].items()) + 512


_lanes = Lanes(_lane, _place)
_lines: Lines[dict[str, Any], pb.PublishResponse] = Lines(_one, _many, _size, most=500, most_bytes=2 << 20)


def _published(told: pb.PublishResponse) -> Published:
    return Published(told.id, told.offset, told.duplicate)
