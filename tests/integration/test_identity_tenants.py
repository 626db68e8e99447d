"""Two namespaces side by side, services that call each other, and what becomes of those who have no account."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import identity_world
import pytest
import worlds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from identity_forgeries import forgeries
from identity_world import Contract, Identities, Member, contracts, grpc_call, http_call

from micro.services import _auth_core

ME = "/who.Who/Me"
DOMAIN = "apps.example"
OPEN = {
    "/micro.auth.v1.Auth/Token",
    "/micro.auth.v1.Keys/List",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
}
"""All that anybody may ask of the platform."""

CORE = ["auth", "registry", "network", "runtime", "store", "config", "broker", "events"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identities]:
    """The same service in two namespaces, and in one of them another that calls it; `Me` needs an account."""
    with identity_world.identities(tmp_path_factory.mktemp("tenants"), "--base-domain", DOMAIN) as made:
        for namespace in ("acme", "beta"):
            made.namespace(namespace)
            made.rule(namespace, "members", "service:who:Who.Me", "*", priority=2)
            made.rule(namespace, "closed", "service:who:Who.Me", "", "DENIED", priority=1)
        made.run(("acme", "who"), ("beta", "who"), ("acme", "relay"))
        yield made


@pytest.fixture(scope="module")
def ann(world: Identities) -> Member:
    return world.member("acme", "ann")


@pytest.fixture(scope="module")
def bob(world: Identities) -> Member:
    return world.member("beta", "bob", "admin")


def addresses(world: Identities) -> dict[str, str]:
    """HOST:PORT of each core service, and of the inner gateway."""
    told = json.loads(world.world.layout.settings.read_text())
    return {name: str(told[f"{name}_address"]) for name in (*CORE, "mesh")}


# --- two namespaces ---------------------------------------------------------------------------------------------------


def test_a_call_goes_to_the_namespace_of_header_token_or_host_in_this_order(
    world: Identities, ann: Member, bob: Member
) -> None:
    def came_to(by: str | Member = "", **headers: str) -> str | int:
        answer = world.http("/who/open", by, **headers)
        return answer.told["tenant"] if answer.status == 200 else answer.status

    assert came_to(micro_namespace="acme") == "acme"
    assert came_to(micro_namespace="beta") == "beta"
    assert came_to(ann) == "acme"
    assert came_to(bob) == "beta"
    assert came_to(host=f"acme.{DOMAIN}") == "acme"
    assert came_to(host=f"beta.{DOMAIN}:8080") == "beta"
    assert came_to(bob, host=f"acme.{DOMAIN}") == "beta", "the token is before the host"
    assert came_to(host=f"acme.{DOMAIN}", micro_namespace="beta") == "beta", "and the header before both"
    assert came_to() == 404, "there is none in micro"
    assert came_to(host=f"nowhere.{DOMAIN}") == 404
    assert came_to(micro_namespace="nowhere") == 404


def test_grpc_goes_by_header_or_token(world: Identities, ann: Member, bob: Member) -> None:
    assert world.grpc("/who.Who/Open", micro_namespace="beta").told["tenant"] == "beta"
    for member in (ann, bob):
        outcome = world.grpc(ME, by=member)
        assert (outcome.told["tenant"], outcome.told["account"]) == (
            member.namespace,
            f"{member.namespace}/{member.id}",
        )
    assert world.grpc("/who.Who/Open").code == "UNIMPLEMENTED"
    for name, code in (("beta", 0), ("acme", 2)):  # each has the contract of its own namespace
        done = world.world.cli("--namespace", "beta", "who", "me", f"--of_{name}=x", check=False)
        assert done.returncode == code, done.stderr


def test_who_is_let_in_from_elsewhere_calls_what_its_registry_does_not_show(world: Identities, tmp_path: Path) -> None:
    carol = world.member("micro", "carol")
    with worlds.world(tmp_path) as home:
        home.cli("env", "add", "there", world.world.proxy)
        home.cli("env", "set", "there")
        home.cli("login", "--username", "carol", "--password-stdin", stdin=f"{carol.secret}\n")

        def called(*words: str) -> list[str]:
            done = home.cli("--namespace", "acme", *words, check=False)
            return [json.loads(line)["account"] for line in done.stdout.splitlines()] if done.returncode == 0 else []

        assert "may not call" in home.cli("--namespace", "acme", "call", "who", "Who.Me", check=False).stderr
        why = ("auth", "explain", "micro/carol", "service:who:Who.Me", "--namespace", "acme")
        assert world.world.cli(*why).stdout.startswith("denied: no rule is about micro/carol")
        world.rule("acme", "guests", "service:who:*", "+", priority=3)
        assert worlds.eventually(lambda: called("call", "who", "Who.Me", "-o", "raw"), 5) == ["micro/carol"]
        assert called("call", "who", "/who.Who/Me", "{}", "-o", "raw") == ["micro/carol"]
        assert called("who", "me", "--data", "{}", "-o", "raw") == ["micro/carol"]
        assert called("stream", "who", "Who.Many", "-o", "raw") == ["micro/carol"] * 3
        assert world.world.cli(*why).stdout.startswith("allowed: rule 'guests'")
        assert home.cli("--namespace", "acme", "call", "who", "Who.Many").stdout.count("micro/carol") == 3
        for words, code, said in (
            (["call", "who", "Who.Nothing"], 127, "who has no endpoint at /who/Who/Nothing"),
            (["stream", "who", "Nothing"], 127, "who has no endpoint at /who/Who/Nothing"),
            (["who", "me", "--name=x"], 2, "give JSON, micro --namespace acme call who me"),
        ):
            done = home.cli("--namespace", "acme", *words, check=False)
            assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (code, True, 1), done
        world.forget("acme", "guests")


def test_a_token_of_another_namespace_is_refused_unless_it_is_the_platforms(
    world: Identities, ann: Member, bob: Member
) -> None:
    for member, other in ((ann, "beta"), (bob, "acme")):
        assert world.http("/who/me", member, micro_namespace=other).status == 403
        assert world.grpc(ME, by=member, micro_namespace=other).code == "PERMISSION_DENIED"
        for path in ("/micro.runtime.v1.Runtime/Read", "/micro.registry.v1.Registry/ListServices"):
            assert world.grpc(path, {}, member, micro_namespace=other).code == "PERMISSION_DENIED"
            assert world.grpc(path, {"namespace": other}, member).code == "PERMISSION_DENIED"
    for namespace in ("acme", "beta"):
        answer = world.http("/who/me", world.admin, micro_namespace=namespace)
        assert (answer.status, answer.told["tenant"], answer.told["account"]) == (200, namespace, "micro/admin")
    plain = world.member("micro", "plain")
    assert world.http("/who/me", plain, micro_namespace="acme").status == 403, "without the scope it is a stranger"


def test_services_status_and_logs_of_one_show_nothing_of_the_other(world: Identities, ann: Member, bob: Member) -> None:
    for member in (ann, bob):
        world.grpc(ME, {"name": "log"}, member)
    runtime = "/micro.runtime.v1.Runtime"
    for member, other in ((ann, "beta"), (bob, "acme")):
        own = member.namespace
        found = world.core(f"{runtime}/Read", {}, member)["services"]
        assert {one["namespace"] for one in found} == {own}
        listed = world.core("/micro.registry.v1.Registry/ListServices", {}, member)["services"]
        # What comes with every deployment belongs to all.
        assert {one["namespace"] for one in listed} == {own}
        listed = world.world.cli("--namespace", own, "services").stdout.split()
        assert listed == (["relay", "who"] if own == "acme" else ["who"])
        status = world.world.cli("--namespace", own, "status", "-o", "json").stdout
        assert {one["namespace"] for one in json.loads(status)} == {own}

        assert worlds.eventually(lambda own=own: f"{own} was called" in logged(world, own)), own
        assert f"{other} was called" not in logged(world, own)
        logs = grpc_call(
            world.world.proxy,
            f"{runtime}/Logs",
            {"name": "who", "namespace": other},
            identity_world.bearing(member.platform, {}),
            stream=True,
        )
        assert logs.code == "PERMISSION_DENIED"
        routes = grpc_call(
            world.world.proxy, "/micro.network.v1.Network/Routes", {}, identity_world.bearing(member.platform, {})
        )
        assert f'"{other}"' not in json.dumps(routes.told)


def logged(world: Identities, namespace: str) -> str:
    return world.world.cli("--namespace", namespace, "logs", "who").stdout


def test_nobody_changes_what_is_anothers(world: Identities, ann: Member, bob: Member) -> None:
    runtime = "/micro.runtime.v1.Runtime"
    delete = {"name": "who", "namespace": "acme"}
    assert world.grpc(f"{runtime}/Delete", delete, bob).code == "PERMISSION_DENIED"
    assert world.grpc(f"{runtime}/Delete", {"name": "who"}, ann).code == "PERMISSION_DENIED", "the admin's"
    assert world.grpc(f"{runtime}/Update", {"service": {"name": "who"}}, ann).code == "PERMISSION_DENIED"
    node = {"id": "x", "address": "127.0.0.1:1"}
    for path, service in (("Register", {"name": "who", "nodes": [node]}), ("Deregister", {"name": "who"})):
        told = world.grpc(f"/micro.registry.v1.Registry/{path}", {"service": service}, bob, micro_namespace="acme")
        assert told.code == "PERMISSION_DENIED", path
    assert world.http("/who/me", ann).status == 200


def test_on_disk_namespaces_lie_apart_and_nobody_else_can_enter(world: Identities) -> None:
    folder = world.world.layout.runtime / "namespaces"
    assert {one.name for one in folder.iterdir()} >= {"acme", "beta"}
    for one in (folder, *folder.iterdir(), world.world.layout.root, world.world.layout.auth):
        assert one.stat().st_mode & 0o777 == 0o700, one
    for own, other in (("acme", "beta"), ("beta", "acme")):
        files = [path for path in (folder / own).rglob("*") if path.is_file()]
        assert any(path.name == "main.py" for path in files)
        assert any(path.suffix == ".log" for path in files)
        for path in files:
            assert other not in path.read_text(errors="replace").replace(str(world.world.home), ""), path


# --- services that call services --------------------------------------------------------------------------------------


def test_a_service_calls_as_itself_or_for_its_caller_when_it_says_so(world: Identities, ann: Member) -> None:
    for by in ("", ann):
        answer = world.http("/relay/relay", by, micro_namespace="acme")
        assert answer.told == {"account": "acme/relay@latest", "namespace": "acme", "tenant": "acme"}
    answer = world.http("/relay/relay?as_caller=true", ann)
    assert answer.told == {
        "account": "acme/ann",
        "actor": "acme/relay@latest",
        "namespace": "acme",
        "tenant": "acme",
    }
    outcome = world.grpc("/relay.Relay/Relay", {"asCaller": True}, ann)
    assert outcome.told == answer.told
    assert world.http("/relay/relay?as_caller=true", micro_namespace="acme").status == 401, (
        "for nobody it asks as nobody"
    )


def test_nobody_can_pretend_to_act_for_somebody(world: Identities, ann: Member, bob: Member) -> None:
    told = world.http("/who/me", ann, micro_actor=f"Bearer {bob.token}")
    assert told.status == 403, "only services act for others"
    assert world.http("/who/me", micro_namespace="acme", micro_actor=f"Bearer {ann.token}").status == 403
    assert world.http("/who/me", ann, micro_actor="Bearer nonsense").status == 401
    assert world.http("/who/me", ann, micro_actor="relay@latest").status == 401


def test_a_services_account_can_do_nothing_but_call_and_register_itself(world: Identities) -> None:
    relay = world.login("acme", "relay@latest", of_services(world)["acme", "relay@latest"])
    assert world.http("/who/me", relay).told["account"] == "acme/relay@latest"
    runtime = "/micro.runtime.v1.Runtime"
    node = {"id": "x", "address": "127.0.0.1:1"}
    for path, request in (
        (f"{runtime}/Delete", {"name": "relay"}),
        (f"{runtime}/Create", {"service": {"name": "other"}, "uploadId": "x"}),
        (f"{runtime}/Update", {"service": {"name": "relay"}, "instances": 2}),
        ("/micro.registry.v1.Registry/Register", {"service": {"name": "who", "namespace": "acme", "nodes": [node]}}),
        ("/micro.registry.v1.Registry/Register", {"service": {"name": "relay", "namespace": "beta", "nodes": [node]}}),
        ("/micro.auth.v1.Accounts/List", {}),
        ("/micro.auth.v1.Rules/Create", {"rule": identity_world.rule("acme", "mine", "service:*:*", "", "GRANTED", 9)}),
        ("/micro.auth.v1.Auth/Generate", {"id": "friend"}),
    ):
        assert world.grpc(path, request, relay).code == "PERMISSION_DENIED", path


def of_services(world: Identities) -> dict[tuple[str, str], str]:
    """Secrets of the services' accounts by namespace and id: what their processes are told."""
    found = {}
    for pid in world.world.processes().values():
        pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
        environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if "MICRO_AUTH_SECRET" in environ:
            found[environ["MICRO_NAMESPACE"], environ["MICRO_AUTH_ID"]] = environ["MICRO_AUTH_SECRET"]
    return found


def test_secrets_and_tokens_are_in_no_log_argument_or_status(world: Identities, ann: Member) -> None:
    layout = world.world.layout
    server = json.loads(layout.settings.read_text())["server_secret"]
    services = set(of_services(world).values())
    assert len(services) == 3
    of_core = {server, *(_auth_core.secret(server, name) for name in _auth_core.IDS)}
    of_users = {*ann[2:], *world.admin[2:4]}
    secrets = {text.encode() for text in services | of_core | of_users}
    tokens = b"eyJ0eXAiOiJKV1Qi"

    kept = {layout.settings, world.world.home / "sessions.json", *layout.run.glob("*.json")}
    for file in kept:
        assert file.stat().st_mode & 0o077 == 0, file
    places = [path for root in (world.world.home, layout.run) for path in root.rglob("*") if path.is_file()]
    for file in set(places) - kept:
        content = file.read_bytes()
        assert not any(secret in content for secret in secrets), file
        assert tokens not in content, file

    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
        except OSError:
            continue
        assert not any(secret in arguments for secret in secrets), process
        assert tokens not in arguments, process
    for name, pid in world.world.processes().items():
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        found = [secret for secret in secrets if secret in environment]
        is_service = name.startswith(("who-", "relay-"))
        assert len(found) == (1 if is_service else 0), f"{name} has been told secrets that are not its own"

    shown = subprocess.run(["ps", "axww"], capture_output=True, check=True).stdout
    for namespace in ("acme", "beta"):
        for words in (["status", "-o", "json"], ["services", "-o", "json"], ["logs", "who"], ["auth", "audit"]):
            shown += world.world.cli("--namespace", namespace, *words).stdout.encode()
    for name in CORE:
        shown += world.world.cli("logs", name, "-n", "1000").stdout.encode()
    assert not any(secret in shown for secret in secrets)
    assert tokens not in shown


# --- nobody and the platform ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["proxy", "mesh", "own"])
def test_without_an_account_the_platform_answers_a_login_and_nothing_else(world: Identities, door: str) -> None:
    where = {**addresses(world), "proxy": world.world.proxy}
    asked = 0
    for contract, core in ((each, core) for each in contracts() for core in ([each.core] if each.core else CORE)):
        if contract.path in OPEN:
            continue
        for named in ({}, {"micro-service": core}, {"micro-service": core, "micro-namespace": "acme"}):
            if not (contract.core or named):
                continue  # health and reflection are every service's
            address = where[core if door == "own" else door]
            outcome = grpc_call(address, contract.path, {}, named, stream=True)
            expected = {"UNAUTHENTICATED"}
            if door != "own" and contract.path.startswith("/envoy."):
                expected.add("UNIMPLEMENTED")  # no gateway leads there
            assert outcome.code in expected, (contract, named, outcome)
            asked += 1
    assert asked > 100


@pytest.mark.parametrize("contract", [each for each in contracts() if each.path in OPEN], ids=lambda each: each.path)
def test_what_is_open_gives_nothing_away(world: Identities, contract: Contract) -> None:
    outcome = grpc_call(world.world.proxy, contract.path, {}, {"micro-service": "auth"}, stream=True)
    assert outcome.code in {"OK", "UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED"}, outcome
    assert "d" not in [key for one in outcome.told.get("keys", []) for key in one], "the private part of a key"


def test_raw_http_finds_no_way_around(world: Identities) -> None:
    where = addresses(world)
    for contract in contracts():
        if contract.path in OPEN:
            continue
        core = contract.core or "runtime"
        doors = (where[core], where["mesh"], world.world.proxy, world.world.api)
        for address in doors:
            for verb in ("POST", "GET"):
                answer = http_call(address, contract.path, {"micro-service": core}, verb)
                assert answer.status in {401, 403, 404}, (contract, address, verb, answer)
    core = where["runtime"]
    for path in ("/", "/runtime", "/runtime/read", "/Read", "/micro.runtime.v1.Runtime", "//", "/metrics", "/stats"):
        for address in (core, world.world.proxy):
            for verb in ("POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
                answer = http_call(address, path, {"micro-service": "runtime"}, verb)
                assert answer.status in {401, 403, 404, 405, 415}, (address, path, verb, answer)


def test_a_websocket_leads_to_no_core_service(world: Identities) -> None:
    where = addresses(world)
    for address in (where["runtime"], where["auth"], world.world.proxy, world.world.api):
        host, _, port = address.rpartition(":")
        head = "GET /micro.runtime.v1.Runtime/Logs HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        head += (
            "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nmicro-service: runtime\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(head.encode())
            status = connection.recv(4096).split(b" ", 2)[1]
        assert status in {b"401", b"403", b"404"}, (address, status)


def test_the_services_own_port_asks_for_the_same_account(world: Identities, ann: Member, bob: Member) -> None:
    found = world.core("/micro.runtime.v1.Runtime/Read", {"name": "who", "namespace": "acme"})
    address = found["services"][0]["instances"][0]["address"]
    assert http_call(address, "/who/me", {}).status == 401
    assert http_call(address, "/who/me", identity_world.bearing(ann.token, {})).status == 200
    assert http_call(address, "/who/me", identity_world.bearing(bob.token, {})).status == 403
    assert http_call(address, "/who/me", {"micro-namespace": "beta"}).status == 404
    assert world.grpc(ME, address=address).code == "UNAUTHENTICATED"
    assert world.grpc(ME, by=ann, address=address).code == "OK"
    assert http_call(address, "/nothing/here", {}).status in {401, 404}


# --- whatever comes in the headers ------------------------------------------------------------------------------------

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CORE_PATH = "/micro.runtime.v1.Runtime/Read"
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip)


def test_no_forged_token_is_taken_for_anything(world: Identities, ann: Member, bob: Member) -> None:
    [key] = world.http("/.well-known/jwks.json").told["keys"]
    for what, token in forgeries(ann.token, bob.token, key):
        sent = {"authorization": f"Bearer {token}", "micro-namespace": "acme"}
        expected = {401} if len(token) < 8192 else {401, 431}
        for path in ("/who/me", "/who/open"):
            assert http_call(world.world.api, path, sent).status in expected, what
        del sent["micro-namespace"]  # so that the gateway has to find out
        assert http_call(world.world.api, "/who/open", sent).status in {401, 404, 431}, what
        actor = {**identity_world.bearing(ann.token, {}), "micro-actor": f"Bearer {token}"}
        assert http_call(world.world.api, "/who/me", actor).status in expected, what
        if token.isascii():
            assert world.grpc(ME, by=token).code in {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}, what
    for what, token in forgeries(ann.platform, bob.platform, key):
        sent = {"authorization": f"Bearer {token}"}
        assert http_call(world.world.proxy, CORE_PATH, sent, "POST").status in {401, 431}, what
        if token.isascii():
            assert world.grpc(CORE_PATH, by=token).code in {"UNAUTHENTICATED", "UNAVAILABLE"}, what


def test_what_one_kind_of_service_is_shown_is_worth_nothing_to_the_other(world: Identities, ann: Member) -> None:
    for member in (ann, world.admin):
        spaces = {"micro_namespace": "acme"}
        assert world.http("/who/open", member.platform, **spaces).status == 401
        assert world.grpc(ME, by=member.platform, **spaces).code == "UNAUTHENTICATED"
        assert world.http("/who/me", ann, micro_actor=f"Bearer {member.platform}").status == 401
        for path in (CORE_PATH, "/micro.auth.v1.Accounts/Read", "/micro.registry.v1.Registry/ListServices"):
            assert world.grpc(path, by=member.token).code == "UNAUTHENTICATED"
            assert world.grpc(path, by=member.platform).code == "OK"


@FUZZ
@given(data=st.data())
def test_a_token_with_any_letter_changed_is_refused(world: Identities, ann: Member, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(ann.token) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_.=+/ "))
    token = ann.token[:place] + letter + ann.token[place + 1 :]
    status = world.http("/who/me", token, micro_namespace="acme").status
    assert status == (200 if token == ann.token else 401), (place, letter)


@FUZZ
@given(data=st.data())
def test_no_mixture_of_headers_lets_anybody_in_who_has_no_account(
    world: Identities, ann: Member, bob: Member, data: st.DataObject
) -> None:
    valid = {f"Bearer {token}": f"{who[0]}/{who[1]}" for who in (ann, bob) for token in (who.token, who.platform)}
    bearers = st.one_of(
        st.sampled_from(list(valid)),
        TEXTS,
        TEXTS.map(lambda text: f"Bearer {text}"),
        st.sampled_from(["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a.b.c", f"bearer  {ann.token}", ann.token]),
    )
    spaces = st.one_of(st.sampled_from(["acme", "beta", "micro", "-", "", "nowhere", "ACME", "acme,beta"]), TEXTS)
    hosts = st.one_of(
        st.sampled_from([f"acme.{DOMAIN}", f"beta.{DOMAIN}", DOMAIN, "x:1", "127.0.0.1", "@", "a@b"]), TEXTS
    )
    headers = data.draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("authorization"), bearers),
                st.tuples(st.just("micro-actor"), bearers),
                st.tuples(st.just("micro-namespace"), spaces),
                st.tuples(st.just("micro-service"), st.sampled_from(["who", "relay", "auth", "runtime", ""])),
                st.tuples(st.just("host"), hosts),
            ),
            max_size=5,
        )
    )
    shown = {valid[value] for name, value in headers if name == "authorization" and value in valid}
    for address in (world.world.api, world.world.proxy):
        answer = http_call(address, "/who/me", headers, "POST")
        assert answer.status < 500, answer
        if answer.status == 200:
            assert answer.told["account"] in shown
            assert answer.told["account"].split("/")[0] == answer.told["tenant"]
    answer = http_call(world.world.proxy, CORE_PATH, headers, "POST")
    assert answer.status < 500, answer
    assert answer.status != 200 or shown
    found = {one["namespace"] for one in answer.told.get("services", [])}
    assert found <= {account.split("/")[0] for account in shown}


async def test_a_host_that_is_none_is_refused_and_disturbs_nobody_elses_calls(world: Identities) -> None:
    acme = {"micro-namespace": "acme"}
    async with worlds.load(world.world.api, "/who/open", connections=2, headers=acme) as load:
        await load.reached(50)
        for host in ("", "@", "a@b", "@acme.apps.example", "a@127.0.0.1"):
            for address, path in ((world.world.api, "/who/open"), (world.world.proxy, "/who.Who/Open")):
                answer = await asyncio.to_thread(http_call, address, path, {**acme, "host": host}, "POST")
                assert (answer.status, answer.told["code"]) == (400, "invalid_argument"), (address, host)
        await load.reached(load.sent + 50)
    assert load.failures == []
