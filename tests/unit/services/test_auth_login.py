"""Logging in, staying logged in, and being thrown out."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from auth_world import ADMIN, SERVER_SECRET, SHOPKEEPER, World, refusal, refused, running

from micro.backends.argon.secrets import ArgonHasher
from micro.domain import token
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.errors import Kind
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.services import _auth_core as core
from micro.services import auth_sessions


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with running() as world:
        yield world


async def test_the_first_start_makes_an_admin_and_a_session_and_no_other_start_does(world: World) -> None:
    begun = await world.call("Setup/Begin", pb.BeginRequest())
    assert (begun.id, len(begun.secret)) == ("admin", 43)
    assert world.whose(begun.session.access_token).platform
    assert world.whose((await world.login("admin", begun.secret)).access_token).platform
    again = await world.call("Setup/Begin", pb.BeginRequest())
    assert (again.secret, again.session) == ("", None)
    await world.generate("deputy", scopes=["admin"])
    deputy = Account("deputy", "micro", scopes=frozenset({"admin"}))
    await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="admin"), deputy)
    assert (await world.call("Setup/Begin", pb.BeginRequest())).secret == "", "whoever was removed stays away"


@pytest.mark.parametrize("left", ["as it was", "without its scopes", "deleted"])
async def test_a_lost_secret_of_the_admins_is_replaced_when_the_server_asks(world: World, left: str) -> None:
    begun = await world.call("Setup/Begin", pb.BeginRequest())
    await world.generate("deputy", scopes=["admin"])
    deputy = Account("deputy", "micro", scopes=frozenset({"admin"}))
    if left == "without its scopes":
        await world.call("Accounts/UpdateScopes", pb.UpdateScopesRequest(id="admin", scopes=["ops"]), deputy)
    elif left == "deleted":
        await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="admin"), deputy)
    reset = await world.call("Setup/Begin", pb.BeginRequest(reset=True))
    assert (reset.id, len(reset.secret)) == ("admin", 43)
    assert await refused(world.login("admin", begun.secret)) is Kind.UNAUTHENTICATED
    assert await refused(world.refresh(begun.session.refresh_token)) is Kind.UNAUTHENTICATED
    with pytest.raises(Exception, match="revoked"):
        world.whose(begun.session.access_token)
    for session in (reset.session, await world.login("admin", reset.secret)):
        assert world.whose(session.access_token).platform
    assert ("micro/server", "account.reset", "micro/admin", "ok") in await world.audit()
    assert (await world.call("Setup/Begin", pb.BeginRequest())).secret == "", "once"


async def test_a_first_start_that_asks_for_a_new_secret_makes_the_admin_once(world: World) -> None:
    begun = await world.call("Setup/Begin", pb.BeginRequest(reset=True))
    assert world.whose((await world.login("admin", begun.secret)).access_token).platform
    assert (await world.call("Setup/Begin", pb.BeginRequest())).secret == ""


async def test_a_server_may_begin_without_a_local_session() -> None:
    async with running(local_login=False) as world:
        begun = await world.call("Setup/Begin", pb.BeginRequest())
        assert begun.secret
        assert begun.session is None


async def test_a_login_by_id_or_by_name_gives_a_token_that_says_who_it_is(world: World) -> None:
    secret = await world.generate("ann", name="Ann Smith", scopes=["buyer"], metadata={"team": "é"}, namespace="shop")
    for called in ("ann", "Ann Smith"):
        response = await world.login(called, secret, "shop")
        account = world.whose(response.access_token)
        assert (account.key, account.scopes, account.metadata) == (("shop", "ann"), {"buyer"}, {"team": "é"})
        assert response.access_token.startswith(token.beginning("shop"))
        assert response.account is not None
        assert response.account.name == "Ann Smith"
    assert (await world.call("Auth/Token", pb.TokenRequest(id="ann", secret=secret), namespace="shop")).access_token


async def test_a_login_gives_a_token_for_the_platform_and_one_for_users_services(world: World) -> None:
    secret, issuer = await world.generate("ann", namespace="shop"), await world.store.issuer()
    opened = await world.login("ann", secret, "shop")
    ids = set()
    for response in (opened, await world.refresh(opened.refresh_token)):
        said = []
        for text, audience, other in (
            (response.access_token, Audience.PLATFORM, Audience.SERVICES),
            (response.service_token, Audience.SERVICES, Audience.PLATFORM),
        ):
            assert world.whose(text, audience).key == ("shop", "ann")
            with pytest.raises(Exception, match="micro user token"):
                world.whose(text, other)
            assert (await world.call("Auth/Inspect", pb.InspectRequest(token=text), SHOPKEEPER)).account.id == "ann"
            said.append(world.claims(text))
        assert [each.pop("aud") for each in said] == [issuer, f"{issuer}/services"]
        ids |= {each.pop("jti") for each in said}
        assert said[0] == said[1], "of one session, and over at the same time"
    assert len(ids) == 4
    await world.call("Tokens/Revoke", pb.TokensRevokeRequest(account="ann"), SHOPKEEPER)
    with pytest.raises(Exception, match="revoked"):
        world.whose(response.service_token, Audience.SERVICES)
    own = await world.login("registry", core.secret(SERVER_SECRET, "registry"))
    assert world.whose(own.service_token, Audience.SERVICES).id == "registry"


async def test_beyond_a_hundred_sessions_those_that_nobody_uses_end(world: World) -> None:
    """As a service leaves them that crashes and logs in again."""
    secret = await world.generate("ann", namespace="shop")
    ann = Account("ann", "shop")
    kept = await world.login("ann", secret, "shop")
    opened = [kept]
    while len(opened) < auth_sessions.MOST:
        world.wall.seconds += 1
        opened.append(await world.login("ann", secret, "shop"))
    kept = await world.refresh(kept.refresh_token)
    bob = await world.login("bob", await world.generate("bob", namespace="shop"), "shop")
    for gone in opened[1:4]:
        assert world.whose(gone.access_token)
        world.wall.seconds += 1
        latest = await world.login("ann", secret, "shop")
        assert await refused(world.refresh(gone.refresh_token)) is Kind.UNAUTHENTICATED
        with pytest.raises(Exception, match="revoked"):
            world.whose(gone.access_token)
    assert len((await world.call("Tokens/List", pb.TokensListRequest(), ann)).sessions) == auth_sessions.MOST
    for session in (kept, opened[4], bob, latest):
        assert world.whose(session.access_token)
    ended = [entry for entry in await world.audit() if entry[1] == "session.end"]
    assert [(who, outcome) for who, _, _, outcome in ended] == [("shop/ann", "one too many")] * 3


async def test_nobody_learns_from_a_refusal_whether_there_is_such_an_account(world: World) -> None:
    await world.generate("ann")
    wrong = await refusal(world.login("ann", "wrong-secret"))
    assert wrong.kind is Kind.UNAUTHENTICATED
    for called, secret, namespace in (
        ("nobody", "wrong-secret", ""),
        ("ann", "wrong-secret", "nowhere"),
        ("ann", "", ""),
        ("ann", "x" * 5000, ""),
        ("x" * 5000, "wrong-secret", ""),
        ("registry", "wrong-secret", ""),
        ("\N{SNOWMAN}", "\N{SNOWMAN}", ""),
    ):
        other = await refusal(world.login(called, secret, namespace))
        assert (other.kind, other.message) == (wrong.kind, wrong.message)


async def test_an_unknown_account_costs_the_work_of_a_known_one() -> None:
    class Counting(ArgonHasher):
        def __init__(self) -> None:
            super().__init__()
            self.compared: list[bool] = []

        async def hash(self, secret: str) -> str:
            return f"hash of {secret}"

        async def verify(self, hashed: str | None, secret: str) -> bool:
            self.compared.append(hashed is not None)
            return hashed == f"hash of {secret}"

    hasher = Counting()
    async with running(hasher=hasher) as world:
        await world.generate("ann", secret="chosen by ann")
        await world.generate("made")
        for called in ("ann", "nobody", "auth", "made"):
            await refused(world.login(called, "wrong-secret"))
    assert hasher.compared == [True, False, False, False]


async def test_what_is_missing_or_too_much_in_a_login_is_said(world: World) -> None:
    for request in (pb.TokenRequest(), pb.TokenRequest(id="ann", refresh_token="x"), pb.TokenRequest(secret="x" * 9)):
        assert await refused(world.call("Auth/Token", request)) is Kind.INVALID_ARGUMENT


async def test_a_refresh_token_serves_once_for_thirty_days(world: World) -> None:
    secret = await world.generate("ann")
    first = await world.login("ann", secret)
    world.wall.seconds += token.ACCESS_SECONDS + token.SKEW_SECONDS + 1
    with pytest.raises(Exception, match="expired"):
        world.whose(first.access_token)
    second = await world.refresh(first.refresh_token)
    assert world.whose(second.access_token).id == "ann"
    world.wall.seconds += token.REFRESH_SECONDS - 60
    third = await world.refresh(second.refresh_token)
    assert len((await world.call("Tokens/List", pb.TokensListRequest(account="ann"), ADMIN)).sessions) == 1
    world.wall.seconds += token.REFRESH_SECONDS
    assert await refused(world.refresh(third.refresh_token)) is Kind.UNAUTHENTICATED
    listed = await world.call("Tokens/List", pb.TokensListRequest(account="ann"), ADMIN)
    assert not listed.sessions, "what has ended is not listed"


@pytest.mark.parametrize("shown", ["x", "\N{SNOWMAN}" * 40, "a" * 10_000, "0123456789abcdef" * 4])
async def test_a_refresh_token_that_nobody_gave_is_none(world: World, shown: str) -> None:
    assert await refused(world.refresh(shown)) is Kind.UNAUTHENTICATED


async def test_a_refresh_token_that_comes_twice_ends_the_session_and_its_access_tokens(world: World) -> None:
    secret = await world.generate("ann")
    other = await world.login("ann", secret)
    first = await world.login("ann", secret)
    second = await world.refresh(first.refresh_token)
    world.wall.seconds += token.REPEAT_SECONDS + 1
    assert await refused(world.refresh(first.refresh_token)) is Kind.UNAUTHENTICATED
    assert await refused(world.refresh(second.refresh_token)) is Kind.UNAUTHENTICATED
    for stolen in (first, second):
        with pytest.raises(Exception, match="revoked"):
            world.whose(stolen.access_token)
    assert world.whose(other.access_token).id == "ann", "another session is not concerned"
    assert ("", "session.reuse", "micro/ann", "revoked") in await world.audit()


async def test_who_lost_the_answer_to_a_refresh_may_ask_again_and_the_session_goes_on(world: World) -> None:
    first = await world.login("ann", await world.generate("ann"))
    lost = await world.refresh(first.refresh_token)
    world.wall.seconds += token.REPEAT_SECONDS / 2
    again = await world.refresh(first.refresh_token)
    assert again.refresh_token == lost.refresh_token, "the same successor: the session has one line of them"
    for answer in (lost, again):
        assert world.whose(answer.access_token).id == "ann"
    third = await world.refresh(again.refresh_token)
    assert await refused(world.refresh(first.refresh_token)) is Kind.UNAUTHENTICATED, "the successor has served"
    assert await refused(world.refresh(third.refresh_token)) is Kind.UNAUTHENTICATED


async def test_two_who_share_a_refresh_token_get_on_together_for_a_moment_only(world: World) -> None:
    first = await world.login("ann", await world.generate("ann"))
    thief, owner = await asyncio.gather(world.refresh(first.refresh_token), world.refresh(first.refresh_token))
    assert thief.refresh_token == owner.refresh_token
    await world.refresh(thief.refresh_token)
    world.wall.seconds += token.REPEAT_SECONDS + 1
    assert await refused(world.refresh(owner.refresh_token)) is Kind.UNAUTHENTICATED
    with pytest.raises(Exception, match="revoked"):
        world.whose(thief.access_token)


async def test_asking_again_counts_as_a_refresh(world: World) -> None:
    session = await world.login("ann", await world.generate("ann"))
    for _ in range(10):
        await world.refresh(session.refresh_token)
    assert await refused(world.refresh(session.refresh_token)) is Kind.RESOURCE_EXHAUSTED


async def test_a_change_that_its_caller_did_not_wait_for_is_told_all_the_same(world: World) -> None:
    session = await world.login("ann", await world.generate("ann"))
    deleting = asyncio.create_task(world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), ADMIN))
    while not deleting.done() and await world.store.account("micro", "ann") is not None:
        await asyncio.sleep(0)
        deleting.cancel()
    await asyncio.wait([deleting])
    await world.call("Rules/Create", pb.RulesCreateRequest(rule=_rule("later")), ADMIN)
    if await world.store.account("micro", "ann") is None:
        with pytest.raises(Exception, match="revoked"):
            world.whose(session.access_token)
    else:
        assert world.whose(session.access_token)


async def test_core_services_log_in_by_what_follows_from_the_servers_secret(world: World) -> None:
    for called in ("registry", "network", "runtime", "auth", "server"):
        response = await world.login(called, core.secret(SERVER_SECRET, called))
        account = world.whose(response.access_token)
        assert (str(account), account.platform, account.type.value) == (f"micro/{called}", True, "service")
        assert response.refresh_token == "", "they come back with the secret"
    for called, secret, namespace in (
        ("registry", core.secret(SERVER_SECRET, "network"), ""),
        ("registry", core.secret(SERVER_SECRET, "registry"), "shop"),
        ("stranger", core.secret(SERVER_SECRET, "stranger"), ""),
        ("registry", SERVER_SECRET, ""),
    ):
        assert await refused(world.login(called, secret, namespace)) is Kind.UNAUTHENTICATED


async def test_guessing_does_not_lock_core_services_out(world: World) -> None:
    for _ in range(9):
        await refused(world.login("registry", "wrong-secret"))
    assert await refused(world.login("registry", "wrong-secret")) is Kind.RESOURCE_EXHAUSTED
    assert (await world.login("registry", core.secret(SERVER_SECRET, "registry"))).access_token


async def test_inspect_tells_whose_token_it_is_until_it_is_revoked(world: World) -> None:
    session = await world.login("ann", await world.generate("ann", namespace="shop"), "shop")
    request = pb.InspectRequest(token=session.access_token)
    found = await world.call("Auth/Inspect", request, SHOPKEEPER)
    assert (found.account.id, found.account.namespace, found.expires) == ("ann", "shop", session.expires)
    await world.call("Tokens/Revoke", pb.TokensRevokeRequest(account="ann"), SHOPKEEPER)
    assert await refused(world.call("Auth/Inspect", request, SHOPKEEPER)) is Kind.UNAUTHENTICATED
    for forged in ("", "x", session.access_token[:-1], session.refresh_token):
        assert await refused(world.call("Auth/Inspect", pb.InspectRequest(token=forged), ADMIN)) is Kind.UNAUTHENTICATED


async def test_everybody_sees_and_ends_their_own_sessions_and_admins_those_of_the_namespace(world: World) -> None:
    secret = await world.generate("ann", namespace="shop")
    ann = Account("ann", "shop")
    first = await world.login("ann", secret, "shop", address="198.51.100.1")
    world.wall.seconds += 1
    second = await world.login("ann", secret, "shop")
    mine = (await world.call("Tokens/List", pb.TokensListRequest(), ann)).sessions
    assert [(each.account, each.address) for each in mine] == [("ann", "203.0.113.9"), ("ann", "198.51.100.1")]
    assert (await world.call("Tokens/List", pb.TokensListRequest(account="*"), SHOPKEEPER)).sessions == mine
    assert await refused(world.call("Tokens/List", pb.TokensListRequest(account="*"), ann)) is Kind.PERMISSION_DENIED

    bob = Account("bob", "shop")
    ended = pb.TokensRevokeRequest(session=mine[1].id)
    assert await refused(world.call("Tokens/Revoke", ended, bob)) is Kind.NOT_FOUND
    await world.call("Tokens/Revoke", ended, ann)
    with pytest.raises(Exception, match="revoked"):
        world.whose(first.access_token)
    assert world.whose(second.access_token)
    assert await refused(world.refresh(first.refresh_token)) is Kind.UNAUTHENTICATED
    assert await refused(world.call("Tokens/Revoke", ended, ann)) is Kind.NOT_FOUND

    await world.call("Tokens/Revoke", pb.TokensRevokeRequest(session=mine[0].id), SHOPKEEPER)
    with pytest.raises(Exception, match="revoked"):
        world.whose(second.access_token)
    third = await world.login("ann", secret, "shop")
    assert world.whose(third.access_token), "what comes after a revocation holds"
    await world.call("Tokens/Revoke", pb.TokensRevokeRequest(), ann)
    with pytest.raises(Exception, match="revoked"):
        world.whose(third.access_token)


async def test_revocations_hold_over_a_restart_as_long_as_there_is_something_to_refuse(world: World) -> None:
    session = await world.login("ann", await world.generate("ann"))
    await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), ADMIN)
    async with running(world.store) as restarted:
        with pytest.raises(Exception, match="revoked"):
            restarted.whose(session.access_token)


async def test_moments_are_each_later_than_the_last_and_follow_a_clock_that_is_set_back(world: World) -> None:
    moments = world.service._moments
    given = [moments.next() for _ in range(1000)]
    assert given == sorted(set(given))
    world.wall.seconds -= 1
    assert moments.next() > given[-1]
    world.wall.seconds -= 3600
    assert moments.next() == world.wall.seconds


async def test_no_secret_is_in_the_audit_log(world: World) -> None:
    secret = await world.generate("ann")
    session = await world.login("ann", secret)
    await refused(world.login("my-secret-in-the-wrong-field", "my-other-secret"))
    await refused(world.login("ann", "my-wrong-secret"))
    await world.refresh(session.refresh_token)
    await world.generate("last")
    written = (await world.audit())[:-1]
    assert written == [
        ("micro/admin", "namespace.create", "shop", "ok"),
        ("micro/admin", "account.create", "micro/ann", "ok"),
        ("micro/ann", "login", "micro/ann", "ok"),
        ("", "login", "micro/?", "refused"),
        ("", "login", "micro/ann", "refused"),
    ]


def _rule(called: str) -> pb.Rule:
    resource = pb.Resource(type="service", name="*", endpoint="*")
    return pb.Rule(id=called, resource=resource, access=pb.Access.GRANTED)


@pytest.mark.parametrize("way", ["session", "account", "deleted", "secret", "scopes"])
async def test_a_clock_that_is_set_back_brings_no_revoked_token_to_life(world: World, way: str) -> None:
    session = await world.login("ann", await world.generate("ann"))
    world.wall.seconds -= 600.0
    world.service.feed.revoke((), world.wall())
    if way == "session":
        ended = world.claims(session.access_token)["sid"]
        await world.call("Tokens/Revoke", pb.TokensRevokeRequest(session=ended), ADMIN)
    elif way == "account":
        await world.call("Tokens/Revoke", pb.TokensRevokeRequest(account="ann"), ADMIN)
    elif way == "deleted":
        await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), ADMIN)
    elif way == "secret":
        await world.call("Accounts/ChangeSecret", pb.ChangeSecretRequest(id="ann"), ADMIN)
    else:
        await world.call("Accounts/UpdateScopes", pb.UpdateScopesRequest(id="ann", scopes=["buyer"]), ADMIN)
    world.wall.seconds += 600.0
    assert await refused(world.call("Auth/Inspect", pb.InspectRequest(token=session.access_token), ADMIN)) is (
        Kind.UNAUTHENTICATED
    )


async def test_a_session_is_not_refreshed_without_end(world: World) -> None:
    session = await world.login("ann", await world.generate("ann"))
    for _ in range(10):
        session = await world.refresh(session.refresh_token)
    assert await refused(world.refresh(session.refresh_token)) is Kind.RESOURCE_EXHAUSTED
    world.wall.seconds += 11.0
    assert (await world.refresh(session.refresh_token)).access_token
