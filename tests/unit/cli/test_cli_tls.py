"""Environments behind TLS: always checked, and a failure says what to do."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_platform import FakePlatform
from shell import Shell

from micro.cli import tls
from micro.cli.http1 import Tls


@dataclass
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey


def issue(folder: Path, name: str, by: Pair | None = None, host: str = "127.0.0.1", days: int = 1) -> Pair:
    """A certificate for an address or a name; an authority of its own where nobody signs it."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    place = x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=3))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([place]), critical=False)
        .sign(by.private if by else private, hashes.SHA256())
    )
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key", made, private)
    pair.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    unlocked = serialization.NoEncryption()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unlocked)
    pair.key.write_bytes(pem)
    return pair


def secure(platform: FakePlatform, pair: Pair, clients: Pair | None = None) -> None:
    """Have a platform speak TLS from now on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.cert)
    server = platform._server
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]


@pytest.fixture
def authority(tmp_path: Path) -> Pair:
    return issue(tmp_path, "authority")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home", "127.0.0.1:1")


@pytest.fixture
def remote(tmp_path: Path, authority: Pair) -> Iterator[FakePlatform]:
    """A platform behind a certificate of the authority."""
    platform = FakePlatform()
    secure(platform, issue(tmp_path, "server", authority))
    with platform:
        yield platform


def test_everything_works_behind_tls_and_the_authoritys_file_may_go(
    shell: Shell, remote: FakePlatform, authority: Pair, tmp_path: Path
) -> None:
    added = shell("env", "add", "prod", remote.address, "--ca", str(authority.cert), "--description", "the real one")
    assert added.out == f"prod added, at https://{remote.address}; to use it: micro env set prod\n"
    authority.cert.unlink()
    shell("env", "set", "prod")
    assert json.loads(shell("env", "-o", "json").out)[-1]["description"] == "the real one"
    assert shell("services").code == 0
    assert shell("helloworld", "call", "--name=Ann").code == 0
    assert len(shell("logs", "helloworld").out.splitlines()) == 5
    rounds = "".join(f'{{"stroke": {number}}}\n' for number in range(200))
    assert len(shell("helloworld", "ping_pong", stdin=rounds).out.splitlines()) == 200
    (tmp_path / "helloworld").mkdir()
    (tmp_path / "helloworld" / "main.py").write_text("# a service\n")
    (tmp_path / "helloworld" / "data").write_bytes(bytes(range(256)) * 8192)
    assert shell("run", str(tmp_path / "helloworld")).code == 0
    assert shell("kill", "helloworld").code == 0


def test_an_unknown_authority_is_named_with_the_next_step(shell: Shell, remote: FakePlatform) -> None:
    shell("env", "add", "prod", f"https://{remote.address}")
    result = shell("--env", "prod", "services")
    assert (result.code, result.out) == (4, "")
    assert result.err.startswith(f"micro: no secure connection to {remote.address}: its certificate comes from nobody")
    assert result.err.endswith(f"give its authority's: micro env add prod {remote.address} --ca FILE\n")
    assert not remote.calls


def test_what_the_line_says_to_type_helps(shell: Shell, remote: FakePlatform, authority: Pair) -> None:
    shell("env", "add", "prod", f"https://{remote.address}")
    assert shell("env", "add", "prod", remote.address, "--ca", str(authority.cert)).code == 0
    assert shell("--env", "prod", "services").code == 0


@pytest.mark.parametrize(
    ("host", "days", "why"),
    [
        ("10.1.2.3", 1, "its certificate is not for 127.0.0.1: use a name that the certificate has"),
        ("prod.example.com", 1, "its certificate is not for 127.0.0.1: use a name that the certificate has"),
        ("127.0.0.1", -1, "certificate has expired: renew the certificate there, or set this machine's clock"),
    ],
)
def test_names_and_dates_are_checked(
    shell: Shell, authority: Pair, tmp_path: Path, host: str, days: int, why: str
) -> None:
    platform = FakePlatform()
    secure(platform, issue(tmp_path, "server", authority, host, days))
    with platform:
        shell("env", "add", "prod", platform.address, "--ca", str(authority.cert))
        result = shell("--env", "prod", "services")
    assert (result.code, result.err) == (4, f"micro: no secure connection to {platform.address}: {why}\n")


def test_plain_and_secure_are_told_apart(shell: Shell, remote: FakePlatform, platform: FakePlatform) -> None:
    shell("env", "add", "plain", f"https://{platform.address}")
    assert shell("--env", "plain", "services").err == (
        f"micro: no secure connection to {platform.address}: it does not speak TLS; where that is meant: "
        f"micro env add plain http://{platform.address}\n"
    )
    assert shell("env", "add", "plain", f"http://{platform.address}").code == 0
    assert shell("--env", "plain", "services").code == 0
    shell("env", "add", "secure", remote.address)
    result = shell("--env", "secure", "services")
    assert result.code == 4
    assert result.err.endswith(f"; where it speaks TLS: micro env add secure https://{remote.address}\n")


def test_a_server_that_wants_to_know_its_clients(shell: Shell, authority: Pair, tmp_path: Path) -> None:
    platform = FakePlatform()
    secure(platform, issue(tmp_path, "server", authority), authority)
    client = issue(tmp_path, "client", authority)
    with platform:
        shell("env", "add", "prod", platform.address, "--ca", str(authority.cert))
        result = shell("--env", "prod", "services")
        assert result.code == 4
        assert f"micro env add prod {platform.address} --cert FILE --key FILE" in result.err
        files = ["--cert", str(client.cert), "--key", str(client.key)]
        assert shell("env", "add", "prod", platform.address, *files).code == 0
        client.key.unlink()
        assert shell("--env", "prod", "services").code == 0
        stranger = issue(tmp_path, "stranger")
        files = ["--cert", str(stranger.cert), "--key", str(stranger.key)]
        shell("env", "add", "prod", platform.address, *files)
        told = shell("--env", "prod", "services").err
        assert "it refuses your certificate; give one that its authority made: micro env add prod" in told
        told = shell("--env", "prod", "health").err
        assert len(told.splitlines()) == 1
        assert "it refuses your certificate" in told
    kept = shell.home / "environments" / "prod"
    assert {path.name: path.stat().st_mode & 0o777 for path in kept.iterdir()} == {
        "ca.pem": 0o600,
        "cert.pem": 0o600,
        "key.pem": 0o600,
    }
    shell("env", "del", "prod")
    assert not kept.exists()


def test_files_that_are_none_are_refused_when_they_are_given(shell: Shell, authority: Pair, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    junk, cert = str(tmp_path / "junk"), str(authority.cert)
    for words, message in (
        (["--ca", junk], f"{junk}: give certificates in PEM"),
        (["--ca", f"{junk}s"], f"cannot read {junk}s: no such file"),
        (["--cert", cert], "--cert and --key belong together: give both"),
        (
            ["--cert", cert, "--key", junk],
            f"{cert} and {junk}: give a certificate in PEM and its key without a passphrase",
        ),
    ):
        result = shell("env", "add", "prod", "127.0.0.1:1", *words)
        assert (result.code, result.err) == (2, f"micro: {message}\n")
    result = shell("env", "add", "prod", "http://127.0.0.1:1", "--ca", cert)
    assert result.err == "micro: 'http://127.0.0.1:1' is reached without TLS, which --ca is for: leave out http://\n"
    assert not (shell.home / "environments").exists()


def test_the_server_of_the_same_home_is_known_by_its_certificate(shell: Shell, authority: Pair, tmp_path: Path) -> None:
    """Whatever names are in it; and no other certificate will do, not even one of the same authority."""
    service = tmp_path / "service"
    service.mkdir()
    (service / "main.py").write_text("")
    mine, other = (issue(tmp_path, name, authority, "prod.example.com") for name in ("mine", "other"))
    for shown, code in ((mine, 0), (other, 4)):
        platform = FakePlatform()
        secure(platform, shown)
        state: dict[str, object] = {"pid": 1, "proxy_address": platform.address, "api_address": "127.0.0.1:18080"}
        state |= {"tls_cert": str(mine.cert), "accounts": True}
        (shell.home / "server" / "state.json").write_text(json.dumps(state))
        with platform:
            result = shell("services")
            assert (result.code, "certificate" in result.err) == (code, bool(code)), result.err
            ran = shell("run", str(service), "--name=helloworld")
            assert (ran.code, "curl https://127.0.0.1:18080/helloworld/call" in ran.out) == (code, not code)
            assert ('-H "authorization: Bearer $(micro user token)"' in ran.out) == (not code)
    assert not shell("env").err


def test_the_server_of_the_same_home_has_left_it_a_certificate(shell: Shell, authority: Pair, tmp_path: Path) -> None:
    mine, own = issue(tmp_path, "mine", authority), issue(tmp_path, "own", authority)
    file = tmp_path / "client.pem"
    platform = FakePlatform()
    secure(platform, mine, authority)
    service = tmp_path / "service"
    service.mkdir()
    (service / "main.py").write_text("")
    state: dict[str, object] = {"pid": 1, "proxy_address": platform.address, "api_address": "127.0.0.1:18080"}
    state |= {"tls_cert": str(mine.cert)}
    with platform:
        (shell.home / "server" / "state.json").write_text(json.dumps(state))
        told = shell("services")
        assert (told.code, "micro env add NAME " in told.err) == (4, True), "a server that is older"
        (shell.home / "server" / "state.json").write_text(json.dumps({**state, "tls_client": str(file)}))
        assert shell("services").err == f"micro: cannot read {file}: no such file\n"
        file.write_bytes(own.key.read_bytes() + own.cert.read_bytes())
        assert shell("services").code == 0
        ran = shell("run", str(service), "--name=helloworld").out
        assert f"curl https://127.0.0.1:18080/helloworld/call --cert {file} -d" in ran


def test_a_certificate_that_was_renewed_with_its_chain_is_the_first_of_the_file(
    authority: Pair, tmp_path: Path
) -> None:
    server = issue(tmp_path, "server", authority)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(server.cert.read_bytes() + authority.cert.read_bytes())
    assert tls._first(str(chain)) == server.certificate.public_bytes(serialization.Encoding.DER)
    assert not tls.context(Tls(pinned=str(chain))).check_hostname
