"""What the platform tells about itself: events of its own, for those who follow them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

RUNTIME = "micro.runtime"
REGISTRY = "micro.registry"
AUTH = "micro.auth"
CONFIG = "micro.config"
TOPICS = (RUNTIME, REGISTRY, AUTH, CONFIG)
"""Those that there are."""


class Announcements(ABC):
    """Tells what happened, to topic `micro.…` of a namespace."""

    @abstractmethod
    def tell(self, namespace: str, topic: str, type_: str, data: Mapping[str, str]) -> None:
        """Have an event published: at once or a little later, in the order of the calls. Never waits and never fails:
        when what keeps events is away for long, the oldest untold ones are dropped, and that is logged.

        Args:
            topic: one of this module's.
            type_: what happened, as "service.started"; a noun and a verb in the past.
            data: about whom: what is no secret. The first says what the event is about, and is its key: whoever shares
                the topic in a group handles events of one in order.
        """


class Silent(Announcements):
    """Tells nobody."""

    def tell(self, namespace: str, topic: str, type_: str, data: Mapping[str, str]) -> None:
        return
