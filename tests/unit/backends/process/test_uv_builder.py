"""Environments of services, made without an index from wheels that the tests write themselves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from micro.backends.process.builder import UvBuilder
from micro.domain.errors import Error, Kind


def wheel(folder: Path, name: str, version: str, content: str = "", requires: str = "") -> Path:
    """Write the smallest wheel there is: one module, three metadata files."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def line(path: str, text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(text)}\n"

    record = "".join(line(path, text) for path, text in files.items()) + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(member, text)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def builder(tmp_path: Path) -> UvBuilder:
    return UvBuilder(tmp_path / "environments")


def require(source: Path, wheels: Path, *lines: str) -> None:
    (source / "requirements.txt").write_text("\n".join(["--no-index", f"--find-links {wheels}", *lines]) + "\n")


def run(python: Path, code: str) -> str:
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def made(tmp_path: Path) -> list[str]:
    folder = tmp_path / "environments"
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


async def test_without_requirements_the_servers_own_environment_is_used(
    builder: UvBuilder, source: Path, tmp_path: Path
) -> None:
    build = await builder.build(source)
    assert (build.python, build.folder) == (Path(sys.executable), source)
    assert made(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("requirements.txt", "# nothing yet\nmicro>=0.1  # the framework\n"),
        ("pyproject.toml", "[tool.ruff]\nline-length = 100\n"),
        ("pyproject.toml", '[project]\nname = "x"\nversion = "1"\ndependencies = ["micro"]\n'),
    ],
)
async def test_requiring_nothing_but_the_framework_needs_no_environment(
    builder: UvBuilder, source: Path, tmp_path: Path, file: str, content: str
) -> None:
    (source / file).write_text(content)
    assert (await builder.build(source)).python == Path(sys.executable)
    assert made(tmp_path) == []


async def test_what_is_required_can_be_imported_beside_the_framework(
    builder: UvBuilder, source: Path, tmp_path: Path
) -> None:
    wheel(tmp_path / "wheels", "colours", "1.0", "RED = 'red'\n")
    require(source, tmp_path / "wheels", "colours==1.0", "micro")
    build = await builder.build(source)
    assert build.python != Path(sys.executable)
    assert run(build.python, "import colours, micro, connectrpc; print(colours.RED, micro.__version__)").startswith(
        "red "
    )
    assert len(made(tmp_path)) == 1


async def test_the_same_requirements_are_built_once_however_many_ask(
    builder: UvBuilder, source: Path, tmp_path: Path
) -> None:
    wheel(tmp_path / "wheels", "colours", "1.0")
    require(source, tmp_path / "wheels", "colours")
    builds = await asyncio.gather(*(builder.build(source) for _ in range(3)))
    marker = builds[0].python.parent.parent / "marker"
    marker.touch()
    assert (await UvBuilder(tmp_path / "environments").build(source)) == builds[0] == builds[1] == builds[2]
    assert marker.exists()
    assert len(made(tmp_path)) == 1


async def test_a_project_brings_its_dependencies(builder: UvBuilder, source: Path, tmp_path: Path) -> None:
    path = wheel(tmp_path / "wheels", "colours", "1.0", "RED = 'red'\n")
    (source / "pyproject.toml").write_text(
        f'[project]\nname = "x"\nversion = "1"\ndependencies = ["micro", "colours @ {path.as_uri()}"]\n'
    )
    build = await builder.build(source)
    assert run(build.python, "import colours; print(colours.RED)") == "red"


async def test_a_clash_with_the_framework_is_a_build_error_that_names_it(
    builder: UvBuilder, source: Path, tmp_path: Path
) -> None:
    wheel(tmp_path / "wheels", "connectrpc", "0.0.1")
    wheel(tmp_path / "wheels", "oldstyle", "1.0", requires="connectrpc<0.1")
    require(source, tmp_path / "wheels", "oldstyle")
    with pytest.raises(Error) as caught:
        await builder.build(source)
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    first, *rest = caught.value.message.splitlines()
    assert first == "requirements.txt: its requirements cannot be installed"
    assert "connectrpc" in "\n".join(rest)
    assert made(tmp_path) == []


async def test_a_package_that_does_not_exist_leaves_nothing_behind(
    builder: UvBuilder, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "wheels").mkdir()
    require(source, tmp_path / "wheels", "no-such-package")
    with pytest.raises(Error, match="no-such-package") as caught:
        await builder.build(source)
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    assert made(tmp_path) == []


async def test_a_project_file_that_is_no_toml_is_told(builder: UvBuilder, source: Path) -> None:
    (source / "pyproject.toml").write_text("[project\n")
    with pytest.raises(Error, match=r"pyproject\.toml cannot be read") as caught:
        await builder.build(source)
    assert caught.value.kind is Kind.FAILED_PRECONDITION
