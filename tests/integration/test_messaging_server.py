"""Messages between services and people on a real server, whose parts are killed under them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, Self

import grpc.aio
import pytest
import worlds

from micro.rpc.gen.micro.broker.v1 import broker_pb as pb

SOURCE = """
import asyncio
import json
from micro import Service, broker
from proto.listener_connect import Listener
from proto.listener_pb import Answer

heard = []

class Handler(Listener):
    async def heard(self, request, ctx):
        return Answer(json=json.dumps(heard))

    async def say(self, request, ctx):
        await broker.publish("orders.said", {"text": request.text})
        return Answer()

app = Service("listener", Handler())

async def listen(**more):
    async with broker.subscribe("orders.*", as_type=dict, **more) as messages:
        listening.set()
        async for message in messages:
            heard.append([message.topic, message.value, dict(message.header), more.get("queue", "")])

@app.on_start
async def start(stack):
    global listening
    tasks = []
    for more in ({}, {"queue": "billing"}, {"queue": "billing"}):
        listening = asyncio.Event()
        tasks.append(asyncio.create_task(listen(**more)))
        await listening.wait()
    for task in tasks:
        stack.callback(task.cancel)
"""
PROTO = """
syntax = "proto3";
package listener;
service Listener {
  rpc Heard(Asked) returns (Answer);
  rpc Say(Asked) returns (Answer);
}
message Asked { string text = 1; }
message Answer { string json = 1; }
"""

QUIET = """
import logging
from micro import Service

app = Service("quiet")

@app.consume("orders", start="all")
async def on_order(order: dict) -> None:
    logging.getLogger("quiet").info("handled %s", order["id"])

@app.subscribe("prices.>", queue="")
async def on_price(price: bytes) -> None: ...
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    """A server with a service that listens: alone, and as two of a queue."""
    with worlds.world(tmp_path_factory.mktemp("messaging")) as made:
        made.start()
        made.cli("run", str(made.service("listener", SOURCE, PROTO)), timeout=100)
        yield made


@pytest.fixture(scope="module")
def bearer(world: worlds.World) -> str:
    return f"authorization: Bearer {world.cli('user', 'token', '--platform').stdout.strip()}"


def curl(world: worlds.World, path: str, body: dict[str, Any], *headers: str) -> tuple[int, str]:
    words = [word for header in headers for word in ("-H", header)]
    url = f"http://{world.api}{path}"
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "-X", "POST", url, *words, "-d", json.dumps(body)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), answer


def publish(world: worlds.World, bearer: str, topic: str, value: object, *headers: str, namespace: str = "") -> int:
    body = base64.b64encode(json.dumps(value).encode()).decode()
    request = {"topic": topic, "message": {"header": {"kind": "test"}, "body": body}, "namespace": namespace}
    return curl(world, "/broker/publish", request, bearer, *headers)[0]


def heard(world: worlds.World) -> list[Any]:
    status, answer = curl(world, "/listener/heard", {})
    assert status == 200, answer
    return list(json.loads(json.loads(answer).get("json", "[]")))


def came(world: worlds.World, value: object) -> list[Any]:
    """Where it was heard: once by who listens alone, once in the queue."""
    return sorted(queue for _, found, _, queue in heard(world) if found == value)


def until_comes(world: worlds.World, bearer: str, value: dict[str, Any]) -> None:
    """Publish again and again, until all who listen have heard it."""

    def done() -> bool:
        publish(world, bearer, "orders.created", value)
        return set(came(world, value)) == {"", "billing"}

    assert worlds.eventually(done, 60)


def test_what_people_and_services_publish_is_heard(world: worlds.World, bearer: str) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    assert publish(world, bearer, "orders.created", {"n": 1}, f"traceparent: {parent}") == 200
    assert worlds.eventually(lambda: came(world, {"n": 1}) == ["", "billing"])
    (message,) = [one for one in heard(world) if one[1] == {"n": 1} and not one[3]]
    assert message[0] == "orders.created"
    assert message[2]["kind"] == "test"
    assert message[2]["traceparent"].split("-")[1] == "a" * 32
    assert not [name for name in message[2] if name.startswith("micro-") or name == "authorization"]
    assert curl(world, "/listener/say", {"text": "hello"})[0] == 200
    assert worlds.eventually(lambda: came(world, {"text": "hello"}) == ["", "billing"])


def test_namespaces_hear_nothing_of_each_other(world: worlds.World, bearer: str) -> None:
    world.cli("namespace", "create", "shop")
    assert publish(world, bearer, "orders.created", {"n": "shop"}, namespace="shop") == 200
    assert publish(world, bearer, "orders.created", {"n": "micro"}) == 200
    assert worlds.eventually(lambda: came(world, {"n": "micro"}) == ["", "billing"])
    assert came(world, {"n": "shop"}) == []
    assert publish(world, bearer, "orders.created", {}, namespace="nope") == 404


def test_what_is_refused(world: worlds.World, bearer: str) -> None:
    assert publish(world, "x-none: 1", "orders.created", {}) == 401
    assert publish(world, bearer, "orders.*", {}) == 400
    assert publish(world, bearer, "micro.auth", {}) == 403
    assert curl(world, "/broker/publish", {"topic": "orders.created"}, bearer)[0] == 400
    secret = {"topic": "orders.created", "message": {"header": {"Authorization": "Bearer hush"}}}
    status, answer = curl(world, "/broker/publish", secret, bearer)
    assert status == 400
    assert "hush" not in answer


class Reader:
    """A subscription over gRPC, which takes no more from the network than it is asked for."""

    def __init__(self, world: worlds.World, bearer: str, topic: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
        self._channel = grpc.aio.insecure_channel(world.proxy, options=options)
        self._metadata = (("authorization", bearer.partition(": ")[2]),)
        make = self._channel.unary_stream(
            "/micro.broker.v1.Broker/Subscribe", pb.SubscribeRequest.to_binary, pb.SubscribeResponse.from_binary
        )
        self._call = make(pb.SubscribeRequest(topic=topic), metadata=self._metadata)
        self.bodies: list[bytes] = []
        self.dropped = 0

    async def __aenter__(self) -> Self:
        await self._call.read()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def publish(self, topic: str, body: bytes) -> None:
        make = self._channel.unary_unary(
            "/micro.broker.v1.Broker/Publish", pb.PublishRequest.to_binary, pb.PublishResponse.from_binary
        )
        await make(pb.PublishRequest(topic=topic, message=pb.Message(body=body)), metadata=self._metadata, timeout=30)

    async def until(self, count: int) -> None:
        """Read until that many messages are accounted for: read, or told to be dropped."""
        async with asyncio.timeout(60):
            while len(self.bodies) + self.dropped < count:
                answer = await self._call.read()
                self.bodies += [each.body[:4] for each in answer.messages]
                self.dropped += answer.dropped


async def test_who_reads_slowly_is_told_what_it_missed_and_slows_nobody(world: worlds.World, bearer: str) -> None:
    count, filling = 240, b"x" * (128 << 10)
    numbers = [b"%04d" % number for number in range(count)]
    async with Reader(world, bearer, "large") as slow, Reader(world, bearer, "large") as quick:
        for number, name in enumerate(numbers, 1):
            await quick.publish("large", name + filling)
            await quick.until(number)
        assert (quick.bodies, quick.dropped) == (numbers, 0)
        await slow.until(count)
        assert slow.dropped > 0
        assert len(slow.bodies) + slow.dropped == count
        assert slow.bodies == sorted(slow.bodies)
        assert slow.bodies[-1] == numbers[-1]


def test_a_service_that_only_consumes_runs_as_any_other(world: worlds.World) -> None:
    world.cli("events", "publish", "orders", '{"id": "o-7"}')
    folder = world.service("quiet", QUIET, "")
    said = world.cli("run", str(folder), timeout=100).stdout
    assert "micro services quiet" in said
    assert worlds.eventually(lambda: "handled o-7" in world.cli("logs", "quiet").stdout)
    (found,) = json.loads(world.cli("services", "quiet", "-o", "json").stdout)
    assert found["endpoints"] == []
    assert found["consumes"] == [{"topic": "orders", "group": "quiet", "connected": True}]
    assert found["subscribes"] == [{"topic": "prices.>", "queue": "", "connected": True}]
    assert "orders  group quiet  connected" in world.cli("services", "quiet").stdout
    assert json.loads(world.cli("status", "quiet", "-o", "json").stdout)[0]["status"] == "running"
    status, answer = curl(world, "/quiet/list", {})
    assert (status, "it takes no calls" in answer) == (404, True)
    events = world.processes()["events"]
    os.kill(events, signal.SIGSTOP)  # away without having ended
    try:
        world.cli("update", str(folder), timeout=100)
    finally:
        os.kill(events, signal.SIGCONT)
    world.cli("events", "publish", "orders", '{"id": "o-8"}')
    assert worlds.eventually(lambda: "handled o-8" in world.cli("logs", "quiet").stdout)
    world.cli("kill", "quiet")


def test_a_service_with_nothing_to_do_is_told_so(world: worlds.World) -> None:
    folder = world.service("idle", 'from micro import Service\n\napp = Service("idle")\n', "")
    done = world.cli("run", str(folder), check=False, timeout=100)
    assert done.returncode == 1
    assert "service idle has nothing to do: give it a handler" in done.stderr
    world.cli("kill", "idle", check=False)


@pytest.mark.parametrize("unit", ["broker", "nats", "mesh"])
def test_subscriptions_go_on_when_a_part_was_killed(world: worlds.World, bearer: str, unit: str) -> None:
    until_comes(world, bearer, {"before": unit})
    killed = world.processes()[unit]
    os.kill(killed, signal.SIGKILL)
    assert worlds.eventually(lambda: world.processes().get(unit, killed) != killed)
    until_comes(world, bearer, {"after": unit})
