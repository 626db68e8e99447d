"""Keeping secrets without knowing them: as hashes that are slow to try."""

from __future__ import annotations

from abc import ABC, abstractmethod


class SecretHasher(ABC):
    """Slow on purpose; the loop goes on meanwhile."""

    @abstractmethod
    async def hash(self, secret: str) -> str:
        """What to store. Another one each time, so that equal secrets cannot be told."""

    @abstractmethod
    async def verify(self, hashed: str | None, secret: str) -> bool:
        """Whether the hash is of this secret. Without a hash the same work is done, and the answer is no: nobody
        learns from the time that it takes whether there was one."""

    @abstractmethod
    def hash_made(self, secret: str) -> str:
        """What to store of a random secret of 256 bits, which nobody can guess: quick, told apart from the others."""

    @abstractmethod
    def is_made(self, hashed: str) -> bool:
        """Whether a hash is one of `hash_made`."""

    @abstractmethod
    def proves(self, hashed: str, secret: str) -> bool:
        """Whether a hash is one of `hash_made`, and of this secret; quick, and in the same time for every secret."""
