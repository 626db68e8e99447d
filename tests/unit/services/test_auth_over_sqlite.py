"""Auth over the state that real servers have, where changes meet in threads, and which outlives the process."""

import asyncio
from pathlib import Path

import pytest
from auth_world import ADMIN, SHOPKEEPER, World, refused, running

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.sqlite.store import SqliteStore
from micro.backends.stored.identity import StoredIdentity
from micro.domain import errors
from micro.domain.audience import Audience
from micro.domain.errors import Kind
from micro.domain.rule import Resource
from micro.framework.policy import Policy
from micro.rpc.app import Application
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb

BOOKS = pb.Resource(type="service", name="books", endpoint="*")


def over(tmp_path: Path) -> StoredIdentity:
    sealing = AesGcmSealing(Keyring("", tmp_path / "config.key"))
    sealing.begin()
    return StoredIdentity(SqliteStore(tmp_path / "state"), sealing)


async def test_all_that_was_done_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(over(tmp_path)) as world:
        begun = await world.call("Setup/Begin", pb.BeginRequest())
        deleted = await world.login("ann", await world.generate("ann", namespace="shop"), "shop")
        await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), SHOPKEEPER)
        rule = pb.Rule(id="no", resource=BOOKS, access=pb.Access.DENIED, priority=1)
        await world.call("Rules/Create", pb.RulesCreateRequest(rule=rule), SHOPKEEPER)
        kid = (await world.call("Keys/Rotate", pb.KeysRotateRequest(), ADMIN)).kid
        issuer = world.service.feed.issuer
    async with running(over(tmp_path)) as world:
        assert world.service.feed.issuer == issuer
        assert world.service.feed.keys[0].kid == kid
        assert world.whose(begun.session.access_token).platform
        assert (await world.call("Setup/Begin", pb.BeginRequest())).secret == ""
        with pytest.raises(Exception, match="revoked"):
            world.whose(deleted.access_token)
        decision = world.told("shop").decide(None, Resource("service", "books", "Books.Buy"))
        assert decision.rule is not None
        assert decision.rule.id == "no"
        next_one = await world.refresh(begun.session.refresh_token)
        assert world.whose(next_one.access_token).id == "admin"


async def test_many_who_refresh_at_the_same_time_get_one_successor_and_once_it_has_served_nobody_goes_on(
    tmp_path: Path,
) -> None:
    async with running(over(tmp_path)) as world:
        first = await world.login("ann", await world.generate("ann"))
        found = await asyncio.gather(*(world.refresh(first.refresh_token) for _ in range(5)))
        [successor] = {each.refresh_token for each in found}
        third = await world.refresh(successor)
        assert await refused(world.refresh(first.refresh_token)) is Kind.UNAUTHENTICATED
        for each in (*found, third):
            with pytest.raises(Exception, match="revoked"):
                world.whose(each.access_token)
        assert await refused(world.refresh(third.refresh_token)) is Kind.UNAUTHENTICATED


async def tokens(world: World, secret: str, refresh_token: str) -> list[pb.TokenResponse]:
    """Log in and refresh at the same time."""
    found = await asyncio.gather(
        *(world.login("ann", secret) for _ in range(3)), world.refresh(refresh_token), return_exceptions=True
    )
    return [each for each in found if isinstance(each, pb.TokenResponse)]


@pytest.mark.parametrize("turns", range(0, 60, 4))
async def test_no_token_slips_past_what_is_changed_at_the_same_time(tmp_path: Path, turns: int) -> None:
    async with running(over(tmp_path)) as world:
        await world.generate("ann")
        for path, request in (
            ("Tokens/Revoke", pb.TokensRevokeRequest(account="ann")),
            ("Accounts/ChangeSecret", pb.ChangeSecretRequest(id="ann")),
            ("Accounts/Delete", pb.AccountsDeleteRequest(id="ann")),
        ):
            answer = await world.call("Accounts/ChangeSecret", pb.ChangeSecretRequest(id="ann"), ADMIN)
            session = await world.login("ann", answer.secret)
            getting = asyncio.create_task(tokens(world, answer.secret, session.refresh_token))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.call(path, request, ADMIN)
            after = world.told()
            held = [got for got in await getting if not revoked(after, got.access_token, world.wall())]
            # Made after the change: only right where it left the account and its secret as they were.
            assert not held or path == "Tokens/Revoke"


def revoked(policy: Policy, token: str, now: float) -> bool:
    try:
        policy.verify(token, now, Audience.PLATFORM)
    except errors.Error as error:
        return "revoked" in error.message
    return False


async def test_all_handlers_fit_into_one_application(tmp_path: Path) -> None:
    async with running(over(tmp_path)) as world:
        app = Application("auth", world.service.handlers)
        found = {method.path for method in app.methods}
        assert {"/micro.auth.v1.Auth/Token", "/micro.auth.v1.Policy/Watch", "/micro.auth.v1.Setup/Begin"} <= found
        assert len(found) == 24
        assert world.service.healthy()
