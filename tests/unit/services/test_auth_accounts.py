"""Accounts: who may make, see, change and remove them, and what becomes of their tokens."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from auth_world import ADMIN, SHOPKEEPER, World, refusal, refused, robot, running

from micro.domain.account import Account
from micro.domain.errors import Kind
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.services import _auth_core as core

ANN = Account("ann", "shop", "ann")
DEPUTY = Account("deputy", "micro", "deputy", scopes=frozenset({"admin"}))


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with running() as world:
        yield world


async def test_an_account_is_made_with_a_secret_that_is_told_once(world: World) -> None:
    response = await world.call(
        "Auth/Generate",
        pb.GenerateRequest(id="ann", name="Ann", scopes=["b", "a"], metadata={"k": "v"}, namespace="shop"),
        ADMIN,
    )
    account = response.account
    assert (account.id, account.name, account.type, account.namespace) == ("ann", "Ann", "user", "shop")
    assert (account.scopes, account.metadata) == (["a", "b"], {"k": "v"})
    assert account.created.startswith("2027-01-15T08:00:00")
    assert len(response.secret) == 43
    assert (await world.call("Accounts/Read", pb.AccountsReadRequest(id="ann"), SHOPKEEPER)).account == account
    chosen = await world.call("Auth/Generate", pb.GenerateRequest(id="bob", secret="chosen-secret"), SHOPKEEPER)
    assert chosen.account.namespace == "shop"
    assert (await world.login("bob", "chosen-secret", "shop")).access_token
    stored = await world.store.secret("shop", "bob")
    assert stored is not None
    assert stored[1].startswith("$argon2id$")


async def test_ids_and_names_are_taken_once_in_a_namespace(world: World) -> None:
    await world.generate("ann", name="Ann", namespace="shop")
    for request in (
        pb.GenerateRequest(id="ann"),
        pb.GenerateRequest(id="Ann"),
        pb.GenerateRequest(id="bob", name="ann"),
    ):
        assert await refused(world.call("Auth/Generate", request, SHOPKEEPER)) is Kind.ALREADY_EXISTS
    assert await world.generate("ann", namespace="micro")
    for core_name in ("registry", "server"):
        for fields in ({"id": core_name}, {"id": "x", "name": core_name}):
            refusal = await refused(world.call("Auth/Generate", pb.GenerateRequest(**fields), ADMIN))
            assert refusal is Kind.ALREADY_EXISTS
    assert await world.generate("registry", namespace="shop"), "which is nobody special there"


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "a/b"},
        {"id": "x" * 129},
        {"id": "ann", "name": "two\nlines"},
        {"id": "ann", "secret": "pa55"},
        {"id": "ann", "secret": "x" * 1025},
        {"id": "ann", "type": "robot"},
        {"id": "ann", "scopes": ["*"]},
        {"id": "ann", "scopes": [f"s{number}" for number in range(100)]},
        {"id": "ann", "metadata": {"k": "v" * 5000}},
        {"id": "ann", "namespace": "No Namespace"},
    ],
)
async def test_what_is_no_account_is_not_made(world: World, fields: dict) -> None:
    refused = await refusal(world.call("Auth/Generate", pb.GenerateRequest(**fields), ADMIN))
    assert refused.kind is Kind.INVALID_ARGUMENT
    assert fields.get("secret", "\0") not in refused.message
    assert not await world.store.accounts("micro")


async def test_accounts_are_told_a_page_at_a_time(world: World) -> None:
    for called in ("c", "a", "e", "b", "d"):
        await world.generate(called, namespace="shop")
    found, cursor = [], ""
    while True:
        page = await world.call("Accounts/List", pb.AccountsListRequest(limit=2, cursor=cursor), SHOPKEEPER)
        found.append([account.id for account in page.accounts])
        if not (cursor := page.next):
            break
    assert found == [["a", "b"], ["c", "d"], ["e"]]
    assert len((await world.call("Accounts/List", pb.AccountsListRequest(), SHOPKEEPER)).accounts) == 5
    negative = pb.AccountsListRequest(limit=-1)
    assert await refused(world.call("Accounts/List", negative, SHOPKEEPER)) is Kind.INVALID_ARGUMENT


async def test_nobody_reaches_into_another_namespace_but_an_admin_of_micro(world: World) -> None:
    await world.generate("victim", namespace="micro")
    namespace = "micro"
    for by in (SHOPKEEPER, ANN, robot("till")):
        for path, request in (
            ("Auth/Generate", pb.GenerateRequest(id="mole", namespace=namespace)),
            ("Auth/Explain", pb.ExplainRequest(resource="service:a:b", namespace=namespace)),
            ("Accounts/List", pb.AccountsListRequest(namespace=namespace)),
            ("Accounts/Read", pb.AccountsReadRequest(id="victim", namespace=namespace)),
            ("Accounts/Read", pb.AccountsReadRequest(id="nobody", namespace=namespace)),
            ("Accounts/Delete", pb.AccountsDeleteRequest(id="victim", namespace=namespace)),
            ("Accounts/ChangeSecret", pb.ChangeSecretRequest(id="victim", namespace=namespace)),
            ("Accounts/UpdateScopes", pb.UpdateScopesRequest(id="victim", namespace=namespace)),
            ("Tokens/List", pb.TokensListRequest(account="victim", namespace=namespace)),
            ("Tokens/Revoke", pb.TokensRevokeRequest(account="victim", namespace=namespace)),
            ("Rules/List", pb.RulesListRequest(namespace=namespace)),
            ("Rules/Delete", pb.RulesDeleteRequest(id="x", namespace=namespace)),
            ("Audit/List", pb.AuditListRequest(namespace=namespace)),
            ("Audit/List", pb.AuditListRequest(namespace="*")),
        ):
            assert await refused(world.call(path, request, by)) is Kind.PERMISSION_DENIED, path


async def test_others_of_the_namespace_may_not_look_at_an_account_but_everybody_at_their_own(world: World) -> None:
    for called in ("ann", "bob"):
        await world.generate(called, namespace="shop")
    for request in (pb.AccountsReadRequest(), pb.AccountsReadRequest(id="ann")):
        assert (await world.call("Accounts/Read", request, ANN)).account.id == "ann"
    for called in ("bob", "nobody"):
        assert (
            await refused(world.call("Accounts/Read", pb.AccountsReadRequest(id=called), ANN)) is Kind.PERMISSION_DENIED
        )
    assert await refused(world.call("Accounts/Read", pb.AccountsReadRequest(id="nobody"), SHOPKEEPER)) is Kind.NOT_FOUND
    me = await world.call("Accounts/Read", pb.AccountsReadRequest(), core.account("runtime"))
    assert (me.account.id, me.account.type) == ("runtime", "service")
    elsewhere = world.call("Accounts/Read", pb.AccountsReadRequest(namespace="shop"), ADMIN)
    assert await refused(elsewhere) is Kind.INVALID_ARGUMENT, "an admin of micro is nobody in particular there"


async def test_a_deleted_account_is_gone_with_its_sessions_and_tokens(world: World) -> None:
    secret = await world.generate("ann", namespace="shop")
    session = await world.login("ann", secret, "shop")
    await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), SHOPKEEPER)
    with pytest.raises(Exception, match="revoked"):
        world.whose(session.access_token)
    assert await refused(world.refresh(session.refresh_token)) is Kind.UNAUTHENTICATED
    assert await refused(world.login("ann", secret, "shop")) is Kind.UNAUTHENTICATED
    gone = world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), SHOPKEEPER)
    assert await refused(gone) is Kind.NOT_FOUND
    session = await world.login("ann", await world.generate("ann", namespace="shop"), "shop")
    assert world.whose(session.access_token), "another account of the same id begins anew"


async def test_nobody_deletes_their_own_account(world: World) -> None:
    await world.generate("deputy", scopes=["admin"])
    await world.generate("admin", scopes=["admin"])
    own = await refusal(world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="deputy"), DEPUTY))
    assert own.kind is Kind.FAILED_PRECONDITION


async def test_the_last_admin_of_the_deployment_stays_one(world: World) -> None:
    await world.generate("admin", scopes=["admin"])
    await world.generate("machine", type="service", scopes=["admin"])
    server = core.account("server")
    for path, request in (
        ("Accounts/Delete", pb.AccountsDeleteRequest(id="admin")),
        ("Accounts/UpdateScopes", pb.UpdateScopesRequest(id="admin", scopes=["other"])),
    ):
        assert await refused(world.call(path, request, server)) is Kind.FAILED_PRECONDITION
    await world.generate("deputy", scopes=["admin"])
    both = await asyncio.gather(
        world.call("Accounts/UpdateScopes", pb.UpdateScopesRequest(id="deputy"), ADMIN),
        world.call("Accounts/UpdateScopes", pb.UpdateScopesRequest(id="admin"), DEPUTY),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Exception) for each in both) == 1, "not even when two demote each other"
    await world.generate("keeper", scopes=["admin"], namespace="shop")
    assert await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="keeper", namespace="shop"), server)


async def test_new_scopes_are_in_the_next_token_and_old_ones_in_none(world: World) -> None:
    session = await world.login("ann", await world.generate("ann", scopes=["buyer"], namespace="shop"), "shop")
    changed = pb.UpdateScopesRequest(id="ann", scopes=["seller"])
    answer = await world.call("Accounts/UpdateScopes", changed, SHOPKEEPER)
    assert answer.account.scopes == ["seller"]
    with pytest.raises(Exception, match="revoked"):
        world.whose(session.access_token)
    fresh = await world.refresh(session.refresh_token)
    assert world.whose(fresh.access_token).scopes == {"seller"}
    await world.call("Accounts/UpdateScopes", changed, SHOPKEEPER)
    assert world.whose(fresh.access_token), "what changes nothing revokes nothing"
    assert await refused(world.call("Accounts/UpdateScopes", changed, ANN)) is Kind.PERMISSION_DENIED


async def test_ones_own_secret_is_changed_with_the_old_one_and_ends_all_sessions(world: World) -> None:
    secret = await world.generate("ann", namespace="shop")
    session = await world.login("ann", secret, "shop")
    wrong = pb.ChangeSecretRequest(old_secret="wrong-secret", new_secret="new-secret")
    assert await refused(world.call("Accounts/ChangeSecret", wrong, ANN)) is Kind.PERMISSION_DENIED
    short = pb.ChangeSecretRequest(old_secret=secret, new_secret="short")
    assert await refused(world.call("Accounts/ChangeSecret", short, ANN)) is Kind.INVALID_ARGUMENT
    answer = await world.call(
        "Accounts/ChangeSecret", pb.ChangeSecretRequest(old_secret=secret, new_secret="new-secret"), ANN
    )
    assert answer.secret == ""
    with pytest.raises(Exception, match="revoked"):
        world.whose(session.access_token)
    assert await refused(world.refresh(session.refresh_token)) is Kind.UNAUTHENTICATED
    assert await refused(world.login("ann", secret, "shop")) is Kind.UNAUTHENTICATED
    assert world.whose((await world.login("ann", "new-secret", "shop")).access_token)


async def test_an_admin_gives_others_a_new_secret_without_the_old_one_and_nobody_else_does(world: World) -> None:
    for called in ("ann", "keeper"):
        await world.generate(called, namespace="shop")
    answer = await world.call("Accounts/ChangeSecret", pb.ChangeSecretRequest(id="ann"), SHOPKEEPER)
    assert (await world.login("ann", answer.secret, "shop")).access_token
    others = pb.ChangeSecretRequest(id="keeper")
    assert await refused(world.call("Accounts/ChangeSecret", others, ANN)) is Kind.PERMISSION_DENIED
    own = pb.ChangeSecretRequest()
    assert await refused(world.call("Accounts/ChangeSecret", own, SHOPKEEPER)) is Kind.PERMISSION_DENIED
    assert await refused(world.call("Accounts/ChangeSecret", own, core.account("runtime"))) is Kind.PERMISSION_DENIED


async def test_a_login_that_meets_a_change_of_the_secret_does_not_outlive_it(world: World) -> None:
    secret = await world.generate("ann")
    for _ in range(20):
        logins = [asyncio.create_task(world.login("ann", secret)) for _ in range(4)]
        answer = await world.call("Accounts/ChangeSecret", pb.ChangeSecretRequest(id="ann"), ADMIN)
        secret = answer.secret
        for found in await asyncio.gather(*logins, return_exceptions=True):
            if isinstance(found, pb.TokenResponse):
                with pytest.raises(Exception, match="revoked"):
                    world.whose(found.access_token)
        world.clock.jump(60)


async def test_all_that_is_done_to_accounts_is_in_the_audit_log_with_who_did_it_and_from_where(world: World) -> None:
    await world.generate("ann", namespace="shop")
    await world.call("Accounts/UpdateScopes", pb.UpdateScopesRequest(id="ann", scopes=["x"]), SHOPKEEPER)
    await world.call("Accounts/ChangeSecret", pb.ChangeSecretRequest(id="ann"), SHOPKEEPER, address="198.51.100.1")
    await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), SHOPKEEPER)
    entries = (await world.call("Audit/List", pb.AuditListRequest(), SHOPKEEPER)).entries
    assert [(entry.actor, entry.action, entry.target, entry.address) for entry in entries] == [
        ("shop/keeper", "account.delete", "shop/ann", "203.0.113.9"),
        ("shop/keeper", "account.secret", "shop/ann", "198.51.100.1"),
        ("shop/keeper", "account.scopes", "shop/ann", "203.0.113.9"),
        ("micro/admin", "account.create", "shop/ann", "203.0.113.9"),
        ("micro/admin", "namespace.create", "shop", "203.0.113.9"),
    ]
    for account, count in (("ann", 4), ("keeper", 3), ("micro/admin", 2), ("nobody", 0)):
        listed = await world.call("Audit/List", pb.AuditListRequest(account=account), SHOPKEEPER)
        assert len(listed.entries) == count
    assert len((await world.call("Audit/List", pb.AuditListRequest(limit=1), SHOPKEEPER)).entries) == 1
    assert await refused(world.call("Audit/List", pb.AuditListRequest(), ANN)) is Kind.PERMISSION_DENIED
