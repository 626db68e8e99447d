"""Sealing: what is opened, and everything that is not."""

from __future__ import annotations

import base64
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.domain.errors import Error, Kind

KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(3)]
NOWHERE = Path("/nonexistent/config.key")


def sealing(*keys: str, file: Path = NOWHERE) -> AesGcmSealing:
    return AesGcmSealing(Keyring(" ".join(keys), file))


@settings(max_examples=30, deadline=None)
@given(st.text(), st.text(min_size=1))
def test_a_secret_is_opened_where_it_was_sealed(text: str, path: str) -> None:
    one = sealing(KEYS[0])
    key = one.create("shop")
    sealed = one.seal("shop", key, path, text)
    assert one.open("shop", key, path, sealed) == text
    assert one.seal("shop", key, path, text) != sealed


def test_it_is_opened_nowhere_else() -> None:
    one = sealing(KEYS[0])
    key, other = one.create("shop"), one.create("shop")
    sealed = one.seal("shop", key, "db.password", "hunter2")
    for namespace, by, path in [
        ("shop", key, "db.user"),
        ("shop", other, "db.password"),
        ("rival", key, "db.password"),
    ]:
        with pytest.raises(Error) as refused:
            one.open(namespace, by, path, sealed)
        assert refused.value.kind is Kind.DATA_LOSS
        assert "hunter2" not in str(refused.value)


def test_every_flipped_bit_is_refused() -> None:
    one = sealing(KEYS[0])
    key = one.create("shop")
    sealed = base64.b64decode(one.seal("shop", key, "a", "x"))
    for place in range(8 * len(sealed)):
        broken = bytearray(sealed)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(Error, match="damaged"):
            one.open("shop", key, "a", base64.b64encode(bytes(broken)).decode())
    for place in range(8 * len(key.wrapped)):
        broken = bytearray(key.wrapped)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(Error, match="damaged"):
            one.check("shop", dataclasses.replace(key, wrapped=bytes(broken)))
    for rubbish in ("", "!", "AA==", sealed[:12].hex()):
        with pytest.raises(Error, match="damaged"):
            one.open("shop", key, "a", rubbish)


def test_another_key_opens_nothing_and_says_which_is_missing() -> None:
    key = sealing(KEYS[0]).create("shop")
    with pytest.raises(Error, match=f"sealed with key {key.wrapped_by}") as refused:
        sealing(KEYS[1]).check("shop", key)
    assert refused.value.kind is Kind.FAILED_PRECONDITION
    assert KEYS[0] not in str(refused.value)
    assert KEYS[1] not in str(refused.value)


def test_the_newest_key_wraps_and_the_others_open() -> None:
    old = sealing(KEYS[0])
    key = old.create("shop")
    sealed = old.seal("shop", key, "a", "x")
    both = sealing(f"{KEYS[1]},{KEYS[0]}")
    assert both.open("shop", key, "a", sealed) == "x"
    both.renew()
    fresh = both.rewrap("shop", key)
    assert fresh.id == key.id
    assert sealing(KEYS[1]).open("shop", fresh, "a", sealed) == "x"
    assert both.rewrap("shop", fresh).wrapped_by == fresh.wrapped_by


def test_a_key_of_our_own_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "config.key"
    one = sealing(file=file)
    assert not one.has_key()
    with pytest.raises(Error, match=r"put .*config\.key back"):
        one.create("shop")
    one.begin()
    one.begin()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text().split()) == 1
    key = one.create("shop")
    sealing(file=file).check("shop", key)
    one.renew()
    assert len(file.read_text().split()) == 2
    again = sealing(file=file)
    again.check("shop", key)
    assert again.rewrap("shop", key).wrapped_by != key.wrapped_by


def test_the_file_goes_on_opening_when_a_variable_takes_over(tmp_path: Path) -> None:
    file = tmp_path / "config.key"
    before = sealing(file=file)
    before.begin()
    key = before.create("shop")
    after = sealing(KEYS[0], file=file)
    after.renew()
    moved = after.rewrap("shop", key)
    file.unlink()
    sealing(KEYS[0], file=file).check("shop", moved)


def test_a_key_that_is_lost_is_not_replaced_unseen(tmp_path: Path) -> None:
    file, known = tmp_path / "config.key", tmp_path / "data" / "key-ids"
    known.parent.mkdir()

    def begin(given: str = "") -> None:
        Keyring(given, file, known).begin()

    begin()
    begin()
    kept = file.read_text()
    file.unlink()
    with pytest.raises(Error, match=r"put .*config\.key back from your backup"):
        begin()
    with pytest.raises(Error, match="which is not there"):
        begin(KEYS[0])
    assert not file.exists()
    file.write_text(kept)
    file.chmod(0o600)
    begin(KEYS[0])  # the variable takes over, with the old one still there
    file.unlink()
    begin(KEYS[0])


def test_several_processes_share_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.key"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: sealing(file=file).begin(), range(32)))
    assert [each.name for each in tmp_path.iterdir()] == ["config.key"]
    one, other = sealing(file=file), sealing(file=file)
    before = other.create("shop")
    one.renew()  # seen there at once
    after = other.create("shop")
    assert after.wrapped_by != before.wrapped_by
    for key in (before, after):
        one.check("shop", key)
        other.check("shop", key)


@pytest.mark.parametrize("given", ["x", "AAAA", KEYS[0][:-4], f"{KEYS[0]} nonsense"])
def test_what_is_no_key_is_refused_and_not_quoted(given: str) -> None:
    with pytest.raises(Error, match="MICRO_CONFIG_SECRET_KEY holds something that is no key") as refused:
        sealing(given).has_key()
    assert refused.value.kind is Kind.FAILED_PRECONDITION
    assert given not in str(refused.value)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.key"
    file.write_text(KEYS[0])
    file.chmod(0o640)
    with pytest.raises(Error, match="chmod 600"):
        sealing(file=file).create("shop")
    file.chmod(0o600)
    sealing(file=file).create("shop")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Error, match="no key"):
        sealing(file=file).create("shop")
    assert sealing(KEYS[0], file=file).has_key()


def test_no_rotation_loses_a_key_that_something_is_still_sealed_with(tmp_path: Path) -> None:
    one = sealing(file=tmp_path / "config.key")
    one.begin()
    key = one.create("auth")  # which takes up the newest when it is started again, and not before
    for _ in range(40):
        one.renew()
    sealing(file=tmp_path / "config.key").check("auth", key)
