"""Namespaces: made and removed by admins of micro, and never by mistake."""

from collections.abc import AsyncGenerator

import pytest
from auth_world import ADMIN, SHOPKEEPER, World, refusal, refused, running

from micro.domain.account import Account
from micro.domain.errors import Kind
from micro.rpc.app import DEFAULT_TIMEOUT, Application
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb

ANN = Account("ann", "shop")
RULE = pb.Rule(
    id="all", resource=pb.Resource(type="service", name="*", endpoint="*"), access=pb.Access.GRANTED, namespace="shop"
)


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with running() as world:
        yield world


async def names(world: World, by: Account = ADMIN) -> list[str]:
    return [found.name for found in (await world.call("Namespaces/List", pb.NamespacesListRequest(), by)).namespaces]


def delete(name: str = "shop", *, force: bool = False) -> pb.NamespacesDeleteRequest:
    return pb.NamespacesDeleteRequest(name=name, force=force)


async def test_a_namespace_is_made_with_generous_limits_and_seen_by_its_own(world: World) -> None:
    made = (await world.call("Namespaces/Create", pb.NamespacesCreateRequest(name="blog"), ADMIN)).namespace
    assert (made.name, made.quota.services, made.quota.instances) == ("blog", 200, 500)
    assert made.created
    assert await names(world) == ["blog", "micro", "shop"]
    assert await names(world, ANN) == ["shop"]
    again = world.call("Namespaces/Create", pb.NamespacesCreateRequest(name="blog"), ADMIN)
    assert await refused(again) is Kind.ALREADY_EXISTS
    for bad in ("", "Blog", "a--b", "-a", "x" * 64, "a.b"):
        request = pb.NamespacesCreateRequest(name=bad)
        assert await refused(world.call("Namespaces/Create", request, ADMIN)) is Kind.INVALID_ARGUMENT


async def test_namespaces_are_the_business_of_admins_of_micro(world: World) -> None:
    for path, request in (
        ("Namespaces/Create", pb.NamespacesCreateRequest(name="more")),
        ("Namespaces/Delete", delete(force=True)),
        ("Namespaces/SetQuota", pb.SetQuotaRequest(name="shop", quota=pb.Quota())),
    ):
        assert await refused(world.call(path, request, SHOPKEEPER)) is Kind.PERMISSION_DENIED


async def test_nothing_is_made_in_a_namespace_that_there_is_none_of(world: World) -> None:
    request = pb.GenerateRequest(id="ann", namespace="nowhere")
    assert await refused(world.call("Auth/Generate", request, ADMIN)) is Kind.NOT_FOUND


ABOUT_NOWHERE = {
    "Accounts/List": pb.AccountsListRequest(),
    "Accounts/Read": pb.AccountsReadRequest(id="ann"),
    "Accounts/Delete": pb.AccountsDeleteRequest(id="ann"),
    "Accounts/ChangeSecret": pb.ChangeSecretRequest(id="ann"),
    "Accounts/UpdateScopes": pb.UpdateScopesRequest(id="ann"),
    "Auth/Generate": pb.GenerateRequest(id="ann"),
    "Auth/Explain": pb.ExplainRequest(resource="service:books:Books.Buy"),
    "Rules/List": pb.RulesListRequest(),
    "Rules/Create": pb.RulesCreateRequest(rule=pb.Rule(id="all", resource=RULE.resource, access=RULE.access)),
    "Rules/Update": pb.RulesUpdateRequest(rule=pb.Rule(id="all", resource=RULE.resource, access=RULE.access)),
    "Rules/Delete": pb.RulesDeleteRequest(id="all"),
    "Tokens/List": pb.TokensListRequest(account="*"),
    "Tokens/Revoke": pb.TokensRevokeRequest(account="ann"),
    "Audit/List": pb.AuditListRequest(),
}


@pytest.mark.parametrize("path", sorted(ABOUT_NOWHERE))
async def test_of_a_namespace_that_there_is_none_of_it_is_said_so(world: World, path: str) -> None:
    error = await refusal(world.call(path, ABOUT_NOWHERE[path], ADMIN, namespace="nope"))
    assert (error.kind, error.message) == (
        Kind.NOT_FOUND,
        "there is no namespace nope: make it with `micro namespace create nope`",
    )
    assert await refused(world.call(path, ABOUT_NOWHERE[path], SHOPKEEPER, namespace="nope")) is Kind.PERMISSION_DENIED


async def test_what_was_done_in_a_namespace_is_told_when_it_is_gone(world: World) -> None:
    await world.call("Namespaces/Delete", delete(), ADMIN)
    found = await world.call("Audit/List", pb.AuditListRequest(namespace="shop"), ADMIN)
    assert [entry.action for entry in found.entries] == ["namespace.delete", "namespace.create"]
    nobodys = pb.AuditListRequest(namespace="shop", account="ann")
    assert not (await world.call("Audit/List", nobodys, ADMIN)).entries


async def test_there_is_time_for_services_to_end_with_their_namespace(world: World) -> None:
    app = Application("auth", world.service.handlers)
    timeouts = {method.path: method.timeout for method in app.methods}
    assert timeouts["/micro.auth.v1.Namespaces/Delete"] == 600
    assert timeouts["/micro.auth.v1.Namespaces/Create"] == DEFAULT_TIMEOUT


async def test_limits_are_replaced_whole(world: World) -> None:
    quota = pb.Quota(services=1, instances=2, requests=3, upload=2**40, topics=4, events=2**40)
    changed = await world.call("Namespaces/SetQuota", pb.SetQuotaRequest(name="shop", quota=quota), ADMIN)
    assert changed.namespace.quota == quota
    for request, kind in (
        (pb.SetQuotaRequest(name="shop"), Kind.INVALID_ARGUMENT),
        (pb.SetQuotaRequest(name="shop", quota=pb.Quota(services=-1)), Kind.INVALID_ARGUMENT),
        (pb.SetQuotaRequest(name="nowhere", quota=quota), Kind.NOT_FOUND),
    ):
        assert await refused(world.call("Namespaces/SetQuota", request, ADMIN)) is kind
    async with running(world.store) as restarted:
        listed = await restarted.call("Namespaces/List", pb.NamespacesListRequest(), ADMIN)
        assert listed.namespaces[1].quota == quota


async def test_what_is_not_empty_is_not_deleted_and_it_is_said_what_is_there(world: World) -> None:
    world.tenants.services["shop"] = 2
    await world.generate("ann", namespace="shop")
    await world.call("Rules/Create", pb.RulesCreateRequest(rule=RULE), ADMIN)
    error = await refusal(world.call("Namespaces/Delete", delete(), ADMIN))
    assert (error.kind, error.message) == (
        Kind.FAILED_PRECONDITION,
        "namespace shop is not empty: it has 2 services, 1 account, 1 rule; remove them, or delete it with --force",
    )
    world.tenants.services.clear()
    await world.call("Rules/Delete", pb.RulesDeleteRequest(id="all", namespace="shop"), ADMIN)
    await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann", namespace="shop"), ADMIN)
    await world.call("Namespaces/Delete", delete(), ADMIN)
    assert await names(world) == ["micro"]
    assert await refused(world.call("Namespaces/Delete", delete(), ADMIN)) is Kind.NOT_FOUND
    for name, kind in (("micro", Kind.FAILED_PRECONDITION), ("", Kind.INVALID_ARGUMENT)):
        assert await refused(world.call("Namespaces/Delete", delete(name, force=True), ADMIN)) is kind


async def test_force_ends_the_services_and_everybody_who_was_there(world: World) -> None:
    world.tenants.services["shop"] = 2
    session = await world.login("ann", await world.generate("ann", namespace="shop"), "shop")
    await world.call("Rules/Create", pb.RulesCreateRequest(rule=RULE), ADMIN)
    await world.call("Namespaces/Delete", delete(force=True), ADMIN)
    assert not world.tenants.services
    with pytest.raises(Exception, match="revoked"):
        world.whose(session.access_token)
    assert await refused(world.refresh(session.refresh_token)) is Kind.UNAUTHENTICATED
    await world.call("Namespaces/Create", pb.NamespacesCreateRequest(name="shop"), ADMIN)
    rules = (await world.call("Rules/List", pb.RulesListRequest(namespace="shop"), ADMIN)).rules
    assert [found.id for found in rules] == ["default"], "one of the same name begins with nothing"
    assert not await world.store.accounts("shop")
    written = [entry for entry in await world.audit() if entry[1].startswith(("namespace", "account.delete"))]
    assert [entry[1:3] for entry in written] == [
        ("namespace.create", "shop"),
        ("account.delete", "shop/ann"),
        ("namespace.delete", "shop"),
        ("namespace.create", "shop"),
    ]


async def test_a_deletion_that_failed_on_the_way_can_be_asked_for_again(world: World) -> None:
    world.tenants.services["shop"] = 2
    world.tenants.broken = True
    await world.generate("ann", namespace="shop")
    assert await refused(world.call("Namespaces/Delete", delete(force=True), ADMIN)) is Kind.UNAVAILABLE
    assert await names(world) == ["micro", "shop"]
    world.tenants.broken = False
    await world.call("Namespaces/Delete", delete(force=True), ADMIN)
    assert await names(world) == ["micro"]
