"""Topics: which there are, how long their events are kept, and their end."""

from __future__ import annotations

from typing import Any

from micro.domain import errors, topic
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import Topics as TopicsService
from micro.services import _caller as caller
from micro.services import _events_messages as messages
from micro.services._events_topics import Topics
from micro.services._store_databases import namespace_named
from micro.services.events_groups import described


class TopicsHandler(TopicsService):
    """The handler of `micro.events.v1.Topics`."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    async def list(self, request: pb.TopicsListRequest, ctx: Any) -> pb.TopicsListResponse:
        namespace = self._topics.namespace(ctx, request.namespace)
        states = await self._topics.events.topics(namespace)
        counts = await self._topics.events.group_counts(namespace, [state.name for state in states])
        told = [messages.topic(state, count) for state, count in zip(states, counts, strict=True)]
        return pb.TopicsListResponse(topics=told)

    async def info(self, request: pb.TopicsInfoRequest, ctx: Any) -> pb.TopicsInfoResponse:
        namespace = self._topics.namespace(ctx, request.namespace)
        state = await self._topics.state(namespace, topic.topic(request.topic))
        groups = await described(self._topics, namespace, state)
        return pb.TopicsInfoResponse(topic=messages.topic(state, len(groups)), groups=groups)

    async def configure(self, request: pb.TopicsConfigureRequest, ctx: Any) -> pb.TopicsConfigureResponse:
        namespace = self._topics.namespace(ctx, request.namespace)
        name, retention = topic.topic(request.topic), messages.retention(request.retention)
        if topic.platforms(name) and not caller.account(ctx).administers(namespace):
            raise errors.permission_denied(
                f"topic {name} is the platform's: how long it is kept is for admins of namespace {namespace} to say"
            )
        state = await self._topics.made(namespace, name, retention)
        groups = await self._topics.events.group_names(namespace, name)
        return pb.TopicsConfigureResponse(topic=messages.topic(state, len(groups)))

    async def delete(self, request: pb.TopicsDeleteRequest, ctx: Any) -> pb.TopicsDeleteResponse:
        namespace = self._topics.namespace(ctx, request.namespace)
        return pb.TopicsDeleteResponse(deleted=await self._topics.delete(namespace, topic.topic(request.topic)))

    async def purge(self, request: pb.TopicsPurgeRequest, ctx: Any) -> pb.TopicsPurgeResponse:
        await self._topics.purge(namespace_named(request.namespace))
        return pb.TopicsPurgeResponse()
