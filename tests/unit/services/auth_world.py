"""An auth to try out: over a state in memory, clocks that the test holds, and callers who pass the same table of needs
as those who come over the wire."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from micro.backends.argon.secrets import ArgonHasher
from micro.backends.jwt.tokens import JwtSigner
from micro.backends.memory.identity import MemoryIdentity
from micro.domain import access, errors, names
from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.framework.policy import Policy
from micro.ports.identity import IdentityStore
from micro.rpc.context import Context
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.tokens import JwtVerifier
from micro.services.auth import AuthService
from micro.testing.clock import FakeClock

ADMIN = Account("admin", "micro", "admin", scopes=frozenset({"admin"}))
SHOPKEEPER = Account("keeper", "shop", "keeper", scopes=frozenset({"admin"}))
SERVER_SECRET = "s" * 64

Action = pb.PolicyWatchResponse.Action


class Wall:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


class FakeTenants:
    """Services of namespaces, as the runtime would count and end them."""

    def __init__(self) -> None:
        self.services: dict[str, int] = {}
        self.stored: dict[str, int] = {}
        self.broken = False

    async def count(self, namespace: str) -> int:
        return self.services.get(namespace, 0)

    async def settings(self, namespace: str) -> int:
        return 0

    async def tables(self, namespace: str) -> int:
        return self.stored.get(namespace, 0)

    async def blobs(self, namespace: str) -> int:
        return 0

    async def topics(self, namespace: str) -> int:
        return 0

    async def end(self, namespace: str) -> None:
        if self.broken:
            raise errors.unavailable("the runtime cannot be reached")
        self.services.pop(namespace, None)
        self.stored.pop(namespace, None)


class World:
    def __init__(self, store: IdentityStore | None = None, **options: Any) -> None:
        self.store = store or MemoryIdentity()
        self.clock = FakeClock()
        self.wall = Wall()
        self.tenants = FakeTenants()
        options = {"public": False, "history": 4096, "hasher": ArgonHasher(passes=1, memory=8), **options}
        self.service = AuthService(
            self.store,
            JwtSigner(),
            JwtVerifier(),
            tenants=self.tenants,
            server_secret=SERVER_SECRET,
            now=self.wall,
            clock=self.clock,
            **options,
        )
        self._handlers: dict[str, Any] = {handler.desc().name: handler for handler in self.service.handlers}  # type: ignore[attr-defined]

    async def call(
        self,
        path: str,
        request: Any,
        by: Account | str | None = None,
        *,
        namespace: str = "",
        address: str = "203.0.113.9",
        forwarded: str = "",
    ) -> Any:
        """Call "Service/Method", as an account or with a token."""
        ctx = self.context(by, namespace=namespace, address=address, forwarded=forwarded)
        if not path.startswith("Setup/"):
            access.check(f"/micro.auth.v1.{path}", ctx.account, ctx.namespace)
        service, _, method = path.partition("/")
        return await getattr(self._handlers[service], names.snake(method))(request, ctx)

    def context(
        self,
        by: Account | str | None = None,
        *,
        namespace: str = "",
        address: str = "203.0.113.9",
        forwarded: str = "",
    ) -> Context:
        headers = [(b"micro-namespace", namespace.encode())] if namespace else []
        headers += [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
        ctx = Context(None, {"headers": headers, "client": (address, 4711)}, None)  # type: ignore[arg-type]
        ctx.account = self.whose(by) if isinstance(by, str) else by
        return ctx

    def whose(self, token: str, audience: Audience = Audience.PLATFORM) -> Account:
        """Whom a service takes the caller for that shows this token. Raises UNAUTHENTICATED."""
        return self.told().verify(token, self.wall(), audience).account

    @staticmethod
    def claims(token: str) -> dict[str, Any]:
        """What a token says, as it was written."""
        body = token.split(".")[1]
        found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return found

    def told(self, namespace: str = "micro") -> Policy:
        """What a service knows that was told everything just now."""
        policy = Policy(JwtVerifier(), namespace, clock=self.wall)
        feed = self.service.feed
        for response in feed.state(namespace, platform=False):
            policy.apply(response)
        return policy

    async def login(self, account: str, secret: str, namespace: str = "", **where: str) -> pb.TokenResponse:
        request = pb.TokenRequest(id=account, secret=secret, namespace=namespace)
        response: pb.TokenResponse = await self.call("Auth/Token", request, **where)
        return response

    async def refresh(self, refresh_token: str) -> pb.TokenResponse:
        response: pb.TokenResponse = await self.call("Auth/Token", pb.TokenRequest(refresh_token=refresh_token))
        return response

    async def generate(self, called: str, by: Account = ADMIN, **fields: Any) -> str:
        """Make an account, and return its secret."""
        response = await self.call("Auth/Generate", pb.GenerateRequest(id=called, **fields), by)
        secret: str = response.secret
        return secret

    async def audit(self, **request: Any) -> list[tuple[str, str, str, str]]:
        """Actor, action, target and outcome, the oldest first."""
        response = await self.call("Audit/List", pb.AuditListRequest(namespace="*", limit=1000, **request), ADMIN)
        return [(entry.actor, entry.action, entry.target, entry.outcome) for entry in reversed(response.entries)]


@asynccontextmanager
async def running(store: IdentityStore | None = None, **options: Any) -> AsyncIterator[World]:
    """An auth with the namespaces "micro" and "shop"."""
    world = World(store, **options)
    async with AsyncExitStack() as stack:
        await world.service.start(stack)
        if not any(namespace.name == "shop" for namespace in await world.store.namespaces()):
            await world.call("Namespaces/Create", pb.NamespacesCreateRequest(name="shop"), ADMIN)
        yield world


async def refusal(call: Any) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        await call
    return caught.value


async def refused(call: Any) -> errors.Kind:
    return (await refusal(call)).kind


def robot(service: str, namespace: str = "shop") -> Account:
    """The account of a service that the runtime started."""
    return Account(f"{service}@latest", namespace, service, Type.SERVICE, metadata={"service": service})
