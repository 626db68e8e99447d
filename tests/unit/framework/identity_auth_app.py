"""The least that an auth and a registry must do, as a process: what the tests of a guarded service run beside it."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from collections.abc import AsyncIterator
from typing import Any

from micro.domain import errors
from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.domain.rule import Access, Resource, Rule
from micro.domain.token import ACCESS_SECONDS, TAG
from micro.framework.guard import CoreGuard
from micro.framework.policy import Policy
from micro.rpc.app import Application
from micro.rpc.gen.micro.auth.v1 import auth_connect as handlers
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.registry.v1.registry_connect import Registry as RegistryContract
from micro.rpc.gen.micro.registry.v1.registry_pb import RegisterRequest, RegisterResponse
from micro.rpc.tokens import JwtVerifier
from micro.testing.identity import Deployment, revoked, rule_changed

ACCOUNTS = {
    "ann": Account("ann", "micro"),
    "admin": Account("admin", "micro", scopes=frozenset({"admin"})),
    "echo-latest": Account("echo-latest", "micro", type=Type.SERVICE, metadata={"service": "echo"}),
}

here = Deployment()
own = Policy(JwtVerifier())
changes: list[pb.PolicyWatchResponse] = here.state()
told = asyncio.Condition()
released = asyncio.Event()
logins: list[str] = []
registered: list[str] = []

for change in changes:
    own.apply(change)


async def tell(change: pb.PolicyWatchResponse) -> None:
    own.apply(change)
    async with told:
        changes.append(change)
        told.notify_all()


def tag(account: str) -> str:
    """What all sessions of an account begin with."""
    return account.ljust(TAG, "-")


class Auth(handlers.Auth):
    async def token(self, request: pb.TokenRequest, ctx: Any) -> pb.TokenResponse:
        if request.secret != "right" or request.id not in ACCOUNTS:
            raise errors.unauthenticated("no")
        logins.append(request.id)
        now, account, session = dt.datetime.now(dt.UTC), ACCOUNTS[request.id], tag(request.id) + secrets.token_hex(4)
        return pb.TokenResponse(
            access_token=here.token(account, audience=Audience.PLATFORM, session=session),
            service_token=here.token(account, audience=Audience.SERVICES, session=session),
            created=now.isoformat(),
            expires=(now + dt.timedelta(seconds=ACCESS_SECONDS)).isoformat(),
        )

    async def explain(self, request: pb.ExplainRequest, ctx: Any) -> pb.ExplainResponse:
        return pb.ExplainResponse(reason=f"{' '.join(logins)}, {' '.join(registered)}")


class Watch(handlers.Policy):
    async def watch(self, request: pb.PolicyWatchRequest, ctx: Any) -> AsyncIterator[pb.PolicyWatchResponse]:
        await released.wait()
        sent = 0
        while True:
            async with told:
                while len(changes) <= sent:
                    await told.wait()
            yield changes[sent]
            sent += 1


class Setup(handlers.Setup):
    async def begin(self, request: pb.BeginRequest, ctx: Any) -> pb.BeginResponse:
        released.set()
        return pb.BeginResponse()


class Tokens(handlers.Tokens):
    async def revoke(self, request: pb.TokensRevokeRequest, ctx: Any) -> pb.TokensRevokeResponse:
        await tell(revoked(here.clock(), tag(request.account)))
        return pb.TokensRevokeResponse()


class Rules(handlers.Rules):
    async def create(self, request: pb.RulesCreateRequest, ctx: Any) -> pb.RulesCreateResponse:
        assert request.rule is not None
        await tell(rule_changed(Rule(request.rule.id, "micro", "", Resource("service", "echo"), Access.GRANTED)))
        return pb.RulesCreateResponse()


class Registry(RegistryContract):
    async def register(self, request: RegisterRequest, ctx: Any) -> RegisterResponse:
        registered.append(str(ctx.account))
        return RegisterResponse()


app = Application(
    "auth", [Auth(), Watch(), Setup(), Tokens(), Rules(), Registry()], guard=CoreGuard(own, "of the server")
)
