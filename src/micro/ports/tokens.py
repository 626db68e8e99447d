"""Making and reading access tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from micro.domain.audience import Audience
from micro.domain.token import Claims
from micro.ports.identity import SigningKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key on P-256: coordinates in base64url without padding, as a JSON Web Key has them."""

    kid: str
    x: str
    y: str
    created: str = ""


class Verifier(ABC):
    """Tells what a token says, when its signature is one of ours."""

    @abstractmethod
    def replace(self, keys: Sequence[PublicKey], issuer: str) -> None:
        """Take these keys and this issuer instead of the known ones."""

    @abstractmethod
    def verify(self, token: str, now: float, audience: Audience | None) -> Claims:
        """What the token says. Raises UNAUTHENTICATED for one that is malformed, too long, signed by nobody known or in
        another way than ES256, of another deployment, not for `audience` (None: for whichever), or not valid at `now`
        (seconds since 1970)."""

    @abstractmethod
    def key_of(self, token: str) -> str:
        """Id of the key that signed a token, which was verified before."""

    @abstractmethod
    def recognize(self, kid: str) -> None:
        """Raise UNAUTHENTICATED when a key of that id is not known, or not any more."""


class Signer(ABC):
    """Makes keys and tokens."""

    @abstractmethod
    def generate(self, now: float) -> SigningKey:
        """A new key."""

    @abstractmethod
    def public(self, key: SigningKey) -> PublicKey:
        """Its public half."""

    @abstractmethod
    def sign(self, claims: Claims, key: SigningKey) -> str:
        """The token. Begins as `domain.token.beginning` says."""
