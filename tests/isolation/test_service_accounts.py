"""Accounts that the runtime makes for services, and what auth removes with a namespace, between the real services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from isolation_calls import Direct
from isolation_world import SHARED, A, B, World, running

from micro.backends.remote.accounts import RemoteAccounts
from micro.backends.remote.tenants import RemoteTenants
from micro.backends.stored.workloads import ACCOUNTS, WORKLOADS
from micro.domain.account import Type
from micro.domain.errors import Error, Kind
from micro.rpc.gen.micro.auth.v1 import auth_pb as auth
from micro.rpc.gen.micro.runtime.v1 import runtime_pb as runtime


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


def client(world: World) -> Any:
    return Direct(world.apps, lambda: world.headers(("runtime", "micro")), world.tell)


async def kind(call: Any) -> Kind:
    with pytest.raises(Error) as caught:
        await call
    assert "\n" not in caught.value.message
    return caught.value.kind


async def test_an_account_is_the_service_s_and_holds_nothing(world: World) -> None:
    accounts = RemoteAccounts(client(world))
    made = await accounts.ensure(A, "hello", "v1")
    world.secrets[made.id, A] = made.secret
    await world.login((made.id, A))
    account = await world.store.account(A, made.id)
    assert account is not None
    assert (account.type, account.service, account.scopes) == (Type.SERVICE, "hello", frozenset())
    assert await accounts.exists(A, "hello", "v1")
    assert not await accounts.exists(A, "hello", "v2")
    assert not await accounts.exists(B, "hello", "v1")
    again = await accounts.ensure(A, "hello", "v1")
    assert (again.id, again.secret != made.secret) == (made.id, True)
    assert await kind(world.login((made.id, A))) is Kind.UNAUTHENTICATED, "the secret that was lost holds no more"
    await accounts.remove(A, "hello", "v1")
    await accounts.remove(A, "hello", "v1")
    assert await world.store.account(A, made.id) is None
    assert not await accounts.exists(A, "hello", "v1")


async def test_no_two_services_share_an_account(world: World) -> None:
    accounts = RemoteAccounts(client(world))
    one, other = await accounts.ensure(A, "a-b", "c"), await accounts.ensure(A, "a", "b-c")
    for made in (one, other):
        world.secrets[made.id, A] = made.secret
        await world.login((made.id, A))


@pytest.mark.parametrize(
    ("type_", "scopes", "metadata"),
    [
        ("user", [], {}),
        ("user", ["admin"], {"service": "ann", "version": "smith"}),
        ("service", ["admin"], {"service": "ann", "version": "smith"}),
        ("service", [], {"service": "ann-smith", "version": ""}),
        ("service", [], {}),
    ],
)
async def test_a_service_takes_over_nobody_s_account(
    world: World, type_: str, scopes: list[str], metadata: dict[str, str]
) -> None:
    made = auth.GenerateRequest(
        id="ann@smith", secret="her own secret", namespace=A, type=type_, scopes=scopes, metadata=metadata
    )
    await world.as_root("/micro.auth.v1.Auth/Generate", made)
    world.secrets["ann@smith", A] = "her own secret"
    accounts = RemoteAccounts(client(world))
    assert await kind(accounts.ensure(A, "ann", "smith")) is Kind.ALREADY_EXISTS
    await accounts.remove(A, "ann", "smith")
    await world.login(("ann@smith", A))


async def test_a_service_does_not_take_somebody_s_name_either(world: World) -> None:
    named = auth.GenerateRequest(id="jane", name="ann@smith", namespace=A)
    await world.as_root("/micro.auth.v1.Auth/Generate", named)
    accounts = RemoteAccounts(client(world))
    assert await kind(accounts.ensure(A, "ann", "smith")) is Kind.ALREADY_EXISTS


async def test_a_service_is_who_it_says_and_its_account_goes_with_it(world: World) -> None:
    name = await world.workload(A, f"ann-{A}")
    [id_] = [id_ for id_, namespace in world.secrets if id_ == f"{name}@latest"]
    await world.login((id_, A))
    gone = runtime.DeleteRequest(name=name, namespace=A)
    await world.as_root("/micro.runtime.v1.Runtime/Delete", gone)
    assert await kind(world.login((id_, A))) is Kind.UNAUTHENTICATED
    assert (A, name, "latest") not in await world.kept.keys(ACCOUNTS)


async def test_what_a_namespace_holds_is_counted_and_ended_with_it(world: World) -> None:
    tenants = RemoteTenants(*[client(world)] * 5)
    await world.node(A, "by-hand")
    assert (await tenants.count(A), await tenants.count(B), await tenants.count("nowhere")) == (2, 1, 0)
    assert (await tenants.tables(A), await tenants.tables("nowhere")) == (1, 0)
    assert (await tenants.blobs(A), await tenants.blobs("nowhere")) == (1, 0)
    assert (await tenants.topics(A), await tenants.topics("nowhere")) == (1, 0)
    path, whole = "/micro.auth.v1.Namespaces/Delete", auth.NamespacesDeleteRequest(name=A, force=True)
    part = auth.NamespacesDeleteRequest(name=A)
    assert await kind(world.as_root(path, part)) is Kind.FAILED_PRECONDITION
    await world.as_root(path, whole)
    await world.as_root("/micro.auth.v1.Namespaces/Create", auth.NamespacesCreateRequest(name=A))
    world.tell()
    assert (await tenants.count(A), await tenants.tables(A), await tenants.blobs(A)) == (0, 0, 0)
    assert not (world.home / "namespaces" / A).exists()
    assert not [key for table in (ACCOUNTS, WORKLOADS) for key in await world.kept.keys(table) if key[0] == A]
    logs = runtime.LogsRequest(name=SHARED, namespace=A)
    assert await kind(world.as_root("/micro.runtime.v1.Runtime/Logs", logs)) is Kind.NOT_FOUND
    assert await kind(world.login((f"adm-{A}", A))) is Kind.UNAUTHENTICATED
    assert (await tenants.topics(A), await tenants.topics(B)) == (0, 1)
    assert (await tenants.count(B), await tenants.tables(B), await tenants.blobs(B)) == (1, 1, 1)
    await world.login((f"{SHARED}@latest", B))
    await tenants.end("nowhere")
