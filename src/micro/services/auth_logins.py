"""Logins: a secret becomes a session, and what fails is kept in the audit log."""

from __future__ import annotations

from micro.domain.account import Account
from micro.ports.clock import Clock
from micro.ports.identity import Entry, IdentityStore
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.services import _auth_core as core
from micro.services import auth_sessions
from micro.services._auth_changes import Changes, Moments
from micro.services.auth_attempts import Allowance, Proofs
from micro.services.auth_lockouts import Lockouts
from micro.services.auth_sessions import Sessions

UNKNOWN_RECORDED = 20
"""Failed logins of accounts that there are none of, a minute, in the audit log."""


class Logins:
    """Opens sessions.

    Args:
        server_secret: what the secrets of the platform's own accounts follow from; none of them can log in without.
    """

    def __init__(
        self,
        store: IdentityStore,
        proofs: Proofs,
        sessions: Sessions,
        changes: Changes,
        moments: Moments,
        *,
        server_secret: str,
        clock: Clock,
        lockouts: Lockouts,
    ) -> None:
        self._store = store
        self._proofs = proofs
        self._sessions = sessions
        self._changes = changes
        self._moments = moments
        self._server_secret = server_secret
        self._lockouts = lockouts
        self._unknown = Allowance(clock, UNKNOWN_RECORDED, 60.0)

    async def by_secret(self, namespace: str, called: str, secret: str, address: str) -> pb.TokenResponse:
        """The tokens of a new session. Raises UNAUTHENTICATED, and RESOURCE_EXHAUSTED after too many attempts."""
        platform = core.proven(self._server_secret, namespace, called, secret)
        if platform is not None:
            return self._sessions.issue(platform)
        right, account, hashed = await self._proofs.check(namespace, called, secret, address)
        self._lockouts.settle()
        if not right or account is None:
            self._refused(namespace, account, address)
            raise auth_sessions.refused()
        return await self._sessions.open(account, hashed, address)

    async def by_refresh_token(self, shown: str, address: str) -> pb.TokenResponse:
        """The next tokens of a session. Raises UNAUTHENTICATED."""
        return await self._sessions.refresh(shown, address)

    def _refused(self, namespace: str, account: Account | None, address: str) -> None:
        """Have the failure recorded, beside the answer, which must not tell by its time what was found.

        What was given as an id where there is no such account is not: it may be a secret in the wrong field. Those are
        not all recorded either, or whoever makes up ids could fill the log until nothing else is left in it.
        """
        if account is None and not self._unknown.take():
            return
        target = f"{namespace}/{account.id if account else '?'}"
        entry = Entry(self._moments.now(), "", "login", target, namespace, address, "refused")
        self._changes.later("the audit log", lambda: self._store.record(entry))
