"""State that a server from before there were namespaces' folders has left, moved to where it belongs."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from micro.domain import names
from micro.domain.errors import Error
from micro.ports import private_folder

_log = logging.getLogger(__name__)


def migrate(runtime: Path, logs: Path, namespaces: Path) -> None:
    """Move what lies below `runtime` and `logs` by kind to `namespaces`. Does nothing the second time.

    What cannot be told a namespace of stays where it is. Uploads that no service was made of are dropped: they are
    nobody's.

    Raises:
        OSError: something could not be moved; the next call goes on.
    """
    for file in sorted((runtime / "workloads").glob("*.json")):
        _move(file, _namespace_of(file), namespaces, "workloads")
    for folder in sorted((runtime / "services").glob("*/*/")):
        _move(folder, folder.parent.name, namespaces, "services")
    for folder in sorted((logs / "services").glob("*/*/")):
        _move(folder, folder.parent.name, namespaces, "logs")
    shutil.rmtree(runtime / "uploads", ignore_errors=True)
    for left in (runtime / "workloads", *(runtime / "services").glob("*"), runtime / "services"):
        _remove_empty(left)
    for left in (*(logs / "services").glob("*"), logs / "services"):
        _remove_empty(left)


def _move(found: Path, namespace: str, namespaces: Path, kind: str) -> None:
    try:
        if not namespace or names.namespace(namespace) != namespace:
            return
    except Error:
        return
    target = namespaces / namespace / kind / found.name
    if target.exists():
        _log.error("%s is left alone: %s is there already", found, target)
        return
    private_folder.make(target.parent)
    found.rename(target)


def _namespace_of(workload: Path) -> str:
    try:
        return str(json.loads(workload.read_text())["namespace"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.error("%s cannot be read and is left alone: %s", workload, error)
        return ""


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # something is left in there, or it was never there
