"""What the platform tells about itself, kept in a list: for tests, and for who asks nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from micro.ports.announcements import Announcements


class Told(NamedTuple):
    """One announcement, as it was made."""

    namespace: str
    topic: str
    type: str
    data: Mapping[str, str]


class MemoryAnnouncements(Announcements):
    """Keeps all that is told, the oldest first."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def tell(self, namespace: str, topic: str, type_: str, data: Mapping[str, str]) -> None:
        self.told.append(Told(namespace, topic, type_, dict(data)))
