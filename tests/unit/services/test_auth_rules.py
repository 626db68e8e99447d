"""Rules: changed by admins of their namespace, and explained."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from auth_world import ADMIN, SHOPKEEPER, World, refused, robot, running

from micro.domain.account import Account
from micro.domain.errors import Kind
from micro.domain.rule import Access, Resource, Rule
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.services import auth_rules

ANN = Account("ann", "shop", "ann", scopes=frozenset({"buyer"}))


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with running() as world:
        yield world


def rule(
    called: str, scope: str = "*", resource: str = "service:*:*", access: Any = pb.Access.GRANTED, **fields: Any
) -> pb.Rule:
    kind, name, endpoint = resource.split(":")
    about = pb.Resource(type=kind, name=name, endpoint=endpoint)
    return pb.Rule(id=called, scope=scope, resource=about, access=access, **fields)


async def create(world: World, made: pb.Rule, by: Account = SHOPKEEPER) -> pb.Rule:
    stored: pb.Rule = (await world.call("Rules/Create", pb.RulesCreateRequest(rule=made), by)).rule
    return stored


async def listed(world: World, by: Account = SHOPKEEPER) -> list[str]:
    return [found.id for found in (await world.call("Rules/List", pb.RulesListRequest(), by)).rules]


async def test_rules_are_listed_in_the_order_in_which_they_are_looked_at_the_built_in_one_last(world: World) -> None:
    for made in (rule("low", priority=-5), rule("high", priority=5), rule("no", access=pb.Access.DENIED, priority=5)):
        stored = await create(world, made)
        assert stored.namespace == "shop"
    assert await listed(world) == ["no", "high", "low", "default"]
    assert await listed(world, ADMIN) == ["default"], "another namespace has its own"
    await world.call("Rules/Update", pb.RulesUpdateRequest(rule=rule("low", priority=9)), SHOPKEEPER)
    await world.call("Rules/Delete", pb.RulesDeleteRequest(id="no"), SHOPKEEPER)
    assert await listed(world) == ["low", "high", "default"]
    async with running(world.store) as restarted:
        assert await listed(restarted) == ["low", "high", "default"]


async def test_the_audit_log_says_what_a_rule_says_from_then_on(world: World) -> None:
    await create(world, rule("till", scope="", access=pb.Access.DENIED, resource="service:till:*", priority=5))
    await world.call("Rules/Update", pb.RulesUpdateRequest(rule=rule("till", scope="cashier", priority=7)), SHOPKEEPER)
    changes = [target for _, action, target, _ in await world.audit() if action.startswith("rule.")]
    assert changes == [
        "till: anyone may not call service:till:*, priority 5",
        "till: scope cashier may call service:*:*, priority 7",
    ]


async def test_an_update_that_changes_nothing_is_not_in_the_audit_log(world: World) -> None:
    same = await create(world, rule("till", priority=7))
    before = await world.audit()
    answer = await world.call("Rules/Update", pb.RulesUpdateRequest(rule=rule("till", priority=7)), SHOPKEEPER)
    assert answer.rule == same
    assert await world.audit() == before


async def test_what_is_there_twice_or_not_at_all_is_said(world: World) -> None:
    await create(world, rule("one"))
    assert await refused(create(world, rule("one"))) is Kind.ALREADY_EXISTS
    gone = pb.RulesUpdateRequest(rule=rule("two"))
    assert await refused(world.call("Rules/Update", gone, SHOPKEEPER)) is Kind.NOT_FOUND
    assert await refused(world.call("Rules/Delete", pb.RulesDeleteRequest(id="two"), SHOPKEEPER)) is Kind.NOT_FOUND
    built_in = pb.RulesDeleteRequest(id="default")
    assert await refused(world.call("Rules/Delete", built_in, SHOPKEEPER)) is Kind.FAILED_PRECONDITION
    assert await listed(world) == ["one", "default"]


@pytest.mark.parametrize(
    "made",
    [
        None,
        pb.Rule(id="x", access=pb.Access.GRANTED),
        rule("x", access=pb.Access.UNSPECIFIED),
        rule(""),
        rule("default"),
        rule("x", scope="no scope"),
        rule("x", resource="service::*"),
        rule("x", priority=-(2**31)),
    ],
)
async def test_what_is_no_rule_is_not_stored(world: World, made: pb.Rule | None) -> None:
    assert await refused(create(world, made)) is Kind.INVALID_ARGUMENT  # type: ignore[arg-type]
    assert await listed(world) == ["default"]


async def test_only_admins_of_the_namespace_change_its_rules(world: World) -> None:
    for by in (ANN, robot("till")):
        assert await refused(create(world, rule("mine"), by)) is Kind.PERMISSION_DENIED
    elsewhere = rule("theirs", namespace="micro")
    assert await refused(create(world, elsewhere)) is Kind.PERMISSION_DENIED
    assert (await create(world, rule("ours", namespace="shop"), ADMIN)).namespace == "shop"
    assert await refused(create(world, rule("x", namespace="nowhere"), ADMIN)) is Kind.NOT_FOUND


async def test_a_namespace_may_have_so_many_rules_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_rules, "MOST", 2)
    for called in ("a", "b"):
        await create(world, rule(called))
    assert await refused(create(world, rule("c"))) is Kind.RESOURCE_EXHAUSTED
    assert (await create(world, rule("c"), ADMIN)).namespace == "micro"


async def test_what_explain_says_is_what_services_decide(world: World) -> None:
    await world.generate("ann", scopes=["buyer"], namespace="shop")
    await world.generate("bob", namespace="shop")
    await create(world, rule("buyers", "buyer", "service:books:Books.*", priority=2))
    await create(world, rule("not-others", "*", "service:books:*", pb.Access.DENIED, priority=1))
    policy = world.told("shop")
    for called, account in (("ann", ANN), ("bob", Account("bob", "shop")), ("", None)):
        for resource in ("service:books:Books.Buy", "service:books:Stock.Count", "service:tea:Tea.Brew"):
            request = pb.ExplainRequest(account=called, resource=resource)
            found = await world.call("Auth/Explain", request, SHOPKEEPER)
            decision = policy.decide(account, Resource(*resource.split(":")))
            assert found.allowed == decision.allowed
            assert (found.rule.id if found.rule else None) == (decision.rule.id if decision.rule else None)
            assert (called or "without an account") in found.reason
    found = await world.call(
        "Auth/Explain", pb.ExplainRequest(account="ann", resource="service:books:Books.Buy"), SHOPKEEPER
    )
    assert found.reason == (
        "rule 'buyers' says that scope buyer may call service:books:Books.*, priority 2: that is about shop/ann"
    )


async def test_explain_knows_that_rules_are_not_about_core_services(world: World) -> None:
    await world.generate("ann", namespace="shop")
    await create(world, rule("all", "*"))

    async def explain(resource: str, account: str = "ann", by: Account = SHOPKEEPER) -> tuple[bool, str]:
        found = await world.call("Auth/Explain", pb.ExplainRequest(account=account, resource=resource), by)
        assert found.rule is None
        return found.allowed, found.reason

    assert (await explain("service:auth:Rules.Create"))[0] is False
    assert (await explain("service:auth:Auth.Token", account=""))[0] is True
    assert (await explain("service:runtime:Runtime.Read"))[0] is True
    assert (await explain("service:registry:Registry.Register", "registry", ADMIN))[0] is True
    assert await explain("service:auth:Auth.Nothing") == (False, "denied: service auth has no endpoint Auth.Nothing")
    assert await explain("service:Events:stream.publish") == (
        True,
        "events Stream.Publish is for an account of the namespace; the platform says so, and no rule changes it",
    )
    assert await explain("service:events:Delete") == (
        False,
        "denied: service events has no endpoint Delete: it has Topics.Delete, Groups.Delete",
    )
    assert await explain("service:events:Topics.Delete") == (
        False,
        (
            "denied: events Topics.Delete needs the admin scope in namespace shop: shop/ann lacks it; "
            "the platform says so, and no rule changes it"
        ),
    )


async def test_explain_speaks_of_accounts_of_other_namespaces(world: World) -> None:
    await world.generate("ann", namespace="shop", scopes=["buyer"])
    await world.generate("bob", scopes=["admin"])
    await world.generate("bill", scopes=["buyer"])
    await world.call("Namespaces/Create", pb.NamespacesCreateRequest(name="farm"), ADMIN)
    await create(world, rule("guests", "+", "service:books:Books.Find"))
    await create(world, rule("buyers", "buyer", "service:books:*"))

    async def explain(account: str, endpoint: str, by: Account = ADMIN, namespace: str = "shop") -> tuple[bool, str]:
        resource = f"service:books:Books.{endpoint}"
        request = pb.ExplainRequest(account=account, resource=resource, namespace=namespace)
        found = await world.call("Auth/Explain", request, by)
        return found.allowed, found.reason

    assert (await explain("ann", "Buy")) == (await explain("shop/ann", "Buy"))
    policy = world.told("shop")
    for called, scopes in (("bob", {"admin"}), ("bill", {"buyer"})):
        account = Account(called, "micro", scopes=frozenset(scopes))
        for endpoint in ("Buy", "Find"):
            allowed, reason = await explain(f"micro/{called}", endpoint)
            assert allowed == policy.decide(account, Resource("service", "books", f"Books.{endpoint}")).allowed
            assert reason.endswith(f"micro/{called}") or "denied: no rule is about" in reason
    assert (await explain("shop/ann", "Buy", namespace="micro"))[0] is False
    assert await refused(explain("farm/nobody", "Buy")) is Kind.NOT_FOUND

    # Who administers the namespace alone is told what its rules say, and nothing of others' accounts.
    for called in ("farm/nobody", "nowhere/nobody"):
        assert (await explain(called, "Find", SHOPKEEPER))[0] is True
        assert await explain(called, "Buy", SHOPKEEPER) == (False, f"denied: no rule is about {called} there")
    assert await explain("micro/bob", "Buy", SHOPKEEPER) == (
        False,
        "denied: no rule is about micro/bob there; as an admin of micro it would count as one of shop",
    )
    for wrong in ("a/b/c", "/ann", "farm/", "farm/no body"):
        assert await refused(explain(wrong, "Buy", SHOPKEEPER)) in (Kind.INVALID_ARGUMENT, Kind.NOT_FOUND)


@pytest.mark.parametrize(
    "resource", ["service:events:*", "service:Store:Store.Read", "*:auth:*", "service:runtime.*:*"]
)
async def test_a_rule_about_one_of_the_platforms_own_services_is_refused(world: World, resource: str) -> None:
    """It would say something, and change nothing."""
    closed = rule("closed", resource=resource, access=pb.Access.DENIED)
    assert await refused(create(world, closed)) is Kind.INVALID_ARGUMENT
    await create(world, rule("closed", resource="service:books:*"))
    updated = world.call("Rules/Update", pb.RulesUpdateRequest(rule=closed), SHOPKEEPER)
    assert await refused(updated) is Kind.INVALID_ARGUMENT
    (kept, _) = (await world.call("Rules/List", pb.RulesListRequest(), SHOPKEEPER)).rules
    assert (kept.id, kept.resource.name) == ("closed", "books")


async def test_a_rule_of_an_earlier_release_about_the_platform_is_shown_and_removed(world: World) -> None:
    old = Rule("closed", "shop", resource=Resource("service", "events", "*"), access=Access.DENIED)
    await world.store.create_rule(old)
    async with running(world.store) as restarted:
        assert await listed(restarted) == ["closed", "default"]
        await restarted.call("Rules/Delete", pb.RulesDeleteRequest(id="closed"), SHOPKEEPER)
        assert await listed(restarted) == ["default"]


@pytest.mark.parametrize("resource", ["", "books", "service:books", "service:*:Books.Buy", "service:books:a:b"])
async def test_explain_asks_for_one_resource(world: World, resource: str) -> None:
    request = pb.ExplainRequest(resource=resource)
    assert await refused(world.call("Auth/Explain", request, SHOPKEEPER)) is Kind.INVALID_ARGUMENT


async def test_explain_of_an_account_that_there_is_none_of_says_so(world: World) -> None:
    request = pb.ExplainRequest(account="nobody", resource="service:books:Books.Buy")
    assert await refused(world.call("Auth/Explain", request, SHOPKEEPER)) is Kind.NOT_FOUND
