"""How the gateways are known outside."""

from __future__ import annotations

import re
from dataclasses import dataclass

from micro.domain import errors

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(?::[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Front:
    """How the HTTP gateway is known outside.

    Attributes:
        listens: its HOST:PORT; None where that is not known, which refuses no host.
        base_domain: "example.com" where its namespaces have hosts below that; else empty.
        origins: web origins ("https://example.com") whose pages may call it, with their readers' cookies.
        proxy: HOST:PORT of the gRPC proxy beside it, which no page may call; None where that is not known.

    Raises:
        Error: INVALID_ARGUMENT for what is no origin; "*" is none.
    """

    listens: str | None = None
    base_domain: str = ""
    origins: tuple[str, ...] = ()
    proxy: str | None = None

    def __post_init__(self) -> None:
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise errors.invalid_argument(
                    f"{origin!r} is not a web origin: write https://HOST or https://HOST:PORT"
                )
