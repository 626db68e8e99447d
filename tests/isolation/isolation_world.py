"""A whole platform in one process: every core service behind its own guard, with real tokens and two tenants.

Everything of a tenant has the tenant's name in its own, so that whatever leaks can be seen.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import io
import itertools
import json
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from isolation_calls import Direct, Reply, invoke, stream_of
from jwt.api_jws import PyJWS

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.argon.secrets import ArgonHasher
from micro.backends.envoy.ads import EnvoyDataplane
from micro.backends.files.sources import FileSources
from micro.backends.jwt.tokens import JwtSigner
from micro.backends.memory.blobs import MemoryBlobs
from micro.backends.memory.broker import MemoryBroker
from micro.backends.memory.builder import MemoryBuilder
from micro.backends.memory.events import MemoryEvents
from micro.backends.memory.launcher import MemoryLauncher
from micro.backends.memory.registry import MemoryRegistry
from micro.backends.memory.store import MemoryStore
from micro.backends.process.logs import LogFolder, LogWriter
from micro.backends.remote.accounts import RemoteAccounts
from micro.backends.remote.tenants import RemoteTenants
from micro.backends.stored.accounts import StoredAccounts
from micro.backends.stored.identity import StoredIdentity
from micro.backends.stored.workloads import RuntimeRecords, StoredWorkloads
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.errors import Error
from micro.domain.event import DeadLetter, Event, New, Progress, Retention
from micro.domain.namespace import Quota
from micro.domain.token import Claims
from micro.framework.guard import CoreGuard
from micro.framework.policy import Policy
from micro.rpc.app import Application
from micro.rpc.asgi_server import Command
from micro.rpc.gen.micro.auth.v1 import auth_pb
from micro.rpc.gen.micro.config.v1 import config_pb
from micro.rpc.gen.micro.registry.v1 import registry_pb
from micro.rpc.gen.micro.runtime.v1 import runtime_pb
from micro.rpc.gen.micro.store.v1 import store_pb
from micro.rpc.tokens import JwtVerifier
from micro.services import _auth_core as core
from micro.services._events_topics import Topics
from micro.services._store_databases import Databases
from micro.services._store_leases import Leases
from micro.services.auth import AuthService
from micro.services.blobs import BlobHandler
from micro.services.broker import BrokerHandler
from micro.services.config import ConfigService
from micro.services.events import DeadLettersHandler, EventsHandler, GroupsHandler, StreamHandler, TopicsHandler
from micro.services.host import Host, RuntimeSettings
from micro.services.network import NetworkService
from micro.services.registry import RegistryService
from micro.services.runtime import Runtime, Source
from micro.services.store import StoreHandler
from micro.services.store_backup import BackupHandler
from micro.services.store_lock import LeaderHandler, LockHandler

A, B = "yellow", "purple"
SECRET = "correct horse battery"
SERVER_SECRET = "s" * 43
SHARED = "shared"
"""A service that both tenants run under the same name."""

Call = tuple[str, str]
"""Account's id and namespace."""


class _Traffic:
    """Where everything is routed at once."""

    async def registered(self, namespace: str, name: str, node_id: str) -> int:
        return 1

    async def services(self, namespace: str) -> set[str]:
        return set()

    async def deregister(self, namespace: str, name: str, node_id: str) -> int:
        return 1

    async def sync(self, revision: int) -> None:
        return


class _Lively:
    async def answered(self, address: str) -> None:
        return


class _Admin:
    async def drain(self) -> None:
        return

    async def wait_idle(self, timeout: float) -> bool:
        return True


class World:
    """The platform and its two tenants."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.apps: dict[str, Application] = {}
        self.policy = Policy(JwtVerifier())
        sealing = AesGcmSealing(Keyring("", home / "config.key"))
        sealing.begin()
        self.store = StoredIdentity(MemoryStore(), sealing)
        self.kept = RuntimeRecords(MemoryStore(), sealing)
        self.signer = JwtSigner()
        self.secrets: dict[Call, str] = {}
        self._tokens: dict[Call, tuple[str, Claims]] = {}
        self._told = -1
        self.launcher = MemoryLauncher()
        self._numbers = itertools.count(1)
        as_auth = Direct(self.apps, lambda: self.headers(("auth", "micro")), self.tell)
        as_runtime = Direct(self.apps, lambda: self.headers(("runtime", "micro")), self.tell)
        self.auth = AuthService(
            self.store,
            self.signer,
            JwtVerifier(),
            ArgonHasher(passes=1, memory=8),
            RemoteTenants(*[as_auth] * 5),  # type: ignore[arg-type]
            server_secret=SERVER_SECRET,
            public=False,
        )
        self.registry = RegistryService(MemoryRegistry(), exists=lambda name: name in self.policy.namespaces)
        self.dataplane = EnvoyDataplane("0")
        self.network = NetworkService(
            lambda request: self.registry.watch(request, _context(core.account("network"))), self.dataplane
        )
        self.sources = FileSources(home / "namespaces")
        self.host = Host(
            launcher=self.launcher,
            builder=MemoryBuilder(),
            store=StoredWorkloads(self.kept),
            sources=self.sources,
            logs=LogFolder(home / "logs", home / "namespaces"),
            traffic=_Traffic(),
            accounts=StoredAccounts(self.kept, RemoteAccounts(as_runtime)),  # type: ignore[arg-type]
            command=lambda python, folder, address, admin: Command((str(python), address), {}),
            admin_socket=lambda process: home / "run" / process,
            admin=lambda socket: _Admin(),
            liveness=_Lively(),
            settings=RuntimeSettings("127.0.0.1:9", settle=0),
            environ={},
        )
        self.runtime = Runtime(self.host, self.quota)
        self.records = MemoryStore()
        self.blobs = MemoryBlobs()
        self.databases = Databases(self.records, lambda name: name in self.policy.namespaces)
        self.leases = Leases(self.databases)
        self.config = ConfigService(MemoryStore(), sealing, exists=lambda name: name in self.policy.namespaces)
        self.events = MemoryEvents()
        self.topics = Topics(self.events, lambda name: name in self.policy.namespaces, quota=self.quota)
        self._guard()

    def _guard(self) -> None:
        """Put each service behind its guard."""
        guarded = {
            "auth": self.auth.handlers,
            "registry": (self.registry,),
            "network": (self.network, self.dataplane),
            "runtime": (self.runtime, Source(self.sources, self.quota)),
            "store": (
                StoreHandler(self.databases),
                BlobHandler(self.blobs, self.databases),
                LockHandler(self.leases),
                LeaderHandler(self.leases),
                BackupHandler(self.databases, self.blobs.drop),
            ),
            "config": (self.config,),
            "events": (
                StreamHandler(self.topics),
                EventsHandler(self.topics),
                TopicsHandler(self.topics),
                GroupsHandler(self.topics),
                DeadLettersHandler(self.topics),
            ),
            "broker": (BrokerHandler(MemoryBroker(), lambda name: name in self.policy.namespaces),),
        }
        for name, handlers in guarded.items():
            guard = CoreGuard(self.policy, SERVER_SECRET)
            self.apps[name] = Application(name, handlers, guard=guard, timeout=0)

    def quota(self, namespace: str) -> Quota | None:
        found = self.policy.namespaces.get(namespace)
        return None if found is None else found.quota

    def tell(self) -> None:
        """Let every guard know what auth says now."""
        if self._told == self.auth.feed._count:
            return
        self._told = self.auth.feed._count
        for change in self.auth.feed.state("micro", platform=True):
            self.policy.apply(change)

    def fresh(self, namespace: str, what: str = "new") -> str:
        """A name of the tenant's that nothing has yet."""
        return f"{what}-{namespace}-{next(self._numbers)}"

    # --- calls --------------------------------------------------------------------------------------------------------

    async def call(self, path: str, requests: Any, headers: Any, *, of: str = "", enough: Any = None) -> Reply:
        """Call by gRPC; `of` names the service where the path does not."""
        app = self.apps[of or path.split(".")[1]]
        method = app.resolve(path)
        assert method is not None, path
        self.tell()
        sent = requests if isinstance(requests, list) else [requests]
        return await invoke(app, method, sent, headers, enough)

    async def as_root(self, path: str, request: Any) -> Any:
        """The answer to the admin of the platform, who is refused nothing."""
        reply = await self.call(path, request, await self.headers(("root", "micro")))
        if reply.error is not None:
            raise reply.error
        return reply.messages[0]

    async def headers(self, account: Call) -> list[tuple[str, str]]:
        """Who an account is, by the token of its last login, or of another one where that holds no more."""
        if account in self._tokens:
            token, claims = self._tokens[account]
            self.tell()
            with suppress(Error):
                self.policy.hold(claims, self.policy.key_of(token))
                return [("authorization", f"Bearer {token}")]
        token = await self.login(account)
        self._tokens[account] = token, self.policy.verify(token, time.time(), Audience.PLATFORM)
        return [("authorization", f"Bearer {token}")]

    async def login(self, account: Call) -> str:
        """An access token, by a login of its own."""
        id_, namespace = account
        secret = core.secret(SERVER_SECRET, id_) if core.reserved(namespace, id_) else self.secrets[account]
        request = auth_pb.TokenRequest(id=id_, secret=secret, namespace=namespace)
        reply = await self.call("/micro.auth.v1.Auth/Token", request, [])
        if reply.error is not None:
            raise reply.error
        self.tell()
        token: str = reply.messages[0].access_token
        return token

    # --- things -------------------------------------------------------------------------------------------------------

    async def account(self, id_: str, namespace: str, *scopes: str) -> str:
        """Make an account; return its id."""
        await self.as_root(
            "/micro.auth.v1.Auth/Generate",
            auth_pb.GenerateRequest(id=id_, secret=SECRET, namespace=namespace, scopes=list(scopes)),
        )
        self.secrets[id_, namespace] = SECRET
        return id_

    async def rule(self, namespace: str) -> str:
        """Make a rule; return its id."""
        made = auth_pb.Rule(
            id=self.fresh(namespace, "rule"),
            scope="*",
            resource=auth_pb.Resource(type="*", name="*", endpoint="*"),
            access=auth_pb.Access.GRANTED,
            namespace=namespace,
        )
        await self.as_root("/micro.auth.v1.Rules/Create", auth_pb.RulesCreateRequest(rule=made))
        return made.id

    async def upload(self, owner: str) -> str:
        """Source that an account NAMESPACE/ID of the tenant, or of another, has sent to the tenant of that name."""
        namespace, _, account = owner.partition(":")
        return await self.sources.receive(stream_of(archive()), namespace, account)

    async def workload(self, namespace: str, by: str, name: str = "") -> str:
        """Have the runtime run a service of somebody's; return its name."""
        name = name or self.fresh(namespace, "svc")
        request = runtime_pb.CreateRequest(
            service=runtime_pb.Service(name=name, namespace=namespace),
            upload_id=await self.upload(f"{namespace}:{namespace}/{by}"),
            wait=True,
        )
        path = "/micro.runtime.v1.Runtime/Create"
        reply = await self.call(path, request, await self.headers((by, namespace)))
        if reply.error is not None:
            raise reply.error
        spec = self.launcher.started[-1]
        self.secrets[spec.env["MICRO_AUTH_ID"], namespace] = spec.env["MICRO_AUTH_SECRET"]
        LogWriter(spec.log).write(spec.id, [("info", f"output of {namespace}")])
        return name

    async def node(self, namespace: str, name: str) -> str:
        """Register an instance; return its id."""
        id_ = self.fresh(namespace, "node")
        request = registry_pb.RegisterRequest(service=announced(namespace, name, id_))
        await self.as_root("/micro.registry.v1.Registry/Register", request)
        return id_

    async def record(self, namespace: str, key: str) -> str:
        """Store a record, which tells whose it is; return its key."""
        request = store_pb.WriteRequest(
            record=store_pb.Record(key=key, value=f"of {namespace}".encode()),
            options=store_pb.Options(database=namespace, table="things"),
        )
        await self.as_root("/micro.store.v1.Store/Write", request)
        return key

    async def blob(self, namespace: str, key: str) -> str:
        """Keep a blob, which tells whose it is; return its key."""
        await self.blobs.write(namespace, key, stream_of(f"of {namespace}".encode()))
        return key

    async def setting(self, namespace: str, path: str = "", *, secret: bool = False) -> str:
        """Set a value, which tells whose it is; return its path."""
        request = config_pb.SetRequest(
            namespace=namespace,
            path=path or self.fresh(namespace, "set"),
            value=config_pb.Value(data=f'"of {namespace}"'),
            options=config_pb.Options(secret=secret),
        )
        await self.as_root("/micro.config.v1.Config/Set", request)
        return request.path

    async def event_topic(self, namespace: str, name: str = "") -> str:
        """Make a topic whose event, which group "billing" could not handle, tells whose it is; return its name."""
        name, event = name or self.fresh(namespace, "topic"), New("id", f"of {namespace}".encode())
        await self.events.configure(namespace, name, Retention())
        await self.events.append(namespace, name, [event])
        await self.events.advance(namespace, name, "billing", Progress(1))
        dead = DeadLetter(Event("id", 1, 1, event.payload, {}), 1, "no", 1)
        await self.events.bury(namespace, name, "billing", dead)
        return name

    async def lock(self, namespace: str) -> tuple[str, str]:
        """Take a lock; return its name and what its holder shows."""
        name = self.fresh(namespace, "lock")
        request = store_pb.AcquireRequest(name=name, database=namespace)
        return name, (await self.as_root("/micro.store.v1.Lock/Acquire", request)).holder

    async def key(self) -> Any:
        return (await self.store.keys())[0]


def announced(namespace: str, name: str, node: str) -> registry_pb.Service:
    """One instance, as it announces itself."""
    number = int(hashlib.sha256(node.encode()).hexdigest()[:4], 16) % 60000 + 1024
    return registry_pb.Service(
        name=name,
        namespace=namespace,
        nodes=[registry_pb.Node(id=node, address=f"127.0.0.1:{number}")],
        endpoints=[registry_pb.Endpoint(name="Shared.Call", path="/shared.Shared/Call", kind="unary")],
    )


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("main.py"), io.BytesIO())
    return buffer.getvalue()


def _context(account: Account) -> Any:
    from micro.rpc.context import Context

    ctx = Context(None, {"headers": []}, None)  # type: ignore[arg-type]
    ctx.account = account
    return ctx


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[World]:
    """A platform with the tenants A and B, each with a user, another one, an admin, a service, rules and output."""
    world = World(home)
    async with AsyncExitStack() as stack:
        await world.auth.start(stack)
        world.tell()
        await world.registry.start(stack)
        await world.network.start(stack)
        await world.kept.start(stack)
        await world.runtime.start(stack)
        await world.records.start(stack)
        await world.leases.start(stack)
        await world.config.start(stack)
        await world.topics.start(stack)
        begin = await world.call(
            "/micro.auth.v1.Setup/Begin", auth_pb.BeginRequest(), [("authorization", f"Bearer {SERVER_SECRET}")]
        )
        world.secrets["root", "micro"] = world.secrets["admin", "micro"] = begin.messages[0].secret
        first = await world.call(
            "/micro.auth.v1.Auth/Generate",
            auth_pb.GenerateRequest(id="root", secret=SECRET, scopes=["admin"]),
            await world.headers(("admin", "micro")),
        )
        assert first.error is None
        world.secrets["root", "micro"] = SECRET
        await world.account("plain", "micro")
        for namespace in (A, B):
            request = auth_pb.NamespacesCreateRequest(name=namespace)
            await world.as_root("/micro.auth.v1.Namespaces/Create", request)
            world.tell()
            for id_, scopes in (("ann", ()), ("bob", ()), ("adm", ("admin",))):
                await world.account(f"{id_}-{namespace}", namespace, *scopes)
            await world.workload(namespace, f"ann-{namespace}", SHARED)
            await world.node(namespace, SHARED)
            await world.rule(namespace)
            await world.record(namespace, f"kept-{namespace}")
            await world.blob(namespace, f"kept-{namespace}")
            await world.setting(namespace, "kept", secret=True)
            await world.event_topic(namespace, "kept")
        yield world


# --- tokens that do not hold --------------------------------------------------------------------------------------


def _part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Forger:
    """Makes tokens of an account that differ from a good one in one thing."""

    def __init__(self, world: World, key: Any, issuer: str) -> None:
        self.now = time.time()
        account = Account("root", "micro", "root", scopes=frozenset({"admin"}))
        self.claims = Claims(account, issuer, Audience.PLATFORM, "j", "", self.now, self.now + 900)
        self.body = self.claims.dump()
        self.said = {"typ": "JWT", "alg": "ES256", "ns": "micro", "kid": key.kid}
        self.good = world.signer.sign(self.claims, key)
        self._private = world.signer._load(key)

    def signed(self, **header: Any) -> str:
        """With the right key, whatever the header says."""
        return self._sign({**self.said, **header}, self.body)

    def saying(self, **claims: Any) -> str:
        """With the right key and other claims; None leaves one out."""
        body = {**self.body, **claims}
        return self._sign(self.said, {name: value for name, value in body.items() if value is not None})

    def unsigned(self, alg: str, signature: str = "") -> str:
        return f"{_part({**self.said, 'alg': alg})}.{_part(self.body)}.{signature}"

    def hashed(self, encoding: Encoding, form: PublicFormat) -> str:
        """HS256 with the public key for a secret."""
        text = f"{_part({**self.said, 'alg': 'HS256'})}.{_part(self.body)}"
        secret = self._private.public_key().public_bytes(encoding, form)
        return f"{text}.{_part(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"

    def _sign(self, header: Any, payload: Any) -> str:
        text = f"{_part(header)}.{_part(payload)}"
        signature = PyJWS().get_algorithm_by_name("ES256").sign(text.encode(), self._private)
        return f"{text}.{_part(signature)}"


async def forged(world: World) -> dict[str, str]:
    """Values of the header `authorization` that look like an admin of the platform's, and are none."""
    key, issuer = await world.key(), await world.store.issuer()
    forger = Forger(world, key, issuer)
    good, now, claims = forger.good, forger.now, forger.claims
    stranger = dataclasses.replace(world.signer.generate(now), kid=key.kid)
    leaver = await world.account(world.fresh("micro", "leaver"), "micro", "admin")
    revoked = await world.login((leaver, "micro"))
    await world.as_root("/micro.auth.v1.Accounts/Delete", auth_pb.AccountsDeleteRequest(id=leaver, namespace="micro"))
    head, _, signature = good.rpartition(".")
    tokens = {
        "expired": world.signer.sign(dataclasses.replace(claims, issued=now - 2000, expires=now - 1000), key),
        "from the future": world.signer.sign(dataclasses.replace(claims, issued=now + 600, expires=now + 900), key),
        "revoked": revoked,
        "for users' services": world.signer.sign(dataclasses.replace(claims, audience=Audience.SERVICES), key),
        "alg none": forger.unsigned("none"),
        "alg none with a signature": forger.unsigned("none", signature),
        "alg NONE": forger.unsigned("NONE"),
        "no signature": f"{head}.",
        "another's signature": world.signer.sign(claims, stranger),
        "unknown key": world.signer.sign(claims, world.signer.generate(now)),
        "key in the header": forger.signed(jku="http://127.0.0.1/keys"),
        "critical extension": forger.signed(crit=["x"]),
        "HS256 with the public key": forger.hashed(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "HS256 with the point": forger.hashed(Encoding.X962, PublicFormat.UncompressedPoint),
        "ES384 said": forger.signed(alg="ES384"),
        "other issuer": forger.saying(iss="elsewhere"),
        "other audience": forger.saying(aud="elsewhere"),
        "several audiences": forger.saying(aud=[issuer, "elsewhere"]),
        "other namespace in the header": forger.signed(ns=B),
        "no subject": forger.saying(sub=None),
        "changed payload": f"{head.partition('.')[0]}.{_part({**forger.body, 'name': 'x'})}.{signature}",
        "not a token": "x.y.z",
        "too long": f"{good}{'A' * 9000}",
        "the server's secret with a tail": f"{SERVER_SECRET}x",
    }
    return {
        **{name: f"Bearer {token}" for name, token in tokens.items()},
        "empty": "Bearer ",
        "other scheme": f"Basic {good}",
        "no scheme": good,
        "twice": f"Bearer {good} {good}",
    }
