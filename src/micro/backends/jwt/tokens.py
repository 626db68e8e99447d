"""Keys on P-256, and tokens signed with them (ES256)."""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64encode

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.api_jws import PyJWS

from micro.domain import errors
from micro.domain.token import LONGEST, Claims
from micro.ports.identity import SigningKey
from micro.ports.tokens import PublicKey, Signer

_COORDINATE = 32
"""Bytes of one on P-256."""


class JwtSigner(Signer):
    """Remembers the keys that it has read."""

    def __init__(self) -> None:
        self._jws = PyJWS(algorithms=["ES256"])
        self._loaded: dict[bytes, ec.EllipticCurvePrivateKey] = {}

    def generate(self, now: float) -> SigningKey:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return SigningKey(kid=secrets.token_hex(8), private=pem, created=now)

    def public(self, key: SigningKey) -> PublicKey:
        numbers = self._load(key).public_key().public_numbers()
        return PublicKey(key.kid, _coordinate(numbers.x), _coordinate(numbers.y))

    def sign(self, claims: Claims, key: SigningKey) -> str:
        payload = json.dumps(claims.dump(), separators=(",", ":"), ensure_ascii=False).encode()
        headers = {"ns": claims.account.namespace, "kid": key.kid}
        # Unsorted, it begins as `domain.token.HEADER_BEGIN` says.
        token = self._jws.encode(payload, self._load(key), "ES256", headers, sort_headers=False)
        if len(token) > LONGEST:
            raise errors.failed_precondition(
                f"account {claims.account} has too much metadata, or too many scopes, to fit into a token: remove some"
            )
        return token

    def _load(self, key: SigningKey) -> ec.EllipticCurvePrivateKey:
        if key.private not in self._loaded:
            loaded = load_pem_private_key(key.private, None)
            if not isinstance(loaded, ec.EllipticCurvePrivateKey):
                raise errors.data_loss(f"key {key.kid} is not one on P-256: restore the state of auth")
            if len(self._loaded) >= 8:
                self._loaded.clear()
            self._loaded[key.private] = loaded
        return self._loaded[key.private]


def _coordinate(value: int) -> str:
    return urlsafe_b64encode(value.to_bytes(_COORDINATE, "big")).decode().rstrip("=")
