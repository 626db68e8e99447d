"""Service accounts that are remembered, and what they were before."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from micro.backends.files.accounts import FileAccounts
from micro.backends.memory.accounts import MemoryAccounts
from micro.domain.errors import Error, Kind
from micro.ports.accounts import ServiceAccount

KEY = ("shop", "hello", "latest")


async def test_a_secret_that_is_known_is_not_asked_for_again(tmp_path: Path) -> None:
    auth = MemoryAccounts()
    made = await FileAccounts(tmp_path, auth).ensure(*KEY)
    auth.down = True
    assert await FileAccounts(tmp_path, auth).ensure(*KEY) == made == ServiceAccount("hello@latest", "secret-1")
    [file] = (tmp_path / "shop/accounts").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (tmp_path / "shop", file.parent)} == {0o700}
    assert made.secret not in repr(made)


async def test_an_account_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    auth = MemoryAccounts()
    accounts = FileAccounts(tmp_path, auth)
    before = await accounts.ensure(*KEY)
    assert await accounts.ensure(*KEY) == before
    auth.accounts.clear()
    after = await accounts.ensure(*KEY)
    assert after.secret != before.secret
    assert await accounts.ensure(*KEY) == after == auth.accounts["shop", after.id]


async def test_two_that_start_at_once_get_one_secret(tmp_path: Path) -> None:
    auth = MemoryAccounts()
    accounts = FileAccounts(tmp_path, auth)
    found = await asyncio.gather(*(accounts.ensure(*KEY) for _ in range(5)))
    assert (auth.asked, set(found)) == (1, {auth.accounts["shop", "hello@latest"]})


async def test_services_of_one_name_in_two_namespaces_have_two_accounts(tmp_path: Path) -> None:
    accounts = FileAccounts(tmp_path, MemoryAccounts())
    found = [await accounts.ensure(namespace, "hello", "latest") for namespace in ("shop", "bank")]
    assert found[0].secret != found[1].secret
    await accounts.remove("bank", "hello", "latest")
    assert await accounts.ensure(*KEY) == found[0]


async def test_without_auth_there_is_no_account_and_nothing_is_kept(tmp_path: Path) -> None:
    auth = MemoryAccounts()
    auth.down = True
    with pytest.raises(Error) as caught:
        await FileAccounts(tmp_path, auth).ensure(*KEY)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert not (tmp_path / "shop").exists()


async def test_an_account_that_cannot_be_kept_is_no_account(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/accounts").write_text("a file where the folder should be")
    with pytest.raises(Error) as caught:
        await FileAccounts(tmp_path, MemoryAccounts()).ensure(*KEY)
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_what_auth_did_not_hear_of_is_removed_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    auth = MemoryAccounts()
    accounts = FileAccounts(tmp_path, auth)
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
    assert len(list((tmp_path / "shop/accounts").iterdir())) == 1


async def test_one_that_is_there_again_is_not_swept_away(tmp_path: Path) -> None:
    auth = MemoryAccounts()
    accounts = FileAccounts(tmp_path, auth)
    await accounts.ensure(*KEY)
    answers = iter((False, True))
    await accounts.sweep(lambda key: next(answers))
    assert set(auth.accounts) == {("shop", "hello@latest")}


async def test_a_record_that_cannot_be_read_is_replaced_and_not_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    auth = MemoryAccounts()
    accounts = FileAccounts(tmp_path, auth)
    await accounts.ensure(*KEY)
    [file] = (tmp_path / "shop/accounts").iterdir()
    for broken in ('{"secret": "secret-1"', json.dumps({"secret": "secret-1"}), "[]"):
        file.write_text(broken)
        await accounts.sweep(KEY.__eq__)
        await accounts.ensure(*KEY)
    assert auth.asked == 4
    assert "cannot be read" in caplog.text
    assert "secret-1" not in caplog.text
    assert list(file.parent.iterdir()) == [file]
