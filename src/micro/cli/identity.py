"""Who this command is in an environment: logging in and out, and the access token that each call carries, which is one
for the platform's own services or one for users'.

Tokens end after minutes and are renewed as they are needed. A refresh token serves once, so renewing happens under the
lock of the file that keeps it: of many commands at once, one renews and the others read what it wrote.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from micro.cli import failures
from micro.domain import names
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind, unauthenticated
from micro.ports.sessions import Sessions, Stored, StoredSession

if TYPE_CHECKING:
    from micro.cli.transport import Transport

MARGIN = 60.0
"""Seconds before its end from which an access token is renewed: a call that is sent with it must still arrive."""

_PATIENCE = 10.0
_T = TypeVar("_T")


class Identity:
    """The login of one environment.

    Args:
        environment: its name.
        sessions: where logins are kept.
        way: the way to the environment's server in a namespace, without an account.
        micro: what a person types for `micro` to mean this environment.
        renew: whether to renew tokens; without it, one that ends counts as none.
    """

    def __init__(
        self,
        environment: str,
        sessions: Sessions,
        way: Callable[[str], Transport],
        micro: str = "micro",
        *,
        renew: bool = True,
    ) -> None:
        self._environment = environment
        self._sessions = sessions
        self._way = way
        self._micro = micro
        self._renew = renew

    @property
    def stored(self) -> Stored:
        """What is kept of the environment."""
        return self._sessions.read(self._environment)

    @property
    def namespace(self) -> str:
        """The namespace that was chosen, else the account's; empty without either."""
        stored = self.stored
        return stored.namespace or (stored.session.namespace if stored.session else "")

    def choose(self, namespace: str) -> None:
        """Make a namespace the current one."""
        with self._sessions.locked() as stored:
            session = stored.get(self._environment, Stored()).session
            own = session.namespace if session else names.DEFAULT_NAMESPACE
            stored[self._environment] = Stored("" if namespace == own else namespace, session)

    def session(self) -> StoredSession:
        """The login, its access tokens good for a while.

        Raises:
            Error: UNAUTHENTICATED without one; or as `token`.
        """
        self.token(Audience.PLATFORM)
        if found := self.stored.session:
            return found
        raise unauthenticated(f"you are not logged in: {self._micro} login")

    def token(self, audience: Audience) -> str:
        """The access token for whom is called, renewed when it is about to end; empty when nobody is logged in.

        Raises:
            Error: UNAUTHENTICATED when the session has ended; whatever keeps the server from answering.
        """
        session = self.stored.session
        if session is None or _fresh(session):
            return _held(session, audience) if session else ""
        if not self._renew:
            return ""
        return _held(_uninterrupted(self._renewed), audience)

    def renewed(self, refused: str, audience: Audience) -> str:
        """Another token in place of one that a service refused; empty when auth finds that one good.

        Raises:
            Error: as `token`.
        """
        if not self._renew:
            return ""
        token = _held(_uninterrupted(lambda: self._renewed(refused)), audience)
        return "" if token == refused else token

    def checked(self, audience: Audience) -> str:
        """The access token for whom is called once auth itself has taken it; another one when it has not.

        Raises:
            Error: as `token`.
        """
        token = self.token(audience)
        return self.renewed(token, audience) or token

    def login(self, name: str, secret: str, namespace: str) -> StoredSession:
        """Open a session and keep it in place of the one before, which ends.

        Args:
            name: of the account, or its id.
            secret: its secret.
            namespace: which the account belongs to.

        Raises:
            Error: UNAUTHENTICATED when name and secret do not fit.
        """
        before = self.stored.session
        request = {"id": name, "secret": secret, "namespace": namespace}
        fresh = _opened(self._ask(namespace, "Auth/Token", request), namespace)
        with self._sessions.locked() as stored:
            stored[self._environment] = Stored("", fresh)
        if before is not None and before.access_token and before.expires > time.time():
            self._revoke(before)
        return fresh

    def logout(self) -> str:
        """End the session there and forget it here; returns why the server could not be told, if it could not.

        Raises:
            Error: UNAUTHENTICATED when nobody is logged in.
        """
        session = self.stored.session
        if session is None:
            raise unauthenticated("you are not logged in")
        why = ""
        if session.refresh_token:
            try:
                self.token(Audience.PLATFORM)
                why = self._revoke(self.stored.session or session)
            except Error as error:
                why = "" if error.kind is Kind.UNAUTHENTICATED else str(error)
        with self._sessions.locked() as stored:
            stored[self._environment] = Stored(
                "" if session.namespace == names.DEFAULT_NAMESPACE else session.namespace
            )
        return why

    def _revoke(self, session: StoredSession) -> str:
        number = _claim(session.access_token, "sid")
        if not number:
            return "its token does not say which session it is of"
        request = {"session": number, "account": session.id, "namespace": session.namespace}
        try:
            self._ask(session.namespace, "Tokens/Revoke", request, session.access_token)
        except Error as error:
            return str(error)
        return ""

    def _renewed(self, refused: str = "") -> StoredSession:
        """Exchange the refresh token, unless another command has just done it, or auth finds the refused token good."""
        with self._sessions.locked() as stored:
            known = stored.get(self._environment, Stored())
            session = known.session
            if session is None:
                raise unauthenticated(f"you are not logged in: {self._micro} login")
            if session.refresh_token:
                known_by_us = refused in (session.access_token, session.service_token)
                if _fresh(session) and (not known_by_us or self._holds(session, refused)):
                    return session
                session = self._exchanged(session)
                stored[self._environment] = known._replace(session=session)
        if not session.refresh_token:
            raise unauthenticated(f"your session has ended: {self._micro} login")
        return session

    def _exchanged(self, session: StoredSession) -> StoredSession:
        """The session with its next tokens; with none when it has ended, so that it is still known whose it was."""
        try:
            answer = self._ask(session.namespace, "Auth/Token", {"refreshToken": session.refresh_token})
        except Error as error:
            if error.kind is not Kind.UNAUTHENTICATED:
                raise
            return session._replace(access_token="", service_token="", refresh_token="", expires=0.0)
        return _opened(answer, session.namespace)

    def _holds(self, session: StoredSession, token: str) -> bool:
        """Whether auth itself still takes an access token of the session's."""
        try:
            self._ask(session.namespace, "Auth/Inspect", {"token": token}, session.access_token)
        except Error as error:
            if error.kind is Kind.UNAUTHENTICATED:
                return False
            raise
        return True

    def _ask(self, namespace: str, endpoint: str, request: dict[str, str], token: str = "") -> dict[str, Any]:
        metadata = {"authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._way(namespace).unary(
                "auth",
                f"/micro.auth.v1.{endpoint}",
                json.dumps(request).encode("utf-8"),
                patience=_PATIENCE,
                metadata=metadata,
            )
            return dict(json.loads(answer or b"{}"))
        except failures.AnsweredError as error:
            if error.kind is Kind.UNIMPLEMENTED:
                raise failures.UnreachableError("what answers there has no auth: is it a micro server?") from None
            if error.kind is Kind.UNAVAILABLE:
                raise failures.UnreachableError(f"auth is not available; see: {self._micro} health") from None
            raise Error(error.kind, error.message or error.kind.code) from None
        except ValueError:
            raise Error(Kind.INTERNAL, "auth answered with something that is not JSON") from None


def _fresh(session: StoredSession) -> bool:
    return bool(session.access_token and session.service_token) and session.expires - time.time() > MARGIN


def _held(session: StoredSession, audience: Audience) -> str:
    return session.access_token if audience is Audience.PLATFORM else session.service_token


def _opened(answer: dict[str, Any], namespace: str) -> StoredSession:
    """A session out of a TokenResponse. Its end is told by this machine's clock, which may differ from the server's."""
    from datetime import datetime

    try:
        account = answer.get("account", {})
        life = datetime.fromisoformat(answer["expires"]) - datetime.fromisoformat(answer["created"])
        return StoredSession(
            id=account["id"],
            name=account.get("name") or account["id"],
            namespace=account.get("namespace") or namespace,
            access_token=answer["accessToken"],
            service_token=answer["serviceToken"],
            refresh_token=answer["refreshToken"],
            expires=time.time() + life.total_seconds(),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Error(Kind.INTERNAL, "auth answered without tokens") from None


def _claim(token: str, name: str) -> str:
    """What a token of ours says of itself; empty when it is no token. Nothing is decided by it."""
    import base64

    try:
        body = token.split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))[name])
    except (ValueError, LookupError, TypeError):
        return ""


def _uninterrupted(work: Callable[[], _T]) -> _T:
    """Do what must not stop half-way, even when Ctrl-C ends the command: a new token that is not kept is lost for good.

    The process waits for its threads before it ends.
    """
    done: list[_T] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            failed.append(error)
        over.set()

    threading.Thread(target=run, name="micro-renew").start()
    over.wait()  # not `join`, after whose interruption Python 3.11 takes the thread for ended
    if failed:
        raise failed[0]
    return done[0]
