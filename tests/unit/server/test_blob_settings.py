"""Which storage of blobs a setting names, and who is told as whom it is asked."""

from pathlib import Path

import pytest

from micro.backends.files.blobs import FileBlobs
from micro.backends.memory.blobs import MemoryBlobs
from micro.backends.objects.blobs import ObjectBlobs
from micro.domain import names
from micro.domain.errors import Error, Kind
from micro.server import assemble, catalog, settings


def chosen(home: Path, **environ: str) -> settings.Settings:
    return settings.read({"MICRO_HOME": str(home), **environ})


@pytest.mark.parametrize(
    ("given", "backend"),
    [
        ({}, FileBlobs),
        ({"MICRO_BLOBS": "files"}, FileBlobs),
        ({"MICRO_BLOBS": "memory"}, MemoryBlobs),
        ({"MICRO_PROFILE": "test"}, MemoryBlobs),
        ({"MICRO_BLOBS": "s3://bucket/prefix?endpoint=http://127.0.0.1:1&region=here"}, ObjectBlobs),
    ],
)
def test_a_setting_names_a_storage(tmp_path: Path, given: dict[str, str], backend: type) -> None:
    read = chosen(tmp_path, **given)
    assert isinstance(catalog.blobs(settings.Settings.load(read.dump()), settings.Layout(tmp_path)), backend)


@pytest.mark.parametrize("given", ["", "file", "/somewhere", "gs://bucket"])
def test_another_one_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(Error, match="MICRO_BLOBS names no storage: use files, memory or s3://") as told:
        chosen(tmp_path, MICRO_BLOBS=given)
    assert told.value.kind is Kind.INVALID_ARGUMENT


def test_files_lie_below_the_servers_home(tmp_path: Path) -> None:
    assert settings.Layout(tmp_path).blobs == tmp_path / "server/store/blobs"


def test_only_the_store_gets_the_storages_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    layout = settings.Layout(tmp_path)
    layout.root.mkdir(parents=True)
    units = assemble.units(chosen(tmp_path, MICRO_REGISTRY_STATE="memory").with_ports(), layout)
    given = {unit.name for unit in units if "the-secret" in unit.spec().env.values()}
    assert given == {"store"}


def test_no_service_takes_the_addresses_of_public_blobs() -> None:
    assert names.platforms("blob")
    assert names.platforms("blob.of.mine")
    assert not names.platforms("blobs")
