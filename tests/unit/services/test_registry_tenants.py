"""Who may announce what, and who is told of it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from callers import CORE, ROOT, admin, calling, robot, user
from registry_world import Action, Client, refusal, service

from micro.backends.memory.registry import MemoryRegistry
from micro.domain.account import Account, Type
from micro.domain.errors import Kind
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.services import _registration
from micro.services.registry import RegistryService
from micro.testing.clock import FakeClock

OWN = robot("greeter")


@pytest.fixture
async def registry() -> AsyncIterator[RegistryService]:
    async with AsyncExitStack() as stack:
        made = RegistryService(MemoryRegistry(), clock=FakeClock(), exists={"micro", "shop", "bank"}.__contains__)
        await made.start(stack)
        yield made


async def announce(registry: RegistryService, by: Account | None, entry: pb.Service) -> None:
    await registry.register(pb.RegisterRequest(service=entry), calling(by))


async def listed(registry: RegistryService, by: Account, namespace: str = "") -> list[tuple[str, str, list[str]]]:
    answer = await registry.list_services(pb.ListServicesRequest(namespace=namespace), calling(by))
    return [(entry.namespace, entry.name, [node.id for node in entry.nodes]) for entry in answer.services]


@pytest.mark.parametrize("by", [OWN, robot("greeter", version="v2"), admin("boss"), ROOT])
async def test_a_service_is_announced_by_its_own_account_and_by_admins(registry: RegistryService, by: Account) -> None:
    await announce(registry, by, service("a", namespace="shop"))
    assert await listed(registry, user("jane")) == [("shop", "greeter", ["a"])]
    request = pb.DeregisterRequest(name="greeter", namespace="shop", node_id="a")
    await registry.deregister(request, calling(by))
    assert await listed(registry, user("jane")) == []


@pytest.mark.parametrize(
    "by",
    [
        user("jane"),
        robot("other"),
        robot("greeter", "bank"),
        admin("boss", "bank"),
        user("plain", "micro"),
        Account("robot", "shop", type=Type.SERVICE),
        Account("jane", "shop", metadata={"service": "greeter"}),
    ],
    ids=str,
)
async def test_nobody_else_announces_it_or_takes_it_away(registry: RegistryService, by: Account) -> None:
    await announce(registry, OWN, service("a", namespace="shop"))
    error = await refusal(announce(registry, by, service("b", namespace="shop")))
    assert error.kind is Kind.PERMISSION_DENIED
    request = pb.DeregisterRequest(name="greeter", namespace="shop", node_id="a")
    assert (await refusal(registry.deregister(request, calling(by)))).kind is Kind.PERMISSION_DENIED
    assert await listed(registry, user("jane")) == [("shop", "greeter", ["a"])]


async def test_names_and_contracts_of_the_platform_are_its_own(registry: RegistryService) -> None:
    for by in (admin("boss", "shop"), user("plain", "micro"), robot("auth", "micro"), ROOT):
        error = await refusal(announce(registry, by, service("a", name="auth", namespace=by.namespace)))
        assert (error.kind, "belongs to the platform" in error.message) == (Kind.PERMISSION_DENIED, True)
    await announce(registry, CORE, service("a", name="auth"))
    for path in ("/micro.auth.v1.Auth/Token", "/Micro.auth.v1.Auth/Token"):
        trap = service("t", namespace="shop")
        trap.endpoints = [pb.Endpoint(name="Auth.Token", path=path, kind="unary")]
        error = await refusal(announce(registry, admin("boss"), trap))
        assert (error.kind, "another package" in error.message) == (Kind.PERMISSION_DENIED, True)
    for by in (admin("boss"), robot("auth.auth"), CORE):
        error = await refusal(announce(registry, by, service("t", name="auth.auth", namespace="shop")))
        assert (error.kind, "belongs to the platform" in error.message) == (Kind.PERMISSION_DENIED, True)


@pytest.mark.parametrize(("first", "second"), [("books", "books.call"), ("books.call", "books")])
async def test_a_name_whose_paths_lie_below_anothers_is_for_admins(
    registry: RegistryService, first: str, second: str
) -> None:
    def by_hand(name: str) -> Account:
        return Account("hand", "shop", type=Type.SERVICE, metadata={"service": name})

    await announce(registry, by_hand(first), service("a", name=first, namespace="shop"))
    error = await refusal(announce(registry, by_hand(second), service("b", name=second, namespace="shop")))
    assert (error.kind, repr(first) in error.message) == (Kind.PERMISSION_DENIED, True)
    await announce(registry, by_hand("bookshop"), service("c", name="bookshop", namespace="shop"))
    await announce(registry, robot(second, "bank"), service("d", name=second, namespace="bank"))
    await announce(registry, admin("boss"), service("b", name=second, namespace="shop"))


async def test_a_service_that_the_runtime_started_stands_beside_its_owners_others(registry: RegistryService) -> None:
    for name in ("books", "books.call"):
        await announce(registry, robot(name), service(name, name=name, namespace="shop"))
    assert len(await listed(registry, user("jane"))) == 2


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "0.0.0.0", "127.1", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_nobody_has_the_platforms_own_for_an_instance(registry: RegistryService, host: str) -> None:
    await announce(registry, CORE, service("a", name="auth", address="127.0.0.1:7001"))
    for by in (OWN, admin("boss"), ROOT):
        error = await refusal(announce(registry, by, service("t", namespace="shop", address=f"{host}:7001")))
        assert (error.kind, "platform's own auth" in error.message) == (Kind.PERMISSION_DENIED, True)
    await announce(registry, OWN, service("t", namespace="shop", address=f"{host}:7002"))
    await announce(registry, CORE, service("b", name="auth", address="127.0.0.1:7002"))


async def test_an_address_pushes_out_only_what_its_owner_could_take_away(registry: RegistryService) -> None:
    theirs = "127.0.0.1:5000"
    await announce(registry, robot("greeter", "bank"), service("theirs", namespace="bank", address=theirs))
    await announce(registry, OWN, service("before", namespace="shop", address=theirs))
    await announce(registry, robot("adder"), service("mine", name="adder", namespace="shop", address=theirs))
    await announce(registry, OWN, service("after", namespace="shop", address=theirs))
    assert await listed(registry, ROOT, "*") == [
        ("bank", "greeter", ["theirs"]),
        ("shop", "adder", ["mine"]),
        ("shop", "greeter", ["after"]),
    ]


async def test_services_of_one_name_stay_apart(registry: RegistryService) -> None:
    for namespace in ("shop", "bank"):
        await announce(registry, robot("greeter", namespace), service(f"of-{namespace}", namespace=namespace))
    assert await listed(registry, ROOT, "*") == [("bank", "greeter", ["of-bank"]), ("shop", "greeter", ["of-shop"])]
    assert await listed(registry, user("jane")) == [("shop", "greeter", ["of-shop"])]
    for asked in ("bank", "*"):
        assert (await refusal(listed(registry, user("jane"), asked))).kind is Kind.PERMISSION_DENIED
    found = await registry.get_service(pb.GetServiceRequest(name="greeter"), calling(user("jane")))
    assert [node.id for entry in found.services for node in entry.nodes] == ["of-shop"]
    found = await registry.get_service(pb.GetServiceRequest(name="greeter"), calling(ROOT, "bank"))
    assert [node.id for entry in found.services for node in entry.nodes] == ["of-bank"]


@pytest.mark.parametrize(("by", "told"), [(user("jane"), ["of-shop"]), (ROOT, ["of-bank", "of-shop"])])
async def test_a_watch_of_nothing_in_particular_tells_what_its_caller_may_see(
    registry: RegistryService, by: Account, told: list[str]
) -> None:
    await announce(registry, robot("greeter", "bank"), service("of-bank", namespace="bank"))
    client = Client()
    stream: Any = registry.watch(pb.WatchRequest(), calling(by))
    await client.until(stream, Action.SYNCED)
    await announce(registry, OWN, service("of-shop", namespace="shop"))
    await client.until(stream, Action.CREATE, "of-shop")
    assert sorted(node for _, node in client.events) == told
    await stream.aclose()


async def test_a_namespace_that_there_is_none_of_is_not_found(registry: RegistryService) -> None:
    ctx = calling(ROOT, "gone")
    calls: list[Any] = [
        registry.list_services(pb.ListServicesRequest(), ctx),
        registry.get_service(pb.GetServiceRequest(name="greeter"), ctx),
        registry.register(pb.RegisterRequest(service=service()), ctx),
        anext(aiter(registry.watch(pb.WatchRequest(namespace="gone"), ctx))),
    ]
    for call in calls:
        error = await refusal(call)
        assert (error.kind, "there is no namespace gone" in error.message) == (Kind.NOT_FOUND, True)
    await registry.deregister(pb.DeregisterRequest(name="greeter", node_id="a"), ctx)


async def test_a_handler_without_a_guard_opens_nothing_up(registry: RegistryService) -> None:
    nobody = calling(None)
    calls: list[Any] = [
        registry.list_services(pb.ListServicesRequest(), nobody),
        registry.get_service(pb.GetServiceRequest(name="registry"), nobody),
        registry.register(pb.RegisterRequest(service=service()), nobody),
        registry.deregister(pb.DeregisterRequest(name="greeter", node_id="a"), nobody),
        anext(aiter(registry.watch(pb.WatchRequest(), nobody))),
    ]
    for call in calls:
        assert (await refusal(call)).kind is Kind.UNAUTHENTICATED


async def test_since_when_a_service_is_there_says_the_registry_not_the_service(registry: RegistryService) -> None:
    entry = service("a", namespace="shop")
    entry.since = "1970-01-01T00:00:00Z"
    made = replace(OWN, created="2026-01-02T00:00:00.000Z")
    await announce(registry, made, entry)
    await announce(registry, made, entry)
    request = pb.GetServiceRequest(name="greeter", namespace="shop")
    [found] = (await registry.get_service(request, calling(user("jane")))).services
    assert found.since == made.created


async def test_a_namespace_has_so_much_registered_at_most(
    registry: RegistryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(service().descriptors)
    monkeypatch.setattr(_registration, "INSTANCES", 3)
    monkeypatch.setattr(_registration, "NAMESPACE_DESCRIPTOR_BYTES", 2 * size)
    for node in ("a", "b"):
        await announce(registry, OWN, service(node, namespace="shop"))
    error = await refusal(announce(registry, OWN, service("c", namespace="shop")))
    assert (error.kind, f"{3 * size} bytes of descriptors in namespace shop" in error.message) == (
        Kind.RESOURCE_EXHAUSTED,
        True,
    )
    bare = service("c", namespace="shop")
    bare.descriptors = b""
    await announce(registry, OWN, bare)
    bare.nodes[0].id = "d"
    error = await refusal(announce(registry, OWN, bare))
    assert (error.kind, "3 instances registered" in error.message) == (Kind.RESOURCE_EXHAUSTED, True)
    await announce(registry, OWN, service("a", namespace="shop", address="127.0.0.1:4999"))
    await announce(registry, robot("greeter", "bank"), service("a", namespace="bank"))
