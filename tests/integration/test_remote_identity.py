"""A second account in a second namespace on a TLS server, from login to a running service, by the command line."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from worlds import HELLO, MICRO, World, eventually, world

from micro.ports.sessions import Sessions


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that is its own authority, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "server.pem", folder / "server.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(*pem))
    return str(files[0]), str(files[1])


class Laptop:
    """A command line with a home of its own, elsewhere."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True)
        self.home = home
        kept = {name: text for name, text in os.environ.items() if not name.startswith("MICRO_")}
        self.env = {**kept, "MICRO_HOME": str(home), "NO_COLOR": "1"}

    def __call__(self, *words: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [MICRO, *words], env=self.env, cwd=self.home, input=stdin, text=True, capture_output=True, timeout=120
        )
        if check:
            assert done.returncode == 0, f"micro {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with TLS."""
    folder = tmp_path_factory.mktemp("remote")
    cert, key = certificate(folder)
    with world(folder / "home") as made:
        made.start("--tls-cert", cert, "--tls-key", key)
        yield made


@pytest.fixture
def laptop(running: World, tmp_path: Path) -> Laptop:
    made = Laptop(tmp_path / "laptop")
    ca = tmp_path / "ca.pem"
    ca.write_bytes((running.home.parent / "server.pem").read_bytes())
    made("env", "add", "prod", running.proxy, "--ca", str(ca), "--description", "where others are")
    made("env", "set", "prod")
    ca.unlink()
    return made


def joined(running: World, laptop: Laptop, namespace: str, *scopes: str) -> None:
    """An account of its own for the laptop, in a namespace that may be new."""
    known = [one["name"] for one in json.loads(running.cli("namespace", "list", "-o", "json").stdout)]
    if namespace not in known:
        running.cli("namespace", "create", namespace)
    ids = [
        one["id"]
        for one in json.loads(running.cli("--namespace", namespace, "auth", "list", "accounts", "-o", "json").stdout)
    ]
    name = f"user{len(ids)}"
    words = ["auth", "create", "account", name, "--scopes", ",".join(scopes), "-o", "json"]
    made = json.loads(running.cli("--namespace", namespace, *words).stdout)
    laptop("login", "--username", name, "--password-stdin", "--namespace", namespace, stdin=made["secret"] + "\n")


def test_the_admin_of_the_same_home_just_works(running: World) -> None:
    assert json.loads(running.cli("user", "-o", "json").stdout) | {"environment": "local"} == {
        "id": "admin",
        "name": "admin",
        "type": "user",
        "namespace": "micro",
        "scopes": ["admin"],
        "environment": "local",
        "current_namespace": "micro",
    }
    listed = [one["id"] for one in json.loads(running.cli("auth", "list", "accounts", "-o", "json").stdout)]
    assert "admin" in listed


def test_without_an_account_a_remote_server_says_what_to_do(laptop: Laptop) -> None:
    done = laptop("services", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "micro login" in done.stderr
    assert done.stderr.count("\n") == 1


def test_everything_that_works_locally_works_there(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "acme")
    folder = running.service("helloworld", HELLO + 'print("it lives")\n')
    ran = laptop("run", str(folder))
    assert "helloworld" in ran.stdout
    assert "Hello Ann" in laptop("helloworld", "call", "--name=Ann").stdout
    assert "Hello Bob" in laptop("call", "helloworld", "Helloworld.Call", '{"name": "Bob"}').stdout
    assert laptop("services").stdout.split() == ["helloworld"]
    status = json.loads(laptop("status", "-o", "json").stdout)
    assert [(one["name"], one["namespace"], one["status"]) for one in status] == [("helloworld", "acme", "running")]
    assert eventually(lambda: "it lives" in laptop("logs", "helloworld").stdout)
    assert "helloworld" not in running.cli("services").stdout.split()
    assert laptop("health").returncode == 0
    laptop("update", str(folder))
    laptop("kill", "helloworld")
    assert laptop("services").stdout == ""


def test_who_is_no_admin_may_not_change_other_peoples_things(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "acme")
    for words in (
        ["auth", "list", "accounts"],
        ["auth", "create", "account", "eve"],
        ["auth", "create", "rule", "all"],
        ["namespace", "create", "mine"],
        ["auth", "rotate-keys"],
        ["--namespace", "micro", "services"],
        ["user", "namespace", "set", "micro"],
    ):
        done = laptop(*words, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), (words, done.stderr)


def test_of_twenty_commands_at_once_none_fails_when_the_token_ends(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "acme")
    before = Sessions(laptop.home).read("prod").session
    assert before
    with Sessions(laptop.home).locked() as stored:
        stored["prod"] = stored["prod"]._replace(session=before._replace(expires=0.0))
    commands = [
        subprocess.Popen(
            [MICRO, "services"], env=laptop.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for _ in range(20)
    ]
    ended = [(one.communicate(timeout=120)[1], one.returncode) for one in commands]
    assert [code for _, code in ended] == [0] * 20, ended
    after = Sessions(laptop.home).read("prod").session
    assert after
    assert after.refresh_token != before.refresh_token
    sessions = json.loads(laptop("auth", "list", "tokens", "-o", "json").stdout)
    assert len(sessions) == 1


def test_what_is_revoked_is_over_within_a_second(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "acme")
    sessions = json.loads(laptop("auth", "list", "tokens", "-o", "json").stdout)
    who = sessions[0]["account"]
    running.cli("--namespace", "acme", "auth", "revoke", "token", "--account", who)
    done = laptop("services", check=False)
    eventually(lambda: laptop("services", check=False).returncode == 2, 1)
    done = laptop("services", check=False)
    assert (done.returncode, done.stderr) == (2, "micro: your session has ended: micro login\n")


def test_changed_scopes_need_no_new_login(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "acme")
    who = json.loads(laptop("user", "-o", "json").stdout)["id"]
    assert laptop("auth", "list", "rules", check=False).returncode == 2
    running.cli("--namespace", "acme", "auth", "update", "account", who, "--scopes", "admin")
    assert eventually(lambda: laptop("auth", "list", "rules", check=False).returncode == 0, 5)
    assert "admin" in laptop("user").stdout


def test_a_new_password_keeps_this_session(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "beta")
    who = json.loads(laptop("user", "-o", "json").stdout)["id"]
    secret = running.cli("--namespace", "beta", "auth", "update", "secret", who).stdout.split("secret  ")[1].split()[0]
    assert laptop("services", check=False).returncode == 2
    laptop("login", "--username", who, "--password-stdin", stdin=secret)
    laptop("user", "set", "password", "--password-stdin", stdin=f"{secret}\nsomething new\n")
    assert laptop("services").returncode == 0
    assert laptop("login", "--username", who, "--password-stdin", stdin=secret, check=False).returncode == 2
    laptop("login", "--username", who, "--password-stdin", stdin="something new")


def test_logging_out_ends_the_session_there_too(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "beta")
    token = laptop("user", "token", "--platform").stdout.strip()
    laptop("logout")
    assert laptop("user", check=False).returncode == 2
    words = ["call", "registry", "Registry.ListServices", "{}", "--metadata", f"authorization=Bearer {token}"]

    def refused() -> bool:
        return laptop(*words, check=False).returncode == 2

    assert eventually(refused, 2)


def test_namespaces_go_with_all_that_is_in_them(running: World, laptop: Laptop) -> None:
    joined(running, laptop, "gamma")
    laptop("run", str(running.service("helloworld")))
    refused = running.cli("namespace", "delete", "gamma", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    running.cli("namespace", "delete", "gamma", "--force", stdin="gamma\n", timeout=120)
    assert laptop("services", check=False).returncode == 2
    assert "gamma" not in running.cli("namespace").stdout
