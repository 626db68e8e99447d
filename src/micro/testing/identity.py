"""A deployment for tests that makes real tokens, and tells policies what auth would tell."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable

from micro.backends.jwt.tokens import JwtSigner
from micro.domain import names
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.rule import Access, Rule
from micro.domain.token import ACCESS_SECONDS, Claims
from micro.framework.policy import Policy
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.tokens import JwtVerifier

_Action = pb.PolicyWatchResponse.Action


class Deployment:
    """Signs tokens, and tells policies what auth would tell.

    Args:
        issuer: its name.
        clock: seconds since 1970.
    """

    def __init__(self, issuer: str = "test", *, clock: Callable[[], float] = time.time) -> None:
        self.issuer = issuer
        self.clock = clock
        self.signer = JwtSigner()
        self.key = self.signer.generate(clock())

    def token(
        self,
        account: Account,
        *,
        audience: Audience = Audience.SERVICES,
        session: str = "",
        ago: float = 0.0,
        issuer: str | None = None,
    ) -> str:
        """An access token, made `ago` seconds ago."""
        number, issued = secrets.token_hex(8), self.clock() - ago
        claims = Claims(
            account, issuer or self.issuer, audience, number, session, issued, issued + ACCESS_SECONDS
        )  # fmt: skip
        return self.signer.sign(claims, self.key)

    def bearer(
        self, account: Account, *, audience: Audience = Audience.SERVICES, session: str = "", ago: float = 0.0
    ) -> str:
        """The value of the header `authorization`."""
        return f"Bearer {self.token(account, audience=audience, session=session, ago=ago)}"

    def state(self, rules: Iterable[Rule] = (), *, public: bool = False) -> list[pb.PolicyWatchResponse]:
        """What a watch begins with."""
        return [
            pb.PolicyWatchResponse(action=_Action.RESET, issuer=self.issuer, public=public),
            self.keys(),
            *(rule_changed(rule) for rule in rules),
            pb.PolicyWatchResponse(action=_Action.SYNCED),
        ]

    def keys(self) -> pb.PolicyWatchResponse:
        """The keys, as a change."""
        public = self.signer.public(self.key)
        key = pb.Key(kid=public.kid, kty="EC", crv="P-256", x=public.x, y=public.y, alg="ES256", use="sig")
        return pb.PolicyWatchResponse(action=_Action.KEYS, keys=[key])

    def policy(
        self, namespace: str = names.DEFAULT_NAMESPACE, rules: Iterable[Rule] = (), *, public: bool = False
    ) -> Policy:
        """A policy that knows all of it."""
        made = Policy(JwtVerifier(), namespace, clock=self.clock)
        for change in self.state(rules, public=public):
            made.apply(change)
        return made


def rule_changed(rule: Rule) -> pb.PolicyWatchResponse:
    """Word of a rule that was added or replaced."""
    about = pb.Resource(type=rule.resource.type, name=rule.resource.name, endpoint=rule.resource.endpoint)
    told = pb.Rule(
        id=rule.id,
        scope=rule.scope,
        resource=about,
        access=pb.Access.GRANTED if rule.access is Access.GRANTED else pb.Access.DENIED,
        priority=rule.priority,
        namespace=rule.namespace,
    )
    return pb.PolicyWatchResponse(action=_Action.RULE, rule=told)


def rule_gone(id: str, namespace: str = names.DEFAULT_NAMESPACE) -> pb.PolicyWatchResponse:  # noqa: A002
    """Word of a rule that was removed."""
    return pb.PolicyWatchResponse(action=_Action.RULE_DELETED, rule=pb.Rule(id=id, namespace=namespace))


def revoked(before: float, session: str) -> pb.PolicyWatchResponse:
    """Word that tokens of a session, or of all that begin with a tag, made before a time are refused."""
    revocation = pb.Revocation(session=session, before=before)
    return pb.PolicyWatchResponse(action=_Action.REVOKED, revocation=revocation)
