"""Environments for services that bring requirements: made by uv, shared by all that ask for the same, kept.

An environment sees the framework and its dependencies through a `.pth` file that leads to the server's own packages.
They are not installed again, so the versions of what the framework needs are pinned: what clashes with them is an
error of the build, not a surprise at run time.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import uv

from micro.backends.process import proc, requirements
from micro.domain import errors, workload
from micro.domain.errors import Error
from micro.ports.builder import Build, Builder

_log = logging.getLogger(__name__)

_TIMEOUT = 600.0
_LAYOUT = "1"  # changes when environments of an older framework must be made anew
_UNFINISHED = ".build-"

_IN_OWN_GROUP = "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Runs a program in a group of its own, so that it can be ended with all that it started. Not in a session of its own:
with the session of this process it ends when this process is killed. uvloop has no option for that."""


class UvBuilder(Builder):
    """Builds below the folder `environments`, which is made when it is missing.

    Args:
        environments: one folder an environment, named by a digest of what it was made from.
        python: interpreter that environments are made for; its packages are those that services see.
        background: how many are made at the same time at most of those that nobody waits for.
    """

    def __init__(self, environments: Path, python: Path | None = None, background: int = 2) -> None:
        self._environments = environments
        self._python = python or Path(sys.executable)
        self._slots = asyncio.Semaphore(background)
        self._locks: dict[str, asyncio.Lock] = {}
        self._making: set[Path] = set()
        self._turns = itertools.count()
        self._asked: dict[str, int] = {}  # the turn in which each environment was asked for last

    async def build(self, folder: Path, *, background: bool = False) -> Build:
        try:
            wanted = await asyncio.to_thread(requirements.find, folder)
            if wanted is None:
                return Build(self._python, folder)
            environment = await asyncio.to_thread(self._environment, wanted)
            self._asked[environment.name] = next(self._turns)
            async with AsyncExitStack() as held:
                if background and not environment.exists():
                    await held.enter_async_context(self._slots)
                # Who asks for the same at the same time waits, and finds it made.
                await held.enter_async_context(self._locks.setdefault(environment.name, asyncio.Lock()))
                if not environment.exists():
                    await self._make(wanted, environment)
        except OSError as error:
            raise errors.failed_precondition(f"the environment cannot be made: {error.strerror or error}") from error
        return Build(_python_of(environment), folder)

    async def sweep(self, folders: Collection[Path], pythons: Collection[Path]) -> None:
        began = next(self._turns)
        try:
            needed = await asyncio.to_thread(self._needed, folders)
            needed |= {python.parent.parent.name for python in pythons}
            for entry in await asyncio.to_thread(_entries, self._environments):
                if entry.name in needed or entry in self._making or self._asked.get(entry.name, -1) >= began:
                    continue
                if entry.name in self._locks and self._locks.pop(entry.name).locked():
                    continue
                self._asked.pop(entry.name, None)
                if not entry.name.startswith(_UNFINISHED):  # renamed, so that nobody finds half of it
                    entry = entry.rename(entry.with_name(f"{_UNFINISHED}{entry.name}"))
                await asyncio.to_thread(shutil.rmtree, entry, ignore_errors=True)
        except OSError as error:
            _log.warning("unused environments cannot be removed: %s", error)

    def _environment(self, wanted: Path) -> Path:
        """Where the environment lies, made or not."""
        versions = json.dumps(_own_versions(), sort_keys=True)
        return self._environments / requirements.digest(wanted, (_LAYOUT, str(self._python), sys.version, versions))

    def _needed(self, folders: Iterable[Path]) -> set[str]:
        """Names of the environments that these sources need; what cannot be read needs none."""
        found = set()
        for folder in folders:
            with contextlib.suppress(Error, FileNotFoundError):
                if (wanted := requirements.find(folder)) is not None:
                    found.add(self._environment(wanted).name)
        return found

    async def _make(self, wanted: Path, environment: Path) -> None:
        constraints = await asyncio.to_thread(_own_versions)
        self._environments.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._environments))
        self._making.add(fresh)
        try:
            # Relocatable, because it is made under another name than it is used under.
            await self._uv(
                wanted, "venv", "--relocatable", "--allow-existing", "--python", str(self._python), str(fresh)
            )
            constraint, override = fresh / "micro-constraints.txt", fresh / "micro-overrides.txt"
            constraint.write_text("".join(f"{name}=={version}\n" for name, version in sorted(constraints.items())))
            # The framework is there already and comes from no index: a requirement of it is met by leaving it out.
            override.write_text("micro ; python_version < '0'\n")
            await self._uv(
                wanted,
                *("pip", "install", "--python", str(_python_of(fresh))),
                *("--constraint", str(constraint), "--override", str(override), "-r", wanted.name),
            )
            _link(fresh)
            fresh.rename(environment)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
            raise
        finally:
            self._making.discard(fresh)

    async def _uv(self, wanted: Path, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(str(self._python), "-ISc", _IN_OWN_GROUP, uv.find_uv_bin()),
            *("--no-progress", "--color", "never", *arguments),
            cwd=wanted.parent,
            env=_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            limit=1024 * 1024,
        )
        assert process.stdout is not None
        tail: deque[str] = deque(maxlen=workload.TOLD_LINES)
        try:
            async with asyncio.timeout(_TIMEOUT):
                async for line in process.stdout:
                    tail.append(line.decode(errors="replace").rstrip())
                status = await process.wait()
        except TimeoutError:
            reason = f"uv took longer than {_TIMEOUT:g} s"
            raise errors.failed_precondition(workload.told(wanted.name, reason, tuple(tail))) from None
        finally:
            if process.returncode is None:
                proc.signal_group(process.pid, signal.SIGKILL)
                process.kill()  # it may not lead its group yet
                await process.wait()
        if status:
            reason = "its requirements cannot be installed"
            raise errors.failed_precondition(workload.told(wanted.name, reason, tuple(tail)))


def _environ() -> dict[str, str]:
    """What uv may see: the user's settings and proxies, but nothing of the process that embeds this one."""
    hidden = ("MICRO_", "PYTHON", "LD_PRELOAD", "VIRTUAL_ENV", "CONDA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def _python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def _link(environment: Path) -> None:
    """Let the environment see the server's packages, behind its own."""
    site_packages = next(environment.glob("lib/python*/site-packages"))
    server = str(Path(uv.__file__).parent.parent)
    (site_packages / "micro.pth").write_text(f"import site; site.addsitedir({server!r})\n")


def _own_versions() -> dict[str, str]:
    """Name and exact version of everything that the framework needs, however indirectly, as it is installed here."""
    found: dict[str, str] = {}
    queue = ["micro"]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed only on other systems
        found[name] = distribution.version
        needs = [requirements.name(line) for line in distribution.requires or () if "extra ==" not in line]
        queue.extend(name for name in needs if name)
    return found


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
