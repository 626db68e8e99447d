"""A server that knows who calls, services that tell whom they saw, and callers of all kinds."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import worlds

from micro.ports.sessions import Sessions
from micro.rpc import gen

WITHIN = 1.0
"""Seconds in which a change acts on every service: what the platform promises."""

AUTH = "/micro.auth.v1.Auth"
ACCOUNTS = "/micro.auth.v1.Accounts"
RULES = "/micro.auth.v1.Rules"
TOKENS = "/micro.auth.v1.Tokens"

SOURCE = """
import logging, os
from micro import Service, client
from proto.NAME_connect import TITLE
from proto.NAME_pb import Told

def told(ctx):
    return Told(
        account=str(ctx.account or ""), actor=str(ctx.actor or ""), namespace=ctx.namespace,
        pid=os.getpid(), tenant="TENANT",
    )

class Handler(TITLE):
    async def me(self, request, ctx):
        if request.name == "log":
            logging.getLogger("who").info("TENANT was called")
        return told(ctx)

    async def open(self, request, ctx):
        return told(ctx)

    async def many(self, request, ctx):
        for _ in range(3):
            yield told(ctx)

    async def relay(self, request, ctx):
        calls = client.as_caller(ctx) if request.as_caller else client
        answer = await calls.call("who", "Who.Me", {})
        return Told(**{name: answer.get(name, "") for name in ("account", "actor", "namespace", "tenant")})

app = Service("NAME", Handler())
"""
PROTO = """
syntax = "proto3";
package NAME;
service TITLE {
  rpc Me(Ask) returns (Told);
  rpc Open(Ask) returns (Told);
  rpc Many(Ask) returns (stream Told);
  rpc Relay(Ask) returns (Told);
}
message Ask { string name = 1; bool as_caller = 2; EXTRA }
message Told { string account = 1; string actor = 2; string namespace = 3; int32 pid = 4; string tenant = 5; }
"""


class Answer(NamedTuple):
    """What came over HTTP; `told` is empty where it was no JSON object."""

    status: int
    told: dict[str, Any]
    headers: dict[str, str]


class Outcome(NamedTuple):
    """What came over gRPC: the name of the code, and the answer or the message."""

    code: str
    told: dict[str, Any]
    message: str = ""


class Member(NamedTuple):
    """Somebody who is logged in.

    Attributes:
        token: for users' services.
        platform: the token for the platform's own.
    """

    namespace: str
    id: str
    token: str
    platform: str = ""
    refresh: str = ""
    secret: str = ""

    def shown(self, path: str) -> str:
        """The token for a call."""
        return self.platform if path.startswith("/micro.") else self.token


@dataclass
class Identities:
    """The callers of one running server, and its doors."""

    world: worlds.World
    admin: Member = field(init=False)

    def __post_init__(self) -> None:
        self.log_in()

    def log_in(self) -> None:
        """Be who the command line of the same home is now."""
        session = Sessions(self.world.home).read("local").session
        assert session is not None
        self.admin = Member("micro", session.id, session.service_token, session.access_token)

    # --- doors --------------------------------------------------------------------------------------------------------

    def http(self, path: str, by: str | Member = "", *, address: str = "", verb: str = "GET", **headers: str) -> Answer:
        """A request to api, or to another address, by nobody, by somebody, or with a token."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        token = by if isinstance(by, str) else by.shown(path)
        return http_call(address or self.world.api, path, bearing(token, named), verb)

    def grpc(
        self, path: str, request: object = None, by: str | Member = "", *, address: str = "", **metadata: str
    ) -> Outcome:
        """A unary call through proxy, or to another address."""
        named = {name.replace("_", "-"): value for name, value in metadata.items()}
        token = by if isinstance(by, str) else by.shown(path)
        return grpc_call(address or self.world.proxy, path, request or {}, bearing(token, named))

    def core(self, path: str, request: object = None, by: Member | None = None, **metadata: str) -> dict[str, Any]:
        """A call of the platform that has to go well, by the first admin if by nobody else."""
        outcome = self.grpc(path, request, by or self.admin, **metadata)
        assert outcome.code == "OK", (path, outcome)
        return outcome.told

    # --- callers ------------------------------------------------------------------------------------------------------

    def namespace(self, name: str) -> None:
        self.core("/micro.auth.v1.Namespaces/Create", {"name": name})

    def member(self, namespace: str, id: str, *scopes: str) -> Member:  # noqa: A002 - what it is
        """A new account, logged in."""
        made = self.core(f"{AUTH}/Generate", {"id": id, "namespace": namespace, "scopes": scopes})
        return self.login(namespace, id, made["secret"])

    def login(self, namespace: str, id: str, secret: str) -> Member:  # noqa: A002
        outcome = self.grpc(f"{AUTH}/Token", {"id": id, "secret": secret, "namespace": namespace})
        assert outcome.code == "OK", outcome
        return member_of(outcome.told, secret)

    def rule(
        self, namespace: str, name: str, resource: str, scope: str = "", access: str = "GRANTED", priority: int = 0
    ) -> None:
        self.core(f"{RULES}/Create", {"rule": rule(namespace, name, resource, scope, access, priority)})

    def forget(self, namespace: str, *rules: str) -> None:
        for each in rules:
            self.core(f"{RULES}/Delete", {"id": each, "namespace": namespace})

    # --- services -----------------------------------------------------------------------------------------------------

    def run(self, *services: tuple[str, str], instances: int = 1) -> None:
        """Run services, each a (namespace, name), all at once."""

        folders = [(namespace, written(self.world, namespace, name)) for namespace, name in services]

        def one(namespace: str, folder: Path) -> None:
            words = ["run", str(folder), "--instances", str(instances)]
            self.world.cli("--namespace", namespace, *words, timeout=100)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda each: one(*each), folders))


def member_of(told: Mapping[str, Any], secret: str = "") -> Member:
    """Whom a login has answered."""
    account, tokens = told["account"], (told["serviceToken"], told["accessToken"], told["refreshToken"])
    return Member(account["namespace"], account["id"], *tokens, secret)


def rule(namespace: str, name: str, resource: str, scope: str, access: str, priority: int) -> dict[str, Any]:
    """As a request has it."""
    about = dict(zip(("type", "name", "endpoint"), resource.split(":"), strict=True))
    return {
        "id": name,
        "namespace": namespace,
        "scope": scope,
        "resource": about,
        "access": f"ACCESS_{access}",
        "priority": priority,
    }


def written(world: worlds.World, namespace: str, name: str) -> Path:
    """The source of a service that tells whom it saw; in each namespace its contract is another one's."""
    replaced = {"NAME": name, "TITLE": name.title(), "TENANT": namespace, "EXTRA": f"string of_{namespace} = 3;"}
    source, proto = SOURCE, PROTO
    for old, new in replaced.items():
        source, proto = source.replace(old, new), proto.replace(old, new)
    return worlds.written(world.home / "src" / namespace / name, name, source, proto)


@contextlib.contextmanager
def identities(home: Path, *arguments: str, **extra: str) -> Iterator[Identities]:
    """A running server."""
    with worlds.world(home, **extra) as made:
        made.start(*arguments)
        found = worlds.eventually(lambda: (home / "sessions.json").exists())
        assert found, made.output()
        yield Identities(made)


def bearing(token: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, **({"authorization": f"Bearer {token}"} if token else {})}


def http_call(
    address: str, path: str, headers: Mapping[str, str] | Sequence[tuple[str, str]], verb: str = "GET"
) -> Answer:
    """Over a connection of its own; a POST sends JSON. Pairs of headers are sent as they are, one twice as well."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if verb == "POST":
        pairs += [("content-type", "application/json"), ("content-length", "2")]
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.putrequest(verb, path, skip_host=any(name == "host" for name, _ in pairs))
        for name, value in pairs:
            connection.putheader(name, value)
        connection.endheaders(b"{}" if verb == "POST" else None)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    named = {name.lower(): value for name, value in response.getheaders()}
    is_json = named.get("content-type", "").startswith("application/json")
    told = json.loads(content) if is_json and content else {}
    return Answer(response.status, told if isinstance(told, dict) else {}, named)


def grpc_call(
    address: str, path: str, request: object, headers: Mapping[str, str], timeout: float = 20, *, stream: bool = False
) -> Outcome:
    """Over a connection of its own, with JSON for messages. Of a stream, its first answer."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        sent = (*headers.items(), ("micro-codec", "json"))
        make = channel.stream_stream if stream else channel.unary_unary
        call = make(path, lambda value: json.dumps(value).encode(), json.loads)
        try:
            if stream:
                told = next(call(iter([request]), timeout=timeout, metadata=sent), {})
            else:
                told = call(request, timeout=timeout, metadata=sent)
        except grpc.RpcError as error:
            return Outcome(error.code().name, {}, error.details() or "")
        return Outcome("OK", told)


def within_a_second(check: Callable[[], bool]) -> float:
    """How long it took until `check` held, which began to be true with an answer that has just come."""
    begun = time.monotonic()
    while True:
        held = check()
        taken = time.monotonic() - begun
        if held:
            return taken
        assert taken <= WITHIN, "the change has not acted within a second"


class Contract(NamedTuple):
    """An endpoint of the platform; `core` is the service that has it, empty for what all have."""

    path: str
    core: str


def contracts() -> list[Contract]:
    """Every endpoint that there is generated code for."""
    found = []
    for module in pkgutil.walk_packages(gen.__path__, f"{gen.__name__}."):
        if module.name.endswith("_pb"):
            for service in importlib.import_module(module.name).desc().services:
                package = service.type_name.split(".")
                core = package[1] if package[0] == "micro" else "network" if package[0] == "envoy" else ""
                found += [Contract(f"/{service.type_name}/{method.name}", core) for method in service.methods]
    return found
