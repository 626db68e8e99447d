"""Who is let in by a NATS that somebody else runs, and what is said to whom is not: with real servers."""

import base64
import binascii
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authority import Authority
from micro.backends.nats import _nkeys
from micro.backends.nats import check as nats_check
from micro.backends.nats._connection import Connection, NatsAddress
from micro.backends.nats.check import check
from micro.domain import errors
from micro.domain.record import Durability
from micro.ports import private_file
from micro.ports.free_address import free_address, free_addresses
from micro.testing.nats import NatsNode

Kind = errors.Kind

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3
PASSWORD = "it's @ secret, really/"
ENCODED = "it%27s%20%40%20secret%2C%20really%2F"


def _written(body: bytes) -> str:
    return base64.b32encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "little")).decode().rstrip("=")


class Key:
    """A key of NATS's of any kind."""

    def __init__(self, kind: int) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.seed = _written(bytes([18 << 3 | kind >> 5, (kind & 31) << 3]) + self._key.private_bytes_raw())
        self.public = _written(bytes([kind]) + self._key.public_key().public_bytes_raw())

    def sign(self, subject: str, claims: dict[str, object]) -> str:
        """A JWT as NATS writes it."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {"jti": subject, "iat": int(time.time()), "iss": self.public, "sub": subject, "name": "test"}
        parts = [json.dumps(part).encode() for part in (head, {**body, "nats": {"version": 2, **claims}})]
        text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
        signature = base64.urlsafe_b64encode(self._key.sign(text.encode())).decode().rstrip("=")
        return f"{text}.{signature}"


class Places(NamedTuple):
    """Addresses of servers that run, and the key that the first knows."""

    plain: str
    tls: str
    mutual: str
    bare: str
    nkey: Key


def _tls(authority: Authority, more: str = "") -> str:
    cert, key = authority.write("server")
    return f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{authority.file}" {more} }}\n'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Places]:
    folder, nkey = tmp_path_factory.mktemp("servers"), Key(USER)
    user = f"user: me, password: {json.dumps(PASSWORD)}"
    users = (
        f"accounts {{ A {{ jetstream: enabled, users: [{{ {user} }}, {{ nkey: {nkey.public} }}] }}\n"
        "  B { users: [{ user: poor, password: poor }] } }\n"
    )
    told = {
        "plain": users,
        "tls": _tls(authority),
        "mutual": _tls(authority, ", verify: true"),
        "bare": "authorization { token: token }\n",
    }
    found = free_addresses(2 * len(told))
    nodes = []
    try:
        for (name, text), listen, monitor in zip(told.items(), found[::2], found[1::2], strict=True):
            storage = "" if name == "bare" else f'jetstream {{ store_dir: "{folder / name}" }}\n'
            nodes.append(NatsNode(folder / name, listen, monitor, text + storage))
            nodes[-1].spawn()
        for node in nodes:
            node.start()
        yield Places(*(node.listen for node in nodes), nkey)
    finally:
        for node in nodes:
            node.kill()


def _private(path: Path, text: str) -> Path:
    private_file.write(path, text)
    return path


async def _refused(address: NatsAddress, kind: Kind, *words: str, replicas: int = 1) -> None:
    with pytest.raises(errors.Error) as caught:
        await check(address, replicas)
    assert caught.value.kind is kind, caught.value
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message
    for secret in (PASSWORD, ENCODED, "wrong-password"):
        assert secret not in caught.value.message


async def test_a_user_with_a_password_is_let_in(places: Places) -> None:
    address = NatsAddress.parse(f"nats://me:{ENCODED}@{places.plain}")
    found = await check(address, 1)
    assert found.cluster == ""
    assert "max_payload" in "".join(found.advice)
    assert PASSWORD not in repr(address)
    assert address.durability(1) is Durability.SERVER


async def test_a_wrong_password_is_told_at_once(places: Places) -> None:
    await _refused(
        NatsAddress.parse(f"nats://me:wrong-password@{places.plain}"), Kind.FAILED_PRECONDITION, "MICRO_NATS_URL"
    )
    await _refused(NatsAddress.parse(f"nats://{places.plain}"), Kind.FAILED_PRECONDITION, "refuses the credentials")


async def test_a_server_without_jetstream_is_of_no_use(places: Places) -> None:
    for address in (f"nats://poor:poor@{places.plain}", f"nats://token@{places.bare}"):
        await _refused(NatsAddress.parse(address), Kind.FAILED_PRECONDITION, "JetStream")


async def test_a_release_that_is_too_old_is_of_no_use(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_check, "OLDEST", (99, 1, 0))
    address = NatsAddress.parse(f"nats://me:{ENCODED}@{places.plain}")
    await _refused(address, Kind.FAILED_PRECONDITION, "99.1.0 is the oldest that micro works with: update it")


async def test_a_release_without_batches_is_told_of(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    address = NatsAddress.parse(f"nats://me:{ENCODED}@{places.plain}")
    assert "a batch of events" not in "".join((await check(address, 1)).advice)
    monkeypatch.setattr(nats_check, "WITH_BATCHES", (99, 1, 0))
    assert "a batch of events is published one by one" in "".join((await check(address, 1)).advice)


async def test_one_server_keeps_no_three_replicas(places: Places) -> None:
    address = NatsAddress.parse(f"nats://me:{ENCODED}@{places.plain}")
    await _refused(address, Kind.FAILED_PRECONDITION, "MICRO_NATS_REPLICAS", replicas=3)


async def test_nobody_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro.backends.nats.check.CHECK_SECONDS", 0.3)
    await _refused(NatsAddress.parse(f"nats://{free_address()}"), Kind.UNAVAILABLE, "is it running?")


async def test_a_seed_lets_in_and_another_does_not(places: Places, tmp_path: Path) -> None:
    address = NatsAddress(f"nats://{places.plain}", nkey=_private(tmp_path / "user.nk", places.nkey.seed + "\n"))
    await check(address, 1)
    _private(tmp_path / "user.nk", Key(USER).seed)
    await _refused(address, Kind.FAILED_PRECONDITION, "MICRO_NATS_NKEY")


async def test_the_key_is_read_anew_for_each_connection(places: Places, tmp_path: Path) -> None:
    """So a file that is replaced counts when the connection comes back."""
    file = _private(tmp_path / "user.nk", places.nkey.seed)
    async with AsyncExitStack() as stack:
        connection = Connection(NatsAddress(f"nats://{places.plain}", nkey=file))
        await connection.start(stack)
        assert connection.client.sign("nonce")
        file.unlink()
        with pytest.raises(Exception, match="No such file"):
            connection.client.sign("nonce")


async def test_a_credentials_file_lets_in(tmp_path: Path) -> None:
    """A server that knows an operator, and accounts by the operator's word."""
    operator, account, system, user = Key(OPERATOR), Key(ACCOUNT), Key(ACCOUNT), Key(USER)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    told = {"type": "account", "limits": {**limits, "wildcards": True}}
    rich = {"type": "account", "limits": {**limits, "wildcards": True, **storage}}
    files = (
        f"operator: {operator.sign(operator.public, {'type': 'operator'})}\nsystem_account: {system.public}\n"
        f"resolver: MEMORY\nresolver_preload {{\n{account.public}: {operator.sign(account.public, rich)}\n"
        f"{system.public}: {operator.sign(system.public, told)}\n}}\n"
        f'jetstream {{ store_dir: "{tmp_path / "data"}" }}\n'
    )
    jwt = account.sign(user.public, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    written = (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\nkeep it\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    creds = _private(tmp_path / "user.creds", written)
    node = NatsNode(tmp_path / "n", *free_addresses(2), files)
    try:
        node.start()
        address = NatsAddress(f"nats://{node.listen}", credentials=creds)
        await check(address, 1)
        await _refused(replace(address, credentials=None), Kind.FAILED_PRECONDITION, "MICRO_NATS_CREDENTIALS")
    finally:
        node.kill()


async def test_a_certificate_of_a_known_authority_is_trusted(places: Places, authority: Authority) -> None:
    await check(NatsAddress(f"tls://{places.tls}", ca=authority.file), 1)
    # The server asks for encryption: the authority alone says that it is wanted.
    await check(NatsAddress(f"nats://{places.tls}", ca=authority.file), 1)


async def test_an_unknown_authority_is_not(places: Places, tmp_path: Path) -> None:
    await _refused(NatsAddress(f"tls://{places.tls}"), Kind.FAILED_PRECONDITION, "not trusted", "MICRO_NATS_CA")
    stranger = Authority(tmp_path).file
    await _refused(NatsAddress(f"tls://{places.tls}", ca=stranger), Kind.FAILED_PRECONDITION, "not trusted")


async def test_a_certificate_of_ours_is_shown_to_who_asks(places: Places, authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.write("client")
    address = NatsAddress(
        f"tls://{places.mutual}", ca=authority.file, cert=cert, key=_private(tmp_path / "k", key.read_text())
    )
    await check(address, 1)
    await _refused(replace(address, cert=None, key=None), Kind.FAILED_PRECONDITION, "MICRO_NATS_CERT")


async def test_nothing_is_sent_in_clear_that_was_to_be_encrypted(places: Places, authority: Authority) -> None:
    address = NatsAddress(f"tls://{places.plain}", "me", PASSWORD, ca=authority.file)
    await _refused(address, Kind.FAILED_PRECONDITION, "no TLS")


async def test_a_server_that_encrypts_says_what_to_write(places: Places) -> None:
    await _refused(NatsAddress(f"nats://{places.tls}"), Kind.FAILED_PRECONDITION, "tls://")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nats://",
        "http://h:4222",
        "nats://me:secret@",
        "nats://me:se,cret@h:4222",
        "nats://h:x",
        "nats://h:99999",
        "nats://a b:4222",
        "nats://h:4222/secret",
        "nats://a:1,tls://b:2",
        "nats://me:secret@a:1,nats://you:secret@b:2",
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(errors.Error, match="MICRO_NATS_URL") as caught:
        NatsAddress.parse(url)
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert "secret" not in caught.value.message
    assert "cret" not in caught.value.message.replace("secrets", "")


def test_files_that_are_not_right_are_told_by_name(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.write("files")
    key.chmod(0o600)
    text = _private(tmp_path / "text", "hello\n")
    open_file = _private(tmp_path / "open", Key(USER).seed)
    open_file.chmod(0o644)
    account = _private(tmp_path / "account", Key(ACCOUNT).seed)
    other = _private(tmp_path / "other.key", authority.issue("other")[1].decode())
    place = NatsAddress("nats://h:4222")
    for address, *words in (
        (replace(place, nkey=tmp_path / "none"), "MICRO_NATS_NKEY", "No such file"),
        (replace(place, nkey=tmp_path), "MICRO_NATS_NKEY", "directory"),
        (replace(place, nkey=open_file), "MICRO_NATS_NKEY", "chmod 600"),
        (replace(place, nkey=text), "MICRO_NATS_NKEY", "no seed"),
        (replace(place, nkey=account), "MICRO_NATS_NKEY", "not a user's"),
        (replace(place, credentials=text), "MICRO_NATS_CREDENTIALS", "no credentials file"),
        (replace(place, ca=text), "MICRO_NATS_CA", "no certificate"),
        (replace(place, ca=tmp_path / "none"), "MICRO_NATS_CA", "No such file"),
        (replace(place, cert=cert, key=other), "MICRO_NATS_KEY", "belong together"),
    ):
        with pytest.raises(errors.Error) as caught:
            address.check()
        assert caught.value.kind is Kind.FAILED_PRECONDITION
        assert "\n" not in caught.value.message
        assert all(word in caught.value.message for word in words), caught.value.message
    replace(place, ca=authority.file, cert=cert, key=key).check()


def test_a_seed_is_read_as_nats_writes_it() -> None:
    """By a key whose two forms are known."""
    seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
    assert _nkeys.Nkey(seed).public == "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
    for wrong in (seed[:-1] + "X", seed.lower(), "SU", "", "é", seed + seed):
        with pytest.raises(ValueError, match="is no") as caught:
            _nkeys.Nkey(wrong)
        assert len(wrong) < 3 or wrong not in str(caught.value)
