"""Environments for services that bring requirements: made by uv, shared by all that ask for the same, kept.

An environment sees the framework and its dependencies through a `.pth` file that leads to the server's own packages.
They are not installed again, so the versions of what the framework needs are pinned: what clashes with them is an
error of the build, not a surprise at run time.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import uv

from micro.domain import errors, workload
from micro.ports.builder import Build, Builder

_FILES = ("requirements.txt", "pyproject.toml")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
_TIMEOUT = 600.0
_LAYOUT = "1"  # changes when environments of an older framework must be made anew


class UvBuilder(Builder):
    """Builds below the folder `environments`, which is made when it is missing.

    Args:
        environments: one folder an environment, named by a digest of what it was made from.
        python: interpreter that environments are made for; its packages are those that services see.
    """

    def __init__(self, environments: Path, python: Path | None = None) -> None:
        self._environments = environments
        self._python = python or Path(sys.executable)
        self._locks: dict[str, asyncio.Lock] = {}

    async def build(self, folder: Path) -> Build:
        wanted = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if wanted is None or not _asks(wanted):
            return Build(self._python, folder)
        constraints = await asyncio.to_thread(_own_versions)
        key = self._key(wanted, constraints)
        environment = self._environments / key
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:  # who asks for the same at the same time waits, and finds it made
                if not environment.exists():
                    await self._make(wanted, environment, constraints)
        except OSError as error:
            raise errors.failed_precondition(f"the environment cannot be made: {error.strerror or error}") from error
        return Build(_python_of(environment), folder)

    def _key(self, wanted: Path, constraints: Mapping[str, str]) -> str:
        digest = hashlib.sha256()
        for part in (_LAYOUT, str(self._python), sys.version, json.dumps(dict(constraints), sort_keys=True)):
            digest.update(part.encode() + b"\0")
        digest.update(wanted.name.encode() + b"\0" + wanted.read_bytes())
        if b"-r " in wanted.read_bytes() or b"-c " in wanted.read_bytes():  # it names other files of its folder
            for other in sorted(wanted.parent.glob("**/*.txt")):
                digest.update(other.read_bytes())
        return digest.hexdigest()[:16]

    async def _make(self, wanted: Path, environment: Path, constraints: Mapping[str, str]) -> None:
        self._environments.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self._environments.glob(".build-*"):
            if leftover.stat().st_mtime < time.time() - 2 * _TIMEOUT:
                await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=".build-", dir=self._environments))
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

    async def _uv(self, wanted: Path, *arguments: str) -> None:
        # In the process group of this process: whatever ends that ends a build in the middle too.
        process = await asyncio.create_subprocess_exec(
            uv.find_uv_bin(),
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
                process.kill()
                await process.wait()
        if status:
            reason = "its requirements cannot be installed"
            raise errors.failed_precondition(workload.told(wanted.name, reason, tuple(tail)))


def _asks(wanted: Path) -> bool:
    """Whether the file asks for anything beside the framework itself, which every service has anyway."""
    try:
        text = wanted.read_text()
        if wanted.name == "pyproject.toml":
            project = tomllib.loads(text).get("project", {})
            return "dependencies" in project.get("dynamic", ()) or any(
                _name(requirement) != "micro" for requirement in project.get("dependencies", ())
            )
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise errors.failed_precondition(f"{wanted.name} cannot be read: {error}") from error
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return any(line and _name(line) != "micro" for line in lines)


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
        needs = [_name(line) for line in distribution.requires or () if "extra ==" not in line]
        queue.extend(name for name in needs if name)
    return found


def _name(requirement: str) -> str:
    """The package that a requirement names; empty for options and addresses."""
    match = _NAME.match(requirement.strip())
    return _normal(match[0]) if match else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
