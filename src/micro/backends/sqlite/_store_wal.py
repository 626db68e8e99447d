"""Whether a write-ahead log still has every transaction that was synced (https://www.sqlite.org/fileformat2.html#walformat).

SQLite takes a log up to the first frame that is not as it was written, and passes over the rest without a word. That is
right for the last transaction, which may be torn when its process or machine died: nobody was told of it. It is wrong
for all others, as each is synced before the next begins. A frame carries a checksum over all frames before it, so one
that continues from a commit proves that this commit was complete.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

_HEADER = 32
_FRAME = 24
_LITTLE, _BIG = 0x377F0682, 0x377F0683
_MASK = 0xFFFFFFFF

_Sums = tuple[int, int]


class _Frame(NamedTuple):
    ends: bool
    """Whether a transaction ends with it, as it says."""
    salts: bytes
    sums: _Sums
    covered: bytes
    """What its checksum is over."""


def damage(log: Path) -> str:
    """What is wrong with a log, "" for nothing. Raises OSError. Costs some 50 us a frame."""
    with log.open("rb") as file:
        size = log.stat().st_size
        header = file.read(_HEADER)
        if size <= _HEADER:
            return ""  # no transaction was ever in it
        magic, _, page, _ = struct.unpack(">4I", header[:16])
        order = ">" if magic & 1 else "<"
        sums = _add(order, header[:24], (0, 0))
        if magic not in {_LITTLE, _BIG} or sums != struct.unpack(">2I", header[24:]):
            return f"the head of {log.name} is not as it was written"
        return _walk(log.name, file, order, page, header[16:24], sums)


def _walk(name: str, file: BinaryIO, order: str, page: int, salts: bytes, sums: _Sums) -> str:
    number = 0
    while (frame := _read(file, page)) is not None:
        number += 1
        found = _add(order, frame.covered, sums)
        if frame.salts != salts or found != frame.sums:
            broken = f"frame {number} of {name} is not as it was written, and transactions follow it"
            return broken if _goes_on(file, order, page, salts, frame, found) else ""
        sums = found
    return ""


def _goes_on(file: BinaryIO, order: str, page: int, salts: bytes, frame: _Frame, computed: _Sums) -> bool:
    """Whether a transaction continues from the one that the first frame in disorder belongs to."""
    before, seeds = frame, [frame.sums, computed]
    while (after := _read(file, page)) is not None:
        if after.salts == salts:
            chained = any(_add(order, after.covered, seed) == after.sums for seed in seeds)
            if chained and before.ends:
                return True
        before, seeds = after, [after.sums]
    return False


def _read(file: BinaryIO, page: int) -> _Frame | None:
    """The next one; None when there is no whole one any more."""
    read = file.read(_FRAME + page)
    if len(read) < _FRAME + page:
        return None
    sums = struct.unpack(">2I", read[16:24])
    return _Frame(read[4:8] != b"\0\0\0\0", read[8:16], (sums[0], sums[1]), read[:8] + read[_FRAME:])


def _add(order: str, data: bytes, sums: _Sums) -> _Sums:
    """The checksum of `data` that comes after what `sums` is of."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for left, right in zip(words[::2], words[1::2], strict=True):
        one = (one + left + two) & _MASK
        two = (two + right + one) & _MASK
    return one, two
