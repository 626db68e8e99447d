"""Logs: what a line says, and that no reader misses or repeats one, whatever is rotated meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.backends.process import logs
from micro.backends.process.logs import Lines, LogFile, LogFolder, LogWriter, LogWriters
from micro.domain.workload import Key


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hello", ("info", "hello")),
        ('{"level": "ERROR", "message": "oh"}', ("error", "oh")),
        ('{"level": "warn", "message": "oh", "more": 1}', ("warning", "oh")),
        ('{"level": "odd", "message": "oh"}', ("info", "oh")),
        ('{"level": "info", "message": "no \\udcff \\ud83d\\ude00"}', ("info", "no \ufffd \U0001f600")),
        ('{"message": "oh"}', ("info", '{"message": "oh"}')),
        ('{"level": 1, "message": "oh"}', ("info", '{"level": 1, "message": "oh"}')),
        ("{not json", ("info", "{not json")),
        ('{"a":' * 20000, ("info", '{"a":' * 20000)),
        ("[]", ("info", "[]")),
        ("[2026-01-02 03:04:05.678][123][critical][main] [s.cc:1] no", ("critical", "[main] [s.cc:1] no")),
        ("[2026-01-02 03:04:05.678][123][warning][config] hm", ("warning", "[config] hm")),
        ("[55] 2026/01/02 03:04:05.678901 [ERR] no", ("error", "no")),
    ],
)
def test_what_a_line_says(line: str, expected: tuple[str, str]) -> None:
    assert logs.parse(line) == expected


def messages(path: Path, lines: int = 1000) -> list[str]:
    return [record.message for record in LogFile(path).read(lines)]


def test_a_record_tells_when_how_grave_what_and_who(tmp_path: Path) -> None:
    LogWriter(tmp_path / "x.log").write("one", [("error", "oh\nno")])
    [record] = LogFile(tmp_path / "x.log").read(5)
    assert (record.level, record.message, record.instance) == ("error", "oh\nno", "one")
    assert record.timestamp.endswith("Z")
    assert len(record.timestamp) == len("2026-01-02T03:04:05.678901Z")
    assert abs(dt.datetime.fromisoformat(record.timestamp) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert stat.S_IMODE((tmp_path / "x.log").stat().st_mode) == 0o600
    assert list(json.loads((tmp_path / "x.log").read_text())) == ["timestamp", "level", "message", "instance"]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 7))
def test_output_is_cut_into_the_same_lines_however_it_arrives(parts: list[bytes], size: int) -> None:
    class Writer(LogWriter):
        def __init__(self) -> None:
            self.lines: list[tuple[str, str]] = []

        def write(self, instance: str, lines: list[tuple[str, str]]) -> None:
            self.lines += lines

    output = b"\n".join(parts)
    whole, pieces = Writer(), Writer()
    lines = Lines(whole, "x")
    lines.feed(output)
    lines.end()
    lines = Lines(pieces, "x")
    for start in range(0, len(output), size):
        lines.feed(output[start : start + size])
    lines.end()
    assert whole.lines == pieces.lines


def test_a_line_without_end_is_cut_and_its_rest_skipped(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "x.log")
    lines = Lines(writer, "x")
    for _ in range(10):
        lines.feed(b"x" * 60_000)
    lines.feed(b"end\nnext\n")
    assert messages(tmp_path / "x.log") == ["x" * logs.MAX_LINE, "next"]


def test_the_last_forty_lines_are_remembered(tmp_path: Path) -> None:
    lines = Lines(LogWriter(tmp_path / "x.log"), "x")
    lines.feed(b"".join(b"%d\n" % i for i in range(100)))
    assert list(lines.tail) == [str(i) for i in range(60, 100)]


def test_old_files_go_and_reading_crosses_from_one_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    writer = LogWriter(path, max_bytes=1000)
    for i in range(200):
        writer.write("x", [("info", str(i))])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.log", "x.log.1", "x.log.2", "x.log.3", "x.log.4"]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    kept = messages(path)
    assert kept == [str(i) for i in range(200 - len(kept), 200)]
    assert len(kept) > 20
    for lines in (0, 1, 5, 11, 12, 13, 30):
        assert messages(path, lines) == kept[len(kept) - lines :]


def test_a_writer_goes_on_where_another_stopped(tmp_path: Path) -> None:
    for i in range(30):
        writer = LogWriter(tmp_path / "x.log", max_bytes=1000)
        writer.write("x", [("info", str(i))])
        writer.close()
    assert messages(tmp_path / "x.log") == [str(i) for i in range(30)]


def test_processes_with_one_log_share_one_writer(tmp_path: Path) -> None:
    writers = LogWriters()
    first, second = writers.acquire(tmp_path / "x.log"), writers.acquire(tmp_path / "x.log")
    assert first is second
    writers.release(tmp_path / "x.log")
    second.write("b", [("info", "still open")])
    writers.release(tmp_path / "x.log")
    assert messages(tmp_path / "x.log") == ["still open"]


def test_lines_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    writer = LogWriter(tmp_path / "logs" / "x.log")
    writer.write("x", [("info", "1"), ("info", "2")])
    writer.write("x", [("info", "3")])
    (tmp_path / "logs").unlink()
    writer.write("x", [("info", "4")])
    assert messages(tmp_path / "logs" / "x.log") == [
        "3 lines of output were lost: the log could not be written",
        "4",
    ]


def test_broken_lines_in_a_log_are_skipped(tmp_path: Path) -> None:
    LogWriter(tmp_path / "x.log").write("x", [("info", "good")])
    with (tmp_path / "x.log").open("a") as file:
        file.write('{"half": \n[]\n"text"\n{}\ncut')
    assert messages(tmp_path / "x.log") == ["good"]


async def test_a_follower_sees_every_line_once_through_rotations(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    writer = LogWriter(path, max_bytes=2000)
    for i in range(10):
        writer.write("x", [("info", str(i))])
    seen: list[str] = []

    async def follow() -> None:
        async for record in LogFile(path).follow(3):
            seen.append(record.message)
            if record.message == "299":
                return

    following = asyncio.ensure_future(follow())
    for i in range(10, 300):
        writer.write("x", [("info", str(i))])
        if i % 7 == 0:
            await asyncio.sleep(0.001)
    await asyncio.wait_for(following, 10)
    start = int(seen[0])
    assert seen == [str(i) for i in range(start, 300)]
    assert start <= 14 - 3 + 1


async def test_a_log_that_is_not_there_yet_can_be_followed(tmp_path: Path) -> None:
    following = LogFile(tmp_path / "new" / "x.log").follow(5)
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    LogWriter(tmp_path / "new" / "x.log").write("x", [("info", "first")])
    assert (await asyncio.wait_for(first, 10)).message == "first"


def test_where_logs_lie(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path, tmp_path / "n")
    assert folder.path(("micro", "registry", "latest")) == tmp_path / "core/registry.log"
    assert folder.path(("other", "registry", "latest")) == tmp_path / "n/other/logs/registry/latest.log"
    assert folder.path(("core", "hello", "v1")) == tmp_path / "n/core/logs/hello/v1.log"
    LogWriter(tmp_path / "core/nats.log").write("nats", [("info", "of the platform")])
    assert [record.message for record in folder.read(("micro", "nats", "latest"), 5)] == ["of the platform"]
    assert not folder.exists(("other", "nats", "latest"))


async def test_a_follower_reads_what_was_there_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LogWriter(tmp_path / "x.log").write("x", [("info", "first")])
    readers: list[int] = []
    last_lines = logs._last_lines

    def recorded(file: BinaryIO, lines: int, end: int | None = None) -> list[bytes]:
        readers.append(threading.get_ident())
        return last_lines(file, lines, end)

    monkeypatch.setattr(logs, "_last_lines", recorded)
    assert (await anext(LogFile(tmp_path / "x.log").follow(5))).message == "first"
    assert len(readers) == 1
    assert threading.get_ident() not in readers


def test_the_output_of_services_that_are_gone_stays_for_a_while(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path, tmp_path / "n", kept_seconds=3600)
    known, old, young = (("micro", name, "v1.log") for name in ("known", "old", "young"))
    for key in (known, old, young):
        for path in (folder.path(key), logs.rotated(folder.path(key), 1)):
            LogWriter(path).write("x", [("info", "said")])
            if key != young:
                os.utime(path, (0, 0))
    os.utime(logs.rotated(folder.path(young), 1), (0, 0))  # the last line counts
    LogWriter(tmp_path / "core/nats.log").write("nats", [("info", "of the platform")])
    os.utime(tmp_path / "core/nats.log", (0, 0))
    folder.sweep(lambda key: key == known)
    assert [folder.exists(key) for key in (known, old, young)] == [True, False, True]
    assert sorted(path.name for path in (tmp_path / "n/micro/logs").iterdir()) == ["known", "young"]
    assert len(folder.read(young, 5)) == 2
    assert (tmp_path / "core/nats.log").exists()
    folder.sweep(lambda key: True)


def test_the_output_of_services_that_are_gone_has_a_limit_the_oldest_goes_first(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path, tmp_path / "n", kept_bytes=250)
    keys = [("micro", "hello", f"v{number}") for number in range(4)]
    now = time.time()
    for age, key in enumerate(keys):
        folder.path(key).parent.mkdir(parents=True, exist_ok=True)
        folder.path(key).write_bytes(b"x" * 100)
        os.utime(folder.path(key), (now - age, now - age))
    folder.sweep(lambda key: key == keys[0])
    assert [folder.exists(key) for key in keys] == [True, True, True, False]
    asked: list[Key] = []

    def there_again(key: Key) -> bool:
        asked.append(key)
        return asked.count(key) > 1

    LogFolder(tmp_path, tmp_path / "n", kept_bytes=0).sweep(there_again)
    assert [folder.exists(key) for key in keys] == [True, True, True, False]
