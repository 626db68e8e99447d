"""What an access token says, and whether it holds: pure, the signature apart."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from micro.domain import errors
from micro.domain.account import Account, Type
from micro.domain.audience import Audience

ACCESS_SECONDS = 15 * 60.0
"""Life of an access token."""

REFRESH_SECONDS = 30 * 24 * 3600.0
"""Life of a refresh token that is not used."""

REPEAT_SECONDS = 10.0
"""How long a refresh token that has just served gives its successor once more: the answer may have been lost."""

SKEW_SECONDS = 30.0
"""How far two machines' clocks may be apart."""

TAG = 16
"""Characters that the ids of all sessions of one account begin with. They say nothing about whose they are, so that an
account's tokens can be revoked everywhere without naming it to other namespaces."""

LONGEST = 8192
"""Characters of an access token; no request's headers may be much longer."""

HEADER_BEGIN = '{"typ":"JWT","alg":"ES256","ns":"'
"""How the header of every token begins, in compact JSON: 33 characters, so that what follows begins a group of base64
and the data plane can tell a token's namespace from its first letters. It routes by them; the callee verifies."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says.

    Attributes:
        account: whose it is.
        issuer: the deployment that made it, which is also the one it is for.
        audience: which of the deployment's services it is for.
        token: unique id (`jti`).
        session: the login that it goes back to; empty for none that could be listed.
        issued: seconds since 1970, to the microsecond.
        expires: seconds since 1970.
    """

    account: Account
    issuer: str
    audience: Audience
    token: str
    session: str
    issued: float
    expires: float

    def dump(self) -> dict[str, Any]:
        """As a JSON Web Token has it (RFC 7519, 4.1), with `ns`, `type`, `name`, `scopes`, `meta`, `made` and `sid`
        besides."""
        account = self.account
        return {
            "iss": self.issuer,
            "aud": self.audience.claim(self.issuer),
            "sub": account.id,
            "ns": account.namespace,
            "name": account.name,
            "type": account.type.value,
            "scopes": sorted(account.scopes),
            "meta": dict(account.metadata),
            "made": account.created,
            "sid": self.session,
            "jti": self.token,
            "iat": self.issued,
            "exp": self.expires,
        }

    @classmethod
    def load(cls, claims: Mapping[str, Any], issuer: str, now: float, audience: Audience | None) -> Claims:
        """What a token with a good signature says. Raises UNAUTHENTICATED when it does not hold at `now`, or is not
        for `audience` (None: for whichever) of this deployment."""
        try:
            found = cls(
                account=Account(
                    id=_text(claims, "sub"),
                    namespace=_text(claims, "ns"),
                    name=_text(claims, "name"),
                    type=Type(_text(claims, "type")),
                    scopes=_scopes(claims),
                    metadata=_metadata(claims),
                    created=_text(claims, "made"),
                ),
                issuer=_text(claims, "iss"),
                audience=_audience(claims, issuer),
                token=_text(claims, "jti"),
                session=_text(claims, "sid"),
                issued=_number(claims, "iat"),
                expires=_number(claims, "exp"),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise errors.unauthenticated("the token does not say what it must") from None
        if found.issuer != issuer:
            raise _elsewhere()
        if now >= found.expires + SKEW_SECONDS:
            raise errors.unauthenticated("the token has expired: refresh it, or log in again")
        if found.issued > now + SKEW_SECONDS:
            raise errors.unauthenticated("the token is from the future: set the clocks")
        if audience not in (None, found.audience):
            raise errors.unauthenticated(_MISPLACED[found.audience])
        return found


_MISPLACED = {
    Audience.PLATFORM: "this token is for the platform's own services, and must not be shown to others: "
    "use the one of `micro user token`",
    Audience.SERVICES: "this token is for users' services: use the one of `micro user token --platform`, "
    "and show it to the platform's own services only",
}
"""What is said of a token that is shown to others than those it is for, by those."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Which tokens are refused although they have not ended: those made before a time, in seconds since 1970.

    Attributes:
        sessions: by a session's id, or by the TAG characters that all of an account's begin with.
    """

    sessions: Mapping[str, float] = field(default_factory=dict)

    def cover(self, claims: Claims) -> bool:
        """Whether the token is refused."""
        session = claims.session
        return claims.issued < max(self.sessions.get(session, 0.0), self.sessions.get(session[:TAG], 0.0))


def beginning(namespace: str) -> str:
    """How every token of that namespace begins, and none of another's."""
    text = f'{HEADER_BEGIN}{namespace}","kid":"'
    whole = len(HEADER_BEGIN) + len(namespace) + 1
    return base64.urlsafe_b64encode(text[: whole + -whole % 3].encode()).decode()


def _elsewhere() -> errors.Error:
    return errors.unauthenticated("the token is of another deployment: log in to this one")


def _audience(claims: Mapping[str, Any], issuer: str) -> Audience:
    said = _text(claims, "aud")
    for audience in Audience:
        if said == audience.claim(issuer):
            return audience
    raise _elsewhere()


def _text(claims: Mapping[str, Any], name: str) -> str:
    found = claims[name]
    if not isinstance(found, str):
        raise TypeError(name)
    return found


def _number(claims: Mapping[str, Any], name: str) -> float:
    found = claims[name]
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TypeError(name)
    if not math.isfinite(number := float(found)):
        raise ValueError(name)
    return number


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    found = claims["scopes"]
    if not isinstance(found, list) or not all(isinstance(scope, str) for scope in found):
        raise TypeError("scopes")
    return frozenset(found)


def _metadata(claims: Mapping[str, Any]) -> dict[str, str]:
    found = claims["meta"]
    if not isinstance(found, dict) or not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise TypeError("meta")
    return dict(found)
