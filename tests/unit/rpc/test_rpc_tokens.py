"""Reading tokens: only those that auth has signed, and nothing but UNAUTHENTICATED for all others."""

import itertools
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jwt.api_jws import PyJWS

from micro.backends.jwt.tokens import JwtSigner
from micro.domain import errors, token
from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.domain.token import SKEW_SECONDS, Claims
from micro.ports.identity import SigningKey
from micro.ports.tokens import PublicKey
from micro.rpc.tokens import JwtVerifier

NOW = 1_800_000_000.25
ISSUER = "3f0c"
SIGNER = JwtSigner()
KEY, OTHER, STRANGER = (SIGNER.generate(NOW) for _ in range(3))
ANN = Account("ann", "shop", "Änn", Type.SERVICE, frozenset({"a", "b"}), {"k": "☃"})
CLAIMS = Claims(ANN, ISSUER, Audience.SERVICES, "jti", "session", NOW, NOW + 900)
TOKEN = SIGNER.sign(CLAIMS, KEY)
HEADER, PAYLOAD, SIGNATURE = TOKEN.split(".")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def verifier() -> JwtVerifier:
    made = JwtVerifier()
    made.replace([SIGNER.public(KEY), SIGNER.public(OTHER)], ISSUER)
    return made


VERIFIER = verifier()


def why(text: str, now: float = NOW, by: JwtVerifier = VERIFIER) -> str:
    """What a token is refused with."""
    with pytest.raises(errors.Error) as caught:
        by.verify(text, now, Audience.SERVICES)
    assert caught.value.kind is errors.Kind.UNAUTHENTICATED
    if len(text) > 40:
        assert text not in caught.value.message
    return caught.value.message


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return urlsafe_b64encode(text).decode().rstrip("=")


def header(**changes: Any) -> dict[str, Any]:
    said = {"typ": "JWT", "alg": "ES256", "ns": "shop", "kid": KEY.kid, **changes}
    return {name: value for name, value in said.items() if value is not None}


def signed(head: dict[str, Any] | bytes, payload: Any = None, key: SigningKey = KEY) -> str:
    """A token with any header and payload, well signed."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    text = f"{part(head)}.{part(CLAIMS.dump() if payload is None else payload)}"
    private = load_pem_private_key(key.private, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(private.sign(text.encode(), ec.ECDSA(SHA256())))
    return f"{text}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_token_of_either_key_says_what_was_signed(key: SigningKey) -> None:
    assert VERIFIER.verify(SIGNER.sign(CLAIMS, key), NOW, Audience.SERVICES) == CLAIMS
    assert VERIFIER.verify(signed(header(kid=key.kid), key=key), NOW, Audience.SERVICES) == CLAIMS, (
        "the forger of these tests can sign"
    )


def test_a_token_is_refused_by_who_does_not_know_its_key_or_not_any_more() -> None:
    assert "not known" in why(TOKEN, by=JwtVerifier())
    assert "not known" in why(SIGNER.sign(CLAIMS, STRANGER))
    changing = verifier()
    assert changing.verify(TOKEN, NOW, Audience.SERVICES)
    changing.replace([SIGNER.public(OTHER)], ISSUER)
    assert "not known" in why(TOKEN, by=changing)


def test_a_token_holds_from_when_it_is_made_until_it_ends_give_or_take_the_clocks() -> None:
    for now in (NOW - SKEW_SECONDS, NOW, CLAIMS.expires + SKEW_SECONDS - 1):
        assert VERIFIER.verify(TOKEN, now, Audience.SERVICES) == CLAIMS
    assert "expired" in why(TOKEN, CLAIMS.expires + SKEW_SECONDS)
    assert "future" in why(TOKEN, NOW - SKEW_SECONDS - 1)


@pytest.mark.parametrize("changes", [{"iss": "other"}, {"aud": "other"}, {"iss": ISSUER, "aud": [ISSUER]}])
def test_a_token_of_another_deployment_is_none_of_this_one(changes: dict[str, Any]) -> None:
    why(signed(header(), {**CLAIMS.dump(), **changes}))


@pytest.mark.parametrize(
    "head",
    [
        header(alg="none"),
        header(alg="None"),
        header(alg="HS256"),
        header(alg="ES384"),
        header(alg="RS256"),
        header(alg=None),
        header(typ=None),
        header(typ="JWS"),
        header(kid=None),
        header(kid=""),
        header(kid=STRANGER.kid),
        header(kid="../../etc/passwd"),
        header(kid=[KEY.kid]),
        header(ns=None),
        header(ns="other"),
        header(ns="SHOP"),
        header(crit=["b64"], b64=False),
        header(jku="https://example.com/keys"),
        header(x5u="https://example.com/keys"),
        header(jwk={"kty": "EC"}),
        header(zip="DEF"),
        {"kid": KEY.kid, "alg": "ES256", "typ": "JWT", "ns": "shop"},
        json.dumps(header()).encode(),
        (json.dumps(header(), separators=(",", ":")) + "\n").encode(),
        b"[" * 6000,
        b"",
        b"null",
        b"\xff\xfe",
    ],
    ids=map(str, itertools.count()),  # by number: a key in a name would make the name another one in each run
)
def test_a_header_that_is_not_exactly_ours_is_refused_however_well_it_is_signed(head: dict[str, Any] | bytes) -> None:
    why(signed(head))


def test_a_public_key_is_no_secret_to_sign_with() -> None:
    private = load_pem_private_key(KEY.private, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    public = private.public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        SIGNER.public(KEY).x.encode(),
        b"",
    ]
    import hashlib
    import hmac

    for head in (header(alg="HS256"), header()):
        text = f"{part(head)}.{PAYLOAD}"
        for secret in secrets:
            why(f"{text}.{part(hmac.new(secret, text.encode(), hashlib.sha256).digest())}")
            why(f"{text}.{part(hmac.new(secret, text.encode(), hashlib.sha512).digest())}")
    for bare in (f"{part(header(alg='none'))}.{PAYLOAD}.", f"{HEADER}.{PAYLOAD}.", f"{HEADER}.{PAYLOAD}"):
        why(bare)
    zeros = part(bytes(64))
    why(f"{HEADER}.{PAYLOAD}.{zeros}")


def test_the_key_that_is_named_must_be_the_one_that_signed() -> None:
    why(signed(header(kid=OTHER.kid), key=KEY))
    why(signed(header(), key=STRANGER))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b"\xff",
        b"[" * 4000,
        b"1" * 5000,
        {},
        *({**CLAIMS.dump(), name: None} for name in CLAIMS.dump()),
        {**CLAIMS.dump(), "exp": "never"},
        {**CLAIMS.dump(), "exp": True},
        {**CLAIMS.dump(), "type": "god"},
        {**CLAIMS.dump(), "ns": "other"},
        {**CLAIMS.dump(), "scopes": 7},
        {**CLAIMS.dump(), "meta": ["admin"]},
    ],
)
def test_even_our_own_key_does_not_make_a_token_of_nonsense(payload: Any) -> None:
    why(signed(header(), payload))


def test_what_is_too_long_is_not_looked_at() -> None:
    large = {**CLAIMS.dump(), "more": "x" * token.LONGEST}
    assert "malformed" in why(signed(header(), large))


@pytest.mark.parametrize(
    "key", [PublicKey(KEY.kid, "AAAA", "AAAA"), PublicKey(KEY.kid, "ä", ""), PublicKey(KEY.kid, "x", "y")]
)
def test_a_key_that_is_none_lets_nobody_in(key: PublicKey) -> None:
    damaged = JwtVerifier()
    damaged.replace([key], ISSUER)
    why(TOKEN, by=damaged)


@given(st.one_of(st.text(), st.text(LETTERS + "."), st.binary().map(lambda raw: raw.decode("latin-1"))))
@example("..")
@example("a.b.c")
@example("\ud800")
@example(TOKEN + "\n")
@example(TOKEN + "=")
@example(" " + TOKEN)
@example(TOKEN + "." + SIGNATURE)
@example("." * 9000)
@settings(max_examples=500, deadline=None)
def test_whatever_comes_is_refused(text: str) -> None:
    why(text)


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from(LETTERS + ".=\n ä"))
@settings(max_examples=1000, deadline=None)
def test_no_letter_of_a_token_can_be_another(place: int, letter: str) -> None:
    assume(TOKEN[place] != letter)
    why(TOKEN[:place] + letter + TOKEN[place + 1 :])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_part_of_a_token_can_be_left_out_repeated_or_exchanged(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(TOKEN)))
    end = data.draw(st.integers(start, len(TOKEN)))
    cut = TOKEN[:start] + data.draw(st.sampled_from(["", TOKEN[start:end] * 2, TOKEN[:start]])) + TOKEN[end:]
    assume(cut != TOKEN)
    why(cut)


CHANGES: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(sorted(CLAIMS.dump())),
    st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.none(), st.lists(st.text(max_size=5), max_size=3)),
    min_size=1,
)


def test_a_token_is_refused_by_whom_it_is_not_for() -> None:
    other = SIGNER.sign(replace(CLAIMS, audience=Audience.PLATFORM), KEY)
    assert "must not be shown to others" in why(other)
    assert VERIFIER.verify(other, NOW, Audience.PLATFORM).account == ANN
    for text, audience in ((TOKEN, Audience.SERVICES), (other, Audience.PLATFORM)):
        assert VERIFIER.verify(text, NOW, None).audience is audience


@given(CHANGES)
@settings(max_examples=300, deadline=None)
def test_nobody_says_more_than_was_signed(changes: dict[str, Any]) -> None:
    forged = {**CLAIMS.dump(), **changes}
    assume(json.dumps(forged) != json.dumps(CLAIMS.dump()))
    why(f"{HEADER}.{part(forged)}.{SIGNATURE}")
    why(signed(header(), forged, STRANGER))


@given(st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True))
def test_a_token_is_of_the_namespace_that_its_first_letters_tell(namespace: str) -> None:
    assume(namespace != "shop")
    assert "two namespaces" in why(signed(header(ns=namespace)))
    moved = replace(CLAIMS, account=replace(ANN, namespace=namespace))
    assert VERIFIER.verify(SIGNER.sign(moved, KEY), NOW, Audience.SERVICES).account.namespace == namespace


def test_the_signature_is_written_in_one_way_only() -> None:
    last = LETTERS.index(SIGNATURE[-1])
    for padding in range(1, 16):
        same = SIGNATURE[:-1] + LETTERS[last + padding]
        assert urlsafe_b64decode(same + "==") == urlsafe_b64decode(SIGNATURE + "==")
        why(f"{HEADER}.{PAYLOAD}.{same}")


def test_other_libraries_read_our_tokens_and_agree() -> None:
    public = SIGNER.public(KEY)
    jwk = jwt.PyJWK({"kty": "EC", "crv": "P-256", "x": public.x, "y": public.y})
    assert json.loads(PyJWS().decode(TOKEN, jwk.key, ["ES256"])) == json.loads(json.dumps(CLAIMS.dump()))
