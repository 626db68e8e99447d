"""Event streams of a real server: consumers of a group that work while parts of it are killed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import worlds

from micro.domain import names
from micro.domain.errors import Error, Kind
from micro.ports.events import no_topic
from micro.rpc.client import Client, Pool
from micro.rpc.credentials import Credentials
from micro.rpc.gen.micro.events.v1 import events_pb as pb
from micro.rpc.gen.micro.events.v1.events_connect import DeadLettersClient, GroupsClient, StreamClient
from micro.rpc.wkt import oneof

AGAIN = (Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.CANCELED, Kind.UNKNOWN, Kind.INTERNAL)
ALL = pb.Start(at=oneof("all", True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    with worlds.world(tmp_path_factory.mktemp("events")) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def client(world: worlds.World) -> Client:
    """Calls as a service makes them: by the mesh."""
    account = json.loads(world.cli("auth", "create", "account", "worker", "-o", "json").stdout)
    mesh, pool = json.loads(world.layout.settings.read_text())["mesh_address"], Pool()
    who = Credentials.over(Client(mesh, pool=pool), account["id"], account["secret"], names.DEFAULT_NAMESPACE)
    return Client(mesh, pool=pool, identity=who)


def kill(world: worlds.World, unit: str) -> None:
    before = world.processes()[unit]
    os.kill(before, signal.SIGKILL)
    assert worlds.eventually(lambda: world.processes().get(unit, before) != before)


class Worker:
    """A member of a group that comes back whenever its stream ends; what `fails` says so of, it does not handle."""

    def __init__(self, client: Client, topic: str, fails: Callable[[pb.Event], bool], **terms: Any) -> None:
        self._stream = client.of(StreamClient, "events")
        self._first = pb.ConsumeRequest(topic=topic, group="g", from_=ALL, backoff=[0.05], **terms)
        self._fails = fails
        self._said: asyncio.Queue[pb.ConsumeRequest] = asyncio.Queue()
        self.seen: list[tuple[int, int]] = []
        self.handled: Counter[int] = Counter()

    async def work(self) -> None:
        while True:
            with contextlib.suppress(Error):
                self._said = asyncio.Queue()
                async for frame in self._stream.consume(self._requests(self._said)):
                    self._take(frame)
            await asyncio.sleep(0.05)

    def _take(self, frame: pb.ConsumeResponse) -> None:
        answer = pb.ConsumeRequest()
        for event in frame.events:
            self.seen.append((event.offset, event.attempt))
            if self._fails(event):
                answer.nacks.append(pb.Nack(delivery=event.delivery, reason="made to fail"))
            else:
                self.handled[event.offset] += 1
                answer.acks.append(event.delivery)
        self._said.put_nowait(answer)

    async def _requests(self, said: asyncio.Queue[pb.ConsumeRequest]) -> AsyncIterator[pb.ConsumeRequest]:
        yield self._first
        while True:
            yield await said.get()


@contextlib.asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(worker.work()) for worker in workers]  # owned: cancelled below
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def publish(client: Client, topic: str, number: int) -> int:
    """Publish until that is acknowledged; returns the offset."""
    request = pb.PublishRequest(topic=topic, payload=b"%d" % number, key=f"k{number % 5}", dedup_id=f"{number}")
    while True:
        try:
            return (await client.of(StreamClient, "events").publish(request, timeout_ms=5000)).offset
        except Error as error:
            if error.kind not in AGAIN:
                raise
        await asyncio.sleep(0.05)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.02)


async def lag(client: Client, topic: str) -> int:
    groups = (await client.of(GroupsClient, "events").list(pb.GroupsListRequest(topic=topic))).groups
    return groups[0].lag


async def test_every_acknowledged_event_is_handled_while_events_and_nats_are_killed(
    world: worlds.World, client: Client
) -> None:
    def poison(event: pb.Event) -> bool:
        return int(event.payload) % 25 == 7

    workers = [Worker(client, "killed", poison, max_deliver=2) for _ in range(2)]
    async with working(*workers):
        published = {}
        for number in range(150):
            if number in (50, 100):
                await asyncio.to_thread(kill, world, {50: "events", 100: "nats"}[number])
            published[number] = await publish(client, "killed", number)
        good = {offset for number, offset in published.items() if number % 25 != 7}
        await until(lambda: good <= set(workers[0].handled) | set(workers[1].handled))
        async with asyncio.timeout(60):
            while await lag(client, "killed"):
                await asyncio.sleep(0.05)
        request = pb.DeadLettersListRequest(topic="killed", group="g")
        dead = (await client.of(DeadLettersClient, "events").list(request)).dead_letters
    assert {one.event.offset for one in dead if one.event} == set(published.values()) - good
    assert {one.reason for one in dead} == {"made to fail"}
    assert sorted(published.values()) == list(range(1, 151))


async def test_a_stop_of_the_process_is_no_failure(world: worlds.World, client: Client) -> None:
    """What was in hand when `events` was told to end comes again as the same try."""
    never = Worker(client, "stopped", lambda event: False, max_deliver=1)
    never._take = lambda frame: never.seen.extend((one.offset, one.attempt) for one in frame.events)  # type: ignore[method-assign]
    await publish(client, "stopped", 1)
    async with working(never):
        await until(lambda: never.seen == [(1, 1)])
        before = world.processes()["events"]
        os.kill(before, signal.SIGTERM)
        await until(lambda: never.seen == [(1, 1), (1, 1)])


def curl(world: worlds.World, path: str, body: dict[str, Any], *headers: str) -> tuple[int, Any]:
    words = [word for header in headers for word in ("-H", header)]
    url = f"http://{world.api}{path}"
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "-X", "POST", url, *words, "--data-binary", "@-"],
        input=json.dumps(body),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(answer)


def test_the_gateway_answers_who_shows_a_token(world: worlds.World) -> None:
    bearer = f"authorization: Bearer {world.cli('user', 'token', '--platform').stdout.strip()}"
    event = {"topic": "web", "payload": base64.b64encode(b"hello").decode(), "metadata": {"by": "curl"}}
    assert curl(world, "/events/publish", event)[0] == 401
    status, answer = curl(world, "/events/publish", event, bearer)
    assert (status, answer.get("offset")) == (200, "1"), answer
    status, page = curl(world, "/events/read", {"topic": "web"}, bearer)
    assert (status, page["events"][0]["id"], page["next"]) == (200, answer["id"], "2")
    assert curl(world, "/events/publish", {**event, "topic": "micro.auth"}, bearer)[0] == 403
    assert curl(world, "/events/publish", {**event, "topic": "a b"}, bearer)[0] == 400
    status, refused = curl(world, "/events/publish", {**event, "payload": "A" * 1_500_000}, bearer)
    assert status in (400, 413), refused
    for place in ({}, {"from": {"all": True}}, {"from": {"offset": "7"}}, {"from": {"time": "2026-01-31T08:00:00Z"}}):
        status, refused = curl(world, "/events/read", {"topic": "nothing", **place}, bearer)
        assert (status, refused["message"]) == (404, no_topic("nothing").message)
    assert curl(world, "/events/read", {"topic": "web", "from": {"offset": "-1"}}, bearer)[0] == 400
