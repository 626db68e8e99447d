"""Service accounts that are remembered, and what they were before."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.accounts import MemoryAccounts
from micro.backends.memory.store import MemoryStore
from micro.backends.stored.accounts import StoredAccounts
from micro.backends.stored.workloads import ACCOUNTS, DATABASE, RuntimeRecords
from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.record import Put
from micro.ports.accounts import ServiceAccount

KEY = ("shop", "hello", "latest")
SEALING = AesGcmSealing(Keyring(base64.b64encode(bytes(32)).decode(), Path(os.devnull)))


@pytest.fixture
async def records() -> AsyncGenerator[RuntimeRecords]:
    async with AsyncExitStack() as stack:
        made = RuntimeRecords(MemoryStore(), SEALING)
        await made.start(stack)
        yield made


async def test_a_secret_that_is_known_is_not_asked_for_again(records: RuntimeRecords) -> None:
    auth = MemoryAccounts()
    made = await StoredAccounts(records, auth).ensure(*KEY)
    auth.down = True
    assert await StoredAccounts(records, auth).ensure(*KEY) == made == ServiceAccount("hello@latest", "secret-1")
    assert made.secret not in repr(made)


async def test_an_account_that_was_deleted_is_made_anew(records: RuntimeRecords) -> None:
    auth = MemoryAccounts()
    accounts = StoredAccounts(records, auth)
    before = await accounts.ensure(*KEY)
    assert await accounts.ensure(*KEY) == before
    auth.accounts.clear()
    after = await accounts.ensure(*KEY)
    assert after.secret != before.secret
    assert await accounts.ensure(*KEY) == after == auth.accounts["shop", after.id]


async def test_two_that_start_at_once_get_one_secret(records: RuntimeRecords) -> None:
    auth = MemoryAccounts()
    accounts = StoredAccounts(records, auth)
    found = await asyncio.gather(*(accounts.ensure(*KEY) for _ in range(5)))
    assert (auth.asked, set(found)) == (1, {auth.accounts["shop", "hello@latest"]})


async def test_services_of_one_name_in_two_namespaces_have_two_accounts(records: RuntimeRecords) -> None:
    accounts = StoredAccounts(records, MemoryAccounts())
    found = [await accounts.ensure(namespace, "hello", "latest") for namespace in ("shop", "bank")]
    assert found[0].secret != found[1].secret
    await accounts.remove("bank", "hello", "latest")
    assert await accounts.ensure(*KEY) == found[0]


async def test_without_auth_there_is_no_account_and_nothing_is_kept(records: RuntimeRecords) -> None:
    auth = MemoryAccounts()
    auth.down = True
    with pytest.raises(Error) as caught:
        await StoredAccounts(records, auth).ensure(*KEY)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert await records.keys(ACCOUNTS) == []


async def test_an_account_that_cannot_be_kept_is_no_account(
    records: RuntimeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: RuntimeRecords, *kept: object) -> None:
        raise errors.resource_exhausted("the disk is full")

    monkeypatch.setattr(RuntimeRecords, "write", full)
    with pytest.raises(Error, match="the account of hello cannot be kept: the disk is full") as caught:
        await StoredAccounts(records, MemoryAccounts()).ensure(*KEY)
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_what_auth_did_not_hear_of_is_removed_later(
    records: RuntimeRecords, caplog: pytest.LogCaptureFixture
) -> None:
    auth = MemoryAccounts()
    accounts = StoredAccounts(records, auth)
    kept, gone = await accounts.ensure(*KEY), await accounts.ensure("shop", "gone", "v1")
    auth.down = True
    with pytest.raises(Error):
        await accounts.remove("shop", "gone", "v1")
    await accounts.sweep(KEY.__eq__)
    assert "gone in shop is left over" in caplog.text
    assert set(auth.accounts) == {("shop", kept.id), ("shop", gone.id)}
    auth.down = False
    await accounts.sweep(KEY.__eq__)
    await accounts.sweep(KEY.__eq__)
    assert set(auth.accounts) == {("shop", kept.id)}
    assert await records.keys(ACCOUNTS) == [KEY]


async def test_one_that_is_there_again_is_not_swept_away(records: RuntimeRecords) -> None:
    auth = MemoryAccounts()
    accounts = StoredAccounts(records, auth)
    await accounts.ensure(*KEY)
    answers = iter((False, True))
    await accounts.sweep(lambda key: next(answers))
    assert set(auth.accounts) == {("shop", "hello@latest")}


@pytest.mark.parametrize("broken", [b'{"sealed": "secret-1"', b'{"id": "hello@latest", "sealed": "c2VjcmV0"}', b"[]"])
async def test_a_record_that_cannot_be_read_is_replaced_and_not_quoted(
    broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    auth, store = MemoryAccounts(), MemoryStore()
    async with AsyncExitStack() as stack:
        records = RuntimeRecords(store, SEALING)
        await records.start(stack)
        accounts = StoredAccounts(records, auth)
        await accounts.ensure(*KEY)
        await store.commit(DATABASE, [Put(ACCOUNTS, "/".join(KEY), broken)])
        await accounts.sweep(KEY.__eq__)
        assert (await accounts.ensure(*KEY)).secret == "secret-2"
        assert (await accounts.ensure(*KEY)).secret == "secret-2"
    assert "cannot be read" in caplog.text
    assert "secret-1" not in caplog.text
