"""A policy is learned, kept through the absence of who tells it, and swapped whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack

import pytest

from micro.domain import errors
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.domain.rule import ANYONE, Access, Resource, Rule
from micro.framework.policy import Policy, PolicyFollower
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.tokens import JwtVerifier
from micro.testing.identity import Deployment, revoked, rule_changed, rule_gone

ANN = Account("ann", "micro")
CALL = Resource("service", "books", "Books.Read")
CLOSED = Rule("closed", "micro", ANYONE, access=Access.DENIED)
Action = pb.PolicyWatchResponse.Action


def alive() -> pb.PolicyWatchResponse:
    return pb.PolicyWatchResponse(action=Action.ALIVE)


class Auth:
    """Tells whoever watches what the test says; each connection anew."""

    def __init__(self) -> None:
        self.connected = 0
        self.watching = asyncio.Condition()
        self._lines: asyncio.Queue[pb.PolicyWatchResponse | Error | None] = asyncio.Queue()

    async def watch(self) -> AsyncIterator[pb.PolicyWatchResponse]:
        self._lines = asyncio.Queue()
        async with self.watching:
            self.connected += 1
            self.watching.notify_all()
        while (line := await self._lines.get()) is not None:
            if isinstance(line, Error):
                raise line
            yield line

    async def watched(self, times: int) -> None:
        async with self.watching:
            await self.watching.wait_for(lambda: self.connected >= times)

    def tell(self, lines: Iterable[pb.PolicyWatchResponse | Error | None]) -> None:
        for line in lines:
            self._lines.put_nowait(line)


class World:
    def __init__(self, silence: float = 30.0) -> None:
        self.here, self.auth = Deployment(), Auth()
        self.policy = Policy(JwtVerifier())
        self.follower = PolicyFollower(self.policy, self.auth.watch, silence=silence, delays=lambda: iter([0.0] * 100))
        self._changed = asyncio.Condition()
        self.changes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self.policy.on_change(self._wake)

    def _wake(self) -> None:
        self.changes += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def changed(self, times: int) -> None:
        while self.changes < times:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting

    def allows(self, account: Account | None = None) -> bool:
        return self.policy.decide(account, CALL).allowed


async def test_what_is_told_holds_from_synced_on_and_changes_at_once() -> None:
    world = World()
    async with AsyncExitStack() as stack:
        await world.follower.start(stack)
        await world.auth.watched(1)
        *begin, synced = world.here.state([CLOSED], public=True)
        world.auth.tell([*begin, alive()])
        await asyncio.sleep(0)
        assert not world.policy.synced
        with pytest.raises(Error, match="not known here yet") as unknown:
            world.allows()
        assert unknown.value.kind is Kind.UNAVAILABLE
        world.auth.tell([synced])
        await world.follower.synced()
        assert (world.policy.synced, world.policy.public, world.allows()) == (True, True, False)
        world.auth.tell([rule_gone("closed")])
        await world.changed(2)
        assert world.allows()
        world.auth.tell([revoked(world.here.clock() + 1, session="s1")])
        await world.changed(3)
        with pytest.raises(Error, match="revoked"):
            world.policy.verify(world.here.token(ANN, session="s1"), world.here.clock(), Audience.SERVICES)


async def test_while_auth_is_away_what_is_known_holds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World()
    token = world.here.token(ANN)
    async with AsyncExitStack() as stack:
        await world.follower.start(stack)
        await world.auth.watched(1)
        world.auth.tell(world.here.state([CLOSED]))
        await world.follower.synced()
        for again in (2, 3, 4):
            world.auth.tell([errors.unavailable("gone")])
            await world.auth.watched(again)
            assert world.policy.verify(token, world.here.clock(), Audience.SERVICES).account == ANN
            assert not world.allows()
        # What it tells when it is back does not hold before it is whole.
        *begin, synced = world.here.state(public=True)
        world.auth.tell(begin)
        await asyncio.sleep(0)
        assert not world.allows()
        world.auth.tell([synced])
        await world.changed(2)
        assert world.allows()
    told = [record.getMessage() for record in caplog.records if "who may call" in record.getMessage()]
    assert told == [
        "who may call is not heard of any more: gone: what is known holds, trying again",
        "who may call is heard of again",
    ]


async def test_a_word_that_is_broken_off_is_no_word() -> None:
    world = World()
    async with AsyncExitStack() as stack:
        await world.follower.start(stack)
        await world.auth.watched(1)
        world.auth.tell([*world.here.state([CLOSED])[:-1], None])
        await world.auth.watched(2)
        assert not world.policy.synced
        world.auth.tell(world.here.state(public=True))
        await world.follower.synced()
        assert world.allows()


async def test_who_begins_in_the_middle_is_not_believed() -> None:
    world = World()
    async with AsyncExitStack() as stack:
        await world.follower.start(stack)
        await world.auth.watched(1)
        world.auth.tell([rule_changed(CLOSED)])
        await world.auth.watched(2)
        assert not world.policy.synced


async def test_silence_means_that_the_watch_is_lost() -> None:
    world = World(silence=0.02)
    async with AsyncExitStack() as stack:
        await world.follower.start(stack)
        await world.auth.watched(3)


async def test_the_stack_ends_it() -> None:
    world = World()
    async with AsyncExitStack() as stack:
        await world.follower.start(stack)
        await world.auth.watched(1)
    assert world.auth.connected == 1


def test_a_rule_that_does_not_say_that_it_grants_denies() -> None:
    policy = Policy(JwtVerifier())
    for change in Deployment().state(public=True):
        policy.apply(change)
    policy.apply(
        pb.PolicyWatchResponse(
            action=Action.RULE, rule=pb.Rule(id="x", resource=pb.Resource(type="*", name="*", endpoint="*"))
        )
    )
    assert not policy.decide(None, CALL).allowed


def test_namespaces_are_told_with_their_quotas() -> None:
    policy = Policy(JwtVerifier())
    shop = pb.Namespace(name="shop", quota=pb.Quota(services=3), created="2026-01-01T00:00:00Z")
    state = Deployment().state()
    for change in (*state[:-1], pb.PolicyWatchResponse(action=Action.NAMESPACE, namespace=shop), state[-1]):
        policy.apply(change)
    assert policy.namespaces["shop"].quota.services == 3
    policy.apply(pb.PolicyWatchResponse(action=Action.NAMESPACE_DELETED, namespace=pb.Namespace(name="shop")))
    assert not policy.namespaces


def test_revocations_are_forgotten_when_nothing_is_left_to_refuse() -> None:
    now = [1_800_000_000.0]
    here = Deployment(clock=lambda: now[0])
    policy = here.policy()
    for number in range(50):
        policy.apply(revoked(now[0], session=f"s{number}"))
        now[0] += 100
    assert len(policy._revocations.sessions) < 15
    with pytest.raises(Error, match="revoked"):
        policy.verify(here.token(ANN, session="s49", ago=150), now[0], Audience.SERVICES)
