"""What ends a stream that was let in, and what does not: being taken back, but not a token's ordinary end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from guarded import Clock, admitted

from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.domain.rule import ANY_ACCOUNT, Access, Resource, Rule
from micro.domain.token import ACCESS_SECONDS
from micro.framework import streams
from micro.framework.guard import CoreGuard, RuleGuard
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.guard import RefusedTokenError
from micro.testing.identity import Deployment, revoked, rule_changed, rule_gone

ANN = Account("ann", "shop")
TILL = Account("till-latest", "shop", type=Type.SERVICE, metadata={"service": "till"})
NETWORK = Account("network", "micro", type=Type.SERVICE, scopes=frozenset({"admin"}))

WATCH = "/micro.auth.v1.Policy/Watch"
DISCOVERY = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
NO_READERS = Rule("no", "shop", ANY_ACCOUNT, Resource("service", "books", "Books.Read"), Access.DENIED, 1)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PAUSE", 0)


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.here = Deployment(clock=self.clock)
        self.policy = self.here.policy("shop", public=True)
        self.rules = RuleGuard("books", "shop", self.policy, clock=self.clock)
        self.core = CoreGuard(self.policy, "secret", clock=self.clock)

    def stream(self, path: str = "/Books/Read", *, core: bool = False, **headers: str) -> Stream:
        return Stream(self.core if core else self.rules, path, headers)

    async def look(self) -> None:
        """Return when all streams have been decided anew since the last change."""
        witness = self.stream("/Books/Buy", authorization=self.here.bearer(ANN, session="witness"))
        self.policy.apply(revoked(self.clock() + 1, session="witness"))
        await witness.ended.wait()


class Stream:
    """One call that goes on."""

    def __init__(self, guard: Any, path: str, headers: dict[str, str]) -> None:
        ctx, pairs = admitted(guard, path, headers)
        self.ended = asyncio.Event()
        self.why: list[Error] = []
        self.leave = guard.keep(ctx, pairs, self._end)

    def _end(self, error: Error) -> None:
        self.why.append(error)
        self.ended.set()

    @property
    def kind(self) -> Kind | None:
        return self.why[0].kind if self.why else None


async def test_a_token_s_ordinary_end_ends_no_stream_and_its_revocation_does() -> None:
    world = World()
    followed = world.stream(authorization=world.here.bearer(ANN, session="s1"))
    for _ in range(3):
        world.clock.now += ACCESS_SECONDS
        await world.look()
        assert followed.kind is None
    world.policy.apply(revoked(world.clock(), session="s1"))
    await followed.ended.wait()
    assert followed.kind is Kind.UNAUTHENTICATED
    assert not isinstance(followed.why[0], RefusedTokenError), "what has begun cannot just be repeated"


async def test_what_is_revoked_before_a_stream_was_let_in_is_another_login_s() -> None:
    world = World()
    world.policy.apply(revoked(world.clock(), session="s1"))
    world.clock.now += 1
    stream = world.stream(authorization=world.here.bearer(ANN, session="s1"))
    await world.look()
    assert stream.kind is None


async def test_a_rule_ends_those_that_it_is_about() -> None:
    world = World()
    ann = world.here.bearer(ANN)
    read, bought, nobodys = (
        world.stream(authorization=ann),
        world.stream("/Books/Buy", authorization=ann),
        world.stream(),
    )
    world.policy.apply(rule_changed(NO_READERS))
    await read.ended.wait()
    assert (read.kind, bought.kind, nobodys.kind) == (Kind.PERMISSION_DENIED, None, None)
    world.policy.apply(rule_gone("no", "shop"))
    again = world.stream(authorization=ann)
    await world.look()
    assert again.kind is None


async def test_of_changes_in_a_row_the_last_decides() -> None:
    world = World()
    stream = world.stream(authorization=world.here.bearer(ANN))
    world.policy.apply(rule_changed(NO_READERS))
    world.policy.apply(rule_gone("no", "shop"))
    await world.look()
    assert stream.kind is None


async def test_a_service_that_acts_for_somebody_ends_with_its_own_account_too() -> None:
    world = World()
    ann, till = world.here.bearer(ANN), world.here.bearer(TILL, session="t1")
    both, alone = world.stream(authorization=ann, micro_actor=till), world.stream(authorization=ann)
    world.policy.apply(revoked(world.clock() + 1, session="t1"))
    await both.ended.wait()
    assert (both.kind, alone.kind) == (Kind.UNAUTHENTICATED, None)


async def test_a_key_that_is_known_no_more_ends_what_it_signed() -> None:
    world = World()
    old = world.stream(authorization=world.here.bearer(ANN))
    world.here.key = world.here.signer.generate(world.clock())
    world.policy.apply(world.here.keys())
    fresh = world.stream(authorization=world.here.bearer(ANN))
    await old.ended.wait()
    await world.look()
    assert (old.kind, fresh.kind) == (Kind.UNAUTHENTICATED, None)


async def test_who_is_told_all_anew_goes_on() -> None:
    world = World()
    stream = world.stream(authorization=world.here.bearer(ANN, session="s1"))
    world.clock.now += 3 * ACCESS_SECONDS
    world.policy.apply(pb.PolicyWatchResponse(action=pb.PolicyWatchResponse.Action.ALIVE))
    world.clock.now += ACCESS_SECONDS / 2
    for change in world.here.state(public=True):
        world.policy.apply(change)
    await world.look()
    assert stream.kind is None


async def test_what_may_have_been_revoked_while_nothing_was_heard_for_too_long_ends() -> None:
    world = World()
    old = world.stream(authorization=world.here.bearer(ANN, session="s1"))
    world.clock.now += 2 * ACCESS_SECONDS
    fresh, nobodys = world.stream(authorization=world.here.bearer(ANN)), world.stream()
    for change in world.here.state(public=True):
        world.policy.apply(change)
    await old.ended.wait()
    assert (old.kind, fresh.kind, nobodys.kind) == (Kind.UNAUTHENTICATED, None, None)


async def test_the_platform_s_own_streams_outlive_rules_and_tokens() -> None:
    world = World()
    platform = Audience.PLATFORM
    watch = world.stream(WATCH, core=True, authorization=world.here.bearer(NETWORK, audience=platform))
    tills = world.here.bearer(TILL, audience=platform, session="t1")
    theirs, gateway = (
        world.stream(WATCH, core=True, authorization=tills),
        world.stream(DISCOVERY, core=True, authorization="Bearer secret"),
    )
    world.clock.now += ACCESS_SECONDS * 2
    world.policy.apply(rule_changed(NO_READERS))
    await world.look()
    assert [each.kind for each in (watch, theirs, gateway)] == [None] * 3
    world.policy.apply(revoked(world.clock(), session="t1"))
    await theirs.ended.wait()
    assert [each.kind for each in (watch, theirs, gateway)] == [None, Kind.UNAUTHENTICATED, None]


async def test_what_is_done_is_not_decided_any_more() -> None:
    world = World()
    stream = world.stream(authorization=world.here.bearer(ANN, session="s1"))
    stream.leave()
    world.policy.apply(revoked(world.clock() + 1, session="s1"))
    await world.look()
    stream.leave()
    assert stream.kind is None
