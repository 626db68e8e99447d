"""What a server is told, and by whom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from micro.domain.errors import Error
from micro.server import assemble, settings
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


def test_a_new_secret_for_the_admin_is_asked_for_at_one_start_and_by_no_variable(tmp_path: Path) -> None:
    environ = {"MICRO_HOME": str(tmp_path), "MICRO_RESET_ADMIN": "1"}
    assert not settings.read(environ).reset_admin
    assert settings.read(environ, reset_admin=True).reset_admin


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
        ({"MICRO_PUBLIC": "perhaps"}, "MICRO_PUBLIC='perhaps' is not true or false"),
        ({"MICRO_TLS_CERT": "a.pem"}, "--tls-cert and --tls-key belong together"),
        ({"MICRO_TLS_KEY": "a.key"}, "--tls-cert and --tls-key belong together"),
        ({"MICRO_TLS_CLIENT_CA": "ca.pem"}, "--tls-client-ca needs TLS"),
        ({"MICRO_BASE_DOMAIN": "Example.com"}, "--base-domain 'Example.com' is not a domain"),
        ({"MICRO_BASE_DOMAIN": "*.example.com"}, "is not a domain"),
        ({"MICRO_PROXY_ADDRESS": "0.0.0.0:8081"}, "--proxy-address 0.0.0.0:8081 is reached by others, so it needs TLS"),
        ({"MICRO_PROXY_ADDRESS": "[::]:8081"}, "needs TLS"),
        ({"MICRO_LOG_LEVEL": "loud"}, "--log-level='loud': use one of debug, info, warning, error"),
        ({"MICRO_MESSAGING": "kafka"}, "MICRO_MESSAGING='kafka': use nats or memory"),
        ({"MICRO_STORE": "mysql://u:hush@h/d"}, "MICRO_STORE names no store: use sqlite, memory or postgres://"),
    ],
)
def test_what_cannot_be_is_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(Error, match=re.escape(words)):
        settings.read(environ)


def test_settings_travel_whole(tmp_path: Path) -> None:
    made = settings.read({"MICRO_HOME": str(tmp_path)}).with_ports()
    assert Settings.load(made.dump()) == made
    inner = {made.nats_address, made.registry_address, made.network_address, made.runtime_address, made.mesh_address}
    inner |= {made.auth_address, made.store_address, made.config_address, made.broker_address, made.events_address}
    assert len(inner) == 10


def test_how_much_the_core_services_log_is_one_setting(tmp_path: Path) -> None:
    chosen = settings.read({"MICRO_HOME": str(tmp_path), "MICRO_LOG_LEVEL": "warning"}, log_level="debug").with_ports()
    specs = [unit.spec() for unit in assemble.units(chosen, Layout(chosen.home))]
    told = {spec.id: spec.env["MICRO_LOG_LEVEL"] for spec in specs if "MICRO_LOG_LEVEL" in spec.env}
    assert set(told.values()) == {"debug"}
    assert set(told) == {"registry", "auth", "network", "runtime", "store", "config", "broker", "events"}


def test_messages_go_over_what_the_registry_is_in_unless_a_variable_says_where() -> None:
    assert settings.read({}).messaging == "nats"
    assert settings.read({"MICRO_PROFILE": "test"}).messaging == "memory"
    assert not settings.read({"MICRO_REGISTRY_STATE": "memory"}).uses_nats
    apart = settings.read({"MICRO_REGISTRY_STATE": "memory", "MICRO_MESSAGING": "nats"})
    assert (apart.messaging, apart.uses_nats) == ("nats", True)
    assert settings.read({"MICRO_MESSAGING": "memory"}).uses_nats


def test_where_records_are_kept_is_told_by_a_variable_and_not_printed(tmp_path: Path) -> None:
    url = "postgres://micro:hush@db/micro"
    read = settings.read({"MICRO_HOME": str(tmp_path), "MICRO_STORE": url})
    assert read.store == url
    assert "hush" not in repr(read)
    with pytest.raises(Error) as caught:
        settings.read({"MICRO_STORE": "postgre://micro:hush@db/micro"})
    assert "hush" not in caught.value.message
    assert settings.read({}).store == "sqlite"
    assert settings.read({"MICRO_PROFILE": "test"}).store == "memory"


def test_each_owner_of_records_has_a_folder_of_its_own(tmp_path: Path) -> None:
    owners = ("store", "config", "auth", "runtime")
    found = [Layout(tmp_path).records(owner) for owner in owners]
    assert len(set(found)) == len(owners)
    assert [str(one.relative_to(tmp_path)) for one in found] == [
        "server/store",
        "server/config",
        "server/auth/state",
        "server/runtime/state",
    ]


def test_each_start_has_a_secret_of_its_own_which_is_not_printed(tmp_path: Path) -> None:
    read = settings.read({"MICRO_HOME": str(tmp_path)})
    one, two = read.with_ports(), read.with_ports()
    assert one.server_secret != two.server_secret
    assert len(one.server_secret) >= 43
    assert one.server_secret not in repr(one)


def test_services_are_open_on_loopback_and_nowhere_else_unless_that_is_said() -> None:
    tls = {"MICRO_TLS_CERT": "a.pem", "MICRO_TLS_KEY": "a.key"}
    for environ, is_open in (
        ({}, True),
        ({"MICRO_API_ADDRESS": "[::1]:8080", "MICRO_PROXY_ADDRESS": "localhost:8081"}, True),
        ({"MICRO_API_ADDRESS": "0.0.0.0:8080"}, False),
        ({"MICRO_API_ADDRESS": "10.0.0.1:8080", "MICRO_PUBLIC": "true"}, True),
        ({"MICRO_PROXY_ADDRESS": "0.0.0.0:8081", **tls}, False),
        ({"MICRO_PROXY_ADDRESS": "0.0.0.0:8081", "MICRO_INSECURE": "1"}, False),
    ):
        assert settings.read(environ).open is is_open, environ


def test_paths_of_files_are_whole_wherever_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read = settings.read({}, tls_cert="a.pem", tls_key="/keys/a.key")
    assert (read.tls_cert, read.tls_key, read.tls_client_ca) == (str(tmp_path / "a.pem"), "/keys/a.key", "")


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
