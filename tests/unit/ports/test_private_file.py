"""A private file is there whole, for its owner only, or it is what it was before."""

import contextlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from micro.ports import private_file


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_only_its_owner_reads_it_whatever_was_there_before(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text("old")
    file.chmod(0o644)
    private_file.write(file, "grün")
    assert file.read_text() == "grün"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    private_file.write(file, b"\0raw", durable=False)
    assert file.read_bytes() == b"\0raw"
    assert names(tmp_path) == [file.name]


def test_content_in_pieces_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "copy"
    with private_file.replacing(file) as pieces:
        pieces.write(b"one ")
        assert not file.exists()
        pieces.write(b"two")
    assert file.read_bytes() == b"one two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with contextlib.suppress(KeyError), private_file.replacing(file) as pieces:
        pieces.write(b"half")
        raise KeyError
    assert file.read_bytes() == b"one two"
    assert names(tmp_path) == ["copy"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    private_file.write(file, "old")
    with pytest.raises(UnicodeEncodeError):
        private_file.write(file, "\ud800")
    assert file.read_text() == "old"
    folder = tmp_path / "taken"
    (folder / "settings.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        private_file.write(folder / "settings.json", "new")
    assert names(folder) == ["settings.json"]
    with pytest.raises(FileNotFoundError):
        private_file.write(tmp_path / "absent" / "settings.json", "new")


def test_many_writers_never_mix_and_never_fail(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    contents = {str(number) * 20_000 for number in range(8)}
    failures: list[OSError] = []

    def write(content: str) -> None:
        try:
            for _ in range(20):
                private_file.write(file, content, durable=False)
        except OSError as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not file.exists() or file.read_text() in contents
    assert not failures
    assert names(tmp_path) == [file.name]


def test_what_a_killed_writer_left_goes_and_what_another_is_writing_stays(tmp_path: Path) -> None:
    abandoned, current = tmp_path / ".draft-abandoned", tmp_path / ".draft-current"
    for draft in (abandoned, current):
        draft.write_text("half")
    before = time.time() - 2 * 3600
    os.utime(abandoned, (before, before))
    private_file.write(tmp_path / "state.json", "{}")
    assert not abandoned.exists()
    assert current.exists()
