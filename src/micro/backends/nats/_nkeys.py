"""Keys as NATS writes them: Ed25519 in base32, with a kind in front and a checksum behind; and files that hold them.

The client library takes them from a package of its own that comes as no wheel; all that it does is here.
"""

from __future__ import annotations

import base64
import binascii
import re

_SEED, _USER = 18 << 3, 20 << 3
_SECTION = re.compile(r"-{3,}\s*BEGIN ([A-Z ]+?)\s*-{3,}\s+(\S+)\s+-{3,}\s*END \1\s*-{3,}")
_LARGEST = 1 << 16


class Nkey:
    """A user's key. Raises ValueError, which does not show it, for a text that is none."""

    def __init__(self, seed: str) -> None:
        text = seed.strip()
        try:
            raw = base64.b32decode(text + "=" * (-len(text) % 8))
        except (ValueError, binascii.Error):
            raise ValueError("is no seed: it should be one word that begins with SU") from None
        body, checksum = raw[:-2], raw[-2:]
        if len(raw) != 36 or raw[0] & 0xF8 != _SEED or _checksum(body) != checksum:
            raise ValueError("is no seed: it should be one word that begins with SU")
        if (raw[0] & 7) << 5 | (raw[1] & 0xF8) >> 3 != _USER:
            raise ValueError("is not a user's seed, which begins with SU")
        # Slow to import, and most who know where NATS is have no such key.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(body[2:])

    @property
    def public(self) -> str:
        """What a server's configuration calls this user."""
        return _written(bytes([_USER]) + self._key.public_key().public_bytes_raw())

    def sign(self, nonce: str) -> bytes:
        """What proves to a server that asks with `nonce` that we have the key."""
        return base64.urlsafe_b64encode(self._key.sign(nonce.encode())).rstrip(b"=")


def seed(text: str) -> str:
    """The seed in a file: the word alone, or between the lines that frame it in a credentials file."""
    return _sections(text).get("USER NKEY SEED", text.strip())


def credentials(text: str) -> tuple[str, str]:
    """JWT and seed of a credentials file. Raises ValueError, which shows neither."""
    found = _sections(text)
    try:
        return found["NATS USER JWT"], found["USER NKEY SEED"]
    except KeyError as error:
        raise ValueError(f"is no credentials file: it has no {error.args[0]}") from None


def _sections(text: str) -> dict[str, str]:
    return dict(_SECTION.findall(text[:_LARGEST]))


def _checksum(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(2, "little")


def _written(body: bytes) -> str:
    return base64.b32encode(body + _checksum(body)).decode().rstrip("=")
