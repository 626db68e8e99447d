"""Consumer groups: how far they have come, and where they go on."""

from __future__ import annotations

from typing import Any

from micro.domain import errors, topic
from micro.domain.event import TopicState
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import Groups
from micro.services import _events_messages as messages
from micro.services._events_groups import Place
from micro.services._events_topics import Topics


class GroupsHandler(Groups):
    """The handler of `micro.events.v1.Groups`."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    async def list(self, request: pb.GroupsListRequest, ctx: Any) -> pb.GroupsListResponse:
        namespace = self._topics.namespace(ctx, request.namespace)
        state = await self._topics.state(namespace, topic.topic(request.topic))
        return pb.GroupsListResponse(groups=await described(self._topics, namespace, state))

    async def reset(self, request: pb.GroupsResetRequest, ctx: Any) -> pb.GroupsResetResponse:
        place = named(self._topics, request.namespace, request.topic, request.group, ctx)
        come = await self._topics.reset(place, messages.where(request.to, None))
        state = await self._topics.state(place.namespace, place.topic)
        dead = await self._topics.events.dead(*place)
        return pb.GroupsResetResponse(group=messages.group(place.group, state, come, dead, {}))

    async def delete(self, request: pb.GroupsDeleteRequest, ctx: Any) -> pb.GroupsDeleteResponse:
        place = named(self._topics, request.namespace, request.topic, request.group, ctx)
        return pb.GroupsDeleteResponse(deleted=await self._topics.forget(place))


def named(topics: Topics, namespace: str, name: str, group: str, ctx: Any) -> Place:
    """The group that a request is about. Raises INVALID_ARGUMENT for names that cannot be."""
    namespace = topics.namespace(ctx, namespace)
    topic.topic(name)
    if not group:
        raise errors.invalid_argument("group is missing: say which one")
    return Place(namespace, name, topic.group(group))


async def described(topics: Topics, namespace: str, state: TopicState) -> list[pb.Group]:
    """The groups of a topic, by name, as they are told. Raises NOT_FOUND when the topic has gone."""
    kept = dict(await topics.events.groups(namespace, state.name))
    working = topics.at_work(namespace, state.name)
    kept |= {name: group.delivery.progress() for name, group in working.items()}
    at_work = {name: (group.delivery.in_flight, group.delivery.members) for name, group in working.items()}
    return [
        messages.group(name, state, kept[name], await topics.events.dead(namespace, state.name, name), at_work)
        for name in sorted(kept)
    ]
