"""Who a process is when it calls: an account's id and secret, exchanged for tokens that are renewed before they end."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

from micro.domain import backoff, errors, names
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.rpc.client import Client, Identity, address
from micro.rpc.gen.micro.auth.v1.auth_connect import AuthClient
from micro.rpc.gen.micro.auth.v1.auth_pb import TokenRequest, TokenResponse

Exchange = Callable[[TokenRequest], Awaitable[TokenResponse]]

_PATIENCE_MS = 9_000
"""Less than a call waits by default: what it says of why nobody answers then arrives."""
_REFUSALS = (Kind.UNAUTHENTICATED, Kind.RESOURCE_EXHAUSTED)
_RENEW = 2 / 3
"""Part of a token's life after which it is renewed, beside the calls."""

_SPARE = 1 / 30
"""Part of a token's life, at its end, in which no call is made with it any more: it may take a while to arrive."""

_YOUNG = 1.0
"""Seconds in which a token that is refused would not be replaced by a better one."""


@dataclass(frozen=True, slots=True)
class _Token:
    """The access tokens of one exchange, by whom they are for; times in seconds since 1970, by our own clock, whatever
    auth's says."""

    texts: Mapping[Audience, str]
    begun: float
    life: float

    def spent(self, now: float) -> float:
        """How much of its life is over: 1.0 and more for all of it."""
        return (now - self.begun) / self.life if self.begun <= now else 0.0


class Credentials(Identity):
    """The identity of one account.

    Args:
        id, secret, namespace: of the account.
        exchange: calls Auth.Token, as nobody.
        clock: seconds since 1970.
        delays: how long to leave auth alone after each failure, a second at most where it was not auth that refused;
            begins anew after a success.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - what it is
        secret: str,
        namespace: str,
        exchange: Exchange,
        *,
        clock: Callable[[], float] = time.time,
        delays: Callable[[], Iterator[float]] = lambda: backoff.exponential(first=0.2, cap=30.0),
    ) -> None:
        self._id = id
        self._secret = secret
        self._namespace = namespace
        self._exchange = exchange
        self._clock = clock
        self._token: _Token | None = None
        self._refresh = ""
        self._delays = delays
        self._waits = delays()
        self._failed: tuple[float, Error] | None = None
        self._renewing: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[_Token]] = (
            weakref.WeakKeyDictionary()
        )

    @classmethod
    def over(cls, client: Client, id: str, secret: str, namespace: str) -> Credentials:  # noqa: A002
        """Credentials that log in through `client`, which calls as nobody."""
        auth, headers = client.of(AuthClient, "auth"), {"micro-namespace": namespace}
        return cls(id, secret, namespace, lambda request: auth.token(request, headers=headers, timeout_ms=_PATIENCE_MS))

    async def token(self, audience: Audience) -> str:
        token = self._token
        if token is not None and (spent := token.spent(self._clock())) < 1 - _SPARE:
            if spent >= _RENEW and not self._paused():
                self._renew()
            return token.texts[audience]
        return (await asyncio.shield(self._renew())).texts[audience]

    def refused(self, token: str) -> bool:
        held = self._token
        if held is None or token not in held.texts.values():
            return True
        if 0 <= self._clock() - held.begun < _YOUNG:
            return False
        self._token, self._refresh = None, ""
        return True

    def _paused(self) -> bool:
        return self._failed is not None and self._clock() < self._failed[0]

    def _renew(self) -> asyncio.Task[_Token]:
        """The one renewal that is under way in this event loop."""
        loop = asyncio.get_running_loop()
        task = self._renewing.get(loop)
        if task is None or task.done():
            # In a context of its own: the deadline of the call that happens to need it is not its own.
            # owned: by these credentials; it ends when the exchange does, which has a timeout
            task = loop.create_task(self._log_in(), name=f"login of {self._id}", context=contextvars.Context())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._renewing[loop] = task
        return task

    async def _log_in(self) -> _Token:
        if self._failed is not None and self._paused():
            raise Error(self._failed[1].kind, self._failed[1].message)
        # Taken away before it is used: it serves once, and who shows it twice is taken for a thief.
        refresh, self._refresh = self._refresh, ""
        begun = self._clock()
        try:
            answer = await self._ask(refresh)
        except Error as error:
            failure, wait = self._failure(error), next(self._waits)
            if error.kind not in _REFUSALS:
                wait = min(wait, 1.0)
            self._failed = (self._clock() + wait, failure)
            raise failure from None
        self._failed, self._waits = None, self._delays()
        life = max(1.0, _seconds(answer.expires) - _seconds(answer.created))
        texts = {Audience.PLATFORM: answer.access_token, Audience.SERVICES: answer.service_token}
        self._token, self._refresh = _Token(texts, begun, life), answer.refresh_token
        return self._token

    async def _ask(self, refresh: str) -> TokenResponse:
        if refresh:
            try:
                return await self._exchange(TokenRequest(refresh_token=refresh, namespace=self._namespace))
            except Error as error:
                if error.kind is not Kind.UNAUTHENTICATED:
                    raise
        return await self._exchange(TokenRequest(id=self._id, secret=self._secret, namespace=self._namespace))

    def _failure(self, error: Error) -> Error:
        who = f"cannot log in as {self._namespace}/{self._id}"
        if error.kind is Kind.UNAUTHENTICATED:
            return errors.unauthenticated(f"{who}: its id or its secret is not right, see MICRO_AUTH_ID")
        return Error(error.kind, f"{who}: {error.message}")


class Environment(Identity):
    """The account that MICRO_AUTH_ID, MICRO_AUTH_SECRET and MICRO_NAMESPACE name; nobody while they are not set.

    Args:
        client: what logs in; calls as nobody.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._found: tuple[tuple[str, ...], Credentials] | None = None

    async def token(self, audience: Audience) -> str:
        found = self._current()
        return await found.token(audience) if found is not None else ""

    def refused(self, token: str) -> bool:
        found = self._current()
        return found is not None and found.refused(token)

    def _current(self) -> Credentials | None:
        account, secret = os.environ.get("MICRO_AUTH_ID"), os.environ.get("MICRO_AUTH_SECRET")
        if not account or not secret:
            return None
        key = (account, secret, os.environ.get("MICRO_NAMESPACE", ""), address())
        if self._found is None or self._found[0] != key:
            self._found = key, Credentials.over(self._client, account, secret, names.namespace(key[2]))
        return self._found[1]


def _seconds(text: str) -> float:
    """Of a time as RFC 3339 writes it. Raises INTERNAL, which only another kind of server would cause."""
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise errors.internal(f"auth told a time that is none: {text[:64]!r}") from None
