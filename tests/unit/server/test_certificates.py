"""The operator's certificate: what is refused, and how changes of its files arrive."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from authority import Authority
from micro.backends.envoy.secrets import Files
from micro.domain.errors import Error, Kind
from micro.ports import background
from micro.server.certificates import Certificates
from micro.server.own_client import LIFE, OwnClient


class Place:
    """A folder with an authority, and where the listeners look."""

    def __init__(self, folder: Path, clients: bool = False) -> None:
        self.authority = Authority(folder)
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.served = folder / "served"
        self.served.mkdir()
        self.files = Files(self.served / "certificate.json", self.served / "clients.json" if clients else None)
        self.shown = folder / "shown.pem"
        self.put("first")
        self.made = Certificates(self.cert, self.key, self.authority.file if clients else None, self.files, self.shown)

    def put(self, name: str) -> bytes:
        chain, key = self.authority.issue(name)
        self.cert.write_bytes(chain)
        self.key.write_bytes(key)
        return chain

    def in_use(self) -> str:
        [secret] = json.loads(self.files.certificate.read_text())["resources"]
        return str(secret["tls_certificate"]["certificate_chain"]["inline_string"])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refusal(place: Place) -> str:
    with pytest.raises(Error) as caught:
        place.made.load()
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert "\n" not in caught.value.message
    return caught.value.message


def test_certificate_and_key_arrive_together_and_are_nobody_elses_to_read(place: Place) -> None:
    place.made.load()
    assert place.in_use() == place.cert.read_text() == place.shown.read_text()
    [secret] = json.loads(place.files.certificate.read_text())["resources"]
    assert secret["tls_certificate"]["private_key"]["inline_string"] == place.key.read_text()
    assert place.files.certificate.stat().st_mode & 0o777 == 0o600


def test_authorities_of_clients_arrive_too(tmp_path: Path) -> None:
    place = Place(tmp_path, clients=True)
    place.made.load()
    assert place.files.clients is not None
    [secret] = json.loads(place.files.clients.read_text())["resources"]
    assert secret["validation_context"]["trusted_ca"]["inline_string"] == place.authority.file.read_text()
    place.authority.file.write_text("nonsense")
    assert "--tls-client-ca" in refusal(place)


def test_what_is_wrong_is_told_in_one_line_that_names_the_file(place: Place) -> None:
    chain, key = place.cert.read_bytes(), place.key.read_bytes()
    other_chain, other_key = place.authority.issue("other")
    old_chain, old_key = place.authority.issue("old", days=-1)
    odd_chain, odd_key = place.authority.issue("odd", key=ed25519.Ed25519PrivateKey.generate())
    weak_chain, weak_key = place.authority.issue("weak", key=rsa.generate_private_key(65537, 1024))
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    for wrong_chain, wrong_key, words in (
        (chain, other_key, "does not fit"),
        (other_chain, key, "does not fit"),
        (old_chain, old_key, "has ended on"),
        (odd_chain, odd_key, "of a kind that is not offered"),
        (weak_chain, weak_key, "of a kind that is not offered"),
        (chain, locked, "passphrase"),
        (chain, chain, "not a private key"),
        (b"nonsense", key, "tls.crt is not a certificate in PEM"),
        (b"\xff\x00", key, "tls.crt is not in PEM"),
        (b"", key, "not a certificate"),
    ):
        place.cert.write_bytes(wrong_chain)
        place.key.write_bytes(wrong_key)
        assert words in refusal(place)
    place.key.unlink()
    assert "tls.key cannot be read: No such file" in refusal(place)
    assert not place.files.certificate.exists()


class Followed:
    """Certificates that are followed, with what was told."""

    def __init__(self, place: Place, stack: AsyncExitStack) -> None:
        self.place = place
        self.told: asyncio.Queue[str] = asyncio.Queue()
        place.made.load()
        background.spawn(stack, place.made.follow(self.told.put_nowait), "following")

    async def next(self) -> str:
        async with asyncio.timeout(20):
            return await self.told.get()


@pytest.mark.parametrize("how", ["in place", "renamed", "links"])
async def test_new_files_are_used_however_they_were_written(tmp_path: Path, how: str) -> None:
    place = Place(tmp_path)
    versions = iter(tmp_path / f"version-{number}" for number in range(10))

    def swap(name: str) -> bytes:
        """As Kubernetes does: files that are links through a link to a folder, which is replaced."""
        folder = next(versions)
        folder.mkdir()
        chain, key = place.authority.issue(name)
        (folder / "tls.crt").write_bytes(chain)
        (folder / "tls.key").write_bytes(key)
        (tmp_path / "fresh").symlink_to(folder.name)
        (tmp_path / "fresh").replace(tmp_path / "..data")
        return chain

    def rename(name: str) -> bytes:
        chain, key = place.authority.issue(name)
        for file, content in ((place.cert, chain), (place.key, key)):
            (tmp_path / "draft").write_bytes(content)
            (tmp_path / "draft").replace(file)
        return chain

    if how == "links":
        swap("first")
        for file in (place.cert, place.key):
            file.unlink()
            file.symlink_to(Path("..data", file.name))
    async with AsyncExitStack() as stack:
        followed = Followed(place, stack)
        for name in ("second", "third"):
            chain = {"in place": place.put, "renamed": rename, "links": swap}[how](name)
            assert "was read again" in await followed.next()
            assert place.in_use().encode() == chain


async def test_a_bad_file_is_told_once_and_changes_nothing(place: Place) -> None:
    async with AsyncExitStack() as stack:
        followed = Followed(place, stack)
        before = place.in_use()
        place.cert.write_text("nonsense")
        said = await followed.next()
        assert "tls.crt is not a certificate in PEM" in said
        assert said.endswith("the certificate in use stays")
        assert place.in_use() == before
        place.cert.unlink()
        assert "cannot be read" in await followed.next()
        chain = place.put("second")
        assert "was read again" in await followed.next()
        assert place.in_use().encode() == chain
        assert followed.told.empty()


class Clock:
    """A day that passes when it is told to."""

    def __init__(self) -> None:
        self.time = dt.datetime.now(dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.time


def accepted(client: Path, clients: Path, folder: Path) -> bool:
    """Whether a server that trusts these clients' authorities takes what is in the file."""
    authority = Authority(folder)
    server, caller = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(*authority.write("server"))
    server.load_verify_locations(clients)
    server.verify_mode = ssl.CERT_REQUIRED
    caller.load_verify_locations(authority.file)
    caller.load_cert_chain(client, client)
    there, here, back, forth = (ssl.MemoryBIO() for _ in range(4))
    left = caller.wrap_bio(there, here, server_hostname="localhost")
    right = server.wrap_bio(back, forth, server_side=True)
    for _ in range(4):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
            back.write(here.read())
            there.write(forth.read())
    return right.getpeercert() is not None


def test_the_own_command_line_has_a_certificate_that_this_server_alone_takes(tmp_path: Path) -> None:
    place = Place(tmp_path)
    file, clock = tmp_path / "client.pem", Clock()
    own = OwnClient(file, clock)
    files = Files(place.served / "certificate.json", place.served / "clients.json")
    made = Certificates(place.cert, place.key, place.authority.file, files, place.shown, own)
    made.load()
    assert file.stat().st_mode & 0o777 == 0o600
    assert files.clients is not None
    [secret] = json.loads(files.clients.read_text())["resources"]
    trusted, bundle = secret["validation_context"]["trusted_ca"]["inline_string"], tmp_path / "clients.pem"
    assert trusted.startswith(place.authority.file.read_text())
    bundle.write_text(trusted)
    assert accepted(file, bundle, tmp_path)
    assert not accepted(file, place.authority.file, tmp_path), "the operator's authority has not made it"
    bundle.write_bytes(OwnClient(tmp_path / "another.pem").authority)
    assert not accepted(file, bundle, tmp_path), "nor has another server"

    first = file.read_bytes()
    clock.time += LIFE / 2 - dt.timedelta(seconds=1)
    own.renew()
    assert file.read_bytes() == first
    for passed in (dt.timedelta(seconds=1), -LIFE, 3 * LIFE):
        clock.time += passed
        own.renew()
        assert file.read_bytes() != first, "it is half over, or the clock was changed"
        first = file.read_bytes()
        [leaf] = x509.load_pem_x509_certificates(first)
        assert leaf.not_valid_before_utc < clock.time < leaf.not_valid_after_utc
    bundle.write_text(trusted)
    clock.time = dt.datetime.now(dt.UTC)
    own.renew()
    assert accepted(file, bundle, tmp_path), "the authority stays"
