"""Records as rows, and back."""

from __future__ import annotations

from typing import Any

from micro.domain import errors, record
from micro.domain.record import Cause, Record

CAUSES = (Cause.WRITTEN, Cause.DELETED, Cause.EXPIRED)
"""By the number that stands for each in the history."""

Row = tuple[str, bytes, int, int | None, bytes, bytes]


def packed(table: str, one: Record) -> Row:
    """Table, key, version, expires, metadata and value, as the tables hold them."""
    return table, one.key.encode(), one.version, one.expires, record.encode_metadata(one.metadata).encode(), one.value


def stored(row: Any) -> Record:
    """The record of a row that has all columns. Raises DATA_LOSS for what was never stored."""
    try:
        return Record(
            row["key"].decode(),
            row["value"] or b"",
            row["version"],
            row["expires"],
            record.decode_metadata((row["metadata"] or b"").decode()),
        )
    except ValueError:
        raise errors.data_loss(
            f"the record {bytes(row['key'][:20])!r} is damaged in PostgreSQL: restore a backup"
        ) from None
