"""auth is killed, and stays away: services go on with what they know, and nothing opens up."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import identity_world
import pytest
import worlds
from identity_world import AUTH, RULES, TOKENS, Identities, Member, grpc_call, within_a_second

ME = "/who.Who/Me"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identities]:
    """`Me` needs an account and `Many` is closed to all; `Open` is open. The service relay is there to be killed."""
    with identity_world.identities(tmp_path_factory.mktemp("outage")) as made:
        for name in ("who", "relay"):
            about = f"service:{name}:{name.title()}"
            made.rule("micro", f"{name}-members", f"{about}.Me", "*", priority=2)
            made.rule("micro", f"{name}-strangers", f"{about}.Me", "", "DENIED", priority=1)
            made.rule("micro", f"{name}-closed", f"{about}.Many", "", "DENIED", priority=3)
        made.run(("micro", "who"), ("micro", "relay"))
        yield made


def called(request: pytest.FixtureRequest) -> str:
    """A name of a test's own."""
    return request.node.name[:90].replace("[", ".").rstrip("]")


@pytest.fixture
def ann(world: Identities, request: pytest.FixtureRequest) -> Member:
    return world.member("micro", called(request))


@pytest.fixture
def revoked(world: Identities, request: pytest.FixtureRequest) -> Member:
    """Somebody whose token was valid once."""
    made = world.member("micro", f"revoked-{called(request)}")
    world.core(f"{TOKENS}/Revoke", {"account": made.id})
    within_a_second(lambda: world.http("/who/open", made).status == 401)
    return made


def as_it_was(world: Identities, ann: Member, revoked: Member) -> None:
    """What is open is open, and what is closed is closed, over both doors."""
    for service in ("who", "relay"):
        title = f"/{service}.{service.title()}"
        for by, code, status in (("", "UNAUTHENTICATED", 401), (ann, "OK", 200)):
            assert world.http(f"/{service}/me", by).status == status
            assert world.grpc(f"{title}/Me", {}, by).code == code
        for endpoint in ("me", "open", "many"):
            assert world.http(f"/{service}/{endpoint}", revoked).status == 401
            assert world.grpc(f"{title}/{endpoint.title()}", by=revoked).code == "UNAUTHENTICATED"
        assert world.http(f"/{service}/open").status == world.http(f"/{service}/open", ann).status == 200
        assert (world.http(f"/{service}/many").status, world.http(f"/{service}/many", ann).status) == (401, 403)


@contextmanager
def kept_away(world: Identities) -> Iterator[None]:
    """auth is killed, and what takes its place is held as soon as it is there, before it answers anything."""
    before = world.world.processes()["auth"]
    os.kill(before, signal.SIGKILL)
    found = worlds.eventually(lambda: world.world.processes().get("auth", before) not in (before, 0))
    assert found
    pid = world.world.processes()["auth"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def back(world: Identities) -> None:
    """Return once auth answers."""
    assert worlds.eventually(lambda: world.grpc(f"{AUTH}/Inspect", {}, "no token").code == "UNAUTHENTICATED", 20)


async def test_under_load_nothing_changes_for_anybody_while_auth_is_killed_again_and_again(
    world: Identities, ann: Member, revoked: Member
) -> None:
    rules = world.core(f"{RULES}/List")
    sent = [
        ("/who/me", {"authorization": f"Bearer {ann.token}"}),
        ("/who/open", {}),
        ("/who/me", {}),
        ("/who/open", {"authorization": f"Bearer {revoked.token}"}),
    ]
    async with AsyncExitStack() as stack:
        loads = [
            await stack.enter_async_context(worlds.load(world.world.api, path, headers=headers, connections=2))
            for path, headers in sent
        ]
        for _ in range(2):
            pid = world.world.processes()["auth"]
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(as_it_was, world, ann, revoked)
            await asyncio.to_thread(worlds.eventually, lambda pid=pid: world.world.processes().get("auth", pid) != pid)
            await asyncio.to_thread(back, world)
            for load in loads:
                await load.reached(load.sent + 100)
    known, nobodys, refused, stale = loads
    assert known.failures == nobodys.failures == []
    assert not refused.answers
    assert not stale.answers
    assert {failure[:3] for failure in refused.failures + stale.failures} == {"401"}
    assert world.core(f"{RULES}/List") == rules
    as_it_was(world, ann, revoked)
    began = world.login("micro", ann.id, ann.secret)
    assert world.http("/who/me", began).status == 200


def test_a_service_that_starts_while_auth_is_away_answers_nobody(
    world: Identities, ann: Member, revoked: Member
) -> None:
    pid = world.http("/relay/open").told["pid"]
    address = instance(world)
    with kept_away(world):
        os.kill(pid, signal.SIGKILL)
        seen: dict[str, set[int | str]] = {"http": set(), "grpc": set(), "own": set()}

        def ask() -> None:
            for path in ("/relay/me", "/relay/open", "/relay/many"):
                for token in ("", ann.token, revoked.token):
                    seen["http"].add(world.http(path, token).status)
                    seen["grpc"].add(world.grpc(f"/relay.Relay/{path[7:].title()}", by=token).code)

        # As long as it takes to be started anew: there is an instance, and it is not let in.
        assert worlds.eventually(lambda: (ask(), fresh := instance(world)) and fresh not in ("", address), 20)
        assert worlds.eventually(lambda: own_answer(world, instance(world), ""), 20), "it listens"
        ask()
        seen["own"] |= {own_answer(world, instance(world), token) for token in ("", ann.token, revoked.token)}
        assert seen["http"] <= {503, 401, 404}, seen
        assert seen["grpc"] <= {"UNAVAILABLE", "UNAUTHENTICATED", "UNIMPLEMENTED"}, seen
        assert seen["own"] <= {0, 503, 401}, seen
        assert 503 in seen["own"], "it runs, and knows that it does not know"
        assert world.http("/who/me", ann).status == 200, "others go on"
        assert world.http("/who/me").status == 401
        denied = grpc_call(world.world.proxy, f"{AUTH}/Token", {"id": ann.id, "secret": ann.secret}, {}, timeout=1)
        assert denied.code in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}, denied
    back(world)
    assert worlds.eventually(lambda: world.http("/relay/open").status == 200, 20)
    as_it_was(world, ann, revoked)


def instance(world: Identities) -> str:
    """Where the service relay is said to listen."""
    found = world.grpc("/micro.runtime.v1.Runtime/Read", {"name": "relay"}, world.admin)
    told = [one for service in found.told.get("services", []) for one in service.get("instances", [])]
    return str(told[0].get("address", "")) if told else ""


def own_answer(world: Identities, address: str, token: str) -> int:
    """What the instance itself says; 0 when nothing listens there."""
    try:
        return world.http("/relay/me", token, address=address).status if address else 0
    except OSError:
        return 0


def test_when_auth_is_back_changes_act_within_a_second(world: Identities, ann: Member, revoked: Member) -> None:
    os.kill(world.world.processes()["auth"], signal.SIGKILL)
    back(world)

    def seen() -> tuple[int, str]:
        return world.http("/who/open", ann).status, world.grpc("/who.Who/Open", {}, ann).code

    world.rule("micro", "shut", "service:who:Who.Open", "", "DENIED", priority=9)
    try:
        within_a_second(lambda: seen() == (403, "PERMISSION_DENIED"))
    finally:
        world.forget("micro", "shut")
    within_a_second(lambda: seen() == (200, "OK"))
    as_it_was(world, ann, revoked)
