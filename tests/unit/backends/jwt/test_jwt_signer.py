"""Making tokens: what they begin with, and what they are signed with."""

import json
from base64 import urlsafe_b64decode
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from micro.backends.jwt.tokens import JwtSigner
from micro.domain import errors, token
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.token import Claims

NOW = 1_800_000_000.25
SIGNER = JwtSigner()
KEY = SIGNER.generate(NOW)
CLAIMS = Claims(Account("ann", "shop", "Änn"), "issuer", Audience.SERVICES, "jti", "session", NOW, NOW + 900)

NAMESPACES = st.from_regex(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){0,62}", fullmatch=True)


@given(NAMESPACES, NAMESPACES)
def test_a_token_begins_as_those_of_its_namespace_do_and_no_others(namespace: str, other: str) -> None:
    made = SIGNER.sign(replace(CLAIMS, account=Account("ann", namespace)), KEY)
    assert made.startswith(token.beginning(namespace))
    assert made.startswith(token.beginning(other)) == (namespace == other)


def test_the_header_says_only_what_it_must() -> None:
    header = urlsafe_b64decode(SIGNER.sign(CLAIMS, KEY).partition(".")[0] + "==")
    assert header.decode() == f'{{"typ":"JWT","alg":"ES256","ns":"shop","kid":"{KEY.kid}"}}'


def test_what_is_signed_is_what_the_claims_say() -> None:
    public = SIGNER.public(KEY)
    jwk = jwt.PyJWK({"kty": "EC", "crv": "P-256", "x": public.x, "y": public.y, "kid": public.kid})
    said = jwt.decode(SIGNER.sign(CLAIMS, KEY), jwk, ["ES256"], options={"verify_exp": False, "verify_aud": False,
                                                                        "verify_iat": False})  # fmt: skip
    assert said == json.loads(json.dumps(CLAIMS.dump()))


def test_keys_are_new_each_time_and_their_coordinates_of_full_length() -> None:
    keys = [SIGNER.generate(NOW) for _ in range(300)]
    assert len({key.kid for key in keys}) == len({key.private for key in keys}) == 300
    assert {len(part) for key in keys for part in (SIGNER.public(key).x, SIGNER.public(key).y)} == {43}


def test_what_would_be_too_long_is_not_signed() -> None:
    large = replace(CLAIMS, account=Account("ann", "shop", metadata={"k": "v" * token.LONGEST}))
    with pytest.raises(errors.Error) as caught:
        SIGNER.sign(large, KEY)
    assert caught.value.kind is errors.Kind.FAILED_PRECONDITION
    assert "shop/ann" in caught.value.message


def test_a_key_of_another_kind_is_damage() -> None:
    made = rsa.generate_private_key(65537, 2048)
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(errors.Error) as caught:
        SIGNER.sign(CLAIMS, replace(KEY, private=pem))
    assert caught.value.kind is errors.Kind.DATA_LOSS
    assert isinstance(SIGNER._load(KEY), ec.EllipticCurvePrivateKey)
