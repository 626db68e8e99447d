"""Messages to whoever listens: `from micro import broker`, then `await broker.publish("orders.created", order)`.

    async for message in broker.subscribe("orders.*"):
        print(message.topic, message.value)

At most once: what is published while nobody listens, or while the broker is away, is gone. What must not be lost is for
`events`. Works at once, in a service as well as in a script that has `MICRO_*` set. Topics are names with dots between;
a subscriber may put "*" for one part and ">" at the end for all that follow. Of those who name the same queue each
message goes to one.

A message is bytes, a string, a message of a contract, a dataclass or what JSON has, 1 MiB at most. It comes as bytes
unless `as_type` says as what.

Everything may raise `errors.Error`: INVALID_ARGUMENT for what is no topic or cannot be carried, UNAVAILABLE when the
broker cannot be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from micro.domain.errors import Error
from micro.framework import client, resuming, values
from micro.framework.publishing import Lines
from micro.rpc.context import CURRENT
from micro.rpc.gen.micro.broker.v1 import broker_pb as pb
from micro.rpc.gen.micro.broker.v1.broker_connect import BrokerClient

__all__ = ["Message", "Subscription", "publish", "subscribe"]

log = logging.getLogger("micro.broker")

T = TypeVar("T")


@dataclass(frozen=True)
class Message(Generic[T]):
    """A message that came.

    Attributes:
        topic: where it was published.
        body: as it was sent.
        header: what its publisher says about it.
    """

    topic: str
    body: bytes
    header: Mapping[str, str]
    _as_type: type[T] = field(repr=False)

    @cached_property
    def value(self) -> T:
        """The body as the type that was asked for. Raises FAILED_PRECONDITION when it is something else."""
        return values.decode(self.body, self._as_type, f"the message to {self.topic}")


class Subscription(Generic[T]):
    """The messages to a pattern of topics as they come, until the iteration is left.

    It begins with the iteration. `async with` has begun when the block does: what is published from then on comes. It
    goes on by itself when the broker is away for a while; what is published then is missing.

    Attributes:
        dropped: how many messages did not come, because they were read too slowly.
    """

    def __init__(self, pattern: str, queue: str, as_type: type[T]) -> None:
        self.dropped = 0
        self._request = pb.SubscribeRequest(topic=pattern, queue=queue)
        self._as_type = as_type
        self._broker = client.of(BrokerClient)
        self._told: AsyncGenerator[Message[T] | None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[T]:
        if self._told is None:
            self._told = self._follow()
        while True:
            found = await anext(self._told)
            if found is not None:
                return found

    async def __aenter__(self) -> Self:
        """Subscribe. Raises what keeps it from that."""
        self._told = self._follow()
        await anext(self._told)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it."""
        if self._told is not None:
            await self._told.aclose()

    async def _follow(self) -> AsyncGenerator[Message[T] | None]:
        """The messages; None before them, when it has begun."""
        delays, reached = resuming.delays(), False
        while True:
            try:
                async with contextlib.aclosing(self._broker.subscribe(self._request)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        delays = resuming.delays()
                        if not reached:
                            reached = True
                            yield None
                        self._missed(answer.dropped)
                        for one in answer.messages:
                            yield Message(one.topic, one.body, one.header, self._as_type)
            except Error as error:
                if not reached or error.kind not in resuming.PASSING:
                    raise
            await asyncio.sleep(next(delays))

    def _missed(self, count: int) -> None:
        if count:
            self.dropped += count
            log.warning("%d messages to %s were dropped: they are read too slowly", count, self._request.topic)


async def publish(topic: str, message: object, *, header: Mapping[str, str] | None = None) -> None:
    """Send a message to those who are subscribed to its topic now. That it returns does not say that there is anybody.

    Args:
        header: what to say about it, up to 64 pairs and 16 KiB. The trace that the call is part of goes with it by
            itself; names of credentials, as "authorization", are refused.

    Raises:
        Error: PERMISSION_DENIED for topics that begin with "micro.", which are the platform's own.
        TypeError: a message that is none.
    """
    body = values.encode(message, f"the message to {topic}")
    await _lines.publish(topic, pb.Message(header=_traced(header or {}), body=body))


async def _one(topic: str, message: pb.Message) -> None:
    await client.of(BrokerClient).publish(pb.PublishRequest(topic=topic, message=message))


async def _many(topic: str, messages: Sequence[pb.Message]) -> Sequence[None]:
    await client.of(BrokerClient).publish_batch(pb.PublishBatchRequest(topic=topic, messages=list(messages)))
    return [None] * len(messages)


_lines: Lines[pb.Message, None] = Lines(
    _one, _many, lambda message: len(message.body) + 512, most=500, most_bytes=2 << 20
)


def _traced(header: Mapping[str, str]) -> dict[str, str]:
    """The header, with the trace of the call that the running code serves where it names none itself."""
    found, ctx = dict(header), CURRENT.get()
    if ctx is not None and not any(name.lower() == "traceparent" for name in found):
        found |= {name: ctx.metadata[name] for name in ("traceparent", "tracestate") if name in ctx.metadata}
    return found


@overload
def subscribe(pattern: str, *, queue: str = ...) -> Subscription[bytes]: ...
@overload
def subscribe(pattern: str, *, queue: str = ..., as_type: type[T]) -> Subscription[T]: ...
def subscribe(pattern: str, *, queue: str = "", as_type: Any = bytes) -> Subscription[Any]:
    """The messages to a topic, or to a pattern of topics: `async for message in broker.subscribe("orders.*"):`.

    Args:
        queue: of those who name the same one each message goes to one; empty to get all.
        as_type: what `message.value` is, as in `store.read`.

    Raises:
        Error: when it begins: INVALID_ARGUMENT for what is no pattern, PERMISSION_DENIED, UNAVAILABLE.
    """
    return Subscription(pattern, queue, as_type)
