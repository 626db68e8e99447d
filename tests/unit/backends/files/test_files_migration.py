"""The state of an older server, found where it is looked for now."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from micro.backends.files import format_1
from micro.backends.files.migration import migrate
from micro.backends.files.sources import FileSources
from micro.backends.process.logs import LogFolder, LogWriter

OLD = {
    "version": "latest",
    "source": "./hello",
    "env": {"A": "1"},
    "instances": 2,
    "metadata": {},
    "generation": 3,
    "revision": 4,
    "error": "",
    "updated": "2026-01-01T00:00:00Z",
}
KEYS = [("micro", "hello", "latest"), ("services", "services", "latest")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """As the last server without namespaces' folders left it."""
    runtime = tmp_path / "runtime"
    (runtime / "workloads").mkdir(parents=True)
    for namespace, name, version in KEYS:
        workload = {**OLD, "namespace": namespace, "name": name}
        digest = hashlib.sha256(f"{namespace}\0{name}\0{version}".encode()).hexdigest()[:8]
        (runtime / "workloads" / f"{namespace}-{name}-latest-{digest}.json").write_text(json.dumps(workload))
        code = runtime / "services" / namespace / name / version / "3"
        code.mkdir(parents=True)
        (code / "main.py").write_text(name)
        LogWriter(tmp_path / "logs/services" / namespace / name / "latest.log").write("x", [("info", name)])
    (runtime / "uploads").mkdir()
    (runtime / "uploads" / "0.tar.gz").write_bytes(b"nobody's")
    LogWriter(tmp_path / "logs/core/auth.log").write("auth", [("info", "of the platform")])
    return tmp_path


async def test_an_older_server_s_services_go_on(home: Path) -> None:
    namespaces = home / "runtime/namespaces"
    for _ in range(2):
        migrate(home / "runtime", home / "logs", namespaces)
    found = list(format_1.workloads(home / "runtime", pytest.fail))
    assert [(each.key, each.instances, each.generation, each.owner) for each in found] == [
        (key, 2, 3, "") for key in KEYS
    ]
    sources, logs = FileSources(namespaces), LogFolder(home / "logs", namespaces)
    for key in KEYS:
        assert (sources.folder(key, 3) / "main.py").read_text() == key[1]
        assert [record.message for record in logs.read(key, 5)] == [key[1]]
    assert [record.message for record in logs.read(("micro", "auth", ""), 5)] == ["of the platform"]
    assert [path.name for path in (home / "runtime").iterdir()] == ["namespaces"]
    assert [path.name for path in (home / "logs").iterdir()] == ["core"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in namespaces.iterdir()} == {0o700}


async def test_what_cannot_be_told_a_namespace_of_stays(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    workloads = home / "runtime/workloads"
    (workloads / "odd.json").write_text("{")
    (workloads / "foreign.json").write_text(json.dumps({"namespace": "../../etc"}))
    (home / "runtime/services/Not A Name/hello").mkdir(parents=True)
    migrate(home / "runtime", home / "logs", home / "runtime/namespaces")
    assert sorted(path.name for path in workloads.iterdir()) == ["foreign.json", "odd.json"]
    assert (home / "runtime/services/Not A Name/hello").is_dir()
    assert "odd.json cannot be read" in caplog.text


async def test_nothing_is_written_over(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = home / "runtime/namespaces/micro/services/hello"
    newer.mkdir(parents=True)
    migrate(home / "runtime", home / "logs", home / "runtime/namespaces")
    assert list(newer.iterdir()) == []
    assert (home / "runtime/services/micro/hello/latest/3/main.py").exists()
    assert "is there already" in caplog.text


def test_a_new_server_has_nothing_to_move(tmp_path: Path) -> None:
    migrate(tmp_path / "runtime", tmp_path / "logs", tmp_path / "namespaces")
    assert list(tmp_path.iterdir()) == []
