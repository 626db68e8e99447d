"""Which sources may share an environment, and which may not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from micro.backends.process import requirements
from micro.domain.errors import Error, Kind


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "source")


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def digest(source: Path) -> str:
    wanted = requirements.find(source)
    assert wanted is not None
    return requirements.digest(wanted, ("python",))


NAMED = [
    ("-r more.txt", "more.txt"),
    ("-rmore.txt", "more.txt"),
    ("--requirement=more.txt", "more.txt"),
    ("--requirement deep/more.txt", "deep/more.txt"),
    ("-c limits.txt", "limits.txt"),
    ("--constraint limits.in", "limits.in"),
    ("./wheels/x-1-py3-none-any.whl", "wheels/x-1-py3-none-any.whl"),
    ("wheels/x-1-py3-none-any.whl ; python_version > '3'", "wheels/x-1-py3-none-any.whl"),
    ("x-1-py3-none-any.whl[extra]", "x-1-py3-none-any.whl"),
    ("file:x-1.tar.gz", "x-1.tar.gz"),
    ("file:./x%201.tar.gz#egg=x", "x 1.tar.gz"),
    ("x @ file:./x-1.whl", "x-1.whl"),
    ("x[more] @ file://${PROJECT_ROOT}/x-1.whl  # ours", "x-1.whl"),
    ("x @ ./x-1.whl \\\n  --hash=sha256:0", "x-1.whl"),
    ("--find-links wheels\nx", "wheels/x-1-py3-none-any.whl"),
    ("-f ./wheels\nx", "wheels/x-1.tar.gz"),
    ("x", "uv.toml"),
]


@pytest.mark.parametrize(("line", "file"), NAMED)
def test_the_content_of_a_file_that_is_named_counts(source: Path, tmp_path: Path, line: str, file: str) -> None:
    write(source / "requirements.txt", f"colours\n{line}\n")
    write(source / file, "one\n")
    first = digest(source)
    write(source / "unrelated.txt", "of the service itself")
    os.utime(source / file, (0, 0))
    assert digest(source) == first
    write(source / file, "two\n")
    assert digest(source) != first
    # Another generation with the same files shares.
    second = folder(tmp_path / "second")
    write(second / "requirements.txt", f"colours\n{line}\n")
    write(second / file, "one\n")
    assert digest(second) == first


def test_files_that_named_files_name_count_and_circles_end(source: Path) -> None:
    write(source / "requirements.txt", "-r deep/a.txt\n")
    write(source / "deep/a.txt", "-r b.txt\n-r ../requirements.txt\n-r a.txt\n")
    write(source / "deep/b.txt", "x==1\n")
    first = digest(source)
    write(source / "deep/b.txt", "x==2\n")
    assert digest(source) != first


@pytest.mark.parametrize("line", ["./lib", "lib/", "-e ./lib", "--editable=lib[all]", ".", "x @ file:./lib"])
def test_a_source_that_names_a_folder_shares_with_nobody(source: Path, tmp_path: Path, line: str) -> None:
    other = folder(tmp_path / "other")
    for made in (source, other):
        write(made / "requirements.txt", f"{line}\n")
        write(made / "lib/pyproject.toml", "[project]\n")
    first = digest(source)
    assert digest(other) != first
    # What a build leaves in the folder changes nothing, what is unpacked in its place does.
    write(source / "lib/lib.egg-info/PKG-INFO", "made by a build")
    assert digest(source) == first
    os.utime(source / "requirements.txt", (1, 1))
    assert digest(source) != first


def test_a_file_outside_of_the_source_counts_by_size_and_time(source: Path, tmp_path: Path) -> None:
    wheel = write(tmp_path / "elsewhere/x-1.whl", "one")
    write(source / "requirements.txt", f"x @ {wheel.as_uri()}\n")
    first = digest(source)
    assert digest(source) == first
    os.utime(wheel, (1, 1))
    assert digest(source) != first


def test_a_folder_of_wheels_outside_of_the_source_is_an_index_like_others(source: Path, tmp_path: Path) -> None:
    write(source / "requirements.txt", "--find-links ../elsewhere\nx\n")
    write(tmp_path / "elsewhere/x-1.whl", "one")
    first = digest(source)
    write(tmp_path / "elsewhere/y-1.whl", "one")
    assert digest(source) == first


@pytest.mark.parametrize(
    ("project", "file"),
    [
        ('dependencies = ["x @ file:./x-1.whl"]', "x-1.whl"),
        ('dependencies = ["x"]\n[tool.uv.sources]\nx = { path = "x-1.whl" }', "x-1.whl"),
        ('dependencies = ["x"]\n[tool.uv.sources]\nx = [{ path = "x-1.whl", marker = "a" }]', "x-1.whl"),
        ('dependencies = ["x"]\n[tool.uv]\nfind-links = ["wheels"]', "wheels/x-1.whl"),
        ('dependencies = ["x"]\n[[tool.uv.index]]\nurl = "wheels"', "wheels/x-1.whl"),
    ],
)
def test_a_project_names_files_too(source: Path, project: str, file: str) -> None:
    write(source / "pyproject.toml", f"[project]\nname = 'a'\n{project}\n")
    write(source / file, "one")
    first = digest(source)
    write(source / file, "two")
    assert digest(source) != first


@pytest.mark.parametrize(
    "project",
    [
        'dynamic = ["dependencies"]',
        'dependencies = ["x"]\n[tool.uv.sources]\nx = { workspace = true }',
        'dependencies = ["x"]\n[tool.uv.sources]\nx = { path = "lib", editable = true }',
        'dependencies = ["x @ file:lib"]',
    ],
)
def test_a_project_that_is_made_from_its_folder_shares_with_nobody(source: Path, tmp_path: Path, project: str) -> None:
    other = folder(tmp_path / "other")
    for made in (source, other):
        folder(made / "lib")
        write(made / "pyproject.toml", f"[project]\nname = 'a'\n{project}\n")
    assert digest(source) != digest(other)


@pytest.mark.parametrize(
    "line",
    [
        "x==1.0",
        "x @ https://example.org/x-1.whl",
        "git+https://example.org/x.git",
        "-r https://example.org/more.txt",
        "--index-url https://example.org/simple",
        "./absent.whl",
        "-r absent.txt",
        "-e",
        "@",
    ],
)
def test_what_is_not_here_counts_by_its_name(source: Path, tmp_path: Path, line: str) -> None:
    other = folder(tmp_path / "other")
    for made in (source, other):
        write(made / "requirements.txt", f"{line}\n")
    assert digest(source) == digest(other)
    write(other / "requirements.txt", f"{line}\ny\n")
    assert digest(source) != digest(other)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("requirements.txt", "x" * (1024 * 1024 + 1)),
        ("pyproject.toml", "[project]\ndependencies = ['x']\n[tool.uv]\nsources = 3\n"),
        ("pyproject.toml", "[project]\ndependencies = ['x', 3]\n"),
        ("requirements.txt", "-r pyproject.txt.toml\n"),
    ],
)
def test_what_cannot_be_understood_is_told(source: Path, file: str, content: str) -> None:
    write(source / "pyproject.txt.toml", "[[[")
    write(source / file, content)
    with pytest.raises(Error) as caught:
        digest(source)
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert file in caught.value.message
