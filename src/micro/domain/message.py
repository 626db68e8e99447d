"""Messages of the broker: what is carried at most once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from micro.domain import errors

MAX_BODY = 1 << 20
MAX_BATCH = 1000
MAX_BATCH_BYTES = 4 << 20
"""What a batch holds at most."""

MAX_PAIRS = 64
MAX_PAIRS_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `header` is what its publisher says about it."""

    topic: str
    body: bytes
    header: Mapping[str, str]


def check_pairs(what: str, pairs: Mapping[str, str]) -> None:
    """Raises INVALID_ARGUMENT when a header or metadata is more than is carried: 64 pairs, 16 KiB; no empty names."""
    if len(pairs) > MAX_PAIRS:
        raise errors.invalid_argument(f"{what} has {len(pairs)} pairs: {MAX_PAIRS} are the most")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in pairs.items())
    if size > MAX_PAIRS_BYTES:
        raise errors.invalid_argument(f"{what} has {size:,} bytes: {MAX_PAIRS_BYTES:,} are the most")
    if "" in pairs:
        raise errors.invalid_argument(f"{what} has a pair without a name")
