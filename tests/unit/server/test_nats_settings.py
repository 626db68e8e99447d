"""What a server is told of a NATS that runs elsewhere, and which of its processes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from micro.domain.errors import Error, Kind
from micro.domain.record import Durability
from micro.server import assemble, catalog, settings
from micro.server.settings import Layout, Settings

URL = "nats://me:sesame@n1:4222, nats://me:sesame@n2"


def read(**variables: str) -> Settings:
    return settings.read({"MICRO_NATS_URL": URL, **variables})


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("", ""),
        ("n1:4222", "n1:4222"),
        ("tls://n1", "tls://n1"),
        (URL, "nats://n1:4222,nats://n2"),
        ("me:sesame@n1", "n1"),
        ("me:sesame//@n1", "n1"),
        ("nats://sesame@n1", "nats://n1"),
        ("nats://me:ses@me@n1", "nats://n1"),
    ],
)
def test_what_is_shown_of_a_url_has_no_user_in_it(url: str, place: str) -> None:
    assert settings.read({"MICRO_NATS_URL": url}).nats_place == place


def test_the_password_is_in_no_file_and_in_no_text(tmp_path: Path) -> None:
    made = read()
    assert "sesame" not in made.dump() + repr(made)
    assert Settings.load(made.dump()).nats_url == "nats://n1:4222,nats://n2"


def test_who_talks_to_nats_is_told_the_password_by_a_variable_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = read(MICRO_HOME=str(tmp_path)).with_ports()
    layout = Layout(tmp_path)
    layout.run.mkdir(mode=0o700, exist_ok=True)
    specs = {unit.name: unit.spec() for unit in assemble.units(made, layout)}
    assert "nats" not in specs
    told = {name for name, spec in specs.items() if "sesame" in repr(spec.env)}
    assert told == {"registry", "broker", "events"}
    assert not [name for name, spec in specs.items() if "sesame" in repr(spec.argv)]
    travelled = Settings.load(made.dump())
    monkeypatch.delenv(catalog.NATS_URL, raising=False)
    assert catalog.nats_address(travelled, layout).password == ""
    monkeypatch.setenv(catalog.NATS_URL, specs["events"].env[catalog.NATS_URL])
    address = catalog.nats_address(travelled, layout)
    assert (address.user, address.password) == ("me", "sesame")
    assert address.servers == ["nats://n1:4222", "nats://n2:4222"]


def test_paths_travel_to_the_connection_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.NATS_URL, raising=False)
    monkeypatch.chdir(tmp_path)
    made = settings.read(
        {
            "MICRO_NATS_URL": "tls://n1",
            "MICRO_NATS_NKEY": "user.nk",
            "MICRO_NATS_CA": "ca.pem",
            "MICRO_NATS_CERT": "/c.pem",
            "MICRO_NATS_KEY": "/k.pem",
        }
    )
    address = catalog.nats_address(Settings.load(made.dump()), Layout(tmp_path))
    assert (address.nkey, address.ca) == (tmp_path / "user.nk", tmp_path / "ca.pem")
    assert (address.cert, address.key, address.credentials) == (Path("/c.pem"), Path("/k.pem"), None)
    assert address.tls


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MICRO_NATS_REPLICAS": "2"}, "none of 1, 3 and 5"),
        ({"MICRO_NATS_REPLICAS": "many"}, "is not a number"),
        ({"MICRO_NATS_CERT": "c"}, "belong together"),
        ({"MICRO_NATS_NKEY": "n"}, "one user only"),
        ({"MICRO_NATS_URL": "n1", "MICRO_NATS_NKEY": "n", "MICRO_NATS_CREDENTIALS": "c"}, "one user only"),
        ({"MICRO_NATS_URL": "", "MICRO_NATS_CA": "c"}, "MICRO_NATS_CA is for a NATS that runs elsewhere"),
        ({"MICRO_NATS_URL": "", "MICRO_NATS_REPLICAS": "3"}, "MICRO_NATS_REPLICAS is for a NATS"),
    ],
)
def test_what_does_not_go_together_is_told(variables: dict[str, str], words: str) -> None:
    with pytest.raises(Error, match=words) as caught:
        read(**variables)
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert "sesame" not in caught.value.message


def test_replicas_make_the_durability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.NATS_URL, raising=False)
    for replicas, durability in (("1", Durability.SERVER), ("3", Durability.REPLICATED)):
        made = read(MICRO_NATS_REPLICAS=replicas)
        assert catalog.events(made, Layout(tmp_path)).events.durability is durability
        assert catalog.registry(made, Layout(tmp_path)).durability is durability
    assert catalog.registry(settings.read({"MICRO_PROFILE": "test"}), Layout(tmp_path)).durability is Durability.MEMORY
