"""What is registered now, and the last steps that led there: a map with a bounded history.

Both who keeps registrations in memory and who shows them to watchers need it; a watcher is no more than a revision
here, so that a slow one costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from micro.domain.service import Change, Registration

Key = tuple[str, str, str]


class Action(StrEnum):
    """What a step did to a registration."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class Step:
    """One change, told with what it did.

    Attributes:
        registration: what is there after it; of what is gone, what was there last.
    """

    revision: int
    action: Action
    registration: Registration

    @property
    def present(self) -> bool:
        return self.action in (Action.CREATE, Action.UPDATE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A registration with the revision of its last change."""

    revision: int
    registration: Registration


@dataclass(frozen=True, slots=True)
class Synced:
    """Between the changes of a watch: all that was there when it began has been told, up to this revision."""

    revision: int


class Registrations:
    """A map of registrations that remembers its last `limit` steps, with descriptors only when `whole`."""

    def __init__(self, limit: int = 4096, *, whole: bool = False) -> None:
        self._entries: dict[Key, Entry] = {}  # by revision: what changes moves to the end
        self._steps: deque[Step] = deque()
        self._limit = limit
        self._whole = whole
        self._horizon = 0
        self._revision = 0

    @property
    def revision(self) -> int:
        """Of the last change."""
        return self._revision

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def entries(self) -> list[Entry]:
        """What is there, oldest change first: who has seen a part of it may go on from the last revision it saw."""
        return list(self._entries.values())

    def apply(self, change: Change) -> Step | None:
        """Take a change in; None when it changed nothing, as the removal of what is absent."""
        if change.revision <= self._revision:
            return None
        self._revision = change.revision
        before = self._entries.pop(change.key, None)
        if change.registration is not None:
            self._entries[change.key] = Entry(change.revision, change.registration)
            action = Action.UPDATE if before else Action.CREATE
            return self._remember(change.revision, action, change.registration)
        if before is None:
            return None
        action = Action.EXPIRE if change.expired else Action.DELETE
        return self._remember(change.revision, action, before.registration)

    def reset(self, revision: int, entries: Iterable[Entry]) -> None:
        """Put another state in place, with no history: every watcher has to begin anew."""
        ordered = sorted(entries, key=lambda entry: entry.revision)
        self._entries = {entry.registration.key: entry for entry in ordered}
        self._steps.clear()
        self._horizon = self._revision = revision

    def since(self, revision: int) -> list[Step] | None:
        """The steps after a revision, oldest first; None when they are not known (any more)."""
        if not self._horizon <= revision <= self._revision:
            return None
        found: list[Step] = []
        for step in reversed(self._steps):
            if step.revision <= revision:
                break
            found.append(step)
        found.reverse()
        return found

    def _remember(self, revision: int, action: Action, registration: Registration) -> Step:
        if registration.descriptors and not self._whole:
            registration = replace(registration, descriptors=b"")
        step = Step(revision, action, registration)
        self._steps.append(step)
        if len(self._steps) > self._limit:
            self._horizon = self._steps.popleft().revision
        return step
