"""Dead letters: events that a group gave up, kept until somebody decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from micro.domain import errors
from micro.domain.delivery import MOST_REDRIVEN
from micro.domain.event import PAGE_EVENTS, DeadLetter
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import DeadLetters
from micro.services import _events_messages as messages
from micro.services._events_groups import Place
from micro.services._events_topics import Topics
from micro.services.events_groups import named

_NEAR = 100
"""Dead letters that are looked at together where some are wanted."""


class DeadLettersHandler(DeadLetters):
    """The handler of `micro.events.v1.DeadLetters`."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    async def list(self, request: pb.DeadLettersListRequest, ctx: Any) -> pb.DeadLettersListResponse:
        place = named(self._topics, request.namespace, request.topic, request.group, ctx)
        self._topics.check_reader(ctx, place.namespace, place.topic)
        limit, after = messages.limit(request.limit), request.after
        if after < 0:
            raise errors.invalid_argument(f"after {after} is below 0: name an offset, 0 for the beginning")
        redriven = set((await self._topics.progress(place)).redriven)
        told: list[DeadLetter] = []
        while not told:
            found = await self._topics.events.buried(*place, after, limit)
            if not found:
                return pb.DeadLettersListResponse()
            after = found[-1].event.offset
            told = [dead for dead in found if dead.event.offset not in redriven]
        more = await self._topics.events.buried(*place, after, 1)
        return pb.DeadLettersListResponse(
            dead_letters=[messages.dead_letter(place.topic, dead) for dead in told], next=after if more else 0
        )

    async def redrive(self, request: pb.DeadLettersRedriveRequest, ctx: Any) -> pb.DeadLettersRedriveResponse:
        place = named(self._topics, request.namespace, request.topic, request.group, ctx)
        wanted = await self._there(place, messages.offsets(request.offsets), MOST_REDRIVEN)
        return pb.DeadLettersRedriveResponse(count=await self._topics.redrive(place, wanted))

    async def drop(self, request: pb.DeadLettersDropRequest, ctx: Any) -> pb.DeadLettersDropResponse:
        place = named(self._topics, request.namespace, request.topic, request.group, ctx)
        asked = messages.offsets(request.offsets)
        count = 0
        async for some in self._pages(place, asked):
            count += await self._topics.drop(place, some)
        return pb.DeadLettersDropResponse(count=count)

    async def _there(self, place: Place, asked: Sequence[int], most: int) -> Sequence[int]:
        """Those of the offsets that are dead letters, all there are when none is asked for; at most so many."""
        found: list[int] = []
        async for some in self._pages(place, asked):
            found += some
            if len(found) >= most:
                break
        return found[:most]

    async def _pages(self, place: Place, asked: Sequence[int]) -> AsyncIterator[Sequence[int]]:
        await self._topics.progress(place)  # raises when there is no such group
        wanted, after = set(asked), asked[0] - 1 if asked else 0
        while True:
            page = await self._topics.events.buried(*place, after, _NEAR if asked else PAGE_EVENTS)
            offsets = [dead.event.offset for dead in page]
            if not offsets:
                return
            yield [offset for offset in offsets if not wanted or offset in wanted]
            after = offsets[-1]
            if asked:
                left = next((offset for offset in asked if offset > after), 0)
                if not left:
                    return
                after = left - 1
