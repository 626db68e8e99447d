"""Tenants of one runtime: what is whose, how much of it, and as whom it runs."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from callers import ROOT, admin, calling, user
from runtime_world import World, archive, messages, running

from micro.backends.process.logs import LogWriter
from micro.domain import errors
from micro.domain.account import Account
from micro.domain.errors import Error, Kind
from micro.domain.namespace import Quota
from micro.domain.workload import Workload
from micro.rpc.gen.micro.runtime.v1 import runtime_pb as pb
from micro.services.runtime import Source

ANN, BOB, BOSS, FOE = user("ann"), user("bob"), admin("boss"), admin("foe", "bank")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    made = World(tmp_path)
    made.quotas["bank"] = Quota()
    async with running(made):
        yield made


async def upload(world: World, by: Account, namespace: str = "", data: bytes = b"") -> str:
    source = Source(world.host.sources, world.quotas.get)

    async def pieces() -> AsyncIterator[pb.UploadRequest]:
        async for message in messages(data or archive("ok")):
            message.namespace = namespace
            yield message

    return (await source.upload(pieces(), calling(by))).id


async def create(world: World, by: Account, name: str = "hello", *, version: str = "", **asked: Any) -> pb.Service:
    upload_id = asked.pop("upload_id", "") or await upload(world, by)
    service = pb.Service(name=name, version=version)
    request = pb.CreateRequest(service=service, upload_id=upload_id, wait=True, **asked)
    found = (await world.runtime.create(request, calling(by))).service
    assert found is not None
    return found


async def update(world: World, by: Account, name: str = "hello", namespace: str = "shop", **asked: Any) -> None:
    service = pb.Service(name=name, namespace=namespace)
    await world.runtime.update(pb.UpdateRequest(service=service, wait=True, **asked), calling(by))


async def delete(world: World, by: Account, name: str = "hello", namespace: str = "shop") -> None:
    await world.runtime.delete(pb.DeleteRequest(name=name, namespace=namespace), calling(by))


async def read(world: World, by: Account, namespace: str = "") -> list[pb.Service]:
    return list((await world.runtime.read(pb.ReadRequest(namespace=namespace), calling(by))).services)


async def logs(world: World, by: Account, name: str, namespace: str = "") -> list[str]:
    request = pb.LogsRequest(name=name, namespace=namespace)
    return [line.message async for line in world.runtime.logs(request, calling(by))]


async def refused(call: Any) -> Kind:
    with pytest.raises(Error) as caught:
        await call
    assert "\n" not in caught.value.message
    return caught.value.kind


async def test_a_service_is_changed_by_its_owner_and_by_admins(world: World) -> None:
    made = await create(world, ANN)
    assert (made.namespace, made.owner) == ("shop", "shop/ann")
    assert [service.owner for service in await read(world, BOB)] == ["shop/ann"], "everybody of the namespace sees it"
    for other in (BOB, FOE, user("plain", "micro")):
        assert await refused(update(world, other)) is Kind.PERMISSION_DENIED
        assert await refused(delete(world, other)) is Kind.PERMISSION_DENIED
    await update(world, ANN)
    await update(world, BOSS)
    assert (await read(world, ANN))[0].owner == "shop/ann", "an update gives it to nobody else"
    await delete(world, ROOT)
    assert await read(world, ANN) == []


async def test_an_account_that_is_made_anew_owns_nothing_of_the_one_before(world: World) -> None:
    first, second = (replace(ANN, created=f"2026-01-0{day}T00:00:00.000Z") for day in (1, 2))
    await create(world, first)
    for later in (second, ANN):
        assert await refused(update(world, later)) is Kind.PERMISSION_DENIED
        assert await refused(delete(world, later)) is Kind.PERMISSION_DENIED
        assert await refused(create(world, later, version="v2")) is Kind.PERMISSION_DENIED
    await world.stack.aclose()
    await world.start()
    assert await refused(delete(world, second)) is Kind.PERMISSION_DENIED, "also by what was kept"
    await delete(world, first)


async def test_a_new_version_is_for_who_has_the_others(world: World) -> None:
    await create(world, ANN)
    assert await refused(create(world, BOB, version="v2")) is Kind.PERMISSION_DENIED
    assert await refused(create(world, BOB)) is Kind.PERMISSION_DENIED
    await create(world, ANN, version="v2")
    await create(world, BOSS, version="v3")
    assert await refused(create(world, ANN, version="v4")) is Kind.PERMISSION_DENIED, "now one of them is the admin's"


@pytest.mark.parametrize(("first", "second"), [("books", "books.call"), ("books.call", "books")])
async def test_a_name_whose_paths_lie_below_anothers_is_for_its_owner(world: World, first: str, second: str) -> None:
    await create(world, ANN, first)
    assert await refused(create(world, BOB, second)) is Kind.PERMISSION_DENIED
    await create(world, BOB, "bookshop")
    await create(world, FOE, second, upload_id=await upload(world, FOE))
    await create(world, ANN, second)
    await create(world, BOSS, "books.more")


async def test_a_name_that_was_registered_by_hand_is_joined_by_admins_only(world: World) -> None:
    world.traffic.by_hand = {("shop", "books")}
    for name in ("books", "books.call"):
        assert await refused(create(world, ANN, name)) is Kind.PERMISSION_DENIED
    await create(world, BOSS, "books")


async def test_a_name_that_begins_with_one_of_the_platform_is_no_name(world: World) -> None:
    for by in (ANN, ROOT):
        assert await refused(create(world, by, "auth.auth")) is Kind.INVALID_ARGUMENT


async def test_a_failed_start_is_not_taken_over_by_others(world: World) -> None:
    with pytest.raises(Error):
        await create(world, ANN, upload_id=await upload(world, ANN, data=archive("crash")))
    assert await refused(create(world, BOB)) is Kind.PERMISSION_DENIED
    await create(world, ANN)


async def test_an_upload_is_of_who_made_it_and_where(world: World) -> None:
    anns = await upload(world, ANN)
    assert await refused(create(world, BOB, upload_id=anns)) is Kind.NOT_FOUND
    assert await refused(create(world, FOE, upload_id=anns)) is Kind.NOT_FOUND
    elsewhere = await upload(world, ROOT, "bank")
    service = pb.Service(name="hello", namespace="shop")
    request = pb.CreateRequest(service=service, upload_id=elsewhere, wait=True)
    assert await refused(world.runtime.create(request, calling(ROOT))) is Kind.NOT_FOUND
    assert await read(world, ANN) == []
    await create(world, ANN, upload_id=anns)
    assert await refused(upload(world, ANN, "bank")) is Kind.PERMISSION_DENIED


async def test_output_is_for_the_namespace_and_of_core_services_for_the_platform(world: World) -> None:
    await create(world, ANN)
    LogWriter(world.home / "shop/logs/hello/latest.log").write("x", [("info", "of the shop")])
    LogWriter(world.home / "core/core/auth.log").write("auth", [("info", "of the platform")])
    assert await logs(world, BOB, "hello") == ["of the shop"]
    assert await logs(world, ROOT, "hello", "shop") == ["of the shop"]
    assert await refused(logs(world, FOE, "hello", "shop")) is Kind.PERMISSION_DENIED
    assert await refused(logs(world, FOE, "hello")) is Kind.NOT_FOUND
    for caller in (BOSS, user("plain", "micro")):
        assert await refused(logs(world, caller, "auth")) is Kind.PERMISSION_DENIED
    assert await logs(world, ROOT, "auth", "shop") == ["of the platform"]


async def test_tenants_share_a_name_and_no_folder(world: World) -> None:
    for account in (ANN, FOE):
        await create(world, account)
    assert {spec.cwd.relative_to(world.home).parts[0] for spec in world.launcher.running.values()} == {"shop", "bank"}
    await delete(world, FOE, namespace="bank")
    assert [service.name for service in await read(world, ANN)] == ["hello"]
    for namespace in ("shop", "bank"):
        for folder in (world.home / namespace, *(world.home / namespace).rglob("*/")):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


async def test_a_process_gets_the_account_of_its_service_and_nobody_else_its_secret(world: World) -> None:
    made = await create(world, ANN)
    [spec] = world.launcher.started
    account = world.accounts.accounts["shop", "hello@latest"]
    assert (spec.env["MICRO_AUTH_ID"], spec.env["MICRO_AUTH_SECRET"]) == (account.id, account.secret)
    assert account.secret not in str((spec.argv, spec.labels, made, await read(world, ANN), account, world.host))
    await delete(world, ANN)
    assert world.accounts.accounts == {}


async def test_no_service_starts_without_an_account(world: World) -> None:
    world.accounts.down = True
    for wait in (True, False):
        request = pb.CreateRequest(service=pb.Service(name="hello"), upload_id=await upload(world, ANN), wait=wait)
        assert await refused(world.runtime.create(request, calling(ANN))) is Kind.UNAVAILABLE
        assert await read(world, ANN) == []
    assert await world.workloads.list() == []
    world.accounts.down = False
    await create(world, ANN)
    world.accounts.down = True
    await delete(world, ANN)
    assert await read(world, ANN) == [], "an account that is left over keeps nobody from ending a service"


async def test_quotas_hold_for_starts_at_the_same_time(world: World) -> None:
    world.quotas["shop"] = Quota(services=2)
    starts = [create(world, ANN, f"hello-{number}") for number in range(5)]
    found = await asyncio.gather(*starts, return_exceptions=True)
    refusals = [each for each in found if isinstance(each, Error)]
    assert [each.kind for each in refusals] == [Kind.RESOURCE_EXHAUSTED] * 3
    assert "quota services of namespace shop is 2" in refusals[0].message
    assert "micro namespace quota shop" in refusals[0].message
    assert len(await read(world, ANN)) == 2
    await create(world, FOE)
    await delete(world, BOSS, (await read(world, ANN))[0].name)
    await create(world, ANN, "another")


async def test_the_quota_of_instances_counts_updates_under_way(world: World) -> None:
    world.quotas["shop"] = Quota(instances=5)
    await create(world, ANN, "a", instances=2)
    await create(world, ANN, "b", instances=1)
    assert await refused(create(world, ANN, "c", instances=3)) is Kind.RESOURCE_EXHAUSTED
    grown = await asyncio.gather(
        update(world, ANN, "a", instances=4), update(world, ANN, "b", instances=3), return_exceptions=True
    )
    [late] = [each for each in grown if isinstance(each, Error)]
    assert late.kind is Kind.RESOURCE_EXHAUSTED
    assert "quota instances of namespace shop is 5" in late.message
    assert sum(len(service.instances) for service in await read(world, ANN)) == 5
    world.quotas["shop"] = Quota(instances=3)
    await update(world, ANN, "a", instances=3)
    await update(world, ANN, "a")
    assert sum(len(service.instances) for service in await read(world, ANN)) == 4, "what is there may stay, and shrink"


async def test_a_quota_of_nothing_is_no_limit(world: World) -> None:
    world.quotas["shop"] = Quota(services=0, instances=0, upload=0)
    for number in range(3):
        await create(world, ANN, f"hello-{number}", instances=3)
    assert len(world.launcher.running) == 9


async def test_the_quota_of_uploads_is_of_one_archive(world: World) -> None:
    world.quotas["shop"] = Quota(upload=100)
    with pytest.raises(Error, match="quota upload of namespace shop") as caught:
        await upload(world, ANN, data=b"x" * 101)
    assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
    assert world.left("shop/uploads") == []
    await upload(world, ANN, data=b"x" * 100)


async def test_a_namespace_that_there_is_none_of_is_not_found(world: World) -> None:
    ready = await upload(world, ANN)
    del world.quotas["shop"]
    assert await refused(upload(world, ANN)) is Kind.NOT_FOUND
    assert await refused(create(world, ANN, upload_id=ready)) is Kind.NOT_FOUND
    assert await refused(read(world, ROOT, "shop")) is Kind.NOT_FOUND


async def test_what_is_left_of_a_namespace_can_be_seen_and_ended(world: World) -> None:
    await create(world, ANN)
    del world.quotas["shop"]
    assert [service.name for service in await read(world, ROOT, "shop")] == ["hello"]
    await delete(world, ROOT)
    assert world.launcher.running == {}


async def test_a_purge_leaves_nothing_and_nobody_else_is_touched(world: World) -> None:
    for name in ("a", "b"):
        await create(world, ANN, name)
        LogWriter(world.home / f"shop/logs/{name}/latest.log").write("x", [("info", "secret of the shop")])
    await upload(world, ANN)
    await create(world, FOE)
    purge = pb.PurgeRequest(namespace="shop")
    assert await refused(world.runtime.purge(purge, calling(BOSS))) is Kind.PERMISSION_DENIED
    assert await refused(world.runtime.purge(pb.PurgeRequest(), calling(ROOT))) is Kind.INVALID_ARGUMENT
    going = asyncio.ensure_future(world.runtime.purge(purge, calling(ROOT)))
    await asyncio.sleep(0)
    assert await refused(create(world, ANN, "c", upload_id="0" * 32)) is Kind.ABORTED
    await going
    assert not (world.home / "shop").exists()
    assert [labels.labels["namespace"] for labels in world.launcher.running.values()] == ["bank"]
    assert await refused(logs(world, ANN, "a")) is Kind.NOT_FOUND, "who gets the name next finds no output"
    await world.runtime.purge(purge, calling(ROOT))
    await create(world, ANN, "a")


async def test_what_was_kept_before_there_were_owners_is_for_admins(world: World) -> None:
    await create(world, ANN)
    [kept] = await world.workloads.list()
    await world.stack.aclose()
    await world.workloads.put(Workload(*kept.key, instances=1, generation=1, revision=1))
    await world.start()
    assert [service.owner for service in await read(world, ANN)] == [""]
    assert await refused(update(world, ANN)) is Kind.PERMISSION_DENIED
    await update(world, BOSS)


async def test_a_handler_without_a_guard_opens_nothing_up(world: World) -> None:
    nobody = calling(None)
    calls: list[Any] = [
        world.runtime.read(pb.ReadRequest(), nobody),
        world.runtime.create(pb.CreateRequest(service=pb.Service(name="hello")), nobody),
        world.runtime.update(pb.UpdateRequest(service=pb.Service(name="hello")), nobody),
        world.runtime.delete(pb.DeleteRequest(name="hello"), nobody),
        world.runtime.purge(pb.PurgeRequest(namespace="shop"), nobody),
        anext(aiter(world.runtime.logs(pb.LogsRequest(name="hello"), nobody))),
        Source(world.host.sources, world.quotas.get).upload(messages(archive("ok")), nobody),
    ]
    for call in calls:
        assert await refused(call) is errors.Kind.UNAUTHENTICATED
