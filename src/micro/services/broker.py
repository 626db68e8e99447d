"""The broker: messages to whoever listens at that moment."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from micro.domain import errors, topic
from micro.domain.message import MAX_BATCH, MAX_BATCH_BYTES, MAX_BODY, Message, check_pairs
from micro.ports import broker as port
from micro.ports import identity
from micro.rpc.gen.micro.broker.v1 import broker_pb as pb
from micro.rpc.gen.micro.broker.v1.broker_connect import Broker
from micro.services import _caller as caller

BUFFER_MESSAGES = 1024
BUFFER_BYTES = 4 << 20
"""What waits for one subscriber at most; the oldest goes when there is more."""

FRAME_MESSAGES = 128
FRAME_BYTES = 256 << 10
"""What one answer holds, about: a message that is larger has one of its own."""

PACE_SECONDS = 0.004
"""How soon an answer may follow another one that was not full: where messages come faster, several share an answer,
which costs everybody on the way less. One that comes alone is told at once."""

SUBSCRIPTIONS = 1000
"""Subscriptions of one namespace at a time."""

_OVERHEAD = 128
"""Bytes that a message takes beside what is in it, about."""

CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
"""Names that a header may not have, in any case, as those may not that begin with "micro-": what is in them is for
whom a request was sent to, and no subscriber's business."""

PLATFORM = "micro-"

_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,64})?")
_STATE_CHARACTERS = 512


class Buffer:
    """What waits for one subscriber: the oldest is dropped, and counted, when that becomes too much.

    Args:
        most: messages.
        most_bytes: bytes of them.
    """

    def __init__(self, most: int = BUFFER_MESSAGES, most_bytes: int = BUFFER_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[pb.Message, int]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._some = asyncio.Event()

    def put(self, message: pb.Message, size: int) -> None:
        """Take in the newest."""
        self._waiting.append((message, size))
        self._bytes += size
        while len(self._waiting) > self._most or (self._bytes > self._most_bytes and len(self._waiting) > 1):
            self._bytes -= self._waiting.popleft()[1]
            self._dropped += 1
        self._some.set()

    @property
    def full(self) -> bool:
        """Whether there is as much as an answer holds."""
        return len(self._waiting) >= FRAME_MESSAGES or self._bytes >= FRAME_BYTES

    async def some(self) -> None:
        """Return when there is a message."""
        await self._some.wait()

    def take(self) -> pb.SubscribeResponse:
        """The oldest ones, as many as an answer holds, and how many were dropped before them."""
        messages: list[pb.Message] = []
        size = 0
        while self._waiting and len(messages) < FRAME_MESSAGES:
            if messages and size + self._waiting[0][1] > FRAME_BYTES:
                break
            message, one = self._waiting.popleft()
            messages.append(message)
            size += one
        self._bytes -= size
        if not self._waiting:
            self._some.clear()
        dropped, self._dropped = self._dropped, 0
        return pb.SubscribeResponse(messages=messages, dropped=dropped)


class _Told:
    """Messages as subscribers are told them: made once for all who get the same one after each other."""

    def __init__(self) -> None:
        self._last: Message | None = None
        self._told = pb.Message()
        self._size = 0

    def of(self, message: Message) -> tuple[pb.Message, int]:
        """The message, and about how many bytes it has."""
        if message is not self._last:
            header = dict(message.header)
            pairs = sum(len(name) + len(value) for name, value in header.items())
            self._told = pb.Message(header=header, body=message.body, topic=message.topic)
            self._size = _OVERHEAD + len(message.body) + len(message.topic) + pairs
            self._last = message
        return self._told, self._size


class BrokerHandler(Broker):
    """The handler of `micro.broker.v1.Broker`.

    Args:
        broker: what carries messages; started by whoever made it.
        exists: whether there is such a namespace.
    """

    def __init__(self, broker: port.Broker, exists: Callable[[str], bool] = lambda namespace: True) -> None:
        self._broker = broker
        self._exists = exists
        self._subscriptions: Counter[str] = Counter()
        self._told = _Told()

    async def publish(self, request: pb.PublishRequest, ctx: Any) -> pb.PublishResponse:
        namespace, name = self._publishes(ctx, request.namespace, request.topic)
        if request.message is None:
            raise errors.invalid_argument("message is missing: say what to send")
        await self._broker.publish(namespace, _checked(name, request.message, ctx))
        return pb.PublishResponse()

    async def publish_batch(self, request: pb.PublishBatchRequest, ctx: Any) -> pb.PublishBatchResponse:
        namespace, name = self._publishes(ctx, request.namespace, request.topic)
        if not 1 <= len(request.messages) <= MAX_BATCH:
            raise errors.invalid_argument(f"the batch has {len(request.messages):,} messages: use 1 to {MAX_BATCH:,}")
        checked = [_checked(name, message, ctx) for message in request.messages]
        if (size := sum(len(message.body) for message in checked)) > MAX_BATCH_BYTES:
            raise errors.invalid_argument(f"the batch has {size:,} bytes: {MAX_BATCH_BYTES:,} are the most")
        for message in checked:
            await self._broker.publish(namespace, message)
        return pb.PublishBatchResponse()

    def _publishes(self, ctx: Any, asked: str, name: str) -> tuple[str, str]:
        namespace = self._namespace(ctx, asked)
        if topic.platforms(topic.topic(name)):
            raise errors.permission_denied(f"topic {name} is the platform's own: publish to another one")
        return namespace, name

    async def subscribe(self, request: pb.SubscribeRequest, ctx: Any) -> AsyncIterator[pb.SubscribeResponse]:
        namespace = self._namespace(ctx, request.namespace)
        pattern = topic.pattern(request.topic)
        queue = topic.group(request.queue) if request.queue else ""
        buffer, told = Buffer(), self._told
        with self._counted(namespace):
            async with self._broker.subscribe(namespace, pattern, lambda one: buffer.put(*told.of(one)), queue):
                yield pb.SubscribeResponse()
                clock, told_at = asyncio.get_running_loop().time, 0.0
                while True:
                    await buffer.some()
                    early = told_at + PACE_SECONDS - clock()
                    if early > 0 and not buffer.full:
                        await asyncio.sleep(early)
                    told_at = clock()
                    yield buffer.take()

    def _namespace(self, ctx: Any, asked: str) -> str:
        namespace = caller.namespace(ctx, asked)
        if not self._exists(namespace):
            raise identity.no_namespace(namespace)
        return namespace

    @contextmanager
    def _counted(self, namespace: str) -> Iterator[None]:
        if self._subscriptions[namespace] >= SUBSCRIPTIONS:
            raise errors.resource_exhausted(
                f"namespace {namespace} has {SUBSCRIPTIONS:,} subscriptions: end some that are not needed"
            )
        self._subscriptions[namespace] += 1
        try:
            yield
        finally:
            self._subscriptions[namespace] -= 1
            if not self._subscriptions[namespace]:
                del self._subscriptions[namespace]


def _checked(name: str, message: pb.Message, ctx: Any) -> Message:
    """What is published. Raises INVALID_ARGUMENT for what cannot be carried."""
    if len(message.body) > MAX_BODY:
        raise errors.invalid_argument(
            f"the body has {len(message.body):,} bytes: {MAX_BODY:,} are the most; write what is larger as a blob, and "
            "publish its key"
        )
    return Message(name, message.body, _header(message.header, ctx.metadata))


def _header(given: Mapping[str, str], request: Mapping[str, str]) -> dict[str, str]:
    """What goes with a message: what its publisher says, and the trace that the request is part of."""
    check_pairs("the header", given)
    names = {name.lower() for name in given}
    for name in names:
        if name in CREDENTIALS or name.startswith(PLATFORM):
            raise errors.invalid_argument(
                f"the header has {name[:40]!r}, which all subscribers would read: leave out credentials, and what "
                f'begins with "{PLATFORM}"'
            )
    header = dict(given)
    parent = request.get("traceparent", "")
    if "traceparent" not in names and _PARENT.fullmatch(parent):
        header["traceparent"] = parent
        state = request.get("tracestate", "")
        if state and "tracestate" not in names and len(state) <= _STATE_CHARACTERS:
            header["tracestate"] = state
    return header
