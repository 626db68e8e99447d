"""What the gateways are started with: accepted by Envoy itself, and safe by default."""

import asyncio
import json
import re
import stat
import sys
from pathlib import Path

import pytest

from authority import Authority
from micro.backends.envoy import bootstrap, secrets
from micro.backends.envoy.bootstrap import Gateway, Limits
from micro.backends.envoy.replies import REPLIES, local_replies
from micro.domain.errors import Kind

GATEWAYS = ("api", "proxy", "mesh")


def gateway(name, folder=Path("/run"), **more):
    return Gateway(name, "127.0.0.1:18080", "127.0.0.1:18090", folder / "admin.sock", **more)


def manager(made):
    [listener] = made["static_resources"]["listeners"]
    [chain] = listener["filter_chains"]
    [http] = chain["filters"]
    return http["typed_config"]


@pytest.mark.parametrize("name", GATEWAYS)
async def test_envoy_accepts_it(name, tmp_path):
    argv = bootstrap.command(gateway(name, tmp_path, access_log=True), tmp_path, concurrency=2)
    child = await asyncio.create_subprocess_exec(*argv, "--mode", "validate", stdout=-1, stderr=sys.stderr)
    told, _ = await child.communicate()
    assert child.returncode == 0, told.decode()


def test_the_file_is_its_owners_alone_and_a_leftover_socket_is_cleared(tmp_path):
    (tmp_path / "admin.sock").touch()
    argv = bootstrap.command(gateway("api", tmp_path), tmp_path, concurrency=3)
    file = Path(argv[argv.index("-c") + 1])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == bootstrap.config(gateway("api", tmp_path))
    assert argv[argv.index("--concurrency") + 1] == "3"
    assert "--disable-hot-restart" in argv
    assert not (tmp_path / "admin.sock").exists()


@pytest.mark.parametrize("name", GATEWAYS)
def test_each_asks_for_its_own_routes_and_waits_for_them(name):
    made = bootstrap.config(gateway(name))
    assert made["node"]["id"] == name
    rds = manager(made)["rds"]
    assert (rds["route_config_name"], rds["config_source"]["initial_fetch_timeout"]) == (name, "0s")


@pytest.mark.parametrize("name", GATEWAYS)
def test_nothing_dangerous_is_open(name):
    made = bootstrap.config(gateway(name))
    pipe = made["admin"]["address"]["pipe"]
    assert (pipe["path"], pipe["mode"]) == ("/run/admin.sock", 0o600)
    [listener] = made["static_resources"]["listeners"]
    assert listener["enable_reuse_port"] is False
    http = manager(made)
    assert http["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert "access_log" not in http
    assert http["upgrade_configs"] == [{"upgrade_type": "websocket", "enabled": False}]


def test_limits_arrive_where_envoy_looks_for_them():
    limits = Limits(heap=7, connections=8, streams=9, headers=10, buffer=11, header_wait=1.5, idle=12)
    made = bootstrap.config(gateway("api", limits=limits))
    monitors = made["overload_manager"]["resource_monitors"]
    assert monitors[0]["typed_config"]["max_heap_size_bytes"] == 7
    assert monitors[1]["typed_config"]["max_active_downstream_connections"] == 8
    http = manager(made)
    assert http["http2_protocol_options"]["max_concurrent_streams"] == 9
    assert http["max_request_headers_kb"] == 10
    assert made["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] == 11
    assert (http["request_headers_timeout"], http["stream_idle_timeout"]) == ("1.500s", "12.000s")


@pytest.mark.parametrize(
    ("address", "host"),
    [("localhost:1", "127.0.0.1"), (":1", "127.0.0.1"), ("[::1]:1", "::1"), ("0.0.0.0:1", "0.0.0.0")],
)
def test_addresses_are_what_envoy_can_bind(address, host):
    made = bootstrap.config(Gateway("api", address, address, Path("/run/a.sock")))
    [listener] = made["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": host, "port_value": 1}


def test_every_reply_has_the_platforms_shape_and_grpc_hears_plain_text():
    mappers = local_replies(by_name=True)["mappers"]
    assert len(mappers) == 2 * len(REPLIES)
    for grpc, http, reply in zip(mappers[::2], mappers[1::2], REPLIES, strict=True):
        body = http["body_format_override"]["json_format"]
        assert body == {"code": reply.kind.code, "message": reply.message}
        assert grpc["body_format_override"]["text_format_source"]["inline_string"] == reply.message
        assert http["status_code"] == grpc["status_code"] >= 400


def test_flags_of_one_reply_are_not_those_of_another():
    flags = [
        (flag, reply.named, reply.placed, reply.untold, reply.everyones) for reply in REPLIES for flag in reply.flags
    ]
    assert len(flags) == len(set(flags))
    assert {reply.kind for reply in REPLIES if "NR" in reply.flags} == {Kind.NOT_FOUND}


def lost(name):
    """What is said where no route is found."""
    mappers = manager(bootstrap.config(gateway(name)))["local_reply_config"]["mappers"]
    found = [mapper["body_format_override"] for mapper in mappers if "'NR'" in str(mapper["filter"])]
    return [body["json_format"]["message"] for body in found if "json_format" in body]


@pytest.mark.parametrize("name", GATEWAYS)
def test_what_is_not_found_is_told_without_its_query(name):
    assert any("no service found for %PATH(NQ:PATH)%; " in message for message in lost(name))
    assert not any("%REQ(:PATH)%" in message for message in lost(name))


def test_what_every_service_has_needs_a_name_where_names_are_looked_at():
    def told(name):
        return any("name the service in the header micro-service" in message for message in lost(name))

    assert [told(name) for name in GATEWAYS] == [False, True, True]


def test_only_small_bodies_of_known_length_are_waited_for():
    [whole, *_] = filters("api")
    [skipped] = whole["typed_config"]["xds_matcher"]["matcher_list"]["matchers"]
    single = skipped["predicate"]["not_matcher"]["single_predicate"]
    assert single["input"]["typed_config"]["header_name"] == "content-length"
    pattern = single["value_match"]["safe_regex"]["regex"]
    assert [bool(re.fullmatch(pattern, length)) for length in ("0", "9999", "59999", "60000", "100000", "", "-1")] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert whole["typed_config"]["extension_config"]["typed_config"]["max_request_bytes"] >= 60_000


def test_what_a_caller_asks_is_not_logged():
    [log] = manager(bootstrap.config(gateway("api", access_log=True)))["access_log"]
    message = log["typed_config"]["log_format"]["json_format"]["message"]
    assert "%REQ_WITHOUT_QUERY(:PATH)%" in message
    assert "%REQ(:PATH)%" not in message


def test_the_control_plane_is_shown_the_servers_secret_which_is_not_printed():
    shown = gateway("proxy", secret="s3cret")
    [service] = bootstrap.config(shown)["dynamic_resources"]["ads_config"]["grpc_services"]
    assert service["initial_metadata"] == [{"key": "authorization", "value": "Bearer s3cret"}]
    assert "s3cret" not in repr(shown)


def early(made):
    [extension] = manager(made)["early_header_mutation_extensions"]
    appended = [one["append"] for one in extension["typed_config"]["mutations"]]
    return [(one["header"]["key"], one["header"]["value"], one["append_action"]) for one in appended]


@pytest.mark.parametrize("name", GATEWAYS)
def test_services_can_rely_on_what_the_listeners_write(name):
    found = early(bootstrap.config(gateway(name)))
    assert ("micro-namespace", "-", "ADD_IF_ABSENT") in found
    assert ("micro-timeout", "-%REQ(GRPC-TIMEOUT)%", "OVERWRITE_IF_EXISTS_OR_ADD") in found
    assert [key for key, _, _ in found if key in ("micro-actor", "authorization")] == []


def test_only_the_http_gateway_counts_requests_and_it_does_not_before_it_is_told_to():
    assert [[one["name"].rpartition(".")[2] for one in filters(name)] for name in GATEWAYS] == [
        ["whole", "local_ratelimit", "router"],
        ["whole", "router"],
        ["whole", "router"],
    ]
    assert filters("api")[1]["disabled"] is True


def filters(name):
    return manager(bootstrap.config(gateway(name)))["http_filters"]


@pytest.mark.parametrize("clients", [False, True])
async def test_envoy_accepts_a_listener_with_tls(tmp_path, clients):
    authority = Authority(tmp_path)
    chain, key = authority.issue("server")
    served = tmp_path / "served"
    served.mkdir()
    files = secrets.Files(served / "certificate.json", served / "clients.json" if clients else None)
    secrets.write(files, chain.decode(), key.decode(), authority.file.read_text() if clients else "")
    made = gateway("proxy", tmp_path, tls=files)
    [listener] = bootstrap.config(made)["static_resources"]["listeners"]
    context = listener["filter_chains"][0]["transport_socket"]["typed_config"]
    assert context["require_client_certificate"] is clients
    assert context["common_tls_context"]["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_2"
    assert context["common_tls_context"]["alpn_protocols"] == ["h2", "http/1.1"]
    argv = bootstrap.command(made, tmp_path)
    child = await asyncio.create_subprocess_exec(*argv, "--mode", "validate", stdout=-1, stderr=sys.stderr)
    told, _ = await child.communicate()
    assert child.returncode == 0, told.decode()
