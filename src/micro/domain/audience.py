"""Whom a token is for."""

from __future__ import annotations

import enum

from micro.domain import names


class Audience(enum.Enum):
    """Whom a token is for. Who is called is shown the caller's token and could show it to others, so what users'
    services are shown is worth nothing to the platform's own."""

    PLATFORM = "platform"
    """The platform's own services."""

    SERVICES = "services"
    """Users' services."""

    @classmethod
    def of(cls, service: str) -> Audience:
        """That of a service, by its name."""
        return cls.PLATFORM if service in names.CORE_SERVICES else cls.SERVICES

    def claim(self, issuer: str) -> str:
        """As tokens of a deployment name it (`aud`)."""
        return issuer if self is Audience.PLATFORM else f"{issuer}/services"
