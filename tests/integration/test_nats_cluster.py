"""Three NATS servers: the leader is killed under load, and another later; what was acknowledged is there."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from worlds import World, load, world

from micro.backends.nats import _follow, _groups, _tail
from micro.backends.nats._connection import Connection
from micro.backends.nats._topics import stream_of
from micro.backends.nats.check import check
from micro.backends.nats.events import NatsEvents
from micro.backends.nats.registry import NatsRegistry
from micro.domain import errors
from micro.domain.account import Account
from micro.domain.event import Event, New, Retention
from micro.domain.record import Durability
from micro.domain.registrations import Synced
from micro.domain.service import Change, Registration
from micro.ports.registry import Registry
from micro.rpc.context import Context
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.wkt import oneof
from micro.services._events_topics import Topics
from micro.services.events import GroupsHandler, StreamHandler
from micro.testing.contracts.registry import registration
from micro.testing.nats import NatsCluster, nats_cluster

PATIENCE = 20.0
KEYS, BATCH = 8, 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with nats_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@asynccontextmanager
async def connected(cluster: NatsCluster) -> AsyncIterator[Connection]:
    async with AsyncExitStack() as stack:
        connection = Connection(cluster.address)
        await connection.start(stack)
        yield connection


class Progress:
    """Counts what was acknowledged, and lets others wait for more."""

    def __init__(self) -> None:
        self.count = 0
        self._more = asyncio.Condition()

    async def one(self) -> None:
        async with self._more:
            self.count += 1
            self._more.notify_all()

    async def more(self, number: int) -> None:
        until = self.count + number
        async with asyncio.timeout(60), self._more:
            await self._more.wait_for(lambda: self.count >= until)


@dataclass
class Registrations:
    """Instances that register, change and go, and somebody who watches."""

    registry: Registry
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    progress: Progress = field(default_factory=Progress)
    heard: Progress = field(default_factory=Progress)
    acknowledged: dict[int, Change] = field(default_factory=dict)
    seen: list[Change] = field(default_factory=list)

    async def change(self, node: str) -> None:
        """One instance's life, over and over; each change waits for the one before."""
        number = 0
        while not self.stop.is_set():
            number += 1
            entry = replace(registration(node), metadata={"number": str(number)})
            gone = number % 5 == 0
            try:
                revision = await (self.registry.delete(entry.key) if gone else self.registry.put(entry))
            except errors.Error as error:
                if error.kind is not errors.Kind.UNAVAILABLE:
                    raise
                continue
            self.acknowledged[revision] = Change(revision, entry.key, None if gone else entry)
            await self.progress.one()

    async def watch(self, until: tuple[str, str, str]) -> None:
        async with aclosing(self.registry.watch()) as changes:
            async for change in changes:
                if not isinstance(change, Synced):
                    self.seen.append(change)
                    await self.heard.one()
                    if change.key == until:
                        return

    def check(self, found: list[Registration]) -> None:
        revisions = [change.revision for change in self.seen]
        assert revisions == sorted(set(revisions)), "in order, none twice"
        told = {change.revision: change for change in self.seen}
        last = {change.key: change for change in self.seen}
        for revision, change in self.acknowledged.items():
            # What was changed again while nobody could watch is told as it is then.
            assert told.get(revision, change) == change
            assert revision in told or last[change.key].revision > revision, "a watcher missed a change"
        kept = {change.key: change.registration for change in last.values() if change.registration}
        assert {entry.key: entry for entry in found} == kept


@dataclass
class Publishers:
    """Publishers of a topic, and somebody who reads along."""

    events: NatsEvents
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    progress: Progress = field(default_factory=Progress)
    heard: Progress = field(default_factory=Progress)
    acknowledged: dict[int, str] = field(default_factory=dict)
    tailed: list[Event] = field(default_factory=list)
    repeated: int = 0

    async def publish(self, key: str) -> None:
        """Events of one key, one behind the other. What is not acknowledged is published again: by its dedup id it is
        there once."""
        number = 0
        while not self.stop.is_set():
            number += 1
            size = BATCH if number % 3 == 0 else 1
            batch = [_new(key, f"{number}.{part}") for part in range(size)]
            while True:
                try:
                    appended = await self.events.append("micro", "orders", batch)
                    break
                except errors.Error as error:
                    if error.kind is not errors.Kind.UNAVAILABLE:
                        raise
                    self.repeated += 1
            for new, where in zip(batch, appended, strict=True):
                assert where.offset not in self.acknowledged
                self.acknowledged[where.offset] = new.dedup_id
            await self.progress.one()

    async def tail(self, until: asyncio.Event) -> None:
        async with aclosing(self.events.tail("micro", "orders", 1)) as batches:
            async for batch in batches:
                self.tailed += batch
                await self.heard.one()
                if until.is_set() and self.tailed[-1].offset >= max(self.acknowledged):
                    return

    async def check(self) -> None:
        assert [event.offset for event in self.tailed] == list(range(1, len(self.tailed) + 1)), "each once, in order"
        kept: list[Event] = []
        last = max(self.acknowledged)
        while not kept or kept[-1].offset < last:
            kept += await self.events.read("micro", "orders", len(kept) + 1, 1000)
        assert kept[: len(self.tailed)] == self.tailed[: len(kept)]
        found = {event.offset: _name(event) for event in kept}
        assert {offset: found.get(offset) for offset in self.acknowledged} == self.acknowledged
        for key in {event.key for event in kept}:
            numbers = [tuple(map(int, _name(event).split("-")[1].split("."))) for event in kept if event.key == key]
            assert numbers == sorted(set(numbers)), (
                "a key's events in the order in which they were published, each once"
            )


def _new(key: str, number: str) -> New:
    name = f"{key}-{number}"
    return New(f"id-{name}", name.encode() * 20, {"name": name}, key=key, dedup_id=name)


def _name(event: Event) -> str:
    assert event.payload == event.metadata["name"].encode() * 20
    return event.metadata["name"]


async def test_a_leader_killed_under_load_takes_nothing_along_that_was_acknowledged(
    cluster: NatsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registrations and events, while the leader of the one is killed, comes back, and the leader of the other is."""
    # Readers hear that a server has gone, instead of finding out by its silence.
    for room in (_tail, _follow):
        monkeypatch.setattr(room, "SILENCE_SECONDS", 600.0)
    async with connected(cluster) as first, connected(cluster) as second, AsyncExitStack() as stack:
        registry = NatsRegistry(first, replicas=3, patience=PATIENCE)
        events = NatsEvents(second, replicas=3, patience=PATIENCE)
        assert events.durability is Durability.REPLICATED
        await registry.start(stack)
        await events.start(stack)
        await events.configure("micro", "orders", Retention())
        registrations, publishers = Registrations(registry), Publishers(events)
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as readers:
            readers.create_task(registrations.watch(registration("last").key))
            readers.create_task(publishers.tail(ended))
            async with asyncio.TaskGroup() as writers:
                for number in range(KEYS):
                    writers.create_task(registrations.change(f"n{number}"))
                    writers.create_task(publishers.publish(f"k{number}"))
                await _both(registrations, publishers)
                for stream in ("KV_registry", stream_of("micro", "orders")):
                    leader = await asyncio.to_thread(cluster.leader, stream)
                    leader.kill()
                    await _both(registrations, publishers)
                    await asyncio.to_thread(leader.start)
                    await asyncio.to_thread(cluster.wait_whole)
                    await _both(registrations, publishers)
                for each in (registrations, publishers):
                    each.stop.set()
            ended.set()
            # So that the readers come by once more, and know that it was the last.
            await registry.put(registration("last"))
            await events.append("micro", "orders", [_new("last", "1.0")])
        registrations.check((await registry.snapshot())[1])
        await publishers.check()


async def _both(registrations: Registrations, publishers: Publishers) -> None:
    """Return when both write and read on."""
    await asyncio.gather(registrations.progress.more(40), publishers.progress.more(40))
    await asyncio.gather(registrations.heard.more(10), publishers.heard.more(10))


@dataclass
class Group:
    """Publishers and the members of a group, as the service of events sees them."""

    topics: Topics
    topic: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    published: Progress = field(default_factory=Progress)
    heard: Progress = field(default_factory=Progress)
    acknowledged: dict[str, int] = field(default_factory=dict)
    handled: list[tuple[str, str, int]] = field(default_factory=list)
    """Id, key and number of each event that was acknowledged, in that order."""

    def __post_init__(self) -> None:
        self.stream, self.groups = StreamHandler(self.topics), GroupsHandler(self.topics)

    async def publish(self, key: str) -> None:
        """Events of one key, numbered, each until it is there; by its dedup id once."""
        number = 0
        while not self.stop.is_set():
            number += 1
            name = f"{key}/{number}"
            request = pb.PublishRequest(topic=self.topic, payload=name.encode(), key=key, dedup_id=name)
            while True:
                try:
                    done = await self.stream.publish(request, _calling())
                    break
                except errors.Error as error:
                    if error.kind is not errors.Kind.UNAVAILABLE:
                        raise
            self.acknowledged[done.id] = done.offset
            await self.published.one()

    async def consume(self) -> None:
        """One member, from the first event on; acknowledges each at once, until nothing is left."""
        said: asyncio.Queue[pb.ConsumeRequest] = asyncio.Queue()
        first = pb.ConsumeRequest(topic=self.topic, group="g", from_=pb.Start(at=oneof("all", True)), max_in_flight=8)
        said.put_nowait(first)

        async def requests() -> AsyncIterator[pb.ConsumeRequest]:
            while True:
                yield await said.get()

        frames: Any = self.stream.consume(requests(), _calling())
        async with aclosing(frames):
            async for frame in frames:
                for event in frame.events:
                    key, number = event.payload.decode().split("/")
                    assert (event.key, event.attempt) == (key, 1)
                    self.handled.append((event.id, key, int(number)))
                    said.put_nowait(pb.ConsumeRequest(acks=[event.delivery]))
                    await self.heard.one()

    async def on(self) -> None:
        """Return when events are published and handled anew."""
        await self.published.more(60)
        await self.heard.more(60)

    async def lag(self) -> int:
        answer = await self.groups.list(pb.GroupsListRequest(topic=self.topic), _calling())
        return answer.groups[0].lag

    def check(self) -> None:
        times = Counter(id_ for id_, _, _ in self.handled)
        assert times.keys() >= self.acknowledged.keys(), "what was acknowledged to its publisher is handled"
        assert set(times.values()) == {1}, "the service has lived on, so nothing is handled twice"
        for key in {key for _, key, _ in self.handled}:
            numbers = [number for _, of, number in self.handled if of == key]
            assert numbers == list(range(1, len(numbers) + 1)), "a key's events in their order, none missing"


def _calling() -> Context:
    """The context of a call by an account of namespace micro."""
    ctx = Context(None, {"headers": []}, None)  # type: ignore[arg-type]
    ctx.account = Account("shop", "micro", "shop")
    return ctx


async def test_a_group_misses_nothing_while_the_leaders_of_its_streams_are_killed(cluster: NatsCluster) -> None:
    """The topic's, which is read and appended to, and that of the group's progress, which is kept all the time."""
    async with connected(cluster) as connection, AsyncExitStack() as stack:
        topics = Topics(NatsEvents(connection, replicas=3, patience=PATIENCE))
        await topics.start(stack)
        group = Group(topics, "bills")
        async with asyncio.TaskGroup() as members:
            consumers = [members.create_task(group.consume()) for _ in range(3)]
            async with asyncio.TaskGroup() as publishers:
                for number in range(KEYS):
                    publishers.create_task(group.publish(f"k{number}"))
                await group.on()
                for stream in (stream_of("micro", "bills"), _groups.GROUPS):
                    leader = await asyncio.to_thread(cluster.leader, stream)
                    leader.kill()
                    await group.on()
                    await asyncio.to_thread(leader.start)
                    await asyncio.to_thread(cluster.wait_whole)
                    await group.on()
                group.stop.set()
            async with asyncio.timeout(60):
                while await group.lag():
                    await asyncio.sleep(0.02)
            for consumer in consumers:
                consumer.cancel()
        group.check()
        # What the group has done is kept, so that another process would go on behind it.
        async with asyncio.timeout(60):
            while (kept := await topics.events.progress("micro", "bills", "g")) is None or kept.floor < len(
                group.handled
            ):
                await asyncio.sleep(0.02)


async def _replicas(connection: Connection, stream: str) -> int:
    return (await connection.jetstream.stream_info(stream)).config.num_replicas or 1


async def test_replicas_follow_the_setting_and_are_refused_where_there_are_too_few(cluster: NatsCluster) -> None:
    found = await check(cluster.address, 1)
    assert found.cluster
    assert any("MICRO_NATS_REPLICAS=3" in line for line in found.advice)
    async with connected(cluster) as connection:
        for replicas in (1, 3):
            await check(cluster.address, replicas)
            assert await _replicas(connection, "KV_registry") == replicas
        for replicas in (1, 3):
            async with AsyncExitStack() as stack:
                events = NatsEvents(connection, replicas=replicas)
                await events.start(stack)
                if replicas == 1:
                    await events.configure("micro", "moving", Retention())
                    await events.append("micro", "moving", [_new("k", "1.0")])
                async with asyncio.timeout(30):
                    while await _replicas(connection, stream_of("micro", "moving")) != replicas:
                        await asyncio.sleep(0.02)
        assert [_name(event) for event in await events.read("micro", "moving", 1, 10)] == ["k-1.0"]
    with pytest.raises(errors.Error, match="MICRO_NATS_REPLICAS") as caught:
        await check(cluster.address, 5)
    assert caught.value.kind is errors.Kind.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("url", "more", "said"),
    [
        ("nats://micro:wrong-password@PLACE", {}, "it refuses the credentials"),
        ("CLUSTER", {"MICRO_NATS_REPLICAS": "5"}, "too few servers for MICRO_NATS_REPLICAS"),
        ("nats://PLACE", {"MICRO_NATS_NKEY": "/nowhere"}, "MICRO_NATS_NKEY /nowhere cannot be read"),
    ],
)
def test_a_server_that_cannot_use_nats_says_why_in_one_line(
    cluster: NatsCluster, tmp_path: Path, url: str, more: dict[str, str], said: str
) -> None:
    url = url.replace("PLACE", cluster.nodes[0].listen).replace("CLUSTER", cluster.url)
    with world(tmp_path, MICRO_NATS_URL=url, **more) as made:
        done = made.cli("server", check=False)
        assert done.returncode != 0
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not made.processes()
        assert "wrong-password" not in done.stdout + done.stderr


async def test_a_platform_on_a_cluster_lives_through_the_loss_of_a_server(tmp_path: Path) -> None:
    with (
        nats_cluster(tmp_path / "cluster") as cluster,
        world(tmp_path / "home", MICRO_NATS_URL=cluster.url, MICRO_NATS_REPLICAS="3") as made,
    ):
        await asyncio.to_thread(made.start)
        assert "nats" not in made.processes()
        await asyncio.to_thread(made.cli, "run", str(made.service()))
        assert "replicated" in made.cli("health").stdout
        made.cli("events", "publish", "orders", "before")
        _no_password(made, cluster.url.partition("@")[0].rpartition(":")[2])
        async with load(made.api) as requests:
            await requests.reached(50)
            leader = await asyncio.to_thread(cluster.leader, "KV_registry")
            leader.kill()
            await requests.reached(requests.sent + 200)
            assert await asyncio.to_thread(made.cli, "health", "--wait", "60")
            await asyncio.to_thread(made.cli, "events", "publish", "orders", "after")
            await requests.reached(requests.sent + 200)
        assert not requests.failures
        told = made.cli("events", "read", "orders").stdout
        assert "before" in told
        assert "after" in told


def _no_password(made: World, password: str) -> None:
    """Who does not talk to NATS has not been told how; nobody tells others."""
    assert len(password) > 10
    assert password not in made.layout.settings.read_text()
    assert password not in made.output() + made.cli("status").stdout + made.cli("health").stdout
    for name, pid in made.processes().items():
        assert password not in Path(f"/proc/{pid}/cmdline").read_text()
        has_it = password in Path(f"/proc/{pid}/environ").read_text()
        assert has_it == (name in ("registry", "broker", "events")), name
    for log in made.layout.logs.rglob("*.log"):
        assert password not in log.read_text()
