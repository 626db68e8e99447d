"""What is taken from a caller, or given, acts within a second on services that run, over HTTP and over gRPC, and on
streams that are open."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import random
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import grpc
import identity_world
import pytest
import websockets.sync.client
import worlds
from identity_world import ACCOUNTS, AUTH, RULES, TOKENS, WITHIN, Identities, Member, within_a_second
from websockets.exceptions import ConnectionClosed

ME = "/who.Who/Me"
INSTANCES = 2
NOBODY_KNOWN = Member("", "", "")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identities]:
    """A server as on a laptop, with a service of two instances in two namespaces."""
    with identity_world.identities(tmp_path_factory.mktemp("changes")) as made:
        made.namespace("acme")
        made.run(("micro", "who"), ("acme", "who"), instances=INSTANCES)
        yield made


@pytest.fixture
def member(world: Identities, request: pytest.FixtureRequest) -> Member:
    """An account of its own for each test, with one scope."""
    return world.member("acme", request.node.name[:100], "reader")


def seen(world: Identities, by: str | Member = "", times: int = 2 * INSTANCES) -> tuple[set[int], set[str]]:
    """All that calls come to over HTTP and over gRPC, on whichever instance they arrive."""
    return (
        {world.http("/who/me", by, micro_namespace="acme").status for _ in range(times)},
        {world.grpc(ME, {}, by, micro_namespace="acme").code for _ in range(times)},
    )


LET_IN = ({200}, {"OK"})
NOBODY = ({401}, {"UNAUTHENTICATED"})
REFUSED = ({403}, {"PERMISSION_DENIED"})


def turns(world: Identities, expected: tuple[set[int], set[str]], by: str | Member = "") -> None:
    """That both doors change to this within a second after what has just been answered, and stay so."""
    within_a_second(lambda: seen(world, by) == expected)
    assert seen(world, by) == expected


def test_on_a_laptop_nobody_needs_an_account_to_call_and_nobody_else_reaches_the_platform(world: Identities) -> None:
    answer = world.http("/who/me")
    assert (answer.status, answer.told["namespace"], answer.told["tenant"]) == (200, "micro", "micro")
    assert "account" not in answer.told
    assert "anyone can call them" in world.world.output()
    assert world.world.cli("who", "me").returncode == 0
    assert world.grpc("/micro.runtime.v1.Runtime/Read").code == "UNAUTHENTICATED"


def test_a_session_that_is_ended_is_over_everywhere_and_others_go_on(world: Identities, member: Member) -> None:
    other = world.login("acme", member.id, member.secret)
    listed = world.core(f"{TOKENS}/List", {}, other, micro_namespace="acme")["sessions"]
    newest, oldest = (one["id"] for one in listed)
    assert seen(world, member) == LET_IN
    world.core(f"{TOKENS}/Revoke", {"session": oldest}, other)
    turns(world, NOBODY, member)
    assert seen(world, other) == LET_IN
    assert world.grpc(f"{AUTH}/Token", {"refreshToken": member.refresh}, micro_namespace="acme").code != "OK"
    assert newest != oldest
    world.core(f"{TOKENS}/Revoke", {"account": member.id, "namespace": "acme"})
    turns(world, NOBODY, other)


def test_an_account_that_is_deleted_is_refused_though_anyone_may_call(world: Identities, member: Member) -> None:
    assert seen(world, member) == LET_IN
    world.core(f"{ACCOUNTS}/Delete", {"id": member.id, "namespace": "acme"})
    turns(world, NOBODY, member)
    assert seen(world) == LET_IN, "an invalid token is not the same as none"
    again = world.member("acme", member.id)
    assert seen(world, again) == LET_IN
    assert seen(world, member) == NOBODY, "a new account of the same name does not bring the old one's back"


def test_scopes_that_change_end_the_tokens_that_tell_the_old_ones(world: Identities, member: Member) -> None:
    world.rule("acme", "readers", "service:who:Who.Me", "reader", priority=5)
    world.rule("acme", "nobody-else", "service:who:Who.Me", "", "DENIED", priority=4)
    try:
        within_a_second(lambda: seen(world, member) == LET_IN and seen(world) == NOBODY)
        world.core(f"{ACCOUNTS}/UpdateScopes", {"id": member.id, "namespace": "acme", "scopes": ["writer"]})
        turns(world, NOBODY, member)
        told = world.core(f"{AUTH}/Token", {"refreshToken": member.refresh, "namespace": "acme"}, NOBODY_KNOWN)
        assert told["account"]["scopes"] == ["writer"], "the session goes on, with what holds now"
        turns(world, REFUSED, identity_world.member_of(told))
        world.core(f"{ACCOUNTS}/UpdateScopes", {"id": member.id, "namespace": "acme", "scopes": ["reader"]})
        back = world.login("acme", member.id, member.secret)
        within_a_second(lambda: seen(world, back) == LET_IN)
    finally:
        world.forget("acme", "readers", "nobody-else")


def test_a_secret_that_changes_ends_what_began_with_the_old_one(world: Identities, member: Member) -> None:
    request = {"oldSecret": member.secret, "newSecret": "a secret of their own"}
    world.core(f"{ACCOUNTS}/ChangeSecret", request, member)
    turns(world, NOBODY, member)
    assert world.grpc(f"{AUTH}/Token", {"id": member.id, "secret": member.secret, "namespace": "acme"}).code != "OK"
    world.login("acme", member.id, "a secret of their own")


def test_a_rule_acts_when_it_is_made_changed_and_removed(world: Identities, member: Member) -> None:
    assert seen(world) == seen(world, member) == LET_IN
    try:
        world.rule("acme", "closed", "service:who:*", "", "DENIED", priority=1)
        turns(world, NOBODY)
        turns(world, REFUSED, member)
        assert world.http("/who/many", micro_namespace="acme").status == 401, "streams too"
        changed = identity_world.rule("acme", "closed", "service:who:Who.Me", "reader", "DENIED", 1)
        world.core(f"{RULES}/Update", {"rule": changed})
        turns(world, LET_IN)
        turns(world, REFUSED, member)
        assert world.http("/who/many", micro_namespace="acme").status == 200
        assert world.http("/who/me").status == 200, "a rule of one namespace is not another's"
    finally:
        world.forget("acme", "closed")
    turns(world, LET_IN, member)


def test_of_many_rules_at_once_the_last_holds(world: Identities) -> None:
    for _ in range(5):
        world.rule("acme", "blink", "service:who:*", "", "DENIED", priority=1)
        turns(world, NOBODY)
        world.forget("acme", "blink")
        turns(world, LET_IN)


def test_keys_that_are_rotated_twice_end_what_the_first_signed(world: Identities, member: Member) -> None:
    first, boss = key_of(member), world.member("micro", "boss", "admin")
    world.core("/micro.auth.v1.Keys/Rotate", by=boss)
    assert seen(world, member) == LET_IN, "two keys hold at a time"
    # A key is told before it signs.
    worlds.eventually(lambda: key_of(world.login("acme", member.id, member.secret)) != first, 5)
    fresh, boss = world.login("acme", member.id, member.secret), world.login("micro", "boss", boss.secret)
    assert seen(world, fresh) == LET_IN, "of every service, as soon as there is a token of it"
    world.core("/micro.auth.v1.Keys/Rotate", by=boss)
    turns(world, NOBODY, member)
    assert seen(world, fresh) == LET_IN
    assert len(world.http("/.well-known/jwks.json").told["keys"]) == 2
    assert world.grpc("/micro.runtime.v1.Runtime/Read", {}, world.admin).code == "UNAUTHENTICATED"
    assert "who" in world.world.cli("services").stdout, "a session goes on: its refresh token needs no key"
    world.log_in()


def key_of(member: Member) -> str:
    """Id of the key that signed a token."""
    header = member.token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"])


def test_beyond_its_quota_a_namespace_is_told_to_wait_and_gets_nothing_more(world: Identities) -> None:
    world.namespace("small")
    world.run(("small", "who"))
    folder = world.world.home / "src" / "small" / "who"

    def limit(services: int, instances: int, upload: int, requests: int = 0) -> None:
        quota = {"services": services, "instances": instances, "upload": upload, "requests": requests}
        world.core("/micro.auth.v1.Namespaces/SetQuota", {"name": "small", "quota": quota})

    def refused(*words: str) -> str:
        done = world.world.cli("--namespace", "small", *words, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        return done.stderr

    limit(services=1, instances=5, upload=2**20)
    within_a_second(lambda: "services" in refused("run", str(folder), "--version", "two"))
    limit(services=5, instances=1, upload=2**20)
    within_a_second(lambda: "instances" in refused("update", str(folder), "--instances", "2"))
    limit(services=5, instances=5, upload=2000)
    (folder / "more.bin").write_bytes(random.Random(1).randbytes(100_000))
    within_a_second(lambda: "archive" in refused("update", str(folder)))
    assert world.http("/who/me", micro_namespace="small").status == 200, "what runs goes on"

    limit(services=1, instances=1, upload=2**20, requests=3)
    answers = []

    def beyond() -> bool:
        answers.append(world.http("/who/me", micro_namespace="small"))
        return answers[-1].status == 429

    assert worlds.eventually(beyond, 5)
    last = answers[-1]
    assert last.headers["retry-after"] == "1"
    assert last.told["code"] == "resource_exhausted"
    assert {world.http("/who/me").status for _ in range(20)} == {200}, "others are not held up"
    assert world.grpc(ME, micro_namespace="small").code == "OK", "the limit is the HTTP gateway's"


# --- streams that are open meanwhile: theirs end within a second, and nobody else's do --------------------------------

CHAT = """
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
CHAT_PROTO = """
syntax = "proto3";
package chat;
service Chat { rpc Talk(stream Line) returns (stream Line); }
message Line { string text = 1; }
"""
TALK = "/chat.Chat/Talk"
REGISTRY = "/micro.registry.v1.Registry/Watch"
BROKER = "/micro.broker.v1.Broker/Subscribe"


@pytest.fixture(scope="module")
def chat(world: Identities) -> Identities:
    """With a service to talk to."""
    world.world.cli("run", str(world.world.service("chat", CHAT, CHAT_PROTO)), timeout=100)
    world.admin = world.member("micro", "chief", "admin")  # the command line logs in as others
    return world


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


def test_the_streams_of_a_deleted_account_end_and_others_go_on(chat: Identities, pool: ThreadPoolExecutor) -> None:
    ann, bob = chat.member("micro", "ann"), chat.member("micro", "bob")
    with (
        Stream(chat, ann) as anns,
        Stream(chat, bob) as bobs,
        Stream(chat, ann, REGISTRY) as watch,
        Stream(chat, ann, BROKER) as messages,
    ):
        assert anns.say() == "ann says hello"
        assert bobs.say() == "bob says hello"
        watch.begin()
        messages.begin(topic="orders.>")
        ended, watched, listened = pool.submit(anns.end), pool.submit(watch.end), pool.submit(messages.end)
        ends(ended, "UNAUTHENTICATED", lambda: chat.core(f"{ACCOUNTS}/Delete", {"id": "ann", "namespace": "micro"}))
        assert watched.result(WITHIN) == "UNAUTHENTICATED"
        assert listened.result(WITHIN) == "UNAUTHENTICATED"
        assert bobs.say("still here") == "bob says still here"
    assert chat.grpc(TALK, {}, ann).code == "UNAUTHENTICATED"


def test_a_rule_ends_the_streams_that_it_is_about(chat: Identities, pool: ThreadPoolExecutor) -> None:
    guest, host = chat.member("micro", "guest", "guest"), chat.member("micro", "host", "host")
    with Stream(chat, guest) as guests, Stream(chat, host) as hosts:
        assert guests.say() == "guest says hello"
        assert hosts.say() == "host says hello"
        ended = pool.submit(guests.end)
        try:
            ends(
                ended,
                "PERMISSION_DENIED",
                lambda: chat.rule("micro", "closed", "service:chat:*", "guest", "DENIED", 1),
            )
            assert hosts.say("still here") == "host says still here"
        finally:
            chat.forget("micro", "closed")


def test_a_websocket_of_a_revoked_account_is_closed(chat: Identities, pool: ThreadPoolExecutor) -> None:
    eve = chat.member("micro", "eve")
    headers = identity_world.bearing(eve.token, {})
    with websockets.sync.client.connect(f"ws://{chat.world.api}/chat/talk", additional_headers=headers) as socket:
        socket.send(json.dumps({"text": "hello"}))
        assert json.loads(socket.recv(10)) == {"text": "eve says hello"}

        def end() -> str:
            return str(json.loads(socket.recv())["error"]["code"])

        ended = pool.submit(end)
        ends(ended, "unauthenticated", lambda: chat.core(f"{TOKENS}/Revoke", {"account": "eve", "namespace": "micro"}))
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
        assert socket.close_code == 1008


def test_following_the_logs_ends_with_the_session_of_whoever_does(chat: Identities) -> None:
    joe = chat.member("micro", "joe")
    chat.world.cli("login", "--username", "joe", "--password-stdin", stdin=joe.secret)
    command = [worlds.MICRO, "logs", "chat", "-f"]
    with subprocess.Popen(
        command, env=chat.world.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        try:
            with Stream(chat, chat.admin) as talk:
                talk.say("a line to be seen")
                assert any("a line to be seen" in line for line in iter(following.stdout.readline, ""))
                chat.core(f"{TOKENS}/Revoke", {"account": "joe", "namespace": "micro"})
                assert following.wait(5) != 0
                [told] = following.stderr.read().splitlines()
                assert "log in" in told
                assert talk.say("others go on") == "chief says others go on"
        finally:
            following.kill()
    assert chat.world.cli("services", check=False).returncode != 0, "joe is logged out"


def test_services_hear_of_changes_after_all_of_this(chat: Identities) -> None:
    last = chat.member("micro", "last")
    with Stream(chat, last) as stream:
        assert stream.say() == "last says hello"
    chat.core(f"{ACCOUNTS}/Delete", {"id": "last", "namespace": "micro"})
    identity_world.within_a_second(lambda: chat.grpc(TALK, {}, last).code == "UNAUTHENTICATED")
