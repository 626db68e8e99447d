"""What a server is told, and by whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from micro.domain.errors import Error
from micro.server import settings
from micro.server.settings import Layout, Settings


def test_arguments_win_over_the_environment_and_that_over_the_profile(tmp_path: Path) -> None:
    environ = {
        "MICRO_HOME": str(tmp_path),
        "MICRO_API_ADDRESS": "127.0.0.1:1000",
        "MICRO_PROXY_ADDRESS": "127.0.0.1:2000",
    }
    read = settings.read(environ, api_address="127.0.0.1:3000", proxy_address=None)
    assert (read.api_address, read.proxy_address) == ("127.0.0.1:3000", "127.0.0.1:2000")
    assert settings.read({"MICRO_HOME": str(tmp_path)}).api_address == "127.0.0.1:8080"
    assert settings.read({"MICRO_HOME": str(tmp_path), "MICRO_PROFILE": "test"}).registry_state == "memory"


def test_values_have_the_types_of_their_defaults() -> None:
    environ = {
        "MICRO_ACCESS_LOG": "true",
        "MICRO_CORS_ORIGINS": "https://a.example, https://b.example",
        "MICRO_READY_TIMEOUT": "4",
    }
    read = settings.read(environ)
    assert (read.access_log, read.ready_timeout) == (True, 4.0)
    assert read.cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MICRO_API_ADDRESS": "nonsense"}, "--api-address 'nonsense' is not HOST:PORT"),
        ({"MICRO_PROXY_ADDRESS": "127.0.0.1:65536"}, "is not HOST:PORT"),
        ({"MICRO_PROFILE": "nobody's"}, "there is no profile"),
        ({"MICRO_ACCESS_LOG": "perhaps"}, "MICRO_ACCESS_LOG='perhaps' is not true or false"),
        ({"MICRO_READY_TIMEOUT": "soon"}, "is not a number"),
    ],
)
def test_what_cannot_be_is_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(Error, match="|".join([words.replace("(", "\\(")])):
        settings.read(environ)


def test_settings_travel_whole(tmp_path: Path) -> None:
    made = settings.read({"MICRO_HOME": str(tmp_path)}).with_ports()
    assert Settings.load(made.dump()) == made
    inner = {made.nats_address, made.registry_address, made.network_address, made.runtime_address, made.mesh_address}
    assert len(inner) == 5


def test_sockets_have_short_paths_of_their_own_for_each_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    assert one.run != two.run
    for name in ("api", "a" * 200):
        assert len(str(one.admin(name))) <= 107
    assert one.admin("a" * 200) != one.admin("a" * 199)


def test_a_port_of_zero_is_a_free_one() -> None:
    host, _, port = settings.address("api_address", ":0").rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
