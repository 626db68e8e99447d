"""Streams that are open while somebody's access is taken: theirs end within a second, and nobody else's do."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import grpc
import identity_world
import pytest
import websockets.sync.client
import worlds
from identity_world import ACCOUNTS, TOKENS, WITHIN, Identities, Member
from websockets.exceptions import ConnectionClosed

SOURCE = """
import logging
from micro import Service
from proto.chat_connect import Chat
from proto.chat_pb import Line

class Handler(Chat):
    async def talk(self, lines, ctx):
        async for line in lines:
            logging.getLogger("chat").info(line.text)
            yield Line(text=f"{ctx.account.id} says {line.text}")

app = Service("chat", Handler())
"""
PROTO = """
syntax = "proto3";
package chat;
service Chat { rpc Talk(stream Line) returns (stream Line); }
message Line { string text = 1; }
"""
TALK = "/chat.Chat/Talk"
REGISTRY = "/micro.registry.v1.Registry/Watch"
BROKER = "/micro.broker.v1.Broker/Subscribe"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identities]:
    """A server with a service to talk to."""
    with identity_world.identities(tmp_path_factory.mktemp("streams")) as made:
        made.world.cli("run", str(made.world.service("chat", SOURCE, PROTO)), timeout=100)
        made.admin = made.member("micro", "boss", "admin")  # the command line logs in as others
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


class Stream:
    """A gRPC stream through the proxy, with JSON for messages."""

    def __init__(self, world: Identities, by: Member, path: str = TALK) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channel = grpc.insecure_channel(world.world.proxy, options=options)
        self._said: queue.Queue[Any] = queue.Queue()
        headers = identity_world.bearing(by.shown(path), {"micro-codec": "json"})
        make = self._channel.stream_stream(path, lambda value: json.dumps(value).encode(), json.loads)
        self._call = make(iter(self._said.get, None), metadata=tuple(headers.items()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._said.put(None)
        self._call.cancel()
        self._channel.close()

    def say(self, text: str = "hello") -> str:
        self._said.put({"text": text})
        return str(next(self._call)["text"])

    def begin(self, **request: str) -> dict[str, Any]:
        """Ask for all there is, and return the first of it."""
        self._said.put(request)
        self._said.put(None)
        return dict(next(self._call))

    def end(self) -> str:
        """How it ends; what comes before is passed over."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self._call:
                pass
        return str(self._call.code().name)


def ends(ended: Future[str], how: str, change: Callable[[], object]) -> None:
    """That a stream ends, and so, within a second after a change was answered."""
    assert not ended.done()
    change()
    assert ended.result(WITHIN) == how


def test_the_streams_of_a_deleted_account_end_and_others_go_on(world: Identities, pool: ThreadPoolExecutor) -> None:
    ann, bob = world.member("micro", "ann"), world.member("micro", "bob")
    with (
        Stream(world, ann) as anns,
        Stream(world, bob) as bobs,
        Stream(world, ann, REGISTRY) as watch,
        Stream(world, ann, BROKER) as messages,
    ):
        assert anns.say() == "ann says hello"
        assert bobs.say() == "bob says hello"
        watch.begin()
        messages.begin(topic="orders.>")
        ended, watched, listened = pool.submit(anns.end), pool.submit(watch.end), pool.submit(messages.end)
        ends(ended, "UNAUTHENTICATED", lambda: world.core(f"{ACCOUNTS}/Delete", {"id": "ann", "namespace": "micro"}))
        assert watched.result(WITHIN) == "UNAUTHENTICATED"
        assert listened.result(WITHIN) == "UNAUTHENTICATED"
        assert bobs.say("still here") == "bob says still here"
    assert world.grpc(TALK, {}, ann).code == "UNAUTHENTICATED"


def test_a_rule_ends_the_streams_that_it_is_about(world: Identities, pool: ThreadPoolExecutor) -> None:
    guest, host = world.member("micro", "guest", "guest"), world.member("micro", "host", "host")
    with Stream(world, guest) as guests, Stream(world, host) as hosts:
        assert guests.say() == "guest says hello"
        assert hosts.say() == "host says hello"
        ended = pool.submit(guests.end)
        try:
            ends(
                ended,
                "PERMISSION_DENIED",
                lambda: world.rule("micro", "closed", "service:chat:*", "guest", "DENIED", 1),
            )
            assert hosts.say("still here") == "host says still here"
        finally:
            world.forget("micro", "closed")


def test_a_websocket_of_a_revoked_account_is_closed(world: Identities, pool: ThreadPoolExecutor) -> None:
    eve = world.member("micro", "eve")
    headers = identity_world.bearing(eve.token, {})
    with websockets.sync.client.connect(f"ws://{world.world.api}/chat/talk", additional_headers=headers) as socket:
        socket.send(json.dumps({"text": "hello"}))
        assert json.loads(socket.recv(10)) == {"text": "eve says hello"}

        def end() -> str:
            return str(json.loads(socket.recv())["error"]["code"])

        ended = pool.submit(end)
        ends(ended, "unauthenticated", lambda: world.core(f"{TOKENS}/Revoke", {"account": "eve", "namespace": "micro"}))
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
        assert socket.close_code == 1008


def test_following_the_logs_ends_with_the_session_of_whoever_does(world: Identities) -> None:
    joe = world.member("micro", "joe")
    world.world.cli("login", "--username", "joe", "--password-stdin", stdin=joe.secret)
    command = [worlds.MICRO, "logs", "chat", "-f"]
    with subprocess.Popen(
        command, env=world.world.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        try:
            with Stream(world, world.admin) as talk:
                talk.say("a line to be seen")
                assert any("a line to be seen" in line for line in iter(following.stdout.readline, ""))
                world.core(f"{TOKENS}/Revoke", {"account": "joe", "namespace": "micro"})
                assert following.wait(5) != 0
                [told] = following.stderr.read().splitlines()
                assert "log in" in told
                assert talk.say("others go on") == "boss says others go on"
        finally:
            following.kill()
    assert world.world.cli("services", check=False).returncode != 0, "joe is logged out"


def test_services_hear_of_changes_after_all_of_this(world: Identities) -> None:
    last = world.member("micro", "last")
    with Stream(world, last) as stream:
        assert stream.say() == "last says hello"
    world.core(f"{ACCOUNTS}/Delete", {"id": "last", "namespace": "micro"})
    identity_world.within_a_second(lambda: world.grpc(TALK, {}, last).code == "UNAUTHENTICATED")
