"""Publishes, consumes and subscribes as services would, and the same with nats-py straight, in turns; prints the
figures as JSON:

`messaging.py ID SECRET CREDENTIALS MEASURE`, as the account of that id; CREDENTIALS is the file of the platform's NATS.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import nats
import uvloop
from nats.aio.msg import Msg
from nats.js import api

from micro import broker, events
from micro.backends.nats.process import load_credentials

IN_FLIGHT = 64
PAYLOAD = b"x" * 200
ROUNDS = 4
SUBSCRIBERS = 10
OUTSTANDING = 512
"""Messages that a publisher is ahead of the slowest subscriber at most: what carries them keeps nothing."""

Figures = dict[str, list[float]]


async def in_flight(count: int, work: Callable[[], Awaitable[object]]) -> float:
    """Calls a second."""
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await work()

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - begin)


async def straight(credentials: str) -> nats.NATS:
    address = load_credentials(Path(credentials))
    return await nats.connect(address.url, user=address.user, password=address.password)


async def plain_stream(js: nats.js.JetStreamContext, name: str) -> None:
    """A stream as anybody would make it, on the disk of the same server."""
    await js.add_stream(name=name, subjects=[name], storage=api.StorageType.FILE)


async def publish(credentials: str) -> Figures:
    """Durable publishes, 64 in flight."""
    client = await straight(credentials)
    js = client.jetstream()
    await plain_stream(js, "plain")
    found: Figures = {"straight": [], "ours": []}
    for number in range(ROUNDS + 1):
        plain = await in_flight(4000, lambda: js.publish("plain", PAYLOAD))
        ours = await in_flight(4000, lambda: events.publish("bench.publish", PAYLOAD))
        if number:  # the first round warms up
            found["straight"].append(plain)
            found["ours"].append(ours)
    await client.close()
    return found


async def consume(credentials: str) -> Figures:
    """All that is there, each acknowledged: by a group, and by a durable pull consumer."""
    count = 20_000
    client = await straight(credentials)
    js = client.jetstream()
    await plain_stream(js, "plain-consume")
    await in_flight(count, lambda: js.publish("plain-consume", PAYLOAD))
    for _ in range(count // 500):
        await events.publish_batch("bench.consume", [PAYLOAD] * 500)
    found: Figures = {"straight": [], "ours": []}
    for number in range(ROUNDS + 1):
        begin = time.perf_counter()
        pull = await js.pull_subscribe("plain-consume", durable=f"d{number}")
        got = 0
        while got < count:
            for message in await pull.fetch(256, timeout=10):
                await message.ack()
                got += 1
        await client.flush()
        plain = count / (time.perf_counter() - begin)
        begin, got = time.perf_counter(), 0
        async with contextlib.aclosing(
            events.consume("bench.consume", group=f"g{number}", start="all", max_in_flight=1024)
        ) as found_events:
            async for _ in found_events:
                got += 1
                if got == count:
                    break
        ours = count / (time.perf_counter() - begin)
        if number:
            found["straight"].append(plain)
            found["ours"].append(ours)
    await client.close()
    return found


async def latency(credentials: str) -> Figures:
    """From the call of publish to the handler, one at a time."""
    client = await straight(credentials)
    js = client.jetstream()
    await plain_stream(js, "plain-latency")
    arrived: asyncio.Queue[int] = asyncio.Queue()
    begun = asyncio.Event()

    async def hear(message: Msg) -> None:
        arrived.put_nowait(int(message.data))

    async def handle() -> None:
        async with events.consume("bench.latency", group="one") as consumer:
            begun.set()
            async for event in consumer:
                arrived.put_nowait(int(event.payload))

    await js.subscribe("plain-latency", cb=hear, config=api.ConsumerConfig(ack_policy=api.AckPolicy.NONE))
    handling = asyncio.ensure_future(handle())
    await begun.wait()
    found: Figures = {"straight": [], "ours": []}
    ways: dict[str, Callable[[bytes], Awaitable[object]]] = {
        "straight": lambda body: js.publish("plain-latency", body),
        "ours": lambda body: events.publish("bench.latency", body),
    }
    for number in range(2000):
        for way, publish in ways.items():
            begin = time.perf_counter()
            await publish(b"%d" % number)
            while await arrived.get() != number:
                pass
            if number >= 200:
                found[way].append(time.perf_counter() - begin)
            await asyncio.sleep(0.002)
    handling.cancel()
    await asyncio.gather(handling, return_exceptions=True)
    await client.close()
    return found


class Fan:
    """How many messages each of several subscribers has got."""

    def __init__(self) -> None:
        self.got = [0] * SUBSCRIBERS
        self._moved = asyncio.Event()

    def count(self, number: int) -> None:
        self.got[number] += 1
        self._moved.set()

    async def reached(self, count: int) -> None:
        """Return when all have got that many."""
        async with asyncio.timeout(60):
            while min(self.got) < count:
                self._moved.clear()
                await self._moved.wait()

    async def rate(self, count: int, at_once: int, send: Callable[[], Awaitable[object]]) -> float:
        """Messages a second that arrive, all subscribers together; so many are sent at once."""
        first, begin = min(self.got), time.perf_counter()
        left = iter(range(count))

        async def worker() -> None:
            for number in left:
                await self.reached(first + number + 1 - OUTSTANDING)
                await send()

        await asyncio.gather(*(worker() for _ in range(at_once)))
        await self.reached(first + count)
        return SUBSCRIBERS * count / (time.perf_counter() - begin)


async def fan_out(credentials: str) -> Figures:
    """One publisher, ten subscribers. To publish to the service is a call that is answered, so many are under way; with
    nats-py it is a write to a socket."""
    clients = [await straight(credentials) for _ in range(SUBSCRIBERS + 1)]
    plain, ours = Fan(), Fan()
    for number, client in enumerate(clients[1:]):

        async def counted(_message: object, number: int = number) -> None:
            plain.count(number)

        await client.subscribe("plain.fan", cb=counted)
        await client.flush()

    begun = asyncio.Semaphore(0)

    async def listen(number: int) -> None:
        async with broker.subscribe("bench.fan") as messages:
            begun.release()
            async for _ in messages:
                ours.count(number)

    listening = [asyncio.ensure_future(listen(number)) for number in range(SUBSCRIBERS)]
    for _ in range(SUBSCRIBERS):
        await begun.acquire()
    found: Figures = {"straight": [], "ours": []}
    for number in range(ROUNDS + 1):
        straightly = await plain.rate(5000, 1, lambda: clients[0].publish("plain.fan", PAYLOAD))
        through = await ours.rate(5000, IN_FLIGHT, lambda: broker.publish("bench.fan", PAYLOAD))
        if number:
            found["straight"].append(straightly)
            found["ours"].append(through)
    for one in listening:
        one.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    for client in clients:
        await client.close()
    return found


async def lag(credentials: str) -> Figures:
    """Publishers without a consumer, and with one that is a million events behind and handles 500 a second."""
    for _ in range(1000):
        await events.publish_batch("bench.lag", [PAYLOAD] * 1000)
    found: Figures = {"alone": [], "beside": []}
    for number in range(3 * ROUNDS + 1):
        alone = await in_flight(3000, lambda: events.publish("bench.lag", PAYLOAD))
        async with behind(credentials, f"g{number}"):
            beside = await in_flight(3000, lambda: events.publish("bench.lag", PAYLOAD))
        if number:
            found["alone"].append(alone)
            found["beside"].append(beside)
    return found


@contextlib.asynccontextmanager
async def behind(credentials: str, group: str) -> AsyncIterator[None]:
    """A service of its own that consumes, as one that lags is, once it is at work."""
    words = (*sys.argv[:3], credentials, "follow", group)
    following = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    try:
        await following.stdout.readline()
        yield
    finally:
        following.terminate()
        await following.wait()


async def follow(credentials: str, group: str) -> Figures:
    """Handles 500 events a second for ever; says when it has had the first thousand."""
    handled = 0
    async for _ in events.consume("bench.lag", group=group, start="all"):
        handled += 1
        if handled == 1000:
            print("at work", flush=True)
        await asyncio.sleep(0.002)
    return {}


async def topics(credentials: str, begin_at: str, count: str) -> Figures:
    """Makes topics up to a number, and publishes to some of them."""
    first, last = int(begin_at), int(count)
    left = iter(range(first, last))
    begin = time.perf_counter()

    async def make() -> None:
        for number in left:
            await events.publish(f"bench.many.{number}", PAYLOAD)

    await asyncio.gather(*(make() for _ in range(16)))
    made = (time.perf_counter() - begin) / max(last - first, 1)
    taken = []
    for number in range(200):
        begin = time.perf_counter()
        await events.publish(f"bench.many.{number * 7919 % last}", PAYLOAD)
        taken.append(time.perf_counter() - begin)
    return {"made": [made], "publish": taken}


async def groups(credentials: str, count: str) -> Figures:
    """One topic, so many groups with a member each: from a publish until all have handled it."""
    number = int(count)
    got, every = 0, asyncio.Event()

    begun = asyncio.Semaphore(0)

    async def handle(name: str) -> None:
        nonlocal got
        async with events.consume(f"bench.groups.{count}", group=name) as consumer:
            begun.release()
            async for _ in consumer:
                got += 1
                if got >= number:
                    every.set()

    handling = [asyncio.ensure_future(handle(f"g{each}")) for each in range(number)]
    for _ in range(number):
        await begun.acquire()
    taken = []
    for each in range(12):
        got = 0
        every.clear()
        begin = time.perf_counter()
        await events.publish(f"bench.groups.{count}", b"%d" % each)
        async with asyncio.timeout(60):
            await every.wait()
        taken.append(time.perf_counter() - begin)
    for one in handling:
        one.cancel()
    await asyncio.gather(*handling, return_exceptions=True)
    return {"seconds": taken[1:]}


async def soak(credentials: str, seconds: str, rate: str) -> Figures:
    """Publishes at a rate, and consumes it in a group, for a while."""
    handled = 0

    begun = asyncio.Event()

    async def handle() -> None:
        nonlocal handled
        async with events.consume("bench.soak", group="one", max_in_flight=256) as consumer:
            begun.set()
            async for _ in consumer:
                handled += 1

    handling = asyncio.ensure_future(handle())
    await begun.wait()
    begin, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < float(seconds):
        due = int(passed * float(rate)) - sent
        await asyncio.gather(*(events.publish("bench.soak", PAYLOAD, key=str(each % 97)) for each in range(due)))
        sent += due
        await asyncio.sleep(0.02)
    async with asyncio.timeout(60):
        while handled < sent:
            await asyncio.sleep(0.1)
    handling.cancel()
    await asyncio.gather(handling, return_exceptions=True)
    return {"sent": [sent], "handled": [handled]}


MEASURES = {each.__name__: each for each in (publish, consume, latency, fan_out, lag, follow, topics, groups, soak)}


async def main() -> None:
    print(json.dumps(await MEASURES[sys.argv[4]](sys.argv[3], *sys.argv[5:])))


os.environ["MICRO_AUTH_ID"], os.environ["MICRO_AUTH_SECRET"] = sys.argv[1:3]
uvloop.run(main())
