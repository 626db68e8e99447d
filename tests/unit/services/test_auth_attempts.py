"""Guessing secrets: it takes longer and longer, and whose account it is still gets in."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from auth_world import ADMIN, World, refusal, refused, running

from micro.backends.argon.secrets import ArgonHasher
from micro.backends.memory.identity import MemoryIdentity
from micro.domain.errors import Kind
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.services import _auth_caller as caller
from micro.services import auth_attempts
from micro.services._auth_messages import rfc3339
from micro.services._auth_turns import AT_ONCE, EACH
from micro.services.auth_attempts import Allowance, Attempts
from micro.services.auth_lockouts import ACTION, COUNTED
from micro.testing.clock import FakeClock


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with running() as world:
        yield world


def rest(attempts: Attempts, account: str = "micro/ann", address: str = "203.0.113.9") -> str:
    try:
        attempts.check(account, address)
    except Exception as error:  # noqa: BLE001 - only its words are of interest
        return str(error)
    return ""


def test_an_account_rests_from_the_fifth_failure_on_for_half_a_minute_at_most() -> None:
    clock = FakeClock()
    attempts = Attempts(clock)
    waits = []
    for number in range(12):
        attempts.failed("micro/ann", f"192.0.2.{number}")
        message = rest(attempts)
        waits.append(int(message.split()[-2]) if message else 0)
        clock.jump(waits[-1])
        assert not rest(attempts), "the wait that was named is enough"
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert not rest(attempts, "micro/bob")
    attempts.succeeded("micro/ann")
    attempts.failed("micro/ann", "192.0.2.99")
    assert not rest(attempts), "after a success the count begins anew"


def test_an_address_rests_from_the_twentieth_failure_on_for_a_quarter_of_an_hour_at_most() -> None:
    clock = FakeClock()
    attempts = Attempts(clock)
    waits = []
    for number in range(32):
        attempts.failed(f"micro/{number}", "203.0.113.9")
        attempts.succeeded(f"micro/{number}")
        message = rest(attempts, "micro/new")
        waits.append(int(message.split()[-2]) if message else 0)
        clock.jump(waits[-1])
    assert waits == [0] * 19 + [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert not rest(attempts, "micro/new", "203.0.113.10")
    clock.jump(auth_attempts.FORGOTTEN_SECONDS)
    attempts.failed("micro/x", "203.0.113.9")
    assert not rest(attempts, "micro/new"), "an hour without a failure is forgiven"


def test_of_ipv6_the_network_counts_and_of_this_host_nothing_does() -> None:
    attempts = Attempts(FakeClock())
    for number in range(30):
        attempts.failed(f"micro/{number}", f"2001:db8::{number:x}")
        attempts.failed(f"micro/{number}", "127.0.0.1")
        attempts.failed(f"micro/{number}", "")
    assert rest(attempts, "micro/new", "2001:db8::ffff")
    assert not rest(attempts, "micro/new", "2001:db8:0:1::1")
    assert not rest(attempts, "micro/new", "127.0.0.1")
    assert not rest(attempts, "micro/new", "")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_attempts, "KEPT", 10)
    attempts = Attempts(FakeClock())
    for _ in range(5):
        attempts.failed("micro/ann", "")
    assert rest(attempts)
    for number in range(10):
        attempts.failed(f"micro/{number}", "")
    assert not rest(attempts)


def test_an_allowance_is_given_anew_when_its_time_is_over() -> None:
    clock = FakeClock()
    allowance = Allowance(clock, 2, 60.0)
    assert [allowance.take() for _ in range(4)] == [True, True, False, False]
    clock.jump(60.0)
    assert allowance.take()


async def test_even_the_right_secret_has_to_wait_and_then_opens(world: World) -> None:
    secret = await world.generate("ann", secret="chosen by ann")
    for _ in range(5):
        assert await refused(world.login("ann", "wrong-secret")) is Kind.UNAUTHENTICATED
    resting = await refusal(world.login("ann", secret, address="198.51.100.1"))
    assert (resting.kind, resting.message) == (
        Kind.RESOURCE_EXHAUSTED,
        "too many attempts failed: try again in 1 s",
    )
    world.clock.jump(1.0)
    assert (await world.login("ann", secret)).access_token


async def test_accounts_that_there_are_none_of_rest_alike(world: World) -> None:
    for _ in range(5):
        assert await refused(world.login("nobody", "wrong-secret")) is Kind.UNAUTHENTICATED
    assert await refused(world.login("nobody", "wrong-secret")) is Kind.RESOURCE_EXHAUSTED


async def test_the_old_secret_cannot_be_guessed_with_a_stolen_token_either(world: World) -> None:
    session = await world.login("ann", await world.generate("ann"))
    request = pb.ChangeSecretRequest(old_secret="wrong-secret", new_secret="new-secret")
    kinds = [await refused(world.call("Accounts/ChangeSecret", request, session.access_token)) for _ in range(6)]
    assert kinds == [Kind.PERMISSION_DENIED] * 5 + [Kind.RESOURCE_EXHAUSTED]


class Held(ArgonHasher):
    """Compares when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.compared = 0
        self.hashed = 0

    async def hash(self, secret: str) -> str:
        self.hashed += 1
        return secret

    async def verify(self, hashed: str | None, secret: str) -> bool:
        self.compared += 1
        await self.go.wait()
        return hashed == secret


async def test_a_thousand_guesses_at_once_are_no_way_around() -> None:
    hasher = Held()
    async with running(hasher=hasher) as world:
        await world.generate("ann")
        guesses = [asyncio.create_task(refused(world.login("ann", f"guess-{number}"))) for number in range(1000)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert hasher.compared == AT_ONCE
        hasher.go.set()
        kinds = await asyncio.gather(*guesses)
    assert kinds.count(Kind.UNAUTHENTICATED) <= auth_attempts.ACCOUNT_FAILURES + AT_ONCE
    assert hasher.compared == kinds.count(Kind.UNAUTHENTICATED)


async def test_whoever_floods_auth_keeps_nobody_out_who_shows_a_secret_that_was_made_for_it() -> None:
    hasher = Held()
    async with running(hasher=hasher) as world:
        secret = await world.generate("shop-latest", type="service")
        for _ in range(6):
            world.clock.jump(60.0)
            guess = asyncio.create_task(world.login("shop-latest", "wrong-secret"))
            while not hasher.compared:
                await asyncio.sleep(0)
            hasher.go.set()
            await asyncio.wait([guess])
        hasher.go.clear()
        flood = [
            asyncio.create_task(refused(world.login(f"no-{n}", "x" * 43, address="127.0.0.1"))) for n in range(300)
        ]
        for _ in range(10):
            await asyncio.sleep(0)
        assert (await world.login("shop-latest", secret, address="127.0.0.1")).access_token
        hasher.go.set()
        assert Kind.RESOURCE_EXHAUSTED in await asyncio.gather(*flood)


async def test_one_address_and_one_account_do_not_take_the_places_of_others() -> None:
    hasher = Held()
    async with running(hasher=hasher) as world:
        await world.generate("bob", secret="chosen by bob")
        flood = [asyncio.create_task(refused(world.login(f"no-{n}", "guess"))) for n in range(300)]
        flood += [asyncio.create_task(refused(world.login("ann", "guess", address="::1"))) for n in range(300)]
        for _ in range(10):
            await asyncio.sleep(0)
        good = asyncio.create_task(world.login("bob", "chosen by bob", address="198.51.100.1"))
        hasher.go.set()
        assert (await good).access_token
        kinds = await asyncio.gather(*flood)
        assert kinds.count(Kind.UNAUTHENTICATED) <= 2 * EACH + AT_ONCE


async def test_a_hash_is_worked_out_for_ids_that_are_free_and_in_turns_only() -> None:
    hasher = Held()
    async with running(hasher=hasher) as world:
        await world.generate("ann", secret="chosen by ann")
        assert hasher.hashed == 1
        assert await refused(world.generate("ann", secret="chosen by bob")) is Kind.ALREADY_EXISTS
        assert await refused(world.generate("bob", name="ann", secret="chosen by bob")) is Kind.ALREADY_EXISTS
        assert hasher.hashed == 1
        await world.generate("zed")
        assert hasher.hashed == 1, "what was made here is not guessed"


async def test_a_guess_that_is_given_up_counts() -> None:
    hasher = Held()
    async with running(hasher=hasher) as world:
        await world.generate("ann")
        for number in range(5):
            guess = asyncio.create_task(world.login("ann", f"guess-{number}"))
            while hasher.compared <= number:
                await asyncio.sleep(0)
            guess.cancel()
            await asyncio.wait([guess])
        assert await refused(world.login("ann", "guess")) is Kind.RESOURCE_EXHAUSTED


async def test_made_up_ids_do_not_fill_the_audit_log(world: World) -> None:
    for number in range(60):
        await refused(world.login(f"nobody-{number}", "wrong-secret", address=f"192.0.2.{number}"))
    await world.generate("last")
    assert sum(action == "login" for _, action, _, _ in await world.audit()) == 20


async def lockouts(world: World) -> list[tuple[str, str, str]]:
    """Target, address and outcome, the oldest first."""
    response = await world.call("Audit/List", pb.AuditListRequest(namespace="*", limit=1000), ADMIN)
    found = [entry for entry in response.entries if entry.action == ACTION]
    return [(entry.target, entry.address, entry.outcome) for entry in reversed(found)]


async def guesses(world: World, count: int, account: str = "ann", address: str = "203.0.113.9") -> None:
    for _ in range(count):
        await refused(world.login(account, "guess", address=address))


async def test_attempts_that_are_refused_unheard_are_one_line_of_the_audit_log(world: World) -> None:
    await world.generate("ann", name="Ann")
    await guesses(world, 8)
    assert (await world.audit())[-6:] == [("", "login", "micro/ann", "refused")] * 5 + [
        ("", ACTION, "micro/ann", "3 refused")
    ]
    await guesses(world, 2, "Ann")
    world.clock.jump(30.0)
    await guesses(world, 1, "ann")
    await guesses(world, 4, "ann", address="198.51.100.1")
    await world.generate("bob")
    told = [("micro/ann", "203.0.113.9", "3 refused"), ("micro/ann", "198.51.100.1", "4 refused")]
    assert await lockouts(world) == told
    assert await lockouts(world) == told, "once"


async def test_a_lockout_that_is_over_is_recorded_with_the_next_login_and_the_last_when_auth_stops() -> None:
    store = MemoryIdentity()

    async def recorded() -> list[str]:
        return [entry.outcome for entry in await store.audit() if entry.action == ACTION]

    async with running(store) as world:
        secret = await world.generate("bob")
        await world.generate("ann")
        await guesses(world, 8)
        await world.login("bob", secret)
        assert await recorded() == []
        world.clock.jump(1.0)
        await world.login("bob", secret)
        for _ in range(10):
            await asyncio.sleep(0)
        assert await recorded() == ["3 refused"]
        await guesses(world, 3)
        assert await recorded() == ["3 refused"]
    assert await recorded() == ["2 refused", "3 refused"]


async def test_an_address_that_has_to_wait_is_one_line_too_and_says_no_id(world: World) -> None:
    for number in range(25):
        await refused(world.login(f"nobody-{number}", "guess", address="2001:db8::1"))
    await refused(world.login("my-secret", "guess", "shop", address="2001:db8::2"))
    assert await lockouts(world) == [
        ("micro/?", "2001:db8::1", "5 refused"),
        ("shop/?", "2001:db8::2", "1 refused"),
    ]


async def test_no_number_of_lockouts_fills_the_audit_log_or_the_memory(world: World) -> None:
    for number in range(60):
        await guesses(world, 6, f"nobody-{number}", address=f"192.0.2.{number}")
    assert len(await lockouts(world)) == 20
    world.clock.jump(60.0)
    counted = world.service._lockouts
    for number in range(3 * COUNTED):
        counted.refused(f"micro/nobody-{number}", "192.0.2.1", 5.0, 0.0)
    assert len(counted._counted) == COUNTED + 1


async def test_the_audit_log_is_read_in_pages_and_by_time(world: World) -> None:
    for number in range(7):
        await world.generate(f"ann{number}")
        world.wall.seconds += 60.0
    begun = world.wall.seconds - 7 * 60.0

    async def read(**request: Any) -> pb.AuditListResponse:
        response: pb.AuditListResponse = await world.call("Audit/List", pb.AuditListRequest(**request), ADMIN)
        return response

    told: list[str] = []
    cursor = ""
    while True:
        page = await read(limit=3, cursor=cursor)
        told += [entry.target for entry in page.entries if entry.action == "account.create"]
        if not (cursor := page.next):
            break
        assert len(page.entries) == 3
    assert told == [f"micro/ann{number}" for number in reversed(range(7))]

    of_a_time = await read(since=rfc3339(begun + 120), until=rfc3339(begun + 240))
    assert [entry.target for entry in of_a_time.entries] == ["micro/ann3", "micro/ann2"]
    assert of_a_time.next == ""
    for wrong in ({"cursor": "nonsense"}, {"since": "yesterday"}, {"until": "2026-01-31"}, {"limit": -1}):
        assert await refused(read(**wrong)) is Kind.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "10.0.0.1, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "198.51.100.7, nonsense", "127.0.0.1"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("", "198.51.100.7", "198.51.100.7"),
        ("", "", ""),
    ],
)
async def test_only_a_gateway_of_this_host_is_believed_whom_it_serves(
    world: World, peer: str, forwarded: str, found: str
) -> None:
    assert caller.address(world.context(address=peer, forwarded=forwarded)) == found
