"""Copies of databases: what they are checked by. Pure."""

from __future__ import annotations

import hashlib
import json

from micro.domain.record import Record


class Digest:
    """SHA-256 over records and their tables, in order. Versions do not count: they are others after a restore."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, table: str, record: Record) -> None:
        """Count one more."""
        metadata = json.dumps(record.metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        parts = (table.encode(), record.key.encode(), record.value, metadata.encode(), b"%d" % (record.expires or 0))
        # Each with its length before it, so that no two sequences of records have the same bytes.
        self._hash.update(b"".join(b"%d:" % len(part) + part for part in parts))

    def told(self) -> str:
        """In hexadecimal."""
        return self._hash.hexdigest()
