"""Secrets: those that people choose are hashed slowly, in turns; those that are made here need no turns."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from micro.ports.secrets import SecretHasher
from micro.services._auth_turns import Turns

_LENGTH = 43


@dataclass(frozen=True, slots=True)
class Secret:
    """What an account shows.

    Attributes:
        made: it is random and of 256 bits, so that a quick hash serves.
    """

    text: str
    made: bool = False


def made() -> Secret:
    """A new one of 256 bits."""
    return Secret(secrets.token_urlsafe(32), made=True)


class Secrets:
    """Hashes of secrets.

    Args:
        turns: what those wait for who have one hashed slowly.
    """

    def __init__(self, hasher: SecretHasher, turns: Turns) -> None:
        self._hasher = hasher
        self._turns = turns

    async def hash(self, secret: Secret, who: str, address: str) -> str:
        """What to store, another one each time. Raises RESOURCE_EXHAUSTED while too many wait."""
        if secret.made:
            return self._hasher.hash_made(secret.text)
        async with self._turns.turn(who, address):
            return await self._hasher.hash(secret.text)


def could_be_made(shown: str) -> bool:
    """Whether it is worth a look at what is stored."""
    return len(shown) == _LENGTH
