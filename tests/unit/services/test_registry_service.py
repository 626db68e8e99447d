"""What is registered, found and refused."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from callers import CORE, calling, user
from registry_world import CTX, nodes, refusal, register, running, service

from micro.domain import errors
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.services.registry import RegistryService


@pytest.fixture
async def registry() -> AsyncGenerator[RegistryService]:
    async with running() as (registry, _):
        yield registry


async def test_a_registered_service_is_found_with_all_it_told(registry: RegistryService) -> None:
    await register(registry, service())
    (found,) = (await registry.get_service(pb.GetServiceRequest(name="greeter"), CTX)).services
    assert found == pb.Service(**{**_fields(service()), "namespace": "micro"})


def _fields(message: pb.Service) -> dict[str, Any]:
    names = ("name", "version", "namespace", "metadata", "nodes", "endpoints", "descriptors")
    fields = {name: getattr(message, name) for name in names}
    fields["endpoints"] = [
        pb.Endpoint(name=e.name, path=e.path, kind=e.kind, request=pb.Value(), response=pb.Value())
        for e in message.endpoints
    ]
    return fields


async def test_a_service_is_one_entry_a_version_with_all_its_nodes(registry: RegistryService) -> None:
    for entry in (service("b"), service("c", version="v2"), service("a"), service("z", name="adder")):
        await register(registry, entry)
    listed = (await registry.list_services(pb.ListServicesRequest(), CTX)).services
    assert [(entry.name, entry.version, [node.id for node in entry.nodes]) for entry in listed] == [
        ("adder", "latest", ["z"]),
        ("greeter", "latest", ["a", "b"]),
        ("greeter", "v2", ["c"]),
    ]
    assert not any(entry.descriptors for entry in listed), "descriptors are for GetService"


async def test_namespaces_do_not_see_each_other_but_all_see_the_core(registry: RegistryService) -> None:
    await register(registry, service("mine", namespace="mine"))
    await registry.register(pb.RegisterRequest(service=service("store-1", name="store")), calling(CORE))
    mine = calling(user("ann", "mine"))
    assert (await registry.get_service(pb.GetServiceRequest(name="greeter"), mine)).services
    assert (await registry.get_service(pb.GetServiceRequest(name="store"), mine)).services
    error = await refusal(registry.get_service(pb.GetServiceRequest(name="greeter"), CTX))
    assert error.kind is errors.Kind.NOT_FOUND
    assert "greeter" in error.message
    assert list(await nodes(registry, "mine")) == [("mine", "greeter", "mine")]


async def test_a_name_of_the_platform_cannot_be_taken_elsewhere(registry: RegistryService) -> None:
    error = await refusal(register(registry, service(name="auth", namespace="mine")))
    assert error.kind is errors.Kind.PERMISSION_DENIED


async def test_deregistering_takes_one_instance_out_and_twice_is_fine(registry: RegistryService) -> None:
    await register(registry, service("a"))
    await register(registry, service("b"))
    request = pb.DeregisterRequest(name="greeter", node_id="a")
    first = await registry.deregister(request, CTX)
    second = await registry.deregister(request, CTX)
    assert second.revision == first.revision
    assert list(await nodes(registry)) == [("micro", "greeter", "b")]


async def test_registering_the_same_again_changes_nothing(registry: RegistryService) -> None:
    first = await register(registry, service())
    assert await register(registry, service()) == first
    assert await register(registry, service(version="v2")) > first


async def test_a_new_process_on_a_reused_address_takes_the_place_of_the_old_one(registry: RegistryService) -> None:
    await register(registry, service("old", address="127.0.0.1:5000"))
    await register(registry, service("other", address="127.0.0.1:5001"))
    await register(registry, service("new", name="adder", address="127.0.0.1:5000"))
    assert set(await nodes(registry)) == {("micro", "greeter", "other"), ("micro", "adder", "new")}


async def test_an_instance_may_move_to_another_address(registry: RegistryService) -> None:
    await register(registry, service("a", address="127.0.0.1:5000"))
    await register(registry, service("a", address="127.0.0.1:5001"))
    await register(registry, service("b", address="127.0.0.1:5000"))
    assert {key[2] for key in await nodes(registry)} == {"a", "b"}


@pytest.mark.parametrize(
    ("entry", "ttl", "word"),
    [
        (None, 0, "service is missing"),
        (pb.Service(name="greeter"), 0, "0 nodes"),
        (pb.Service(name="Not A Name", nodes=[pb.Node(id="a", address="h:1")]), 0, "not a service name"),
        (service(namespace="No!"), 0, "not a namespace"),
        (service(version="no version"), 0, "not a version"),
        (pb.Service(name="greeter", nodes=[pb.Node(id="", address="h:1")]), 0, "not a node id"),
        (pb.Service(name="greeter", nodes=[pb.Node(id="a b", address="h:1")]), 0, "not a node id"),
        *[
            (service(address=address), 0, "not an address")
            for address in ("here", "host:", ":80", "host:0", "host:65536", "host:-1", "ho st:80", "::1:80", "a:1\n")
        ],
        *[
            (
                pb.Service(name="greeter", nodes=service().nodes, endpoints=[pb.Endpoint(name="A.B", timeout=odd)]),
                0,
                "A.B",
            )
            for odd in (float("inf"), float("nan"), -1.0, 1e20, 1e10)
        ],
        (service(), 0.5, "ttl"),
        (service(), 3601, "ttl"),
        (service(), -1, "ttl"),
        (service(), float("nan"), "ttl"),
        (pb.Service(name="greeter", metadata={"k": "v" * 20000}, nodes=service().nodes), 0, "too large"),
    ],
)
async def test_a_wrong_registration_is_refused_and_changes_nothing(
    registry: RegistryService, entry: pb.Service | None, ttl: float, word: str
) -> None:
    error = await refusal(registry.register(pb.RegisterRequest(service=entry, ttl=ttl), CTX))
    assert error.kind is errors.Kind.INVALID_ARGUMENT
    assert word in error.message
    assert "\n" not in error.message
    assert await nodes(registry) == {}


async def test_descriptors_beyond_the_limit_are_refused(registry: RegistryService) -> None:
    entry = service()
    entry.descriptors = bytes(4 * 1024 * 1024 + 1)
    assert (await refusal(register(registry, entry))).kind is errors.Kind.RESOURCE_EXHAUSTED


async def test_ipv6_and_host_names_are_addresses(registry: RegistryService) -> None:
    for number, address in enumerate(("[::1]:8080", "greeter.svc.cluster.local:65535")):
        await register(registry, service(f"n{number}", address=address))
    assert len(await nodes(registry)) == 2


async def test_deregistering_needs_a_name_and_a_node(registry: RegistryService) -> None:
    for request in (pb.DeregisterRequest(name="greeter"), pb.DeregisterRequest(node_id="a")):
        assert (await refusal(registry.deregister(request, CTX))).kind is errors.Kind.INVALID_ARGUMENT
