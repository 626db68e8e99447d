"""Records of the store: what they may be, how they are looked for, and what a batch asks. Pure.

Keys are compared by their UTF-8 bytes, which is the order of Python's strings as well.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from micro.domain import errors

KEY_BYTES = 1024
VALUE_BYTES = 16 << 20
METADATA_BYTES = 16 << 10
METADATA_DEPTH = 32
"""How many lists and objects may lie in each other."""

EXACT = 1 << 53
"""Whole numbers in metadata, at most: they travel as doubles, which tell larger ones as others."""

LAST_MILLISECOND = (1 << 63) - 1
"""No record ends later."""

BATCH_OPERATIONS = 1000
BATCH_BYTES = 24 << 20
"""Keys and values of one batch together: what fits a message, with room for the rest."""

_TABLE = re.compile(r"\.?[A-Za-z0-9_](?:[A-Za-z0-9._-]){0,126}")

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, slots: bool) -> Any:
        """A dataclass whose objects nothing changes: mypy sees to it. Python would let each of them pay for that three
        times over when it is made, and a listing makes thousands."""
        return dataclass(slots=slots, unsafe_hash=frozen)


Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Metadata: TypeAlias = Mapping[str, Json]


@value(frozen=True, slots=True)
class Record:
    """What is kept under a key.

    Attributes:
        version: the revision of the database that wrote it. Versions of a key only grow, also when it was deleted in
            between.
        expires: when it is gone, in milliseconds since 1970; None for never.
        metadata: beside the value, JSON values that keep their type.
    """

    key: str
    value: bytes = b""
    version: int = 0
    expires: int | None = None
    metadata: Metadata = field(default_factory=dict)

    def live(self, now: int) -> bool:
        """Whether it is there at `now`, in milliseconds since 1970."""
        return self.expires is None or self.expires > now


@value(frozen=True, slots=True)
class Get:
    """Tell the record as it is after the operations before this one."""

    table: str
    key: str


@value(frozen=True, slots=True)
class Put:
    """Write a record, whole.

    Attributes:
        expires: when it is gone, in milliseconds since 1970; None for never.
        if_version: the version that must be there before the batch; 0 for nothing there; None for no condition.
    """

    table: str
    key: str
    value: bytes = b""
    expires: int | None = None
    metadata: Metadata = field(default_factory=dict)
    if_version: int | None = None


@value(frozen=True, slots=True)
class Delete:
    """Remove a record; what is absent stays so. `if_version` as for Put."""

    table: str
    key: str
    if_version: int | None = None


@value(frozen=True, slots=True)
class Check:
    """Change nothing, and let the batch fail unless the version before it is this one; 0 for nothing there."""

    table: str
    key: str
    if_version: int


Operation: TypeAlias = Get | Put | Delete | Check


@value(frozen=True, slots=True)
class Committed:
    """What a batch did.

    Attributes:
        revision: the database's after it; unchanged by a batch that changed nothing.
        results: one an operation: the record for Get (None when absent), as it was written for Put, None for Check;
            for Delete the record that was removed, without its value, or None.
    """

    revision: int
    results: tuple[Record | None, ...]


@value(frozen=True, slots=True)
class Query:
    """Which records of a table. All that is given must hold.

    Attributes:
        prefix: what keys begin with.
        suffix: what keys end with.
        start: the least key, itself included; empty for the first.
        until: the key that ends the range, itself left out; empty for no end.
        limit: how many at most; 0 for as many as one page holds.
        offset: how many of them to pass over first.
        descending: from the greatest key down.
        after: only what comes after this key in the order that is asked for: the last one of the page before.
        keys_only: leave values and metadata out.
    """

    prefix: str = ""
    suffix: str = ""
    start: str = ""
    until: str = ""
    limit: int = 0
    offset: int = 0
    descending: bool = False
    after: str | None = None
    keys_only: bool = False

    def bounds(self) -> tuple[bytes, bytes]:
        """The least key that can be told, and the end of those that can, itself left out; no bytes for no end. As
        UTF-8, with `after`: what lies between them fits but for the suffix."""
        low, high = max(self.start, self.prefix).encode(), self.until.encode()
        if self.prefix:
            prefix = self.prefix.encode()
            end = prefix[:-1] + bytes([prefix[-1] + 1])  # no byte of UTF-8 is 255
            high = min(high, end) if high else end
        if self.after is not None:
            after = self.after.encode()
            if self.descending:
                high = min(high, after) if high else after
                if not after:
                    return b"\xff", b"\xff"  # nothing comes before the empty one
            else:
                low = max(low, after + b"\0")
        return low, high

    def matches(self, key: str) -> bool:
        """Whether a key is among those that are asked for, wherever its page is."""
        return (
            key.startswith(self.prefix)
            and key.endswith(self.suffix)
            and key >= self.start
            and (not self.until or key < self.until)
        )


@value(frozen=True, slots=True)
class Page:
    """Some records in order.

    Attributes:
        revision: of the database when they were read: a watch after it misses nothing.
        more: whether others follow; ask again with `after` the last one's key, without an offset.
    """

    records: tuple[Record, ...]
    revision: int
    more: bool = False


@value(frozen=True, slots=True)
class Keys:
    """Some keys in order; `revision` and `more` as of a Page."""

    keys: tuple[str, ...]
    revision: int
    more: bool = False


class Cause(enum.Enum):
    """Why a record changed."""

    WRITTEN = "written"
    DELETED = "deleted"
    EXPIRED = "expired"


@value(frozen=True, slots=True)
class Change:
    """One record that changed: as it was written, or with its key and the version that removed it."""

    table: str
    record: Record
    cause: Cause = Cause.WRITTEN


@value(frozen=True, slots=True)
class Commit:
    """All that one batch changed, in its order; a sweep of expired records is one too."""

    revision: int
    changes: tuple[Change, ...]


def decide(
    operations: Sequence[Operation], found: Callable[[Operation], Record | None], revision: int, now: int
) -> tuple[Committed, Commit | None]:
    """What a batch comes to: its answer, and what it changes, None when that is nothing.

    Args:
        found: what is there before the batch for an operation's key, expired or not; the value counts for Get alone.
        revision: the database's.
        now: milliseconds since 1970.

    Raises:
        Error: as `check_condition`, for the first condition that does not hold; RESOURCE_EXHAUSTED for more to be read
            than one answer holds.
    """
    before = []
    read = 0
    for one in operations:
        there = found(one)
        before.append(there if there is not None and there.live(now) else None)
        read = _read_so_far(read, one, there)
    for one, there in zip(operations, before, strict=True):
        if not isinstance(one, Get):
            check_condition(one, there)
    changed: dict[tuple[str, str], Record | None] = {}
    changes: list[Change] = []
    results: list[Record | None] = []
    read = 0
    for one, there in zip(operations, before, strict=True):
        match one:
            case Get(table, key):
                now_there = changed.get((table, key), there)
                results.append(now_there if now_there is not None and now_there.live(now) else None)
                read = _read_so_far(read, one, results[-1])
            case Put(table, key, value, expires, metadata):
                record = Record(key, value, revision + 1, expires, normal(metadata))
                changed[table, key] = record
                changes.append(Change(table, record))
                results.append(record)
            case Delete(table, key):
                if there is not None:
                    changed[table, key] = None
                    changes.append(Change(table, Record(key, version=revision + 1), Cause.DELETED))
                    there = replace(there, value=b"")
                results.append(there)
            case Check():
                results.append(None)
    if not changes:
        return Committed(revision, tuple(results)), None
    return Committed(revision + 1, tuple(results)), Commit(revision + 1, tuple(changes))


class Durability(enum.Enum):
    """What an acknowledged change outlives."""

    MEMORY = "lost with the process"
    DISK = "on this machine's disk, synced before it is acknowledged"
    REPLICATED = "on a majority of the servers that keep it before it is acknowledged"
    SERVER = "as safe as the server keeps it"


def check_key(key: str) -> None:
    """Raises INVALID_ARGUMENT for what cannot be a key."""
    if not key:
        raise errors.invalid_argument("the key is empty")
    size = len(_encoded(key, "the key"))
    if size > KEY_BYTES:
        raise errors.invalid_argument(f"the key {key[:20]!r}… has {size:,} bytes: {KEY_BYTES:,} are allowed")


def check_table(name: str) -> None:
    """Raises INVALID_ARGUMENT for what cannot be a table. Names with a dot in front are the platform's."""
    if not _TABLE.fullmatch(name):
        raise errors.invalid_argument(
            f"{name[:40]!r} is not a table: use up to 127 letters, digits, underscores, dots and hyphens"
        )


def check_query(query: Query) -> None:
    """Raises INVALID_ARGUMENT for what cannot be looked for."""
    for name, number in (("limit", query.limit), ("offset", query.offset)):
        if number < 0:
            raise errors.invalid_argument(f"{name} {number} is below 0")
    texts = {"prefix": query.prefix, "suffix": query.suffix, "from": query.start, "until": query.until}
    for name, text in (*texts.items(), ("cursor", query.after or "")):
        if len(_encoded(text, name)) > KEY_BYTES:
            raise errors.invalid_argument(f"{name} is longer than any key: {KEY_BYTES:,} bytes are allowed")


def check_batch(operations: Sequence[Operation]) -> None:
    """Raises INVALID_ARGUMENT for what cannot be done at all, whatever is stored; names the first operation at fault.

    One batch changes a key once: two changes would be one version.
    """
    if not operations:
        raise errors.invalid_argument("the batch is empty: give it at least one operation")
    if len(operations) > BATCH_OPERATIONS:
        raise errors.invalid_argument(f"a batch of {len(operations):,} operations: {BATCH_OPERATIONS:,} are allowed")
    changed: set[tuple[str, str]] = set()
    size = 0
    for one in operations:
        check_table(one.table)
        check_key(one.key)
        if isinstance(one, Put):
            size += len(one.key.encode()) + len(one.value) + _check_content(one)
        if not isinstance(one, Get) and one.if_version is not None and one.if_version < 0:
            raise errors.invalid_argument(f"if_version {one.if_version} is below 0: 0 stands for nothing there")
        if isinstance(one, Put | Delete):
            if (one.table, one.key) in changed:
                raise errors.invalid_argument(f"the batch changes {one.key!r} of table {one.table} twice")
            changed.add((one.table, one.key))
    if size > BATCH_BYTES:
        raise errors.invalid_argument(f"a batch of {size:,} bytes: {BATCH_BYTES:,} are allowed, in several batches")


def _check_content(put: Put) -> int:
    """Returns the bytes of the metadata."""
    size = 0
    if len(put.value) > VALUE_BYTES:
        raise errors.invalid_argument(
            f"the value of {put.key[:20]!r} has {len(put.value):,} bytes: {VALUE_BYTES:,} are allowed; keep it as a "
            "blob"
        )
    if put.expires is not None and not 0 <= put.expires <= LAST_MILLISECOND:
        raise errors.invalid_argument(f"the time of expiry of {put.key[:20]!r} is beyond what can be kept")
    if put.metadata:
        try:
            size = len(encode_metadata(put.metadata).encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise errors.invalid_argument(f"the metadata of {put.key[:20]!r} is not JSON: {error}") from None
        if _depth(put.metadata, METADATA_DEPTH) > METADATA_DEPTH:
            raise errors.invalid_argument(
                f"the metadata of {put.key[:20]!r} is nested too deep: {METADATA_DEPTH} levels are allowed"
            )
        if size > METADATA_BYTES:
            raise errors.invalid_argument(
                f"the metadata of {put.key[:20]!r} has {size:,} bytes: {METADATA_BYTES:,} are allowed"
            )
    return size


def check_exact(metadata: object, subject: str) -> None:
    """Raises INVALID_ARGUMENT for metadata that would come back as something else: for who writes them, since the store
    cannot see it any more.

    Args:
        subject: what errors call them: "the metadata of 'ann'".
    """
    if isinstance(metadata, bytes | bytearray | memoryview):
        raise errors.invalid_argument(
            f"{subject} has bytes in it, which JSON has not: give them as a string, in base64"
        )
    if isinstance(metadata, int) and abs(metadata) > EXACT:
        # Python itself writes no number of thousands of digits.
        number = str(metadata) if metadata.bit_length() < 64 else f"of {metadata.bit_length():,} bits"
        raise errors.invalid_argument(
            f"{subject} has the number {number} in it, and whole numbers keep their digits up to {EXACT:,} "
            "only: give it as a string"
        )
    inner = metadata.values() if isinstance(metadata, Mapping) else metadata
    if isinstance(inner, Iterable) and not isinstance(inner, str):
        for one in inner:
            check_exact(one, subject)


def check_condition(operation: Put | Delete | Check, found: Record | None) -> None:
    """Whether what is there is what the operation asks for.

    Raises:
        Error: ALREADY_EXISTS where nothing should be; ABORTED where another version should be: read it again.
    """
    wanted, there = operation.if_version, 0 if found is None else found.version
    if wanted is None or wanted == there:
        return
    if wanted == 0:
        raise errors.already_exists(f"{operation.key!r} is in table {operation.table} already, version {there}")
    state = f"version {there}" if there else "not there"
    raise errors.aborted(
        f"{operation.key!r} of table {operation.table} is {state}, not version {wanted}: read it again and decide anew"
    )


def _read_so_far(before: int, operation: Operation, found: Record | None) -> int:
    """Bytes that a batch has read. Raises RESOURCE_EXHAUSTED for more than one answer holds."""
    read = before if found is None or not isinstance(operation, Get) else before + size(found)
    if read > BATCH_BYTES:
        raise errors.resource_exhausted(f"the batch reads more than {BATCH_BYTES:,} bytes: read in several batches")
    return read


def size(record: Record) -> int:
    """Bytes of its key, value and metadata."""
    return len(record.key.encode()) + len(record.value) + len(encode_metadata(record.metadata).encode())


def encode_metadata(metadata: Metadata) -> str:
    """As JSON, in its order. Raises ValueError, TypeError and RecursionError for what is none."""
    return json.dumps(metadata, allow_nan=False, ensure_ascii=False, separators=(",", ":")) if metadata else ""


def decode_metadata(text: str) -> Metadata:
    """What `encode_metadata` made. Raises ValueError."""
    if not text:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("metadata is not an object")
    return found


def normal(metadata: Metadata) -> Metadata:
    """A copy, as it is read back."""
    return decode_metadata(encode_metadata(metadata)) if metadata else {}


def _depth(value: Json, most: int) -> int:
    """How deep lists and objects lie in each other; more than `most` is told as `most + 1`."""
    if isinstance(value, Mapping):
        inner: Sequence[Json] = list(value.values())
    elif isinstance(value, list | tuple):
        inner = value
    else:
        return 0
    if most == 0:
        return 1
    return 1 + max((_depth(each, most - 1) for each in inner), default=0)


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise errors.invalid_argument(f"{what} is not UTF-8") from None
