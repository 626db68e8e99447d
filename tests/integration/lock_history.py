"""Clients that want the same lock while its store goes away, and whether it had one holder at a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc.aio
from store_history import LOCK, Store

from micro.rpc.gen.micro.store.v1 import store_pb as pb

CLIENTS = 5


@dataclass(frozen=True)
class Held:
    """A lock as its holder knew it: from the answer on, until it was given back or may have ended."""

    token: int
    begin: float
    end: float


@dataclass
class Locks:
    """Who held it when."""

    held: list[Held] = field(default_factory=list)
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def more(self, count: int) -> None:
        """Return when it was had so many more times."""
        wanted = len(self.held) + count
        async with asyncio.timeout(60), self.progress:
            await self.progress.wait_for(lambda: len(self.held) >= wanted)

    def check(self) -> None:
        assert len({one.token for one in self.held}) == len(self.held)
        # Whose answer came when the lease may have ended already has never held it.
        held = sorted((one for one in self.held if one.begin < one.end), key=lambda one: one.token)
        assert held
        for one, following in itertools.pairwise(held):
            assert one.end <= following.begin, "two held it at one time"

    async def contend(self, number: int, store: Store, lease: float, stop: asyncio.Event) -> None:
        """Have it again and again, and give it back, or not."""
        while not stop.is_set():
            asked = time.monotonic()
            with contextlib.suppress(grpc.aio.AioRpcError):
                request = pb.AcquireRequest(name="one", wait=True, lease=lease)
                got = await store.ask(f"{LOCK}Acquire", request, pb.AcquireResponse, timeout=3)
                begin = time.monotonic()
                await asyncio.sleep(0.005 * number)
                # What it takes until the store hears of it is not counted: the lock may be another's by then.
                self.held.append(Held(got.token, begin, min(time.monotonic(), asked + lease)))
                async with self.progress:
                    self.progress.notify_all()
                if number % 2:
                    give = pb.ReleaseRequest(name="one", holder=got.holder)
                    await store.ask(f"{LOCK}Release", give, pb.ReleaseResponse, timeout=3)


@contextlib.asynccontextmanager
async def contend(connect: Callable[[], Store], lease: float) -> AsyncIterator[Locks]:
    """Clients want it while the block runs; afterwards it is checked that it had one holder at a time."""
    locks, stop = Locks(), asyncio.Event()
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            store = connect()
            stack.push_async_callback(store.close)
            group.create_task(locks.contend(number, store, lease, stop))
        try:
            yield locks
        finally:
            stop.set()
    locks.check()
