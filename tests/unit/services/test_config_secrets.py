"""Secrets: who sees them, what is kept of them, and what happens when the key is not the right one."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from callers import ROOT, admin, calling, robot, user
from config_world import ADA, ANN, KEYS, SHOP, World, running

from micro.backends.memory.store import MemoryStore
from micro.domain.errors import Error, Kind
from micro.domain.record import Put
from micro.ports.store import Store
from micro.rpc.gen.micro.config.v1 import config_pb as pb

PLAIN = "correct-horse-battery"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def refused(kind: Kind, doing: Any) -> str:
    with pytest.raises(Error) as found:
        await doing
    assert found.value.kind is kind, found.value
    assert PLAIN not in str(found.value)
    return str(found.value)


async def kept(store: Store) -> str:
    """All that a store holds."""
    return "\n".join([repr(one) for database in await store.databases() async for one in store.dump(database)])


async def test_secrets_are_masked_but_for_services_and_admins_who_ask(world: World) -> None:
    await world.set("db", {"user": "u", "password": PLAIN})
    await world.set("db", {"password": PLAIN, "keys": {"a": [1, 2]}}, secret=True)
    masked = {"user": "u", "password": "[secret]", "keys": {"a": "[secret]"}}
    for by in (ANN, ADA, SHOP, ROOT):
        request = pb.GetRequest(namespace="shop", path="db")
        answer = await world.service.get(request, calling(by))
        assert answer.value is not None
        assert json.loads(answer.value.data) == masked
    for by in (ADA, SHOP):
        assert await world.get("db", by, clear=True) == {"user": "u", "password": PLAIN, "keys": {"a": [1, 2]}}
    assert await world.get("db.keys.a", SHOP, clear=True) == [1, 2]
    asked = pb.GetRequest(namespace="shop", path="db", options=pb.Options(secret=True))
    for by in (ANN, user("eve", "rival"), admin("eve", "rival"), robot("shop", "rival"), user("plain", "micro")):
        await refused(Kind.PERMISSION_DENIED, world.service.get(asked, calling(by)))


async def test_nothing_of_a_secret_is_kept_in_the_clear(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await world.set("a", {"b": PLAIN, "c": [PLAIN]}, secret=True)
    await world.set("a.b", f"{PLAIN}-2")  # stays one
    await world.set("a", f"{PLAIN}-3")
    await world.set("a.d", {"e": f"{PLAIN}-4"})
    await world.delete("a")
    await world.rollback("a", 3)
    assert await world.get("a", ADA, clear=True) == f"{PLAIN}-3"
    assert PLAIN not in await kept(world.store)
    assert PLAIN not in repr(await world.history()) + caplog.text
    assert [one.value.data for one in await world.history() if one.value] == [
        '"[secret]"', "", '{"e":"[secret]"}', '"[secret]"', '"[secret]"', '{"b":"[secret]","c":"[secret]"}',
    ]  # fmt: skip


async def test_a_secret_that_is_put_back_is_the_one_it_was(world: World) -> None:
    await world.set("p", PLAIN, secret=True)
    await world.set("p", "other")
    await world.rollback("p", 1)
    assert await world.get("p", SHOP, clear=True) == PLAIN
    assert await world.get("p") == "[secret]"


async def test_a_value_put_in_another_ones_place_is_refused(world: World) -> None:
    await world.set("a", PLAIN, secret=True)
    await world.set("b", "mine", secret=True)
    record = await world.store.read("shop", "document", "document")
    assert record is not None
    document = json.loads(record.value)
    leaves = document["leaves"]
    leaves["a"], leaves["b"] = leaves["b"], leaves["a"]
    await world.store.commit("shop", [Put("document", "document", json.dumps(document).encode())])
    assert "put there from elsewhere" in await refused(Kind.DATA_LOSS, world.get("a", ADA, clear=True))
    await refused(Kind.DATA_LOSS, world.get("", ADA, clear=True))
    assert await world.get("a") == "[secret]"


async def test_a_document_of_another_namespace_is_refused(world: World) -> None:
    await world.set("a", PLAIN, secret=True)
    stolen = [one async for one in world.store.dump("shop")]
    copied = [Put(one.table, one.record.key, one.record.value) for one in stolen]
    await world.store.commit("rival", copied)
    assert "damaged" in await refused(Kind.DATA_LOSS, world.get("a", admin("eve", "rival"), clear=True))


@pytest.mark.parametrize("given", ["", KEYS[1], "nonsense"])
async def test_without_the_right_key_all_but_secrets_is_served(given: str, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    async with running(store) as before:
        await before.set("plain", 1)
        await before.set("p", PLAIN, secret=True)
    async with running(store, given=given) as world:
        assert "secrets cannot be read in 1 namespaces (shop)" in caplog.text
        assert await world.get() == {"plain": 1, "p": "[secret]"}
        assert await world.get("plain", SHOP, clear=True) == 1
        await refused(Kind.FAILED_PRECONDITION, world.get("p", SHOP, clear=True))
        await refused(Kind.FAILED_PRECONDITION, world.set("p", PLAIN))
        await refused(Kind.FAILED_PRECONDITION, world.set("q", PLAIN, secret=True))
        await refused(
            Kind.FAILED_PRECONDITION, world.set("q", PLAIN, admin("eve", "rival"), secret=True)
        ) if given != KEYS[1] else None
        await world.set("plain", 2)
        assert (await world.history())[0].revision == 3
    async with running(store) as again:
        assert await again.get("", SHOP, clear=True) == {"plain": 2, "p": PLAIN}


async def test_who_has_lost_the_key_begins_anew_by_deleting_the_secrets() -> None:
    store = MemoryStore()
    async with running(store) as before:
        await before.set("p", PLAIN, secret=True)
    async with running(store, given=KEYS[1]) as world:
        await world.delete("p")
        await world.set("p", "fresh", secret=True)
        assert await world.get("p", SHOP, clear=True) == "fresh"
        await world.rollback("p", 1)  # what was sealed then stays closed
        await refused(Kind.FAILED_PRECONDITION, world.get("p", SHOP, clear=True))


async def test_a_lost_file_is_not_replaced_unseen(tmp_path: Path) -> None:
    file, store = tmp_path / "config.key", MemoryStore()
    async with running(store, given="", file=file) as world:
        await world.set("plain", 1)
        assert not file.exists()
        await world.set("p", PLAIN, secret=True)
        assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text()
    file.unlink()
    async with running(store, given="", file=file) as world:
        await refused(Kind.FAILED_PRECONDITION, world.set("q", PLAIN, admin("eve", "rival"), secret=True))
        await refused(Kind.FAILED_PRECONDITION, world.rotate())
        assert not file.exists()
    file.write_text(key)
    file.chmod(0o600)
    async with running(store, given="", file=file) as world:
        assert await world.get("p", SHOP, clear=True) == PLAIN


# --- rotation ---------------------------------------------------------------------------------------------------------


async def test_rotation_wraps_every_namespaces_keys_anew() -> None:
    store, eve = MemoryStore(), admin("eve", "rival")
    async with running(store) as world:
        await world.set("p", PLAIN, secret=True)
        await world.set("p", PLAIN, eve, secret=True)
        assert await world.rotate() == 0
    async with running(store, given=f"{KEYS[1]} {KEYS[0]}") as world:
        assert await world.rotate() == 2
    async with running(store, given=KEYS[1]) as world:
        assert await world.get("p", SHOP, clear=True) == PLAIN
        assert await world.get("p", eve, clear=True) == PLAIN


async def test_rotation_that_was_cut_short_harms_nothing_and_can_be_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, eve = MemoryStore(), admin("eve", "rival")
    async with running(store) as world:
        await world.set("p", PLAIN, secret=True)
        await world.set("p", PLAIN, eve, secret=True)
    both = f"{KEYS[1]} {KEYS[0]}"
    async with running(store, given=both) as world:
        commit = store.commit

        async def cut(database: str, operations: Any) -> Any:
            if database == "shop":
                raise Error(Kind.UNAVAILABLE, "cut")
            return await commit(database, operations)

        monkeypatch.setattr(store, "commit", cut)
        with pytest.raises(Error, match="1 namespaces were wrapped anew, 1 not"):
            await world.rotate()
        monkeypatch.undo()
    async with running(store, given=both) as world:
        assert await world.get("p", SHOP, clear=True) == PLAIN
        assert await world.get("p", eve, clear=True) == PLAIN
        assert await world.rotate() == 1


async def test_a_key_of_our_own_is_replaced_by_a_new_one(tmp_path: Path) -> None:
    file, store = tmp_path / "config.key", MemoryStore()
    async with running(store, given="", file=file) as world:
        await world.set("p", PLAIN, secret=True)
        old = file.read_text()
        assert await world.rotate() == 1
        assert file.read_text().split()[1:] == old.split()
        assert await world.get("p", SHOP, clear=True) == PLAIN
    file.write_text(file.read_text().split()[0])  # the old one is not needed any more
    async with running(store, given="", file=file) as world:
        assert await world.get("p", SHOP, clear=True) == PLAIN
