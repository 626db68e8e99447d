"""Tokens that nobody may be let in with: made of real ones, in the ways that have worked elsewhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils


def encode(content: bytes | Mapping[str, Any]) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def forgeries(token: str, other: str, key: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong, and a token of which that is so.

    Args:
        token: one that holds.
        other: another account's, of another namespace.
        key: the public key of both, as a JSON Web Key.
    """
    head, body, signature = token.split(".")
    header, claims = json.loads(decode(head)), json.loads(decode(body))
    yield from _algorithms(header, body, signature, key)
    yield from _headers(header, body, signature)
    yield from _claims(head, claims, signature)
    yield from _signatures(head, body, signature)
    yield from _shapes(token, head, body, signature)
    theirs = other.split(".")
    yield "another's account", f"{head}.{theirs[1]}.{signature}"
    yield "another's account and signature", f"{head}.{theirs[1]}.{theirs[2]}"
    yield "another's signature", f"{head}.{body}.{theirs[2]}"


def _algorithms(header: dict[str, Any], body: str, signature: str, key: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in ("none", "None", "NONE", "nOnE", "", "ES384", "RS256", "PS256", "EdDSA", "dir"):
        for signed in ("", signature):
            yield f"alg {name!r}", f"{encode({**header, 'alg': name})}.{body}.{signed}"
    number = ec.EllipticCurvePublicNumbers(
        int.from_bytes(decode(key["x"])), int.from_bytes(decode(key["y"])), ec.SECP256R1()
    )
    public = number.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for what, secret in (
        ("PEM", pem),
        ("PEM without its end", pem.strip()),
        ("x", decode(key["x"])),
        ("kid", key["kid"].encode()),
        ("nothing", b""),
    ):
        said = f"{encode({**header, 'alg': 'HS256'})}.{body}"
        yield f"HS256 with {what}", f"{said}.{encode(hmac.new(secret, said.encode(), hashlib.sha256).digest())}"


def _headers(header: dict[str, Any], body: str, signature: str) -> Iterator[tuple[str, str]]:
    own = ec.generate_private_key(ec.SECP256R1())
    numbers = own.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "x": encode(numbers.x.to_bytes(32)), "y": encode(numbers.y.to_bytes(32))}
    for more in (
        {},
        {"jwk": jwk},
        {"jku": "http://127.0.0.1:1/jwks.json"},
        {"x5u": "http://127.0.0.1:1/cert.pem"},
        {"x5c": ["AAAA"]},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"zip": "DEF"},
        {"kid": "../../../../dev/null"},
        {"kid": ""},
        {"kid": ["a"]},
        {"kid": {"a": 1}},
        {"kid": "0"},
        {"typ": "JWE"},
        {"ns": "micro"},
    ):
        said = f"{encode({**header, **more})}.{body}"
        yield f"signed by somebody else, {more}", f"{said}.{_signed(own, said)}"
        if more:
            yield f"header {more}", f"{said}.{signature}"
    for name in header:
        yield f"no {name}", f"{encode({key: value for key, value in header.items() if key != name})}.{body}.{signature}"
    twice = json.dumps(header, separators=(",", ":"))[:-1] + ',"alg":"none"}'
    yield "alg twice", f"{encode(twice.encode())}.{body}."


def _claims(head: str, claims: dict[str, Any], signature: str) -> Iterator[tuple[str, str]]:
    for more in (
        {"scopes": ["admin"]},
        {"ns": "micro", "sub": "admin"},
        {"sub": "admin"},
        {"exp": time.time() + 10**9},
        {"iat": 0},
        {"aud": "*"},
        {"iss": ""},
        {"sid": ""},
        {"type": "service"},
    ):
        yield f"claims {more}", f"{head}.{encode({**claims, **more})}.{signature}"


def _signatures(head: str, body: str, signature: str) -> Iterator[tuple[str, str]]:
    raw = decode(signature)
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    for what, made in (
        ("nothing", b""),
        ("zeros", bytes(64)),
        ("one byte less", raw[:-1]),
        ("one byte more", raw + b"\0"),
        ("halves swapped", raw[32:] + raw[:32]),
        ("DER", utils.encode_dss_signature(r, s)),
        ("ones", b"\xff" * 64),
    ):
        yield f"signature is {what}", f"{head}.{body}.{encode(made)}"


def _shapes(token: str, head: str, body: str, signature: str) -> Iterator[tuple[str, str]]:
    yield "nothing but dots", ".."
    yield "two parts", f"{head}.{body}"
    yield "four parts", f"{token}.{signature}"
    yield "five parts", f"{head}.{body}.{signature}.{body}.{signature}"
    yield "padding", f"{head}==.{body}.{signature}"
    yield "a dot behind", f"{token}."
    yield "a space within", f"{head}. {body}.{signature}"
    yield "twice", f"{token} {token}"
    yield "twice, with a comma", f"{token},{token}"
    yield "as JSON", json.dumps({"protected": head, "payload": body, "signature": signature})
    yield "in quotes", f'"{token}"'
    yield "Bearer again", f"Bearer {token}"
    yield "very long", f"{head}.{body}.{'A' * 20_000}"
    yield "very deep", f"{head}.{encode(b'[' * 5000)}.{signature}"
    yield "in letters of Latin-1", f"{head}.{body}.\xe9{signature[1:]}"
    yield "in capitals", token.upper()


def _signed(key: ec.EllipticCurvePrivateKey, said: str) -> str:
    r, s = utils.decode_dss_signature(key.sign(said.encode(), ec.ECDSA(hashes.SHA256())))
    return encode(r.to_bytes(32) + s.to_bytes(32))
