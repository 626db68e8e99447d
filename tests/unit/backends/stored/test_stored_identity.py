"""What identity leaves in its store: as much as is needed, and no secret in the clear."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.store import MemoryStore
from micro.backends.sqlite.store import SqliteStore
from micro.backends.stored import _layout as layout
from micro.backends.stored.identity import DATABASE, StoredIdentity
from micro.domain.account import Account
from micro.domain.errors import Error, Kind
from micro.domain.namespace import Namespace
from micro.domain.record import Put
from micro.domain.rule import Resource, Rule
from micro.ports.identity import AUDIT_EACH, Entry, RefreshTokenReusedError, Revoked, Session, SigningKey
from micro.ports.store import Store

ONE, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
JANE = Account("jane", "micro", "Jane")
ENTRY = Entry(1.0, "micro/admin", "account.create", "jane", "micro", "")
REVOKED = Revoked("micro", "jane's", 1.0, 2.0)
NOW = 1_800_000_000.0


def hashed(text: str) -> bytes:
    return text.encode().rjust(32, b"\0")


def session(id_: str, account: Account = JANE, created: float = NOW) -> Session:
    return Session(id_, account.id, account.namespace, hashed(id_), created, created, created + 3600)


@asynccontextmanager
async def opened(store: Store, key: str = ONE) -> AsyncGenerator[StoredIdentity]:
    async with AsyncExitStack() as stack:
        made = StoredIdentity(store, AesGcmSealing(Keyring(key, Path(os.devnull))))
        await made.start(stack)
        yield made


async def left(store: Store, *kept: str) -> list[str]:
    """Keys in all tables but these, as soon as nobody clears away any more."""
    while True:
        tables = [table for table in await store.tables(DATABASE) if table not in ("deployment", "sealing", *kept)]
        if layout.LEFTOVERS not in tables:
            return [
                f"{table}: {each.record.key}" async for each in store.dump(DATABASE) if (table := each.table) in tables
            ]
        await asyncio.sleep(0.005)


async def test_a_namespace_leaves_nothing_but_its_part_of_the_audit_log() -> None:
    store = MemoryStore()
    async with opened(store) as identity:
        await identity.create_namespace(Namespace("shop"))
        for number in range(3):
            account = replace(JANE, id=f"a{number}", namespace="shop", name="")
            await identity.create_account(account, "x", replace(ENTRY, namespace="shop"))
            await identity.create_rule(Rule(f"r{number}", "shop", "*", Resource()))
            await identity.open_session(session(f"s{number}", account))
            for turn in range(3):
                used, fresh = (f"s{number}", *(f"t{number}-{each}" for each in range(3)))[turn : turn + 2]
                await identity.rotate(hashed(used), hashed(fresh), NOW + turn, NOW + 3600)
        await identity.delete_namespace("shop")
        assert await left(store, "namespaces", "audit") == []
        await identity.create_account(JANE, "x")
        await identity.open_session(session("later"))
        await identity.delete_account("micro", "jane", REVOKED)
        assert await left(store, "namespaces", "audit", "revoked") == []


async def test_what_a_killed_process_did_not_clear_away_the_next_one_does() -> None:
    store = MemoryStore()
    async with opened(store) as identity:
        await identity.create_namespace(Namespace("shop"))
        await identity.create_account(replace(JANE, namespace="shop"), "x")
        home = (await identity._records.read("namespaces", "shop"))["home"]
    await store.commit(DATABASE, [Put(layout.LEFTOVERS, f"{home}/", b"0")])
    async with opened(store):
        assert await left(store, "namespaces") == []


async def test_sessions_that_have_ended_leave_nothing() -> None:
    store = MemoryStore()
    async with opened(store) as identity:
        await identity.create_account(JANE, "x")
        for number in range(30):
            await identity.open_session(session(f"s{number}"))
            await identity.rotate(hashed(f"s{number}"), hashed(f"t{number}"), NOW + 1, NOW + 3600)
        await identity.end_sessions("micro", REVOKED, session="s0")
        for number in range(3):
            await identity.open_session(session(f"later{number}", created=NOW + 4000))
        found = await left(store, "namespaces", "accounts", "called", "revoked")
        assert len(found) == 3 * len([layout.SESSIONS, layout.PLACES, layout.TOKENS, layout.ENDS])


async def test_the_audit_log_makes_room_in_the_store_too(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    async with opened(store) as identity:
        for first in range(0, AUDIT_EACH + 12_000, 4000):
            await identity.record(*(replace(ENTRY, namespace="loud", action=str(first + each)) for each in range(4000)))
            await asyncio.sleep(0)
        await identity.record(ENTRY)
    async with opened(store) as identity:
        async with asyncio.timeout(10):
            while await held(store) > AUDIT_EACH + 500:
                await asyncio.sleep(0.005)
        found = await identity.audit("loud", limit=100_000)
        assert (len(found), found[0].action) == (AUDIT_EACH, str(AUDIT_EACH + 11_999))


async def held(store: Store) -> int:
    """Entries in the store."""
    keys = [each.record.key async for each in store.dump(DATABASE) if each.table == layout.AUDIT]
    return sum(int(key.partition("/")[0].partition(".")[2]) for key in keys)


async def test_several_work_on_one_store_and_none_undoes_what_another_does() -> None:
    store = MemoryStore()
    async with opened(store) as one, opened(store) as other:
        assert await one.issuer() == await other.issuer()
        firsts = await asyncio.gather(*(each.create_first(JANE, "x", ENTRY) for each in (one, other)))
        assert sorted(firsts) == [False, True]
        accounts = [replace(JANE, id=f"a{number}", name="wanted") for number in range(8)]
        found = await asyncio.gather(
            *((one, other)[number % 2].create_account(each, "x", ENTRY) for number, each in enumerate(accounts)),
            return_exceptions=True,
        )
        assert [type(each) for each in found].count(Error) == 7
        assert len(await one.audit()) == 2
        await one.open_session(session("s"))
        turns = await asyncio.gather(
            *((one, other)[number % 2].rotate(hashed("s"), hashed(f"t{number}"), NOW, NOW + 9) for number in range(8)),
            return_exceptions=True,
        )
        assert [type(each) for each in turns].count(RefreshTokenReusedError) == 7


async def test_entries_stay_in_order_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    for number, time in enumerate((2_000_000_000, 1_000_000_000, 1_500_000_000)):
        monkeypatch.setattr("micro.backends.stored._audit.time.time_ns", lambda time=time: time * 10**9)
        async with opened(store) as identity:
            await identity.record(*(replace(ENTRY, action=f"{number}{each}") for each in "ab"))
    async with opened(store) as identity:
        assert [each.action for each in await identity.audit()] == ["2b", "2a", "1b", "1a", "0b", "0a"]


async def test_private_keys_are_sealed(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as identity:
        await identity.add_key(SigningKey("a", b"-----BEGIN PRIVATE KEY-----", NOW), 2)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b'"a"' in content
    assert b"PRIVATE KEY" not in content
    assert b"PRIVATE KEY".hex().encode() not in content
    async with opened(SqliteStore(tmp_path)) as identity:
        assert [key.private for key in await identity.keys()] == [b"-----BEGIN PRIVATE KEY-----"]
    with pytest.raises(Error, match="sealed with key") as caught:
        async with opened(SqliteStore(tmp_path), OTHER):
            pass
    assert caught.value.kind is Kind.FAILED_PRECONDITION


async def test_it_is_not_healthy_once_damage_was_found(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as identity:
        await identity.create_account(JANE, "x")
        assert identity.healthy()
        with contextlib.closing(sqlite3.connect(tmp_path / f"{DATABASE}.db")) as connection:
            connection.execute("UPDATE record SET value = x'00'")
            connection.commit()
        with pytest.raises(Error, match="database auth is damaged"):
            await identity.account("micro", "jane")
        assert not identity.healthy()


async def test_a_record_that_is_none_of_ours_is_told() -> None:
    store = MemoryStore()
    async with opened(store) as identity:
        await identity.create_account(JANE, "x")
        home = (await identity._records.read("namespaces", "micro"))["home"]
        await store.commit(DATABASE, [Put(layout.ACCOUNTS, f"{home}/jane", b"\xff{")])
        with pytest.raises(Error, match="restore a backup") as caught:
            await identity.account("micro", "jane")
        assert caught.value.kind is Kind.DATA_LOSS
