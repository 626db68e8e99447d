"""Records as authors of services see them, and how they travel."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from micro.domain import errors
from micro.domain.record import EXACT, METADATA_DEPTH, Cause, Json, Metadata, check_exact
from micro.framework import values
from micro.rpc import wkt
from micro.rpc.gen.micro.store.v1 import store_pb as pb

V = TypeVar("V")

_CAUSES = {pb.Change.Action.DELETED: Cause.DELETED, pb.Change.Action.EXPIRED: Cause.EXPIRED}


@dataclass(frozen=True, slots=True)
class Record(Generic[V]):
    """What is kept under a key.

    Attributes:
        version: what `if_version` compares; grows with each write of the key.
        expiry: seconds that it still lives; None for ever.
        metadata: the writer's own, JSON values.
    """

    key: str
    value: V
    version: int = 0
    expiry: float | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page(Generic[V]):
    """Some records in order.

    Attributes:
        cursor: what the next page is asked for with; empty after the last.
        revision: a watch after it misses nothing that came after this page.
    """

    records: tuple[Record[V], ...]
    cursor: str
    revision: int


@dataclass(frozen=True, slots=True)
class Change(Generic[V]):
    """One record that changed.

    Attributes:
        record: as it was written; None when it is gone.
        after: where a watch begins that goes on from here. In the middle of a batch it is before the batch, all of
            which is told again then: rather twice than not at all.
    """

    key: str
    cause: Cause
    record: Record[V] | None
    after: int


def record(told: pb.Record, as_type: type[V], table: str) -> Record[V]:
    """A record out of an answer. Raises FAILED_PRECONDITION when its value is of another type."""
    value = values.decode(told.value, as_type, subject(told.key, table))
    metadata = told.metadata.to_python() if told.metadata else {}
    return Record(
        told.key, value, told.version, told.expiry or None, {key: _whole(one) for key, one in metadata.items()}
    )


def change(told: pb.Change, as_type: type[V], table: str, after: int) -> Change[V]:
    """A change out of a watch; raises as `record` does."""
    about = told.record or pb.Record()
    cause = _CAUSES.get(told.action, Cause.WRITTEN)
    return Change(about.key, cause, record(about, as_type, table) if cause is Cause.WRITTEN else None, after)


def written(
    key: str, value: object, table: str, ttl: float | dt.timedelta | None, metadata: Mapping[str, Json] | None
) -> pb.Record:
    """A record as it is sent.

    Raises:
        TypeError: the value, or the metadata, cannot be kept.
        Error: INVALID_ARGUMENT for a time to live that is not above 0, and for metadata that would not come back as
            they are.
    """
    data = values.encode(value, subject(key, table))
    made = pb.Record(key=key, value=data, expiry=_seconds(ttl, key))
    if metadata:
        about = f"the metadata of {key!r}"
        try:
            check_exact(metadata, about)
            made.metadata = wkt.Struct.from_python(values.plain(metadata, about))
        except RecursionError:
            raise errors.invalid_argument(f"{about} is nested too deep: {METADATA_DEPTH} levels are allowed") from None
    return made


def subject(key: str, table: str) -> str:
    """What errors call a value."""
    return f"the value of {key!r}" + (f" in table {table}" if table else "")


def _seconds(ttl: float | dt.timedelta | None, key: str) -> float:
    if ttl is None:
        return 0.0
    seconds = ttl.total_seconds() if isinstance(ttl, dt.timedelta) else float(ttl)
    if not 0 < seconds < float("inf"):
        raise errors.invalid_argument(f"the ttl of {key!r} is {seconds:g} s: give more than 0, or None for ever")
    return seconds


def _whole(value: Any) -> Any:
    """Numbers travel as doubles: whole ones are whole again."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        return int(value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    return value
