"""What the platform's services tell about themselves, to the topics of the namespace that it is about."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from auth_world import ADMIN, SHOPKEEPER
from auth_world import running as auth
from callers import admin, calling
from config_world import running as config
from registry_world import CTX, register, service
from registry_world import running as registry
from runtime_world import World
from runtime_world import running as runtime

from micro.backends.memory.announcements import MemoryAnnouncements, Told
from micro.domain import errors
from micro.domain.errors import Error
from micro.ports.announcements import AUTH, CONFIG, REGISTRY, RUNTIME
from micro.rpc.gen.micro.auth.v1 import auth_pb
from micro.rpc.gen.micro.registry.v1.registry_pb import DeregisterRequest
from micro.rpc.gen.micro.runtime.v1.runtime_pb import PurgeRequest


def types(told: Iterable[Told]) -> list[str]:
    return [one.type for one in told]


# --- runtime ----------------------------------------------------------------------------------------------------------


async def test_a_service_is_told_from_its_creation_to_its_end(tmp_path: Path) -> None:
    async with runtime(World(tmp_path)) as world:
        first = (await world.create()).service.instances[0].id
        second = (await world.update("better")).service.instances[0].id
        await world.delete()
        told = world.announcements.told
    assert {one[:2] for one in told} == {("micro", RUNTIME)}
    common, by = {"service": "hello", "version": "latest"}, {"by": "micro/admin"}
    assert [(one.type, one.data) for one in told] == [
        ("service.created", common | by),
        ("service.started", common | {"instance": first}),
        ("service.ready", common | {"instance": first}),
        ("service.started", common | {"instance": second}),
        ("service.ready", common | {"instance": second}),
        ("service.stopped", common | {"instance": first}),
        ("service.updated", common | by),
        ("service.stopped", common | {"instance": second}),
        ("service.killed", common | by),
    ]


async def test_a_crash_is_told_with_its_reason_and_what_comes_after_it(tmp_path: Path) -> None:
    async with runtime(World(tmp_path)) as world:
        first = (await world.create()).service.instances[0].id
        world.announcements.told.clear()
        traceback = "Traceback (most recent call last):", '  File "/app/main.py", line 3, in <module>'
        world.launcher.end(first, 1, *traceback, "ValueError: no such colour")
        second = (
            await world.until(lambda one: one.instances[0].restarts == 1 and bool(one.instances[0].pid))
        ).instances
        await world.until(lambda one: types(world.announcements.told)[-1] == "service.ready")
        crashed, restarted, ready = world.announcements.told
    assert types([crashed, restarted, ready]) == ["service.crashed", "service.restarted", "service.ready"]
    assert crashed.data == {
        "service": "hello",
        "version": "latest",
        "instance": first,
        "reason": "ValueError: no such colour (/app/main.py, line 3)",
        "restarts": "1",
    }
    assert restarted.data["instance"] == ready.data["instance"] == second[0].id


async def test_what_cannot_be_built_or_started_is_told_without_its_output(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        raise errors.failed_precondition("no such package: nope\nmany\nlines")

    async with runtime(World(tmp_path)) as world:
        world.builder.check = broken
        await _fails(world.create())
        assert types(world.announcements.told) == ["service.created", "build.failed", "service.failed"]
        assert world.announcements.told[1].data["reason"] == "no such package: nope"
        await world.delete()

        world.builder.check = lambda folder: None
        world.announcements.told.clear()
        await world.create()
        await _fails(world.update("crash"))
        assert types(world.announcements.told)[3:] == ["service.started", "update.failed"]
        assert world.announcements.told[-1].data["reason"].startswith("hello did not start: ModuleNotFoundError")


async def test_a_restart_of_the_runtime_is_no_news_and_what_is_purged_hears_nothing(tmp_path: Path) -> None:
    async with runtime(World(tmp_path)) as world:
        await world.create()
        world.announcements.told.clear()
        await world.restart()
        await world.until(lambda one: bool(one.instances) and bool(one.instances[0].pid))
        await world.runtime.purge(PurgeRequest(namespace="micro"), calling())
        assert world.announcements.told == []


async def _fails(call: object) -> None:
    try:
        await call  # type: ignore[misc]
    except Error:
        return
    raise AssertionError("it did not fail")


# --- registry ---------------------------------------------------------------------------------------------------------


async def test_instances_that_come_and_go_are_told_and_renewals_are_not() -> None:
    heard = MemoryAnnouncements()
    async with registry(announcements=heard) as (handler, clock):
        await register(handler, service("a", namespace="shop"))
        await register(handler, service("a", namespace="shop"))
        await register(handler, service("b", address="127.0.0.1:1"), ttl=1)
        await clock.advance(2)
        await handler.deregister(DeregisterRequest(name="greeter", namespace="shop", node_id="a"), CTX)
        await handler.deregister(DeregisterRequest(name="greeter", namespace="shop", node_id="a"), CTX)
    told = [(one.namespace, one.type, one.data["instance"]) for one in heard.told]
    assert told == [
        ("shop", "instance.registered", "a"),
        ("micro", "instance.registered", "b"),
        ("micro", "instance.expired", "b"),
        ("shop", "instance.deregistered", "a"),
    ]
    assert heard.told[1] == (
        "micro",
        REGISTRY,
        "instance.registered",
        {"service": "greeter", "version": "latest", "instance": "b", "address": "127.0.0.1:1"},
    )


async def test_what_is_there_when_the_registry_starts_is_not_told_again() -> None:
    from micro.backends.memory.registry import MemoryRegistry

    state, heard = MemoryRegistry(), MemoryAnnouncements()
    async with registry(state) as (handler, _):
        await register(handler, service("a"))
    async with registry(state, announcements=heard) as (handler, _):
        await register(handler, service("a"))
        await register(handler, service("a", version="v2"))
    assert types(heard.told) == ["instance.updated"]


# --- auth -------------------------------------------------------------------------------------------------------------


async def test_who_comes_goes_and_may_do_what_is_told_in_the_namespace_that_it_is_about() -> None:
    heard = MemoryAnnouncements()
    async with auth(announcements=heard) as world:
        await world.generate("ann", namespace="shop", secret="ann's own secret")
        await world.login("ann", "ann's own secret", "shop")
        await _fails(world.login("ann", "another secret", "shop"))
        scopes = auth_pb.UpdateScopesRequest(id="ann", namespace="shop", scopes=["clerk"])
        await world.call("Accounts/UpdateScopes", scopes, ADMIN)
        await world.call("Accounts/UpdateScopes", scopes, ADMIN)
        change = auth_pb.ChangeSecretRequest(id="ann", namespace="shop", new_secret="a fresh secret")
        await world.call("Accounts/ChangeSecret", change, SHOPKEEPER)
        revoke = auth_pb.TokensRevokeRequest(account="ann", namespace="shop")
        await world.call("Tokens/Revoke", revoke, SHOPKEEPER)
        await world.call("Accounts/Delete", auth_pb.AccountsDeleteRequest(id="ann", namespace="shop"), SHOPKEEPER)
        told = heard.told[1:]
    assert {one[:2] for one in told} == {("shop", AUTH)}
    assert [(one.type, one.data) for one in told] == [
        ("account.created", {"account": "ann", "by": "micro/admin"}),
        ("scopes.changed", {"account": "ann", "by": "micro/admin"}),
        ("secret.changed", {"account": "ann", "by": "shop/keeper"}),
        ("session.revoked", {"account": "ann", "by": "shop/keeper"}),
        ("account.deleted", {"account": "ann", "by": "shop/keeper"}),
    ]
    assert "secret" not in json.dumps([one.data for one in heard.told])


async def test_rules_keys_and_namespaces_are_told_and_a_namespace_that_goes_hears_nothing() -> None:
    heard = MemoryAnnouncements()
    async with auth(announcements=heard) as world:
        rule = auth_pb.Rule(
            id="open", namespace="shop", resource=auth_pb.Resource(type="service", name="*", endpoint="*")
        )
        rule.access = auth_pb.Access.GRANTED
        await world.call("Rules/Create", auth_pb.RulesCreateRequest(rule=rule), SHOPKEEPER)
        await world.call("Rules/Update", auth_pb.RulesUpdateRequest(rule=rule), SHOPKEEPER)
        await world.call("Rules/Delete", auth_pb.RulesDeleteRequest(id="open", namespace="shop"), SHOPKEEPER)
        kid = (await world.call("Keys/Rotate", auth_pb.KeysRotateRequest(), ADMIN)).kid
        await world.generate("ann", namespace="shop")
        heard.told.pop()
        await world.call("Namespaces/Delete", auth_pb.NamespacesDeleteRequest(name="shop", force=True), ADMIN)
    keeper, root = {"by": "shop/keeper"}, {"by": "micro/admin"}
    assert heard.told == [
        ("micro", AUTH, "namespace.created", {"namespace": "shop"} | root),
        ("shop", AUTH, "rule.created", {"rule": "open"} | keeper),
        ("shop", AUTH, "rule.deleted", {"rule": "open"} | keeper),
        ("micro", AUTH, "keys.rotated", {"key": kid} | root),
        ("micro", AUTH, "namespace.deleted", {"namespace": "shop"} | root),
    ]


async def test_what_is_refused_is_no_news() -> None:
    heard = MemoryAnnouncements()
    async with auth(announcements=heard) as world:
        await world.generate("ann", namespace="shop")
        heard.told.clear()
        await _fails(world.generate("ann", namespace="shop"))
        gone = auth_pb.AccountsDeleteRequest(id="nobody", namespace="shop")
        await _fails(world.call("Accounts/Delete", gone, ADMIN))
        await _fails(world.call("Rules/Delete", auth_pb.RulesDeleteRequest(id="no", namespace="shop"), ADMIN))
    assert heard.told == []


# --- config -----------------------------------------------------------------------------------------------------------


async def test_changes_of_values_are_told_and_their_values_are_not() -> None:
    heard = MemoryAnnouncements()
    async with config(announcements=heard) as world:
        await world.set("mail.host", "smtp.example.com")
        await world.set("mail.password", "hunter2", by=admin("ada"), secret=True)
        await world.delete("mail.password")
        await world.rollback("mail.host", 1)
        await _fails(world.delete("mail.port"))
        await world.purge("shop")
    told = [(one.type, one.data["path"], one.data["secret"], one.data["revision"]) for one in heard.told]
    assert told == [
        ("value.set", "mail.host", "false", "1"),
        ("value.set", "mail.password", "true", "2"),
        ("value.deleted", "mail.password", "true", "3"),
        ("value.rolled_back", "mail.host", "false", "4"),
    ]
    assert {one[:2] for one in heard.told} == {("shop", CONFIG)}
    assert [one.data["by"] for one in heard.told] == ["shop/ann", "shop/ada", "shop/ann", "shop/ann"]
    assert "hunter2" not in str(heard.told)
    assert "smtp" not in str(heard.told)
