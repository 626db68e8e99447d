"""Sessions: what begins with a login, goes on by refresh tokens that serve once, and ends at once for everybody."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Any

from micro.domain import errors, token
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.ports import identity
from micro.ports.identity import Entry, IdentityStore, RefreshTokenReusedError, Revoked, Session
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Tokens
from micro.services import _auth_caller as caller
from micro.services import _auth_messages as messages
from micro.services import _caller
from micro.services._auth_changes import STEP, Changes, Moments
from micro.services.auth_keys import Keyring
from micro.services.auth_policy import Feed

_LONGEST_REFRESH = 128
"""Characters of a refresh token."""

MOST = 100
"""Sessions of one account: a service that crashes and logs in again, for ever, leaves no more behind."""


REFRESHES, REFRESH_WINDOW = 10, 10.0
"""How often a session is refreshed in how many seconds: what has served is remembered, and takes room."""

PRUNED_EVERY = 256
"""Revocations after which those that no longer matter are removed from what is stored."""

EVER = 253_402_300_800.0
"""The year 10000: before it are all tokens."""


class Sessions:
    """Makes tokens and takes them back.

    A session's id, and its refresh tokens, begin with the account's tag. Whatever makes or revokes tokens of an account
    happens one after the other by that tag, so that no token can slip past a revocation.

    Args:
        server_secret: what the refresh tokens after the first follow from, besides the first; random by default.
    """

    def __init__(
        self,
        store: IdentityStore,
        keyring: Keyring,
        feed: Feed,
        changes: Changes,
        moments: Moments,
        *,
        server_secret: str = "",
    ) -> None:
        self._key = hmac.digest(server_secret.encode() or secrets.token_bytes(32), b"refresh tokens", "sha256")
        self._store = store
        self._keyring = keyring
        self._feed = feed
        self._changes = changes
        self._moments = moments
        self._told = 0
        self._refreshed: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    async def tag(self, namespace: str, id: str) -> str:  # noqa: A002 - what it is
        """The tag of an account; empty for one that is not stored."""
        found = await self._store.secret(namespace, id)
        return tag(found[1]) if found is not None and found[0].id == id else ""

    async def open(self, account: Account, hashed: str, address: str) -> pb.TokenResponse:
        """Begin a session for an account whose secret has just been proven against that hash.

        Raises:
            Error: UNAUTHENTICATED when account or secret are others by now.
        """

        async def change() -> pb.TokenResponse:
            found = await self._store.secret(account.namespace, account.id)
            if found is None or found[1] != hashed:
                raise refused()
            now = self._moments.next()
            session_id = tag(hashed) + secrets.token_hex(8)
            refresh = _refresh_token(session_id)
            entry = Entry(now, str(account), "login", str(account), account.namespace, address)
            session = Session(
                id=session_id,
                account=account.id,
                namespace=account.namespace,
                current=_digest(refresh),
                created=now,
                refreshed=now,
                expires=now + token.REFRESH_SECONDS,
                address=address,
            )
            response = self._issue(found[0], session_id, refresh, now)
            await self._store.open_session(session, entry)
            await self._make_room(session)
            return response

        return await self._changes.run(_subject(tag(hashed)), change)

    async def _make_room(self, opened: Session) -> None:
        """End the account's sessions beyond MOST: those that were left alone for longest, never the one just opened."""
        found = await self._store.sessions(opened.namespace, opened.account)
        others = sorted((each for each in found if each.id != opened.id), key=lambda each: each.refreshed)
        for each in others[: max(0, len(found) - MOST)]:
            revoked = self.ended(each.namespace, each.id, each.refreshed)
            who = f"{each.namespace}/{each.account}"
            entry = Entry(
                self._moments.now(), who, "session.end", each.id, each.namespace, opened.address, "one too many"
            )
            await self._store.end_sessions(each.namespace, revoked, entry, session=each.id)
            self.tell([revoked])
            self._changes.announce(entry)

    def issue(self, account: Account) -> pb.TokenResponse:
        """Access tokens alone, for an account that is not stored."""
        return self._issue(account, "", "", self._moments.next())

    async def refresh(self, shown: str, address: str) -> pb.TokenResponse:
        """The next tokens. Raises UNAUTHENTICATED; when the token has served before, the session has ended, unless it
        was just now and what it gave has not served."""
        if len(shown) > _LONGEST_REFRESH:
            raise _expired()

        async def change() -> pb.TokenResponse:
            now = self._moments.next()
            fresh = self._successor(shown)
            began, count = self._recently(_digest(shown), _digest(fresh), now)
            try:
                session = await self._store.rotate(_digest(shown), _digest(fresh), now, now + token.REFRESH_SECONDS)
            except RefreshTokenReusedError as error:
                await self._stolen(error.session, address)
                raise _expired() from None
            account = None if session is None else await self._store.account(session.namespace, session.account)
            if session is None or account is None:
                raise _expired()
            self._refreshed[_digest(fresh)] = (began, count + 1)
            return self._issue(account, session.id, fresh, now)

        return await self._changes.run(_subject(shown), change)

    def _successor(self, shown: str) -> str:
        """The refresh token that follows one. It is always the same, so that it can be told again to who lost the
        answer, and nobody can work it out without the key, of 256 bits, that this server has as long as it runs."""
        made = hmac.new(self._key, shown.encode(), hashlib.sha256).digest()
        return shown[: token.TAG] + base64.urlsafe_b64encode(made).decode().rstrip("=")

    def _recently(self, shown: bytes, fresh: bytes, now: float) -> tuple[float, int]:
        """Since when the session of a refresh token is counted, and how often it was refreshed. Raises
        RESOURCE_EXHAUSTED when that was too often.

        Args:
            fresh: the one that follows, which is counted already when this is asked again.
        """
        for digest, (began, _) in list(islice(self._refreshed.items(), 2)):  # two go where one comes
            if not began <= now < began + REFRESH_WINDOW:
                del self._refreshed[digest]
        began, count = self._refreshed.get(fresh) or self._refreshed.get(shown, (now, 0))
        if not began <= now < began + REFRESH_WINDOW:
            return now, 0
        if count >= REFRESHES:
            raise errors.resource_exhausted("the session was refreshed too often: try again in a few seconds")
        self._refreshed.pop(shown, None)
        return began, count

    def ended(self, namespace: str, session: str, newest: float = 0.0) -> Revoked:
        """That all tokens of a session, or of all sessions with a tag that nobody gets again, are refused, whatever
        they say about when they were made: a clock may have been set back.

        To be made in a change of that subject, stored, and passed to `tell`.

        Args:
            newest: when the last of them was made, where it is known.
        """
        return Revoked(namespace, session, before=EVER, until=_until(max(self._moments.next(), newest)))

    async def revoked(self, namespace: str, account: str, account_tag: str) -> Revoked:
        """That the tokens which an account has got until now are refused, and later ones are not. As `ended`."""
        before = max(self._moments.next(), await self.newest(namespace, account) + STEP)
        return Revoked(namespace, account_tag, before=before, until=_until(before))

    async def newest(self, namespace: str, account: str) -> float:
        """When the account was last given a token, by what its sessions say."""
        return max((each.refreshed for each in await self._store.sessions(namespace, account)), default=0.0)

    def tell(self, revoked: Iterable[Revoked]) -> None:
        """Have everybody refuse them. They have been stored."""
        self._feed.revoke(revoked, self._moments.now())
        self._told += 1
        if self._told % PRUNED_EVERY == 0:
            self._changes.later("the revocations", self._prune)

    async def _prune(self) -> None:
        await self._store.revocations(self._moments.now())

    async def end(self, namespace: str, session: str, account: str, entry: Entry) -> None:
        """End a session, only if it is the account's where one is given. Raises NOT_FOUND."""

        async def change() -> None:
            found = await self._store.sessions(namespace, account)
            newest = max((each.refreshed for each in found if each.id == session), default=0.0)
            revoked = self.ended(namespace, session, newest)
            if not await self._store.end_sessions(namespace, revoked, entry, session=session, account=account):
                raise errors.not_found(f"there is no session {session[:64]} in namespace {namespace}: it has ended")
            self.tell([revoked])
            self._changes.announce(entry)

        await self._changes.run(_subject(session), change)

    async def end_all(self, namespace: str, account: str, entry: Entry) -> None:
        """End all sessions of an account. Raises NOT_FOUND when there is no such account."""
        account_tag = await self.tag(namespace, account)
        if not account_tag:
            raise identity.no_account(namespace, account)

        async def change() -> None:
            revoked = await self.revoked(namespace, account, account_tag)
            await self._store.end_sessions(namespace, revoked, entry, account=account)
            self.tell([revoked])
            self._changes.announce(entry)

        await self._changes.run(_subject(account_tag), change)

    async def list(self, namespace: str, account: str) -> list[Session]:
        """Those that have not ended, the newest first; of all accounts for none."""
        now = self._moments.now()
        return [found for found in await self._store.sessions(namespace, account) if found.expires > now]

    async def _stolen(self, session: Session, address: str) -> None:
        """Two have the same refresh token, and one of them should not: neither goes on."""
        revoked = self.ended(session.namespace, session.id, session.refreshed)
        who = f"{session.namespace}/{session.account}"
        entry = Entry(self._moments.now(), "", "session.reuse", who, session.namespace, address, "revoked")
        await self._store.end_sessions(session.namespace, revoked, entry, session=session.id)
        self.tell([revoked])
        self._changes.announce(entry)

    def _sign(self, account: Account, audience: Audience, session: str, now: float) -> str:
        jti, expires = secrets.token_hex(16), now + token.ACCESS_SECONDS
        return self._keyring.sign(token.Claims(account, self._feed.issuer, audience, jti, session, now, expires))

    def _issue(self, account: Account, session: str, refresh: str, now: float) -> pb.TokenResponse:
        return pb.TokenResponse(
            access_token=self._sign(account, Audience.PLATFORM, session, now),
            service_token=self._sign(account, Audience.SERVICES, session, now),
            refresh_token=refresh,
            created=messages.rfc3339(now),
            expires=messages.rfc3339(now + token.ACCESS_SECONDS),
            account=messages.to_account(account),
        )


class TokensHandler(Tokens):
    """The handler of `micro.auth.v1.Tokens`."""

    def __init__(self, sessions: Sessions, feed: Feed, moments: Moments) -> None:
        self._sessions = sessions
        self._feed = feed
        self._moments = moments

    async def list(self, request: pb.TokensListRequest, ctx: Any) -> pb.TokensListResponse:
        if request.account == _caller.ALL:
            namespace, account = caller.administered(ctx, request.namespace, self._feed), ""
        else:
            namespace, account = caller.own_or_administered(ctx, request.namespace, request.account, self._feed)
        found = await self._sessions.list(namespace, account)
        return pb.TokensListResponse(sessions=[messages.to_session(session) for session in found])

    async def revoke(self, request: pb.TokensRevokeRequest, ctx: Any) -> pb.TokensRevokeResponse:
        wanted = request.account
        namespace = caller.within(ctx, request.namespace, self._feed)
        if request.session and not wanted and ctx.account.administers(namespace):
            account = ""  # an admin need not know whose it is
        else:
            namespace, account = caller.own_or_administered(ctx, request.namespace, wanted, self._feed)
        target = request.session or f"{namespace}/{account}"
        entry = caller.entry(ctx, self._moments.now(), "session.revoke", target, namespace)
        if request.session:
            await self._sessions.end(namespace, request.session, account, entry)
        else:
            await self._sessions.end_all(namespace, account, entry)
        return pb.TokensRevokeResponse()


def tag(hashed: str) -> str:
    """What the sessions of an account begin with as long as it has this secret: says nothing about either, since the
    hash has a salt that nobody sees."""
    return hashlib.sha256(hashed.encode()).hexdigest()[: token.TAG]


def subject(account_tag: str) -> str:
    """What a change of an account's tokens is about."""
    return f"account {account_tag}"


def refused() -> errors.Error:
    """What everybody is told whose login does not fit, whatever the cause."""
    return errors.unauthenticated("id and secret do not fit: check both, and the namespace")


def _until(newest: float) -> float:
    """When all tokens have ended by themselves of which that is when the last was made."""
    return newest + token.ACCESS_SECONDS + 2 * token.SKEW_SECONDS


def _subject(begins_with_tag: str) -> str:
    return subject(begins_with_tag[: token.TAG])


def _expired() -> errors.Error:
    return errors.unauthenticated("the session has ended: log in again")


def _refresh_token(session: str) -> str:
    return session[: token.TAG] + secrets.token_urlsafe(32)


def _digest(refresh: str) -> bytes:
    return hashlib.sha256(refresh.encode()).digest()
