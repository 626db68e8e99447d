"""Files of records that were cut, altered or lost: told or harmless, never wrong, never made anew."""

import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from micro.backends.sqlite import _store_wal
from micro.backends.sqlite._store_file import StoreFile
from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import Delete, Operation, Put
from micro.ports.store import HISTORY_BYTES

FLIPS = int(os.environ.get("MICRO_SOAK", "12"))
FRAME = 24 + 4096
VERIFY = 64 << 20
FILES = ("", "-wal", "-mark")

State = dict[tuple[str, str], tuple[bytes, int]]


def opened(path: Path) -> StoreFile:
    file = StoreFile(path, HISTORY_BYTES, VERIFY)
    file.open()
    return file


def content(file: StoreFile) -> State:
    """All that it tells of itself, by each way of reading."""
    connection = file.dump()
    found: State = {}
    query = "SELECT tab, key, version, expires, checksum, metadata, value FROM record ORDER BY tab, key"
    rows = connection.execute(query)
    while kept := file.dumped(rows, 0):
        found |= {(each.table, each.record.key): (each.record.value, each.record.version) for each in kept}
    connection.close()
    for table, key in found:
        there = file.large(table, key)
        assert there is not None
        assert (there.value, there.version) == found[table, key]
    return found


def operations(choose: random.Random, number: int) -> list[Operation]:
    value = b"%d " % number * choose.choice([1, 30, 1500])
    keys = choose.sample(range(60), choose.randint(1, 5))
    return [Delete("t", f"{key}") if choose.random() < 0.15 else Put("t", f"{key}", value) for key in keys]


class Past:
    """A file at work, and copies of it as they lie on the disk after each batch."""

    def __init__(self, folder: Path, batches: int) -> None:
        folder.mkdir()
        self.states: list[State] = [{}]
        self.copies: list[dict[str, bytes]] = [{}]
        """By revision: what each file has in it."""
        path, choose = folder / "d.db", random.Random(7)
        file = opened(path)
        while len(self.states) <= batches:
            if len(self.states) == batches // 3:
                assert file._writer is not None
                file._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            before = file.state.revision
            file.write([operations(choose, len(self.states))], 0)
            if file.state.revision > before:
                self.states.append(content(file))
                self.copies.append({end: path.with_name(path.name + end).read_bytes() for end in FILES})
        file.retire()
        file.close()

    def lay(self, folder: Path, files: dict[str, bytes]) -> Path:
        """As a crash leaves them."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for end, data in files.items():
            (folder / f"d.db{end}").write_bytes(data)
        return folder / "d.db"

    def outcome(self, path: Path) -> int | None:
        """The revision that is told, and everything of it is as it was; None for DATA_LOSS, and nothing changed."""
        before = {each.name: each.read_bytes() for each in path.parent.iterdir() if not each.name.endswith("-shm")}
        file = StoreFile(path, HISTORY_BYTES, VERIFY)
        try:
            file.open()
            revision = file.state.revision
            assert content(file) == self.states[revision]
            commits = file.history(0, revision)
            assert commits is not None
            assert [each.revision for each in commits] == list(range(1, revision + 1))
        except errors.Error as error:
            told, whole = error, file._writer is not None
        else:
            return revision
        finally:
            file.retire()
            file.close()
        assert told.kind is Kind.DATA_LOSS, told.message
        assert told.message.startswith("database d is damaged: ")
        assert "move d.db, d.db-wal, d.db-shm and d.db-mark away" in told.message
        assert str(path.parent) not in told.message, "that is the operator's to know"
        if not whole:
            after = {name: (path.parent / name).read_bytes() for name in before}
            assert after == before, "what is damaged is left as it is"
        return None


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return Past(tmp_path_factory.mktemp("past") / "store", 45)


def torn(before: bytes, after: bytes, choose: random.Random) -> Iterator[bytes]:
    """What may be on the disk when the machine dies while a log is written, and only `before` was synced."""
    before = before.ljust(len(after), b"\0")
    changed = [place for place in range(32, len(after), FRAME) if before[place:][:FRAME] != after[place:][:FRAME]]
    start, end = changed[0], changed[-1] + FRAME
    for cut in (*changed, end, *(choose.randint(start, end) for _ in range(3))):
        yield after[:cut] + before[cut:]  # the beginning alone
        yield after[:cut]
        yield before[:cut] + after[cut:]  # the end alone
    for place in changed:
        yield after[:place] + before[place:][:FRAME] + after[place + FRAME :]  # all but one


def test_a_log_that_lost_what_was_not_synced_has_all_that_was_acknowledged(past: Past, tmp_path: Path) -> None:
    """The machine dies while a batch is written: some of what follows the last sync is there, in any order."""
    choose = random.Random()
    for revision in choose.sample(range(20, 45), min(25, 1 + FLIPS // 20)):
        synced, written = past.copies[revision], past.copies[revision + 1]
        for log in torn(synced["-wal"], written["-wal"], choose):
            path = past.lay(tmp_path / "torn", {"": written[""], "-wal": log, "-mark": synced["-mark"]})
            assert past.outcome(path) in {revision, revision + 1}


def test_a_log_that_lost_what_was_synced_is_told(past: Past, tmp_path: Path) -> None:
    files = past.copies[45]
    log, choose = files["-wal"], random.Random()
    for cut in [0, 16, *(choose.randint(0, len(log) - 1) for _ in range(FLIPS))]:
        path = past.lay(tmp_path / "cut", {**files, "-wal": log[:cut]})
        assert past.outcome(path) in {None, 45}
    assert past.outcome(past.lay(tmp_path / "cut", {"": files[""], "-mark": files["-mark"]})) is None
    assert past.outcome(past.lay(tmp_path / "whole", files)) == 45


def test_a_frame_that_is_altered_within_the_log_is_told_without_the_mark_too(past: Past, tmp_path: Path) -> None:
    files = {"": past.copies[45][""], "-wal": past.copies[45]["-wal"]}
    log, choose = files["-wal"], random.Random()
    last = len(past.copies[44]["-wal"])
    for _ in range(FLIPS):
        place = choose.randrange(last)
        flipped = log[:place] + bytes([log[place] ^ 1 << choose.randrange(8)]) + log[place + 1 :]
        path = past.lay(tmp_path / "flipped", {**files, "-wal": flipped})
        assert past.outcome(path) in {None, 45}, f"byte {place} of the log"


@pytest.mark.parametrize("end", FILES)
def test_a_bit_that_is_flipped_is_told_or_harmless(past: Past, tmp_path: Path, end: str) -> None:
    choose = random.Random()
    for _ in range(FLIPS):
        files = dict(past.copies[choose.choice([12, 30, 45])])
        data = bytearray(files[end])
        place = choose.randrange(len(data)) if choose.random() < 0.8 else choose.randrange(min(100, len(data)))
        data[place] ^= 1 << choose.randrange(8)
        path = past.lay(tmp_path / "flipped", {**files, end: bytes(data)})
        found = past.outcome(path)
        assert found is None or past.states[found] == content_of(past, files), f"byte {place} of {end or 'the file'}"


def content_of(past: Past, files: dict[str, bytes]) -> State:
    revision = struct.unpack(">QI", files["-mark"])[0]
    return past.states[revision]


def test_a_file_that_is_cut_is_told(past: Past, tmp_path: Path) -> None:
    path = past.lay(tmp_path / "closed", past.copies[45])
    file = opened(path)
    file.retire()
    file.close()
    whole = path.read_bytes()
    for cut in (0, 50, 100, 4096, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        files = {"": whole[:cut], "-mark": past.copies[45]["-mark"]}
        found = past.outcome(past.lay(tmp_path / "cut", files))
        assert found is None or cut == len(whole) - 1, f"cut at {cut}"  # that byte may have been of no use


def altered(sql: str) -> Callable[[Path], None]:
    def alter(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute(sql)
        connection.commit()
        connection.close()

    return alter


@pytest.mark.parametrize(
    "damage",
    [
        altered("DELETE FROM record WHERE key = (SELECT key FROM record LIMIT 1)"),
        altered("UPDATE record SET value = x'00' WHERE key = (SELECT key FROM record LIMIT 1)"),
        altered("UPDATE record SET version = 3 WHERE key = (SELECT max(key) FROM record)"),
        altered("UPDATE record SET key = x'7a7a' WHERE key = (SELECT max(key) FROM record)"),
        altered("UPDATE record SET value = 'text' WHERE key = (SELECT max(key) FROM record)"),
        altered("UPDATE state SET revision = revision - 1"),
        altered("DELETE FROM state"),
        altered("DROP TABLE history"),
        altered("PRAGMA user_version = 0"),
        altered("PRAGMA user_version = 9"),
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database at all" * 500),
    ],
)
def test_what_somebody_altered_or_removed_is_told(past: Past, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = past.lay(tmp_path / "altered", past.copies[45])
    file = opened(path)
    file.retire()
    file.close()
    damage(path)
    assert past.outcome(path) is None


def test_an_older_file_is_not_taken_for_the_one_that_was_acknowledged(past: Past, tmp_path: Path) -> None:
    older = {**past.copies[30], "-mark": past.copies[45]["-mark"]}
    path = past.lay(tmp_path / "older", older)
    with pytest.raises(errors.Error, match="revision 30, and 45 was acknowledged"):
        opened(path)
    (tmp_path / "older" / "d.db-mark").unlink()  # as the message says
    assert past.outcome(path) == 30


def test_a_history_that_is_altered_is_told_to_who_reads_it(past: Past, tmp_path: Path) -> None:
    for change in ("DELETE FROM history WHERE id / 1024 = 9", "UPDATE history SET cause = 1 WHERE id = 10240"):
        path = past.lay(tmp_path / "history", past.copies[45])
        altered(change)(path)
        file = opened(path)
        with pytest.raises(errors.Error, match="history"):
            file.history(0, 45)
        assert content(file) == past.states[45]
        file.retire()
        file.close()


def test_a_log_as_it_should_be_has_nothing_wrong(past: Past, tmp_path: Path) -> None:
    for revision in (10, 16, 45):
        path = past.lay(tmp_path / "good", past.copies[revision])
        assert _store_wal.damage(path.with_name("d.db-wal")) == ""
        assert past.outcome(path) == revision
