"""Messages between those who share this object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from micro.domain.message import Message
from micro.domain.topic import matches
from micro.ports.broker import Broker, Deliver


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    pattern: str
    queue: str
    deliver: Deliver


class MemoryBroker(Broker):
    """Nothing leaves the process."""

    def __init__(self) -> None:
        self._namespaces: dict[str, list[_Subscription]] = {}
        self._turn = 0

    async def start(self, stack: AsyncExitStack) -> None:
        return

    def healthy(self) -> bool:
        return True

    async def publish(self, namespace: str, message: Message) -> None:
        sent = Message(message.topic, message.body, dict(message.header))
        queues: dict[str, list[Deliver]] = {}
        for each in tuple(self._namespaces.get(namespace, ())):
            if not matches(each.pattern, message.topic):
                continue
            if each.queue:
                queues.setdefault(each.queue, []).append(each.deliver)
            else:
                each.deliver(sent)
        self._turn += 1
        for members in queues.values():
            members[self._turn % len(members)](sent)
        await asyncio.sleep(0)  # as others do: who publishes in a loop lets subscribers read

    def subscribe(
        self, namespace: str, pattern: str, deliver: Deliver, queue: str = ""
    ) -> AbstractAsyncContextManager[None]:
        return self._subscribed(namespace, _Subscription(pattern, queue, deliver))

    @asynccontextmanager
    async def _subscribed(self, namespace: str, subscription: _Subscription) -> AsyncGenerator[None]:
        self._namespaces.setdefault(namespace, []).append(subscription)
        try:
            yield
        finally:
            left = self._namespaces[namespace]
            left.remove(subscription)
            if not left:
                del self._namespaces[namespace]
