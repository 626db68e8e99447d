"""What a server is told of a database that is elsewhere, and which of its processes are told."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from micro.server import assemble, catalog, settings, storage
from micro.server.settings import Layout, Settings

URL = "postgres://ann:sesame@db:5432/micro?application_name=sesame"


def read(home: Path, store: str = URL) -> Settings:
    return settings.read({"MICRO_HOME": str(home), "MICRO_STORE": store}).with_ports()


def test_the_password_is_in_no_settings_file_and_in_no_text(tmp_path: Path) -> None:
    made = read(tmp_path)
    assert "sesame" not in made.dump() + repr(made)
    assert Settings.load(made.dump()).store == settings.STORE_ELSEWHERE
    assert Settings.load(read(tmp_path, "sqlite").dump()).store == "sqlite"


def test_who_opens_a_store_is_told_the_password_by_a_variable_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, layout, opened = read(tmp_path), Layout(tmp_path), list[str]()
    layout.run.mkdir(mode=0o700, exist_ok=True)
    specs = {unit.name: unit.spec() for unit in assemble.units(made, layout)}
    assert {name for name, spec in specs.items() if "sesame" in repr(spec.env)} == {
        "store",
        "config",
        "auth",
        "runtime",
    }
    assert not [name for name, spec in specs.items() if "sesame" in repr(spec.argv)]
    monkeypatch.setattr(catalog, "_postgres", lambda url, schema, clock: opened.append(f"{schema} {url}"))
    monkeypatch.setenv(catalog.STORE_URL, specs["config"].env[catalog.STORE_URL])
    catalog.store(Settings.load(made.dump()), layout, "config")
    assert opened == [f"micro_config {URL}"]


def test_files_are_used_whatever_a_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from micro.backends.sqlite.store import SqliteStore

    monkeypatch.setenv(catalog.STORE_URL, URL)
    travelled = Settings.load(read(tmp_path, "sqlite").dump())
    assert isinstance(catalog.store(travelled, Layout(tmp_path), "config"), SqliteStore)


def test_the_way_to_the_last_store_is_kept_sealed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.root.mkdir(mode=0o700)
    sealing = catalog.sealing(layout)
    sealing.begin()
    assert storage.url(layout, sealing) == ""
    storage.keep_url(layout, read(tmp_path), sealing)
    assert stat.S_IMODE(layout.store_url.stat().st_mode) == 0o600
    assert "sesame" not in layout.store_url.read_text()
    assert storage.url(layout, sealing) == URL
    storage.keep_url(layout, read(tmp_path, "memory"), sealing)
    assert storage.url(layout, sealing) == URL
    layout.config_key.unlink()
    assert storage.url(layout, catalog.sealing(layout)) == ""
    storage.keep_url(layout, read(tmp_path, "sqlite"), sealing)
    assert not layout.store_url.exists()
