"""A folder as an archive."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from micro.cli import failures, pack


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, "main.py", "b.py", "a/c.txt")
    os.utime(tmp_path / "two" / "main.py", (1, 1))
    one, two = pack.pack(tmp_path / "one"), pack.pack(tmp_path / "two")
    assert one.data == two.data
    assert one.files == ("a/c.txt", "b.py", "main.py")


def test_caches_and_environments_stay_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        "main.py",
        ".venv/lib.py",
        "__pycache__/x.pyc",
        "node_modules/a.js",
        "a/.mypy_cache/x",
        ".git/HEAD",
        "x.pyc",
    )
    assert pack.pack(tmp_path).files == ("main.py",)


def test_what_git_ignores_stays_out_and_what_is_new_goes_in(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    write(tmp_path, "svc/main.py", "svc/data/big.bin", "svc/new.py", "other.py")
    (tmp_path / ".gitignore").write_text("data/\n")
    assert pack.pack(tmp_path / "svc").files == ("main.py", "new.py")


def test_a_folder_that_git_ignores_as_a_whole_is_packed_all_the_same(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    write(tmp_path, "svc/main.py", "svc/a.py")
    (tmp_path / ".gitignore").write_text("svc/\n")
    assert pack.pack(tmp_path / "svc").files == ("a.py", "main.py")


def test_too_much_is_refused_with_the_biggest_named(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "small.txt")
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(pack.LIMIT + 1)
    with pytest.raises(failures.UsageError, match=r"64 MiB is the most.*The biggest: model.bin \(64 MiB\)"):
        pack.pack(tmp_path)


def test_a_link_inside_is_followed_and_one_that_leads_out_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "svc/main.py", "secret")
    (tmp_path / "svc" / "again.py").symlink_to("main.py")
    assert pack.pack(tmp_path / "svc").files == ("again.py", "main.py")
    (tmp_path / "svc" / "out").symlink_to("../secret")
    with pytest.raises(failures.UsageError, match="out is a link that leads out of"):
        pack.pack(tmp_path / "svc")
    (tmp_path / "svc" / "out").unlink()
    (tmp_path / "svc" / "loop").symlink_to(".")
    with pytest.raises(failures.UsageError, match="loop is a link to a folder"):
        pack.pack(tmp_path / "svc")


def test_a_program_stays_executable(tmp_path: Path) -> None:
    import gzip
    import io
    import tarfile

    write(tmp_path, "main.py", "run.sh")
    (tmp_path / "run.sh").chmod(0o700)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(pack.pack(tmp_path).data))) as archive:
        assert [oct(member.mode) for member in archive.getmembers()] == ["0o644", "0o755"]
