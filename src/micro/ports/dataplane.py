"""What carries the traffic: proxies that are told the routes and say how far they have got."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from micro.domain.route import RouteTable


@dataclass(frozen=True, slots=True)
class ProxyState:
    """A connected proxy.

    Attributes:
        id: its name, "api" for example.
        revision: of the registry, whose routes it has accepted in full; 0 before the first.
        error: why it refused the last update; empty when it accepted it.
    """

    id: str
    revision: int
    error: str = ""


class Dataplane(ABC):
    """Proxies come and go by themselves; whoever connects gets the table that was applied last."""

    @abstractmethod
    def apply(self, table: RouteTable, revision: int, quotas: Mapping[str, int] | None = None) -> None:
        """Hand out a table made from a revision of the registry; revisions never go down while the registry lives.

        Returns at once: proxies take it over in their own time, skipping tables that were replaced meanwhile. Until
        the first call proxies get no answer at all, so that they keep the routes they have.

        Args:
            quotas: requests a second at the HTTP gateway, by namespace; one that is not there has no limit.
        """

    @abstractmethod
    def proxies(self) -> list[ProxyState]:
        """The connected proxies, sorted by id."""

    @abstractmethod
    async def sync(self, revision: int, timeout: float) -> int:
        """Wait until the table applied, and what every connected proxy has accepted, is of `revision` or later.

        Returns the lowest revision among them. Raises DEADLINE_EXCEEDED, naming who is behind, after `timeout`
        seconds.
        """
