"""Auth: who there is, what they may do, and the tokens that say so.

Nothing is kept in memory that is not stored, except what follows from it and how often logins failed. One process
serves a deployment; the order of its own changes is the order in which everybody is told of them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

from micro.domain import errors, names
from micro.ports.announcements import Announcements
from micro.ports.clock import Clock, MonotonicClock
from micro.ports.identity import IdentityStore
from micro.ports.secrets import SecretHasher
from micro.ports.tokens import Signer, Verifier
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Auth
from micro.services import _auth_caller as caller
from micro.services import _auth_messages as messages
from micro.services._auth_changes import Changes, Moments
from micro.services._auth_secrets import Secrets
from micro.services._auth_turns import Turns
from micro.services.auth_accounts import Accountant, AccountsHandler
from micro.services.auth_attempts import Proofs
from micro.services.auth_audit import AuditHandler
from micro.services.auth_keys import Keyring, KeysHandler
from micro.services.auth_lockouts import Lockouts
from micro.services.auth_logins import Logins
from micro.services.auth_namespaces import NamespacesHandler, Tenants
from micro.services.auth_policy import Feed, PolicyHandler
from micro.services.auth_rules import RulesHandler
from micro.services.auth_sessions import Sessions, TokensHandler
from micro.services.auth_setup import SetupHandler


class AuthHandler(Auth):
    """The handler of `micro.auth.v1.Auth`: logins, and what is asked most."""

    def __init__(
        self, logins: Logins, keyring: Keyring, feed: Feed, accounts: AccountsHandler, rules: RulesHandler
    ) -> None:
        self._logins = logins
        self._keyring = keyring
        self._feed = feed
        self._accounts = accounts
        self._rules = rules

    async def generate(self, request: pb.GenerateRequest, ctx: Any) -> pb.GenerateResponse:
        return await self._accounts.generate(request, ctx)

    async def explain(self, request: pb.ExplainRequest, ctx: Any) -> pb.ExplainResponse:
        return await self._rules.explain(request, ctx)

    async def token(self, request: pb.TokenRequest, ctx: Any) -> pb.TokenResponse:
        address = caller.address(ctx)
        if request.refresh_token:
            if request.id or request.secret:
                raise errors.invalid_argument("both a secret and a refresh token are given: send one of them")
            return await self._logins.by_refresh_token(request.refresh_token, address)
        if not request.id:
            raise errors.invalid_argument("id is missing: say who logs in")
        namespace = names.namespace(request.namespace or ctx.namespace)
        return await self._logins.by_secret(namespace, request.id, request.secret, address)

    async def inspect(self, request: pb.InspectRequest, ctx: Any) -> pb.InspectResponse:
        claims = self._keyring.verify(request.token)
        if self._feed.revocations().cover(claims):
            raise errors.unauthenticated("the token was revoked: log in again")
        return pb.InspectResponse(account=messages.to_account(claims.account), expires=messages.rfc3339(claims.expires))


class AuthService:
    """The handlers of auth, and what they share.

    Args:
        store: where everything is kept; started by this service.
        signer, verifier: for tokens.
        hasher: for secrets.
        tenants: what other core services hold of a namespace.
        server_secret: what the secrets of the platform's own accounts follow from; none of them can log in without.
        public: whether users' services may be called by anyone where no rule says anything else.
        local_login: whether the first admin gets a session for the command line of this host.
        now: seconds since 1970.
        clock: for waiting.
        announcements: who hears of changes, though not of secrets.

    Attributes:
        handlers: of all services of `micro.auth.v1`.
    """

    def __init__(
        self,
        store: IdentityStore,
        signer: Signer,
        verifier: Verifier,
        hasher: SecretHasher,
        tenants: Tenants,
        *,
        server_secret: str,
        public: bool,
        local_login: bool = True,
        now: Callable[[], float] = time.time,
        clock: Clock | None = None,
        history: int = 4096,
        announcements: Announcements | None = None,
    ) -> None:
        clock = clock or MonotonicClock()
        self._store = store
        self._clock = clock
        self._moments = moments = Moments(now)
        self._changes = changes = Changes(announcements)
        self.feed = feed = Feed(public=public, history=history)
        self._keyring = keyring = Keyring(store, signer, verifier, feed, changes, moments)
        sessions = Sessions(store, keyring, feed, changes, moments, server_secret=server_secret)
        turns = Turns()
        accountant = Accountant(store, Secrets(hasher, turns), sessions, changes, moments)
        self._lockouts = lockouts = Lockouts(store, changes, moments, clock)
        proofs = Proofs(store, hasher, turns, clock, lockouts.refused)
        self.accounts = AccountsHandler(store, accountant, proofs, feed, moments)
        self.rules = RulesHandler(store, feed, changes, moments)
        logins = Logins(
            store, proofs, sessions, changes, moments, server_secret=server_secret, clock=clock, lockouts=lockouts
        )
        self.auth = AuthHandler(logins, keyring, feed, self.accounts, self.rules)
        self.tokens = TokensHandler(sessions, feed, moments)
        self.keys = KeysHandler(keyring)
        self.namespaces = NamespacesHandler(store, accountant, tenants, feed, changes, moments)
        self.audit = AuditHandler(store, feed, lockouts)
        self.policy = PolicyHandler(feed, clock)
        self.setup = SetupHandler(accountant, sessions, changes, moments, local_login=local_login)
        self.handlers: tuple[object, ...] = (
            self.auth,
            self.accounts,
            self.rules,
            self.tokens,
            self.keys,
            self.namespaces,
            self.audit,
            self.policy,
            self.setup,
        )
        self._started = False

    async def start(self, stack: AsyncExitStack) -> None:
        """Read what is stored, and make the first key where there is none. Raises what the store raises."""
        await self._store.start(stack)
        await self._changes.start(stack)
        await self._lockouts.start(stack)
        await self.feed.load(self._store, self._moments.now())
        await self._keyring.start()
        self._started = True

    def healthy(self) -> bool:
        """Whether what is stored was read and can be changed."""
        return self._started and self._store.healthy()

    def watch(self) -> AsyncGenerator[pb.PolicyWatchResponse]:
        """What `Policy.Watch` tells a service of the platform: for auth's own guard, in this process."""
        return self.feed.watch(names.DEFAULT_NAMESPACE, platform=True, clock=self._clock)

    async def jwks(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer `GET /.well-known/jwks.json`, as ASGI asks it."""
        await self.keys.jwks(scope, receive, send)
