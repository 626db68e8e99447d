"""The guards: who may call a user's service, by rules, and who a core one, by the table of what its endpoints need.

A call with a token that was seen before costs a look into a dict. What is remembered is forgotten when the policy
changes, and no token outlives its end.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping

from micro.domain import access, errors, names
from micro.domain.access import Need
from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.domain.rule import Resource
from micro.domain.token import SKEW_SECONDS, Claims
from micro.framework.policy import Policy
from micro.framework.streams import Streams
from micro.rpc import pages
from micro.rpc.context import Context, named
from micro.rpc.guard import ACTOR, AUTHORIZATION, NAMESPACE, Guard, RefusedTokenError

MOST = 4096
"""Tokens that are remembered; when there are more, all are forgotten."""

_NOTHING = ""
"""Stands for a path with nothing behind it: only rules about all endpoints are about it."""

Headers = Mapping[bytes, bytes]


class _Caller:
    """A caller that was seen before: its account, until when its token holds, what that says, and what it may call, by
    path."""

    __slots__ = ("account", "claims", "until", "verdicts")

    def __init__(self, claims: Claims | None) -> None:
        self.account = None if claims is None else claims.account
        self.claims = claims
        self.until = float("inf") if claims is None else claims.expires + SKEW_SECONDS
        self.verdicts: dict[str, bool] = {}


class _Callers:
    """The callers that were seen since the policy last changed, by the header that tells them.

    Args:
        audience: whom their tokens have to be for.
    """

    def __init__(self, policy: Policy, audience: Audience, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._audience = audience
        self._clock = clock
        self._known: dict[bytes, _Caller] = {}
        self.nobody = _Caller(None)
        policy.on_change(self._forget)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, given: bytes, header: bytes = AUTHORIZATION) -> _Caller:
        """Whose token `Bearer TOKEN` is. Raises RefusedTokenError; UNAVAILABLE before the policy is known."""
        known = self._known.get(given)
        if known is None or self._clock() >= known.until:
            known = self._learn(given, header)
        return known

    def actor(self, given: bytes, namespace: str) -> Account | None:
        """The service whose token it is, which acts for somebody there. Raises as `of` does; PERMISSION_DENIED for an
        account that is no service's, or is of another namespace and not the platform's own."""
        account = self.of(given, ACTOR).account
        if account is None or account.type is not Type.SERVICE or not account.belongs(namespace):
            raise errors.permission_denied(
                f"{account} may not act for others: {ACTOR.decode()} is for service accounts of namespace {namespace}"
            )
        return account

    def _learn(self, given: bytes, header: bytes) -> _Caller:
        scheme, _, token = given.partition(b" ")
        try:
            if scheme.lower() != b"bearer" or not token:
                raise errors.unauthenticated(f"{header.decode()} is not 'Bearer TOKEN': log in with `micro login`")
            claims = self._policy.verify(token.decode("latin-1"), self._clock(), self._audience)
        except Error as error:
            if error.kind is Kind.UNAUTHENTICATED:
                raise RefusedTokenError(error, header) from None
            raise
        if len(self._known) >= MOST:
            self._known.clear()
        found = self._known[given] = _Caller(claims)
        return found

    def shown(self, headers: Headers) -> Callable[[], None]:
        """What raises UNAUTHENTICATED once one of the tokens that a call has shown is refused; that it has ended does
        not count."""
        policy = self._policy
        kept = [
            (claims, policy.key_of(given.partition(b" ")[2].decode("latin-1")))
            for header in (AUTHORIZATION, ACTOR)
            if (given := headers.get(header)) is not None and (claims := self.of(given, header).claims) is not None
        ]

        def hold() -> None:
            for claims, kid in kept:
                policy.hold(claims, kid)

        return hold

    def _forget(self) -> None:
        self._known.clear()
        self.nobody.verdicts.clear()


class RuleGuard(Guard):
    """Decides by the rules of the service's own namespace. Takes tokens for users' services only.

    Args:
        service, namespace: what is guarded.
        policy: what is known of rules and tokens.
        clock: seconds since 1970.
    """

    def __init__(self, service: str, namespace: str, policy: Policy, *, clock: Callable[[], float] = time.time) -> None:
        self._service = service
        self._namespace = namespace
        self._own = frozenset({b"", b"-", namespace.encode()})
        self._policy = policy
        self._callers = _Callers(policy, Audience.SERVICES, clock)
        self._streams = Streams(policy)

    def admit(self, ctx: Context, headers: Headers) -> None:
        # Every line here runs for each call.
        caller = self._caller(headers)
        ctx.account = caller.account
        ctx.namespace = self._namespace
        actor = headers.get(ACTOR)
        if actor is not None:
            ctx.actor = self._callers.actor(actor, self._namespace)
        endpoint = ctx.endpoint
        allowed = caller.verdicts.get(endpoint.path)
        if allowed is None:
            allowed = caller.verdicts[endpoint.path] = self._decide(caller, endpoint.name)
        if not allowed:
            raise self._denied(caller, endpoint.name)

    def keep(self, ctx: Context, headers: Headers, end: Callable[[Error], None]) -> Callable[[], None]:
        hold, caller, endpoint = self._callers.shown(headers), self._caller(headers), ctx.endpoint.name
        rules = self._policy.rules

        def decide() -> None:
            nonlocal rules
            hold()
            if rules is not self._policy.rules:
                rules = self._policy.rules
                if not self._decide(caller, endpoint):
                    raise self._denied(caller, endpoint)

        return self._streams.keep(decide, end)

    def reveal(self, headers: Headers) -> None:
        caller = self._caller(headers)
        if not self._decide(caller, _NOTHING):
            raise self._denied(caller, "its endpoints")

    def _caller(self, headers: Headers) -> _Caller:
        asked = headers.get(NAMESPACE)
        if asked is not None and asked not in self._own:
            raise errors.not_found(f"{self._service} is not in namespace {asked.decode('latin-1')[:64]}")
        given = headers.get(AUTHORIZATION)
        if given is not None:
            return self._callers.of(given)
        # Gateways know which pages may call, and name a namespace in any case, which no page of another origin can do
        # by itself: this one has come by no gateway.
        if asked is None and pages.foreign(headers):
            raise errors.permission_denied(f"{self._service} takes nothing from web pages but through the api gateway")
        return self._callers.nobody

    def _decide(self, caller: _Caller, endpoint: str) -> bool:
        return self._policy.decide(caller.account, Resource("service", self._service, endpoint)).allowed

    def _denied(self, caller: _Caller, endpoint: str) -> Error:
        if caller.account is None:
            return errors.unauthenticated(f"{self._service} {endpoint} needs an account: log in with `micro login`")
        return errors.permission_denied(
            f"{caller.account} may not call {self._service} {endpoint}: ask an admin of namespace {self._namespace}"
        )


class CoreGuard(Guard):
    """Decides by what each endpoint of the platform needs. Takes tokens for the platform's own services only.

    Args:
        policy: what is known of tokens.
        server_secret: what gateways and the server itself show; without one they are not let in.
        clock: seconds since 1970.
    """

    def __init__(self, policy: Policy, server_secret: str, *, clock: Callable[[], float] = time.time) -> None:
        self._callers = _Callers(policy, Audience.PLATFORM, clock)
        self._streams = Streams(policy)
        self._shown = f"Bearer {server_secret}".encode() if server_secret else b""

    def admit(self, ctx: Context, headers: Headers) -> None:
        ctx.audience = Audience.PLATFORM
        path = ctx.endpoint.path
        given = headers.get(AUTHORIZATION)
        if self._ours(path, given):
            ctx.namespace = names.DEFAULT_NAMESPACE
            return
        account = None if given is None else self._callers.of(given).account
        ctx.account = account
        ctx.namespace = named(headers.get(NAMESPACE, b"").decode("latin-1"), account)
        actor = headers.get(ACTOR)
        if actor is not None:
            ctx.actor = self._callers.actor(actor, ctx.namespace)
        access.check(path, account, ctx.namespace)

    def keep(self, ctx: Context, headers: Headers, end: Callable[[Error], None]) -> Callable[[], None]:
        if self._ours(ctx.endpoint.path, headers.get(AUTHORIZATION)):
            headers = {}  # what it has shown is no token, and holds for as long as this process
        # What endpoints need does not change, nor what a token says: that it was let in stays right while they hold.
        return self._streams.keep(self._callers.shown(headers), end)

    def reveal(self, headers: Headers) -> None:
        given = headers.get(AUTHORIZATION)
        if given is None:
            raise errors.unauthenticated("this needs an account: log in with `micro login`")
        self._callers.of(given)

    def _ours(self, path: str, given: bytes | None) -> bool:
        """Whether a gateway or the server itself calls what is for them."""
        if access.NEEDS.get(path) not in (Need.GATEWAY, Need.SERVER):
            return False
        return given is not None and bool(self._shown) and hmac.compare_digest(given, self._shown)
