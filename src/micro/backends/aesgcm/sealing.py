"""Secrets under AES-256-GCM: a random nonce each, and as associated data what they are for."""

from __future__ import annotations

import base64
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from micro.backends.aesgcm.keyring import KEY_BYTES, Keyring
from micro.domain import errors
from micro.ports.sealing import DataKey, Sealing

_NONCE_BYTES = 12
_FORMAT = b"\x01"


class AesGcmSealing(Sealing):
    """Sealed is: a byte for the format, the nonce, the ciphertext with its tag; values in base64."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def has_key(self) -> bool:
        return self._keyring.present()

    def begin(self) -> None:
        self._keyring.begin()

    def renew(self) -> None:
        self._keyring.renew()

    def create(self, namespace: str) -> DataKey:
        return self._wrapped(namespace, secrets.token_hex(8), AESGCM.generate_key(8 * KEY_BYTES))

    def rewrap(self, namespace: str, key: DataKey) -> DataKey:
        return self._wrapped(namespace, key.id, self._unwrapped(namespace, key))

    def check(self, namespace: str, key: DataKey) -> None:
        self._unwrapped(namespace, key)

    def seal(self, namespace: str, key: DataKey, path: str, text: str) -> str:
        sealed = _seal(self._unwrapped(namespace, key), text.encode(), _about("value", namespace, path))
        return base64.b64encode(sealed).decode()

    def open(self, namespace: str, key: DataKey, path: str, sealed: str) -> str:
        data_key = self._unwrapped(namespace, key)
        try:
            found = _open(data_key, base64.b64decode(sealed, validate=True), _about("value", namespace, path))
            return found.decode()
        except (InvalidTag, ValueError):
            raise errors.data_loss(
                f"the secret at {path!r} in namespace {namespace} is damaged, or was put there from elsewhere: "
                "set it again"
            ) from None

    def _wrapped(self, namespace: str, id_: str, data_key: bytes) -> DataKey:
        by, key = self._keyring.newest()
        return DataKey(id_, by, _seal(key, data_key, _about("key", namespace, id_)))

    def _unwrapped(self, namespace: str, key: DataKey) -> bytes:
        wrapping = self._keyring.get(key.wrapped_by)
        try:
            return _open(wrapping, key.wrapped, _about("key", namespace, key.id))
        except (InvalidTag, ValueError):
            raise errors.data_loss(
                f"the key of the secrets of namespace {namespace} is damaged: restore a backup, or delete the secrets "
                "and set them again"
            ) from None


def _seal(key: bytes, plain: bytes, about: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, plain, about)


def _open(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """Raises InvalidTag, and ValueError for what was never sealed."""
    if sealed[:1] != _FORMAT:
        raise ValueError("unknown format")
    nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    return AESGCM(key).decrypt(nonce, rest, about)


def _about(what: str, namespace: str, name: str) -> bytes:
    """What sealed data is for. No part can hold the byte between them: none has control characters."""
    return b"\x00".join((b"micro.config.v1", what.encode(), namespace.encode(), name.encode()))
