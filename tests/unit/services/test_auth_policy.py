"""What services are told of who may call: all of it first, then each change, and nothing of other namespaces."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest
from auth_world import ADMIN, SHOPKEEPER, Action, World, robot, running

from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.rule import Resource
from micro.framework.policy import Policy
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.tokens import JwtVerifier
from micro.services import _auth_core as core
from micro.services.auth_policy import ALIVE_SECONDS


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with running() as world:
        yield world


def watch(world: World, by: Account) -> AsyncGenerator[pb.PolicyWatchResponse]:
    stream: AsyncGenerator[pb.PolicyWatchResponse] = world.service.policy.watch(  # type: ignore[assignment]
        pb.PolicyWatchRequest(), world.context(by)
    )
    return stream


async def read(stream: AsyncIterator[pb.PolicyWatchResponse]) -> pb.PolicyWatchResponse:
    async with asyncio.timeout(5):
        return await anext(stream)


async def state(stream: AsyncIterator[pb.PolicyWatchResponse]) -> list[pb.PolicyWatchResponse]:
    """All until SYNCED."""
    told = [await read(stream)]
    while told[-1].action != Action.SYNCED:
        told.append(await read(stream))
    return told


def rule(called: str, access: pb.Access = pb.Access.GRANTED, namespace: str = "") -> pb.Rule:
    resource = pb.Resource(type="service", name="books", endpoint="*")
    return pb.Rule(id=called, scope="*", resource=resource, access=access, namespace=namespace)


async def create(world: World, called: str, by: Account = SHOPKEEPER) -> None:
    await world.call("Rules/Create", pb.RulesCreateRequest(rule=rule(called)), by)


async def test_a_service_is_told_the_rules_of_its_namespace_and_no_others(world: World) -> None:
    await create(world, "ours")
    await create(world, "theirs", ADMIN)
    async with aclosing(watch(world, robot("till"))) as stream:
        told = await state(stream)
        assert [each.action for each in told] == [Action.RESET, Action.KEYS, Action.RULE, Action.SYNCED]
        assert (told[0].issuer, told[0].public) == (await world.store.issuer(), False)
        assert [key.kid for key in told[1].keys] == [key.kid for key in await world.store.keys()]
        assert told[2].rule is not None
        assert (told[2].rule.id, told[2].rule.namespace) == ("ours", "shop")

        await create(world, "theirs-too", ADMIN)
        await world.call("Namespaces/Create", pb.NamespacesCreateRequest(name="blog"), ADMIN)
        await world.call("Rules/Update", pb.RulesUpdateRequest(rule=rule("ours", pb.Access.DENIED)), SHOPKEEPER)
        await world.call("Rules/Delete", pb.RulesDeleteRequest(id="ours"), SHOPKEEPER)
        changed, gone = await read(stream), await read(stream)
        assert changed.action == Action.RULE
        assert changed.rule is not None
        assert changed.rule.access == pb.Access.DENIED
        assert (gone.action, gone.rule and gone.rule.id) == (Action.RULE_DELETED, "ours")


async def test_a_service_of_the_platform_is_told_the_namespaces_instead(world: World) -> None:
    await create(world, "ours")
    async with aclosing(watch(world, core.account("runtime"))) as stream:
        told = [each.namespace for each in await state(stream) if each.namespace is not None]
        assert [(each.name, each.quota and each.quota.services) for each in told] == [("micro", 200), ("shop", 200)]
        await create(world, "more")
        quota = pb.SetQuotaRequest(name="shop", quota=pb.Quota(services=3))
        await world.call("Namespaces/SetQuota", quota, ADMIN)
        await world.call("Rules/Delete", pb.RulesDeleteRequest(id="ours", namespace="shop"), ADMIN)
        await world.call("Rules/Delete", pb.RulesDeleteRequest(id="more", namespace="shop"), ADMIN)
        await world.call("Namespaces/Delete", pb.NamespacesDeleteRequest(name="shop"), ADMIN)
        changed, gone = await read(stream), await read(stream)
        assert changed.namespace is not None
        assert changed.namespace.quota == quota.quota
        assert (gone.action, gone.namespace and gone.namespace.name) == (Action.NAMESPACE_DELETED, "shop")
    async with aclosing(world.service.watch()) as own:  # type: ignore[type-var]
        assert [each.action for each in await state(own)].count(Action.NAMESPACE) == 1, "as auth tells itself"


async def test_an_admin_of_micro_that_serves_there_is_told_its_rules(world: World) -> None:
    """It is no service of the platform, whatever it may do: without the rules that deny it would let all in."""
    await create(world, "no", ADMIN)
    machine = Account("machine", "micro", type=robot("x").type, scopes=frozenset({"admin"}))
    async with aclosing(watch(world, machine)) as stream:
        assert [each.action for each in await state(stream)].count(Action.RULE) == 1


async def test_revocations_are_told_to_all_and_name_nobody(world: World) -> None:
    session = await world.login("ann", await world.generate("ann", namespace="shop"), "shop")
    reader = Policy(JwtVerifier(), "micro", clock=world.wall)
    async with aclosing(watch(world, robot("reader", "micro"))) as stream:
        for each in await state(stream):
            reader.apply(each)
        assert reader.verify(session.access_token, world.wall(), Audience.PLATFORM).account.id == "ann"
        await world.call("Accounts/Delete", pb.AccountsDeleteRequest(id="ann"), SHOPKEEPER)
        told = await read(stream)
        assert "ann" not in str(told)
        assert "shop" not in str(told)
        reader.apply(told)
        with pytest.raises(Exception, match="revoked"):
            reader.verify(session.access_token, world.wall(), Audience.PLATFORM)
    async with aclosing(watch(world, robot("reader", "micro"))) as stream:
        assert [each.action for each in await state(stream)].count(Action.REVOKED) == 1
        world.wall.seconds += 3600
        await world.generate("bob", namespace="shop")
        await world.call("Tokens/Revoke", pb.TokensRevokeRequest(account="bob"), SHOPKEEPER)
    async with aclosing(watch(world, robot("reader", "micro"))) as stream:
        assert [each.action for each in await state(stream)].count(Action.REVOKED) == 1, "the first has served its time"


async def test_keys_are_told_as_they_change(world: World) -> None:
    async with aclosing(watch(world, robot("till"))) as stream:
        await state(stream)
        kid = (await world.call("Keys/Rotate", pb.KeysRotateRequest(), ADMIN)).kid
        told = await read(stream)
        assert (told.action, len(told.keys), told.keys[0].kid) == (Action.KEYS, 2, kid)


async def test_who_hears_nothing_for_five_seconds_hears_that_nothing_happened(world: World) -> None:
    async with aclosing(watch(world, robot("till"))) as stream:
        await state(stream)
        for _ in range(2):
            reading = asyncio.create_task(read(stream))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not reading.done()
            world.clock.jump(ALIVE_SECONDS)
            assert (await reading).action == Action.ALIVE
        await create(world, "news")
        assert (await read(stream)).action == Action.RULE


async def test_a_watcher_that_is_too_slow_is_told_everything_anew() -> None:
    async with running(history=5) as world:
        policy = Policy(JwtVerifier(), "shop", clock=world.wall)
        async with aclosing(watch(world, robot("till"))) as stream:
            for each in await state(stream):
                policy.apply(each)
            for number in range(20):
                await create(world, f"rule-{number}")
            await world.call("Rules/Delete", pb.RulesDeleteRequest(id="rule-0"), SHOPKEEPER)
            told = await state(stream)
            assert told[0].action == Action.RESET
            assert sum(each.action == Action.RULE for each in told) == 19
            for each in told:
                policy.apply(each)
            found = policy.decide(Account("ann", "shop"), Resource("service", "books", "Books.Buy"))
            assert found.rule is not None
            assert found.rule.id == "rule-1"


async def test_many_watchers_are_all_told_at_once(world: World) -> None:
    async def follow() -> list[str]:
        async with aclosing(watch(world, robot("till"))) as stream:
            await state(stream)
            started.release()
            return [told.rule.id for told in [await read(stream), await read(stream)] if told.rule is not None]

    started = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow()) for _ in range(50)]
        for _ in followers:
            await started.acquire()
        await asyncio.gather(create(world, "a"), create(world, "b"))
    assert {tuple(follower.result()) for follower in followers} == {("a", "b")}
