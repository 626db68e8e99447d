"""A server with identity: its first start, its second, and what its listeners ask for."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import identity_pages
import pytest
import worlds

from authority import Authority
from micro.domain.address import split
from micro.ports.free_address import free_address
from micro.ports.sessions import Sessions
from micro.rpc.gen.micro.auth.v1.auth_pb import TokenRequest, TokenResponse


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    """A server as on a laptop, at its first start."""
    with worlds.world(tmp_path_factory.mktemp("identity")) as made:
        made.start()
        yield made


def settled(world: worlds.World) -> None:
    """Wait until the server has said all that it says when it is ready."""
    assert worlds.eventually(lambda: "next:" in world.output()), world.output()


def get(world: worlds.World, path: str, context: ssl.SSLContext | None = None) -> tuple[int, dict[str, object]]:
    host, _, port = world.api.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=10, context=context)
    if context is None:
        connection = http.client.HTTPConnection(host, int(port), timeout=10)  # type: ignore[assignment]
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def refused(world: worlds.World, *words: str) -> str:
    """The one line that a server is refused with."""
    done = world.cli("server", *words, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    [line] = done.stderr.strip().splitlines()
    assert world.processes() == {}
    return line


def test_the_first_start_makes_an_admin_who_is_logged_in_here(world: worlds.World) -> None:
    settled(world)
    first = world.output()
    assert "services: anyone can call them, the listeners are on loopback" in first
    assert "TLS   off" in first
    [told] = [line for line in first.splitlines() if "with the secret" in line]
    secret = told.rpartition(" ")[2]
    assert len(secret) >= 32

    file = world.home / "sessions.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (world.layout.records("auth") / "auth.db").stat().st_mode & 0o777 == 0o600
    session = Sessions(world.home).read("local").session
    assert session is not None
    assert (session.id, session.namespace) == ("admin", "micro")

    status, keys = get(world, "/.well-known/jwks.json")
    assert status == 200
    [key] = keys["keys"]  # type: ignore[misc]
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")
    assert get(world, "/micro.auth.v1.Keys/List")[0] == 404
    assert "auth" in world.cli("health").stdout

    # Nothing that lies around has the secret in it, nor do arguments of processes.
    secrets = {secret, json.loads(world.layout.settings.read_text())["server_secret"]}
    for path in [*world.layout.logs.rglob("*.log"), world.layout.state, file]:
        assert not any(text in path.read_text(errors="replace") for text in secrets), path
    for pid in world.processes().values():
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert not any(text in arguments + environment for text in secrets)


def test_only_who_knows_the_servers_secret_is_told_routes_or_may_begin(world: worlds.World) -> None:
    told = json.loads(world.layout.settings.read_text())
    admin = Sessions(world.home).read("local").session
    assert admin is not None
    discovery = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    for address, path in (
        (told["network_address"], discovery),
        (told["auth_address"], "/micro.auth.v1.Setup/Begin"),
    ):
        with grpc.insecure_channel(address) as channel:
            for token, code in (
                ("", grpc.StatusCode.UNAUTHENTICATED),
                ("wrong", grpc.StatusCode.UNAUTHENTICATED),
                (admin.access_token, grpc.StatusCode.PERMISSION_DENIED),
            ):
                sent = (("authorization", f"Bearer {token}"),) if token else ()
                with pytest.raises(grpc.RpcError) as caught:
                    list(channel.stream_stream(path)(iter([b""]), metadata=sent, timeout=10))
                assert caught.value.code() is code


@pytest.mark.parametrize("page", ["docs/namespaces.md", "docs/security.md"])
def test_what_the_pages_show_is_what_happens(page: str, world: worlds.World, tmp_path: Path) -> None:
    [told] = [line for line in world.output().splitlines() if "with the secret" in line]
    identity_pages.follow(page, world, tmp_path, {"admin": told.rpartition(" ")[2]}, {})
    for rule in json.loads(world.cli("auth", "list", "rules", "-o", "json").stdout):
        if rule["id"] != "default":
            world.cli("auth", "delete", "rule", rule["id"])
    for account in json.loads(world.cli("auth", "list", "accounts", "-o", "json").stdout):
        if account["id"] in ("ann", "bob"):
            world.cli("auth", "delete", "account", account["id"])


def test_a_lost_secret_of_the_admins_is_replaced_at_a_start_that_says_so(tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.start("--no-local-login")
        settled(world)
        assert "nobody is logged in yet" in world.output()
        assert not (tmp_path / "sessions.json").exists(), "a server for others keeps no session"
        world.stop()
        world.start("--reset-admin")
        settled(world)
        [told] = [line for line in world.output().splitlines() if "with the secret" in line]
        secret = told.rpartition(" ")[2]
        assert "admin" in world.cli("user").stdout, "the command line of this home is logged in"
        world.cli("login", "--username", "admin", "--password-stdin", stdin=f"{secret}\n")
        assert "account.reset" in world.cli("auth", "audit").stdout
        world.stop()
        world.start()
        settled(world)
        assert "with the secret" not in world.output(), "once"
        world.cli("login", "--username", "admin", "--password-stdin", stdin=f"{secret}\n")


def test_what_would_be_open_to_others_by_mistake_is_refused(tmp_path: Path) -> None:
    port = split(free_address())[1]
    with worlds.world(tmp_path) as world:
        line = refused(world, "--proxy-address", f"0.0.0.0:{port}")
        assert "needs TLS" in line
        assert "--insecure" in line
        authority = Authority(tmp_path)
        cert, _ = authority.write("server")
        _, other = authority.write("other")
        assert "belong together" in refused(world, "--tls-cert", str(cert))
        assert "does not fit" in refused(world, "--tls-cert", str(cert), "--tls-key", str(other))
        assert "cannot be read" in refused(world, "--tls-cert", str(cert), "--tls-key", str(tmp_path / "none"))
        assert "not a web origin" in refused(world_with(world, MICRO_CORS_ORIGINS="*"))


def world_with(world: worlds.World, **extra: str) -> worlds.World:
    world.extra.update(extra)
    return world


OUTSIDE = """
import asyncio
from micro import blobs, client

async def main():
    print((await client.call("helloworld", "Helloworld.Call", {"name": "Ann"}))["msg"])
    await blobs.write("face", b"12345")
    print(await blobs.get("face"))

asyncio.run(main())
"""


def test_who_shows_no_certificate_of_the_right_authority_is_not_heard_and_the_own_command_line_is(
    tmp_path: Path,
) -> None:
    with worlds.world(tmp_path / "home") as world, worlds.world(tmp_path / "elsewhere") as elsewhere:
        authority = Authority(tmp_path)
        cert, key = authority.write("server")
        theirs = Path(tmp_path, "theirs")
        theirs.mkdir()
        stranger = Authority(theirs, "Somebody Else")
        world.start("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(authority.file))
        settled(world)
        assert "clients need a certificate: the command line of this home has one" in world.output()
        assert "the command line of this home is logged in already" in world.output()

        mine = authority.write("client")
        member = ssl.create_default_context(cafile=str(authority.file))
        member.load_cert_chain(*mine)
        assert get(world, "/", member)[0] == 200
        outsider = ssl.create_default_context(cafile=str(authority.file))
        outsider.load_cert_chain(*stranger.write("client"))
        for context in (outsider, ssl.create_default_context(cafile=str(authority.file))):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                get(world, "/", context)

        own = world.layout.own_client
        assert own.stat().st_mode & 0o777 == 0o600
        world.cli("run", str(world.service()))
        assert "Hello Ann" in world.cli("helloworld", "call", "--name", "Ann").stdout
        world.cli("auth", "create", "account", "ann", "--secret-stdin", stdin="rosebud-7\n")

        # Another home is told what to do, and that helps.
        there = ("env", "add", "prod", f"https://{world.proxy}", "--ca", str(authority.file))
        elsewhere.cli(*there)
        told = elsewhere.cli("--env", "prod", "health", check=False)
        assert (told.returncode, told.stdout) == (4, "")
        wanted = f"micro env add prod {world.proxy} --cert FILE --key FILE"
        assert told.stderr.rstrip().endswith(f"it asks for a certificate of yours: {wanted}")
        files = dict(zip(("--cert", "--key"), map(str, mine), strict=True))
        elsewhere.cli(*wanted.split()[1:5], *(word for pair in files.items() for word in pair))
        login = ("login", "--username", "ann", "--password-stdin")
        elsewhere.cli("--env", "prod", *login, stdin="rosebud-7\n")
        assert "Hello Bob" in elsewhere.cli("--env", "prod", "helloworld", "call", "--name", "Bob").stdout

        # So does a program that no server has started.
        variables = {"MICRO_PROXY_ADDRESS": f"https://{world.proxy}", "MICRO_CA": str(authority.file)}
        variables |= {"MICRO_AUTH_ID": "ann", "MICRO_AUTH_SECRET": "rosebud-7"}
        variables |= {"MICRO_CERT": str(mine[0]), "MICRO_KEY": str(mine[1])}
        assert program(elsewhere, **variables) == "Hello Ann\nb'12345'\n"

        world.stop()
        assert not own.exists(), "it is of no use to the next server"


def program(world: worlds.World, **variables: str) -> str:
    """What a program says that calls from outside of the platform."""
    env = {**world.env, **variables}
    done = subprocess.run([sys.executable, "-c", OUTSIDE], env=env, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else done.stderr


def shown(address: str, context: ssl.SSLContext) -> str:
    """The certificate that a listener shows, PEM."""
    return ssl.DER_cert_to_PEM_cert(_handshake(address, context).getpeercert(binary_form=True) or b"")


def negotiated(address: str, context: ssl.SSLContext) -> str:
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        return _handshake(address, context).selected_alpn_protocol() or ""
    finally:
        context.set_alpn_protocols(["http/1.1"])


def _handshake(address: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as plain:
        return context.wrap_socket(plain, server_hostname=host)


def post(world: worlds.World, path: str, **headers: str) -> tuple[int, dict[str, object], dict[str, str]]:
    """Call a service at the HTTP gateway, as whom and where the headers say."""
    host, _, port = world.api.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        sent = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        connection.request("POST", path, b'{"name": "Ann"}', sent)
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return response.status, json.loads(response.read()), told
    finally:
        connection.close()


def test_two_namespaces_have_a_service_of_the_same_name_and_a_token_leads_to_its_own(world: worlds.World) -> None:
    world.cli("namespace", "create", "shop")
    world.cli("run", str(world.service()))
    theirs = worlds.HELLO.replace('GREETING = "Hello"', 'GREETING = "Welcome"')
    shop = world.home / "shop"
    (world.service().rename(shop) / "main.py").write_text(theirs)
    world.cli("run", str(shop), "--name", "helloworld", "--namespace", "shop")
    world.cli("auth", "create", "account", "ann", "--namespace", "shop", "--secret-stdin", stdin="rosebud-7\n")
    token = login(world, "ann", "rosebud-7", "shop")

    def said(**headers: str) -> object:
        status, told, _ = post(world, "/helloworld/call", **headers)
        return told["msg"] if status == 200 else status

    assert said() == "Hello Ann"
    assert said(micro_namespace="shop") == "Welcome Ann"
    assert said(authorization=f"Bearer {token}") == "Welcome Ann"
    assert said(micro_namespace="nowhere") == 404
    admin = Sessions(world.home).read("local").session
    assert admin is not None
    assert said(authorization=f"Bearer {admin.service_token}") == "Hello Ann"
    assert said(authorization=f"Bearer {admin.access_token}") == 401, "it is for the platform"
    assert said(authorization=f"Bearer {token[:-4]}AAAA") == 401
    assert said(authorization="Basic YW5uOmFubg==") == 401

    world.cli("namespace", "quota", "shop", "--requests", "3")

    def limited() -> dict[str, str] | None:
        found = [post(world, "/helloworld/call", micro_namespace="shop") for _ in range(12)]
        return next((told for status, _, told in found if status == 429), None)

    told = worlds.eventually(limited, 5)
    assert told is not None
    assert told["retry-after"] == "1"
    assert {post(world, "/helloworld/call")[0] for _ in range(12)} == {200}


def test_the_next_start_makes_no_admin_and_tls_holds_on_both_listeners_and_takes_new_certificates(
    world: worlds.World, tmp_path: Path
) -> None:
    session = Sessions(world.home).read("local").session
    world.stop()
    authority = Authority(tmp_path)
    cert, key = authority.write("server")
    world.start("--tls-cert", str(cert), "--tls-key", str(key))
    settled(world)
    assert "with the secret" not in world.output()
    assert Sessions(world.home).read("local").session == session, "it holds on"
    world.cli("services")
    assert f"TLS   on, with {cert}" in world.output()

    trusting = ssl.create_default_context(cafile=str(authority.file))
    assert get(world, "/", trusting)[0] == 200
    for where in (world.api, world.proxy):
        assert shown(where, trusting) == cert.read_text()
        assert negotiated(where, trusting) == "h2"
        with pytest.raises(ssl.SSLCertVerificationError):
            shown(where, ssl.create_default_context())
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(str(authority.file))
        old.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
        with pytest.raises(OSError):  # noqa: PT011 - of this side or of that
            shown(where, old)

    for words in (["namespace", "create", "shop"], ["auth", "create", "account", "ann", "--namespace", "shop"]):
        world.cli(*words, check=False)  # they may be there
    made = json.loads(world.cli("auth", "update", "secret", "ann", "--namespace", "shop", "-o", "json").stdout)
    place = {"micro.example.com:443": world.proxy}
    identity_pages.follow("docs/environments.md", world, tmp_path, {"ann": made["secret"]}, place)

    chain, fresh = authority.issue("renewed")
    key.write_bytes(fresh)
    cert.write_bytes(chain)
    assert worlds.eventually(lambda: shown(world.api, trusting) == shown(world.proxy, trusting) == chain.decode())
    assert "the certificate was read again" in world.output()
    assert "ready" in world.cli("health").stdout, "the command line of the same home knows the certificate"

    key.write_text("nonsense")
    assert worlds.eventually(lambda: "the certificate in use stays" in world.output())
    assert shown(world.api, trusting) == chain.decode()


def login(world: worlds.World, account: str, secret: str, namespace: str) -> str:
    """An access token for services, as any program gets one at the proxy."""
    with grpc.insecure_channel(world.proxy) as channel:
        request = TokenRequest(id=account, secret=secret, namespace=namespace)
        call = channel.unary_unary("/micro.auth.v1.Auth/Token", TokenRequest.to_binary, TokenResponse.from_binary)
        return str(call(request, timeout=10).service_token)
