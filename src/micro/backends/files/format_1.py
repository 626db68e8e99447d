"""What the runtime kept in files in releases of format 1: found, read, and removed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from micro.domain.workload import Key, Workload
from micro.ports.accounts import ServiceAccount

LeftOut = Callable[[str], None]
"""Is told of a file that cannot be read, in words that quote nothing of it."""

_KINDS = ("workloads", "accounts")


def folders(runtime: Path) -> list[Path]:
    """The folders with such files, those of before there were folders of namespaces included."""
    found = [folder for kind in _KINDS for folder in runtime.glob(f"namespaces/*/{kind}")]
    old = runtime / "workloads"
    return sorted(folder for folder in (*found, old) if folder.is_dir())


def workloads(runtime: Path, left_out: LeftOut) -> Iterator[Workload]:
    """Those that are kept, as far as they can be read."""
    for file, kept in _read(runtime, "workloads", left_out):
        try:
            yield Workload(
                namespace=kept["namespace"],
                name=kept["name"],
                version=kept["version"],
                source=kept["source"],
                env=dict(kept["env"]),
                instances=int(kept["instances"]),
                metadata=dict(kept["metadata"]),
                generation=int(kept["generation"]),
                revision=int(kept["revision"]),
                error=kept["error"],
                updated=kept["updated"],
                owner=kept.get("owner", ""),  # nobody's, where it was made before there were accounts
            )
        except (ValueError, TypeError, KeyError) as error:
            left_out(f"{file} cannot be read ({type(error).__name__})")


def unreadable(runtime: Path, read: Collection[Key]) -> list[Key]:
    """Those that there is code of, and word, which is not among what was `read`; sorted."""
    code = [(path.parts[-4], path.parts[-2], path.parts[-1]) for path in runtime.glob("namespaces/*/services/*/*")]
    return sorted(key for key in set(code) - set(read) if _file(runtime, key).exists())


def _file(runtime: Path, key: Key) -> Path:
    """Where a workload is kept: a readable name, made unique by a digest."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]
    return runtime / "namespaces" / key[0] / "workloads" / f"{'-'.join(key)[:180]}-{digest}.json"


def accounts(runtime: Path, left_out: LeftOut) -> Iterator[tuple[Key, ServiceAccount]]:
    """What services log in with, as `workloads`."""
    for file, kept in _read(runtime, "accounts", left_out):
        try:
            key = (str(kept["namespace"]), str(kept["service"]), str(kept["version"]))
            yield key, ServiceAccount(str(kept["id"]), str(kept["secret"]))
        except (TypeError, KeyError) as error:
            left_out(f"{file} cannot be read ({type(error).__name__})")


def remove(runtime: Path) -> None:
    """Remove the files, and nothing else. Raises OSError; the next call goes on."""
    for folder in folders(runtime):
        shutil.rmtree(folder)


def _read(runtime: Path, kind: str, left_out: LeftOut) -> Iterator[tuple[Path, Any]]:
    for file in sorted(runtime.glob(f"namespaces/*/{kind}/*.json")):
        try:
            yield file, json.loads(file.read_text())
        except (OSError, ValueError) as error:
            left_out(f"{file} cannot be read ({type(error).__name__})")
