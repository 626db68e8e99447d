"""Between the messages of `micro.store.v1` and what the store's port knows."""

from __future__ import annotations

import math
from typing import Any

from micro.domain import errors
from micro.domain.record import (
    EXACT,
    Cause,
    Change,
    Check,
    Delete,
    Get,
    Json,
    Metadata,
    Operation,
    Put,
    Query,
    Record,
    check_key,
    check_query,
)
from micro.rpc import wkt
from micro.rpc.gen.micro.store.v1 import store_pb as pb

LONGEST_EXPIRY = 100 * 366 * 86400.0
"""Seconds; who wants more means for ever."""

_DESCENDING = {"": False, "asc": False, "desc": True}
_ACTIONS = {
    Cause.WRITTEN: pb.Change.Action.WRITTEN,
    Cause.DELETED: pb.Change.Action.DELETED,
    Cause.EXPIRED: pb.Change.Action.EXPIRED,
}


def to_record(record: Record, now: int) -> pb.Record:
    """A record as it is told; `now` in milliseconds since 1970."""
    found = pb.Record(key=record.key, value=record.value, version=record.version)
    if record.expires is not None:
        found.expiry = max(1, record.expires - now) / 1000
    if record.metadata:
        found.metadata = wkt.Struct.from_python(dict(record.metadata))
    return found


def to_change(change: Change, now: int) -> pb.Change:
    return pb.Change(action=_ACTIONS[change.cause], record=to_record(change.record, now))


def expires(seconds: float, now: int) -> int | None:
    """When a record is gone that lives so long; None for ever. Raises INVALID_ARGUMENT for what is no time."""
    if seconds == 0:
        return None
    if not 0 < seconds <= LONGEST_EXPIRY:  # which not-a-number is not either
        raise errors.invalid_argument(f"expiry {seconds:g} is no time: give seconds, 0 for ever")
    return now + math.ceil(round(seconds * 1000, 6))


def metadata(given: wkt.Struct | None) -> Metadata:
    """What was given, whole numbers as such again: JSON tells 3 and 3.0 apart nowhere, people do."""
    if given is None:
        return {}
    found = _whole(given.to_python())
    assert isinstance(found, dict)
    return found


def _whole(value: Any) -> Json:
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return value  # type: ignore[no-any-return]


def put(given: pb.Record, table: str, if_version: int | None, now: int) -> Put:
    """What writes a record. Raises INVALID_ARGUMENT."""
    return Put(table, given.key, given.value, expires(given.expiry, now), metadata(given.metadata), if_version)


def condition(message: pb.WriteRequest | pb.DeleteRequest | pb.Operation) -> int | None:
    """The version that is asked for; None for any."""
    return message.if_version if message.has_field("if_version") else None


def operation(number: int, given: pb.Operation, table: str, now: int) -> Operation:
    """One thing that a batch does, the first one being number 1. Raises INVALID_ARGUMENT that names it."""
    wanted = condition(given)
    match given.does:
        case wkt.Oneof(field="read", value=str(key)):
            if wanted is not None:
                raise errors.invalid_argument(f"operation {number} reads, which knows no if_version: add a check")
            return Get(table, key)
        case wkt.Oneof(field="write", value=pb.Record() as record):
            return put(record, table, wanted, now)
        case wkt.Oneof(field="delete", value=str(key)):
            return Delete(table, key, wanted)
        case wkt.Oneof(field="check", value=str(key)):
            if wanted is None:
                raise errors.invalid_argument(f"operation {number} checks nothing: give it an if_version")
            return Check(table, key, wanted)
    raise errors.invalid_argument(f"operation {number} is empty: give it a read, a write, a delete or a check")


def result(asked: Operation, found: Record | None, now: int) -> pb.Result:
    """What one operation of a batch came to."""
    match asked:
        case Get():
            return pb.Result(record=None if found is None else to_record(found, now))
        case Put():
            return pb.Result(version=0 if found is None else found.version)
        case Delete():
            return pb.Result(deleted=found is not None)
        case Check():
            return pb.Result()


def is_point(options: pb.ReadOptions | None, key: str) -> bool:
    """Whether one record is asked for by its key, whatever else is said. Raises INVALID_ARGUMENT where it is not clear
    what is asked for."""
    if options is None:
        return True
    if options.prefix or options.suffix:
        return False
    several = options.from_ or options.until or options.cursor or options.offset
    if key and several:
        raise errors.invalid_argument("a key is one record: leave out from, until, offset and cursor, or set prefix")
    return bool(key) or not (several or options.limit or options.order)


def read_query(key: str, options: pb.ReadOptions) -> Query:
    """What several records are asked for by. Raises INVALID_ARGUMENT."""
    query = Query(
        prefix=key if options.prefix else "",
        suffix=key if options.suffix else "",
        start=options.from_,
        until=options.until,
        limit=options.limit,
        offset=options.offset,
        descending=descending(options.order),
        after=options.cursor or None,
        keys_only=options.keys_only,
    )
    check_query(query)
    return query


def list_query(options: pb.ListOptions) -> Query:
    """What keys are asked for by; for one key, what finds it or the one that is next. Raises INVALID_ARGUMENT."""
    if options.key:
        several = (options.prefix, options.suffix, options.from_, options.until, options.cursor, options.offset)
        if any(several):
            raise errors.invalid_argument("a key is one: leave out prefix, suffix, from, until, cursor and offset")
        check_key(options.key)
        return Query(start=options.key, limit=1, keys_only=True)
    query = Query(
        prefix=options.prefix,
        suffix=options.suffix,
        start=options.from_,
        until=options.until,
        limit=options.limit,
        offset=options.offset,
        descending=descending(options.order),
        after=options.cursor or None,
        keys_only=True,
    )
    check_query(query)
    return query


def descending(order: str) -> bool:
    """Raises INVALID_ARGUMENT for what is no order."""
    found = _DESCENDING.get(order)
    if found is None:
        raise errors.invalid_argument(f"order {order[:20]!r} is neither asc nor desc")
    return found
