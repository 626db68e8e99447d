"""The audit log: records in the order in which they were added, the oldest of which make room."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from micro.backends.stored import _layout as layout
from micro.backends.stored._layout import AUDIT, ENTRIES
from micro.backends.stored._records import Records, Transaction, encoded
from micro.domain import names
from micro.domain.record import Operation, Put, Query
from micro.domain.token import SKEW_SECONDS
from micro.ports import identity
from micro.ports.identity import AUDIT_EACH, AUDIT_KEPT, Entry

_PLACE = re.compile(r"[0-9a-f]{16}\.[0-9]{1,3}", re.ASCII)
_SLACK = 5000
"""Entries beyond what is kept that may lie there: they are told nobody, and removed together."""


class Wanted(NamedTuple):
    """Which entries are asked for: of a namespace, of an account as actor or as target, of a time; see the port."""

    namespace: str = ""
    account: str = ""
    since: float = 0.0
    until: float = math.inf

    @property
    def some(self) -> bool:
        """Whether not all entries of the namespace are."""
        return bool(self.account) or self.since > 0 or self.until < math.inf

    def fits(self, entry: Entry) -> bool:
        return self.account in ("", entry.actor, entry.target) and self.since <= entry.time < self.until


class AuditLog:
    """Positions are microseconds, made to grow whatever the clock does."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._position = 0
        self._added = 0

    async def start(self) -> None:
        async for record in self._records.scan(AUDIT, Query(descending=True, limit=1, keys_only=True)):
            self._position = int(record.key.partition(".")[0], 16)
        self._added = _SLACK  # what the last process left room for

    def add(self, transaction: Transaction, entries: Sequence[Entry]) -> None:
        """Have them added with the transaction."""
        for key, part in self._parts(entries):
            transaction.create(AUDIT, key, [layout.from_entry(each) for each in part])

    def puts(self, entries: Sequence[Entry]) -> list[Operation]:
        """The same for a log that nobody else writes."""
        return [
            Put(AUDIT, key, encoded([layout.from_entry(each) for each in part])) for key, part in self._parts(entries)
        ]

    def added(self, count: int) -> bool:
        """Count entries that were added; whether it is time for `make_room`."""
        self._added += count
        return self._added >= _SLACK

    async def find(self, wanted: Wanted, limit: int, before: str = "") -> list[Entry]:
        """The last first, of those before a place."""
        found: list[Entry] = []
        if limit <= 0:
            return found
        last, inside = _place(before)
        room = _Room()
        query = Query(
            suffix=f"/{wanted.namespace}" if wanted.namespace else "",
            until=f"{last}/" if last else "",  # after all that a key may have behind its position
            descending=True,
            limit=0 if wanted.some or limit > AUDIT_EACH else limit + 1,
        )
        async for record in self._records.scan(AUDIT, query):
            position = record.key.partition(".")[0]
            if int(position, 16) < (wanted.since - SKEW_SECONDS) * 1e6:  # nothing is recorded before it is done
                return found
            entries = self._records.decoded(AUDIT, record)
            for number, each in reversed(list(enumerate(entries[:inside] if position == last else entries))):
                entry = Entry(*[*each, f"{position}.{number}"])
                if room.take(entry.namespace) and wanted.fits(entry):
                    found.append(entry)
                    if len(found) == limit:
                        return found
            if room.full:
                return found
        return found

    async def make_room(self) -> None:
        """Remove what is beyond the bounds."""
        self._added = 0
        room = _Room()
        spare = []
        async for record in self._records.scan(AUDIT, Query(descending=True, keys_only=True)):
            position, _, namespace = record.key.partition("/")
            if not sum(room.take(namespace) for _ in range(int(position.partition(".")[2]))):
                spare.append((AUDIT, record.key))
        await self._records.remove(spare)

    def _parts(self, entries: Sequence[Entry]) -> Iterator[tuple[str, Sequence[Entry]]]:
        for namespace, group in groupby(entries, lambda entry: entry.namespace):
            same = list(group)
            for begin in range(0, len(same), ENTRIES):
                part = same[begin : begin + ENTRIES]
                self._position = max(self._position + 1, time.time_ns() // 1000)
                yield f"{self._position:016x}.{len(part)}/{namespace}", part


def _place(text: str) -> tuple[str, int]:
    """Position and number inside of it; empty for the end. Raises INVALID_ARGUMENT."""
    if text and not _PLACE.fullmatch(text):
        raise identity.no_place(text)
    position, _, number = text.partition(".")
    return position, int(number or 0)


class _Room:
    """What is left for entries, from the last one back."""

    def __init__(self) -> None:
        self._own = 0
        self._others = 0
        self._each: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        return self._own >= AUDIT_KEPT and self._others >= AUDIT_KEPT

    def take(self, namespace: str) -> bool:
        """Whether one more of a namespace is kept."""
        if namespace == names.DEFAULT_NAMESPACE:
            self._own += 1
            return self._own <= AUDIT_KEPT
        if self._others >= AUDIT_KEPT or self._each[namespace] >= AUDIT_EACH:
            return False
        self._each[namespace] += 1
        self._others += 1
        return True
