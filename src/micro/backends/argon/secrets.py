"""Hashes of secrets by argon2id, in threads."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from micro.ports.secrets import SecretHasher

AT_ONCE = 2
"""Hashes worked out at the same time: each takes a core and 19 MiB for some 40 ms."""

_SALT, _DIGEST = 16, 32
_QUICK_KIB = 64
_QUICK = f"$argon2id$v=19$m={_QUICK_KIB},t=1,p=1$"


class ArgonHasher(SecretHasher):
    """A hash that nobody waits for any more still takes its thread to the end: never are more than AT_ONCE worked out.

    Args:
        passes, memory: the cost; what OWASP names as the least by default. `memory` in KiB.
    """

    def __init__(self, *, passes: int = 2, memory: int = 19456) -> None:
        self._hasher = PasswordHasher(passes, memory, 1, _DIGEST, _SALT, type=Type.ID)
        self._nobody = f"$argon2id$v=19$m={memory},t={passes},p=1${_random(_SALT)}${_random(_DIGEST)}"
        self._quick = PasswordHasher(1, _QUICK_KIB, 1, _DIGEST, _SALT, type=Type.ID)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")

    async def hash(self, secret: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, secret)

    async def verify(self, hashed: str | None, secret: str) -> bool:
        loop, compared = asyncio.get_running_loop(), self._nobody if hashed is None else hashed
        right = await loop.run_in_executor(self._threads, self._verify, compared, secret)
        return right and hashed is not None

    def hash_made(self, secret: str) -> str:
        return self._quick.hash(secret)

    def is_made(self, hashed: str) -> bool:
        return hashed.startswith(_QUICK)

    def proves(self, hashed: str, secret: str) -> bool:
        return self.is_made(hashed) and self._verify(hashed, secret)

    def _verify(self, hashed: str, secret: str) -> bool:
        try:
            return self._hasher.verify(hashed, secret)
        except (VerificationError, InvalidHashError):
            return False


def _random(size: int) -> str:
    return b64encode(secrets.token_bytes(size)).decode().rstrip("=")
