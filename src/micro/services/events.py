"""Event streams: what was published is kept in order, and handed to consumers until it is handled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from micro.domain import errors, topic
from micro.domain.errors import Error, Kind
from micro.domain.event import check, check_batch
from micro.domain.terms import Terms
from micro.rpc.deadline import DisconnectedError
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import Events, Stream
from micro.services import _events_messages as messages
from micro.services._events_groups import Place, Seat
from micro.services._events_messages import Where
from micro.services._events_silence import Silence
from micro.services._events_topics import Topics
from micro.services.events_dead import DeadLettersHandler
from micro.services.events_groups import GroupsHandler
from micro.services.events_topics import TopicsHandler

__all__ = ["DeadLettersHandler", "EventsHandler", "GroupsHandler", "StreamHandler", "Topics", "TopicsHandler"]

_FOR_EVER = 10 * 365 * 86400.0


class StreamHandler(Stream):
    """The handler of `micro.events.v1.Stream`."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    async def publish(self, request: pb.PublishRequest, ctx: Any) -> pb.PublishResponse:
        namespace, name = self._publishes(request.namespace, request.topic, ctx)
        event = messages.new(request)
        check(event)
        [appended] = await self._topics.append(namespace, name, (event,))
        return messages.published(appended)

    async def publish_batch(self, request: pb.PublishBatchRequest, ctx: Any) -> pb.PublishBatchResponse:
        namespace, name = self._publishes(request.namespace, request.topic, ctx)
        events = [messages.new(event) for event in request.events]
        check_batch(events)
        appended = await self._topics.append(namespace, name, events)
        return pb.PublishBatchResponse(events=[messages.published(one) for one in appended])

    async def publish_each(
        self, request: AsyncIterator[pb.PublishEachRequest], ctx: Any
    ) -> AsyncIterator[pb.PublishEachResponse]:
        yield pb.PublishEachResponse()
        async for told in request:
            try:
                batch = pb.PublishBatchRequest(topic=told.topic, events=told.events, namespace=told.namespace)
                answer = pb.PublishEachResponse(events=(await self.publish_batch(batch, ctx)).events)
            except Error as error:
                if error.kind is Kind.PERMISSION_DENIED:
                    raise
                answer = pb.PublishEachResponse(code=error.kind.code, message=error.message)
            yield answer

    def _publishes(self, namespace: str, name: str, ctx: Any) -> tuple[str, str]:
        namespace = self._topics.namespace(ctx, namespace)
        topic.topic(name)
        self._topics.check_publisher(ctx, namespace, name)
        return namespace, name

    async def consume(self, request: AsyncIterator[pb.ConsumeRequest], ctx: Any) -> AsyncIterator[pb.ConsumeResponse]:
        first = await anext(aiter(request), None)
        if first is None:
            raise errors.invalid_argument("the first message is missing: say which topic to consume")
        place, terms, start = self._asked(first, ctx)
        with self._topics.consuming(place.namespace):
            seat = await self._topics.join(place, terms, start, auto_ack=first.auto_ack)
            # owned: below
            listener = asyncio.get_running_loop().create_task(_listen(seat, first, request))
            try:
                yield pb.ConsumeResponse(next=seat.next)
                while (frame := await seat.frame()) is not None:
                    yield messages.frame(place.topic, *frame)
            finally:
                seat.leave()
                listener.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listener

    def _asked(self, request: pb.ConsumeRequest, ctx: Any) -> tuple[Place, Terms, Where]:
        namespace = self._topics.namespace(ctx, request.namespace)
        if request.group:
            topic.group(request.group)
        place = Place(namespace, topic.topic(request.topic), request.group)
        self._topics.check_reader(ctx, namespace, place.topic)
        terms = messages.terms(request)
        messages.seconds("silence", request.silence)
        start = messages.where(request.from_, Where())
        if request.auto_ack:
            terms = Terms(_FOR_EVER, terms.max_deliver, terms.backoff, terms.max_in_flight)
        return place, terms, start


async def _listen(seat: Seat, first: pb.ConsumeRequest, requests: AsyncIterator[pb.ConsumeRequest]) -> None:
    """Take what a consumer says until it says no more."""
    silence = Silence(first.silence, seat.gone)
    try:
        seat.hear(first)
        async for request in requests:
            silence.heard()
            seat.hear(request)
    except DisconnectedError:
        seat.gone()
    except Error as error:
        seat.fail(error)
    except Exception:  # noqa: BLE001 - the caller is gone, whatever the protocol calls that
        seat.gone()
    else:
        seat.silent()
    finally:
        silence.end()


class EventsHandler(Events):
    """The handler of `micro.events.v1.Events`."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    async def read(self, request: pb.ReadRequest, ctx: Any) -> pb.ReadResponse:
        namespace = self._topics.namespace(ctx, request.namespace)
        name = topic.topic(request.topic)
        self._topics.check_reader(ctx, namespace, name)
        limit = messages.limit(request.limit)
        start = await self._topics.offset(namespace, name, messages.where(request.from_, Where(offset=1)))
        found = await self._topics.events.read(namespace, name, start, limit)
        next_ = found[-1].offset + 1 if found else start
        return pb.ReadResponse(events=[messages.event(name, event) for event in found], next=next_)
