"""What the platform tells about itself: events of its own, for those who follow them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Announcements(ABC):
    """Tells what happened, to topic `micro.…` of a namespace."""

    @abstractmethod
    def tell(self, namespace: str, topic: str, type_: str, data: Mapping[str, str]) -> None:
        """Have an event published: at once or a little later, in the order of the calls. Never waits and never fails:
        when what keeps events is away for long, the oldest untold ones are dropped, and that is logged.

        Args:
            topic: "micro.runtime", "micro.registry", "micro.auth" or "micro.config".
            type_: what happened, as "service.started"; a noun and a verb in the past.
            data: about whom: what is no secret.
        """


class Silent(Announcements):
    """Tells nobody."""

    def tell(self, namespace: str, topic: str, type_: str, data: Mapping[str, str]) -> None:
        return
