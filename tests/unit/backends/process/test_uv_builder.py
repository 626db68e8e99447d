"""Environments of services, made without an index from wheels that the tests write themselves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

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


async def test_what_no_source_and_no_process_needs_is_removed(builder: UvBuilder, source: Path, tmp_path: Path) -> None:
    environments = {}
    for name in ("wanted", "running", "unused"):
        wheel(tmp_path / "wheels", name, "1.0")
        (tmp_path / name).mkdir()
        require(tmp_path / name, tmp_path / "wheels", name)
        environments[name] = (await builder.build(tmp_path / name)).python
    unfinished = tmp_path / "environments" / ".build-killed"
    unfinished.mkdir()
    (source / "pyproject.toml").write_text("[[[")
    folders = [tmp_path / "wanted", tmp_path / "absent", source]
    await UvBuilder(tmp_path / "environments").sweep(folders, [environments["running"], Path(sys.executable)])
    assert made(tmp_path) == sorted(environments[name].parent.parent.name for name in ("wanted", "running"))


async def test_what_is_being_made_or_was_just_asked_for_stays(
    builder: UvBuilder, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "wheels", "colours", "1.0")
    require(source, tmp_path / "wheels", "colours")
    begun, go_on = asyncio.Event(), asyncio.Event()
    uv = builder._uv

    async def gated(*arguments: object) -> None:
        begun.set()
        await go_on.wait()
        await uv(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builder, "_uv", gated)
    async with asyncio.TaskGroup() as tasks:
        building = tasks.create_task(builder.build(source))
        await begun.wait()
        await builder.sweep([], [])
        assert len(made(tmp_path)) == 1
        go_on.set()
    assert run((await building).python, "import colours; print('there')") == "there"

    async def asked_meanwhile(folders: object) -> set[str]:
        await builder.build(source)
        return set()

    monkeypatch.setattr(asyncio, "to_thread", _unless(builder._needed, asked_meanwhile))
    await builder.sweep([], [])
    assert len(made(tmp_path)) == 1
    monkeypatch.undo()
    await builder.sweep([], [])
    assert made(tmp_path) == []
    assert run((await builder.build(source)).python, "import colours; print('again')") == "again"


async def test_few_are_made_at_once_that_nobody_waits_for_and_what_is_asked_for_overtakes(
    builder: UvBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning: asyncio.Queue[Path] = asyncio.Queue()
    go_on = asyncio.Event()

    async def make(wanted: Path, environment: Path) -> None:
        beginning.put_nowait(wanted.parent)
        await go_on.wait()
        environment.mkdir(parents=True)

    monkeypatch.setattr(builder, "_make", make)
    sources = [tmp_path / str(number) for number in range(5)]
    for folder in sources:
        folder.mkdir()
        (folder / "requirements.txt").write_text(f"colours=={folder.name}\n")
    async with asyncio.TaskGroup() as tasks:
        for folder in sources[:4]:
            tasks.create_task(builder.build(folder, background=True))
        first = {await beginning.get() for _ in range(2)}
        tasks.create_task(builder.build(sources[4]))
        assert await beginning.get() == sources[4]
        assert beginning.empty()
        go_on.set()
    assert first | {beginning.get_nowait() for _ in range(2)} == set(sources[:4])
    # What is there already waits for nobody.
    go_on.clear()
    async with asyncio.TaskGroup() as tasks:
        for number in (10, 11):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "requirements.txt").write_text(f"colours=={number}\n")
            tasks.create_task(builder.build(folder, background=True))
            await beginning.get()
        await builder.build(sources[0], background=True)
        go_on.set()


SETUP = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({told!r}).write_text(str(child.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_build_that_is_given_up_ends_with_all_that_it_started(
    loop: Callable[..., Any], builder: UvBuilder, source: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    (source / "lib").mkdir()
    # The project is its own build backend, and needs nothing to be installed for that.
    (source / "lib/pyproject.toml").write_text(
        '[project]\nname = "lib"\nversion = "1"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "lib/backend.py").write_text(SETUP.format(told=str(told)))
    (source / "requirements.txt").write_text("--no-index\n./lib\n")

    async def give_up() -> None:
        async with asyncio.TaskGroup() as tasks:
            building = tasks.create_task(builder.build(source))
            while not (told.exists() and told.read_text()):
                await asyncio.sleep(0.01)
                assert not building.done()
            building.cancel()
        async with asyncio.timeout(30):
            while _state(int(told.read_text())) != "Z":
                await asyncio.sleep(0.01)

    loop(give_up())
    assert made(tmp_path) == []


def _state(pid: int) -> str:
    """As /proc tells it; that of a zombie for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "Z"


def _unless(function: object, instead: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`asyncio.to_thread`, but for one function."""
    to_thread = asyncio.to_thread

    async def call(called: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if called == function:
            return await instead(*arguments)
        return await to_thread(called, *arguments, **named)

    return call
