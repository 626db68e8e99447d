"""Reading access tokens: as every callee does for itself."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from micro.domain import errors
from micro.domain.audience import Audience
from micro.domain.token import LONGEST, Claims
from micro.ports.tokens import PublicKey, Verifier

# A signature of 64 bytes in the one way to write it, so that no letter of a token can be changed without being noticed.
_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]")
_HEADER = re.compile(rb'\{"typ":"JWT","alg":"ES256","ns":"([a-z0-9-]{1,63})","kid":"([A-Za-z0-9_-]{1,64})"\}')
"""The only header that there is: nothing in it can ask for another algorithm or for a key from elsewhere."""


class JwtVerifier(Verifier):
    """Knows no key at first, so that no token holds."""

    def __init__(self) -> None:
        self._issuer = ""
        self._keys: dict[str, PublicKey] = {}
        self._loaded: dict[str, Any] = {}
        self._jws: Any = None

    def replace(self, keys: Sequence[PublicKey], issuer: str) -> None:
        self._keys = {key.kid: key for key in keys}
        self._loaded = {}
        self._issuer = issuer

    def verify(self, token: str, now: float, audience: Audience | None) -> Claims:
        namespace, kid = _header(token)
        claims = Claims.load(self._payload(token, kid), self._issuer, now, audience)
        if claims.account.namespace != namespace:
            raise errors.unauthenticated("the token names two namespaces")
        return claims

    def key_of(self, token: str) -> str:
        return _header(token)[1]

    def recognize(self, kid: str) -> None:
        if kid not in self._keys:
            raise errors.unauthenticated("the token is signed with a key that is not known any more: log in again")

    def _payload(self, token: str, kid: str) -> dict[str, Any]:
        """What a token says whose signature is good."""
        self.recognize(kid)
        # Here, because it takes a quarter of a second, and many processes never see a token.
        from jwt.api_jws import PyJWS
        from jwt.exceptions import PyJWTError

        if self._jws is None:
            self._jws = PyJWS(algorithms=["ES256"])
        try:
            if kid not in self._loaded:
                self._loaded[kid] = _load(self._keys[kid])
            said = json.loads(self._jws.decode(token, self._loaded[kid], ["ES256"]))
        except (PyJWTError, ValueError, TypeError, RecursionError):
            raise errors.unauthenticated("the token is not signed by this deployment: log in to it") from None
        if not isinstance(said, dict):
            raise errors.unauthenticated("the token does not say what it must")
        return said


def _header(token: str) -> tuple[str, str]:
    """The namespace and the key's id that a token names."""
    parts = _TOKEN.fullmatch(token) if len(token) <= LONGEST else None
    try:
        header = _HEADER.fullmatch(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))) if parts else None
    except ValueError:
        header = None
    if header is None:
        raise errors.unauthenticated("the token is malformed: log in again")
    return header[1].decode(), header[2].decode()


def _load(key: PublicKey) -> Any:
    """Raises ValueError for one that is not on the curve."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.EllipticCurvePublicNumbers(_number(key.x), _number(key.y), ec.SECP256R1()).public_key()


def _number(coordinate: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(coordinate + "=" * (-len(coordinate) % 4)), "big")
