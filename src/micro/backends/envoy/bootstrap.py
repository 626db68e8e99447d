"""What the platform's Envoys are started with. Everything that can change comes later, from the control plane. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from micro.backends.envoy import secrets, shared
from micro.backends.envoy.replies import local_replies
from micro.ports import private_file
from micro.rpc import asgi_server

_TYPE = "type.googleapis.com/"
# Without a range, every private address would be believed; this one is nobody's.
_NOBODY = {"address_prefix": "255.255.255.255", "prefix_len": 32}
_ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one Envoy takes before it refuses.

    Attributes:
        heap: bytes of memory; from 95 % of it on new requests are refused.
        connections: open at a time; from 24,000 on the process also needs a higher limit of open files.
        streams: requests at a time on one HTTP/2 connection.
        headers: kilobytes of headers in one request.
        buffer: bytes held for one connection whose other side is slow.
        header_wait: seconds within which a request's headers have to arrive.
        idle: seconds that a request may be silent; the routes of streams have their own.
    """

    heap: int = 1 << 30
    connections: int = 20_000
    streams: int = 1024
    headers: int = 60
    buffer: int = 1 << 20
    header_wait: float = 15.0
    idle: float = 300.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """One of the platform's Envoys.

    Attributes:
        id: which routes it asks for; "api" is the one that strangers reach.
        address: HOST:PORT that it listens on; an IP address.
        control: HOST:PORT of the control plane.
        admin: unix socket of its administration; at most 107 bytes long.
        access_log: whether to write a line a request to stdout.
        cors: whether pages of other origins may call; which ones, the routes say.
        secret: what the control plane knows its proxies by.
        tls: files of the certificate that it shows; None for none.
    """

    id: Literal["api", "proxy", "mesh"]
    address: str
    control: str
    admin: Path
    access_log: bool = False
    cors: bool = False
    secret: str = field(default="", repr=False)
    tls: secrets.Files | None = None
    limits: Limits = field(default_factory=Limits)


def config(gateway: Gateway) -> dict[str, Any]:
    """Envoy's bootstrap, ready for JSON."""
    return {
        "node": {"id": gateway.id, "cluster": "micro"},
        "admin": {
            "address": {"pipe": {"path": str(gateway.admin), "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": "control",
                            # Half a minute by default, far longer than the control plane takes to come back.
                            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
                        },
                        "initial_metadata": [{"key": "authorization", "value": f"Bearer {gateway.secret}"}],
                    }
                ],
            },
            "cds_config": _ADS,
        },
        "static_resources": {"listeners": [_listener(gateway)], "clusters": [_control(gateway.control)]},
        "overload_manager": _overload(gateway.limits),
        "watchdogs": asgi_server.WATCHDOGS,
        "layered_runtime": {
            "layers": [
                {
                    "name": "micro",
                    # A route's pattern holds names that users chose. At the default of 100 one long name would have the
                    # whole route table refused.
                    "static_layer": {
                        "re2.max_program_size.error_level": 100_000,
                        "re2.max_program_size.warn_level": 100_000,
                    },
                }
            ]
        },
        # Thousands of counters a service would be most of the memory; those of listeners and clusters in use remain.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }


def write(gateway: Gateway, folder: Path) -> Path:
    """Write the bootstrap into a folder, readable by its owner only; returns the file."""
    file = folder / f"{gateway.id}.json"
    private_file.write(file, json.dumps(config(gateway)), durable=False)
    return file


def command(gateway: Gateway, folder: Path, concurrency: int = 1) -> tuple[str, ...]:
    """Program and arguments of an Envoy; writes its bootstrap into the folder, and clears a leftover admin socket.

    Args:
        concurrency: worker threads.
    """
    file = write(gateway, folder)
    gateway.admin.unlink(missing_ok=True)
    return (
        asgi_server.envoy_binary(),
        "-c",
        str(file),
        "--concurrency",
        str(concurrency),
        # No hot restart: its shared memory would be left behind by a killed process.
        "--disable-hot-restart",
        "--log-level",
        "error",
        "--drain-time-s",
        "5",
    )


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


def _listener(gateway: Gateway) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": _manager(gateway)}]}
    if gateway.tls is not None:
        chain["transport_socket"] = secrets.transport_socket(gateway.tls)
        # A client that opens a connection and says nothing holds it no longer than this.
        chain["transport_socket_connect_timeout"] = _seconds(gateway.limits.header_wait)
    return {
        "name": gateway.id,
        "address": asgi_server.socket_address(gateway.address),
        # Two processes on one port would silently share it.
        "enable_reuse_port": False,
        "socket_options": asgi_server.probing(),
        "per_connection_buffer_limit_bytes": gateway.limits.buffer,
        "filter_chains": [chain],
    }


def _manager(gateway: Gateway) -> dict[str, Any]:
    limits = gateway.limits
    manager: dict[str, Any] = {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        "stat_prefix": gateway.id,
        "rds": {"route_config_name": gateway.id, "config_source": _ADS},
        "http_filters": _filters(gateway),
        "local_reply_config": local_replies(by_name=gateway.id != "api"),
        "server_name": "micro",
        "use_remote_address": True,
        # Done before anything else, since it would leave out who connects from this machine.
        "skip_xff_append": True,
        # Nobody's x-envoy-* headers are believed, neighbours' no more than strangers'.
        "internal_address_config": {"cidr_ranges": [_NOBODY]},
        "early_header_mutation_extensions": [_early()],
        # Inside, an id travels with the request; from outside it would be a stranger's.
        "preserve_external_request_id": gateway.id != "api",
        # Whoever calls from outside can quote it; a service has it in the request already.
        "always_set_request_id_in_response": gateway.id != "mesh",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": limits.headers,
        "request_headers_timeout": _seconds(limits.header_wait),
        "stream_idle_timeout": _seconds(limits.idle),
        "delayed_close_timeout": "1s",
        "common_http_protocol_options": {"idle_timeout": "3600s", "max_headers_count": 100},
        # The framework's unary calls: gRPC's status comes behind the message.
        "http_protocol_options": {"enable_trailers": True},
        "http2_protocol_options": {
            "max_concurrent_streams": limits.streams,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 16 << 20,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        # Offered by the routes of services that push.
        "upgrade_configs": [{"upgrade_type": "websocket", "enabled": False}],
    }
    if gateway.access_log:
        manager["access_log"] = [_access_log()]
    return manager


def _filters(gateway: Gateway) -> list[dict[str, Any]]:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": True,
        },
    }
    cors = {
        "name": "envoy.filters.http.cors",
        "typed_config": {"@type": _TYPE + "envoy.extensions.filters.http.cors.v3.Cors"},
    }
    # Wakes where the routes bring limits along.
    limited: dict[str, Any] = {
        "name": shared.LIMITS,
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": shared.LIMITED,
        },
        "disabled": True,
    }
    found = [_whole(), limited, router] if gateway.id == "api" else [_whole(), router]
    return [cors, *found] if gateway.cors else found


def _whole() -> dict[str, Any]:
    """Before the gateway itself answers, the rest of a small body: Envoy resets a stream whose answer comes before its
    request has ended, and some HTTP/2 clients take that for an error and lose the answer.

    A large body, or one of unknown length, whose sender may wait for an answer first, is refused at once: HTTP allows
    it.
    """
    length = {
        "name": "content-length",
        "typed_config": {
            "@type": _TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": "content-length",
        },
    }
    small = {"input": length, "value_match": {"safe_regex": {"google_re2": {}, "regex": r"[0-9]{1,4}|[1-5][0-9]{4}"}}}
    skip = {"@type": _TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"}
    otherwise = {
        "predicate": {"not_matcher": {"single_predicate": small}},
        "on_match": {"action": {"name": "skip", "typed_config": skip}},
    }
    buffer = {"@type": _TYPE + "envoy.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": 1 << 16}
    return {
        "name": shared.WHOLE,
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": "envoy.filters.http.buffer", "typed_config": buffer},
            "xds_matcher": {"matcher_list": {"matchers": [otherwise]}},
        },
    }


def _early() -> dict[str, Any]:
    """Before anything looks at a request: a word on the namespace in any case. Envoy's own headers it removes by
    itself, since no address counts as internal."""
    namespace = {"key": shared.NAMESPACE, "value": shared.NO_NAMESPACE}
    peer = {"key": "x-forwarded-for", "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}
    timeout = {"key": "micro-timeout", "value": "-%REQ(GRPC-TIMEOUT)%"}
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [
                # HTTP/2 knows one value of it only, and resets a stream that has another.
                {"append": {"header": {"key": "te", "value": "trailers"}, "append_action": "OVERWRITE_IF_EXISTS"}},
                {"append": {"header": namespace, "append_action": "ADD_IF_ABSENT"}},
                {"append": {"header": peer, "append_action": "APPEND_IF_EXISTS_OR_ADD"}},
                # Further on, the route's own limit takes the place of a deadline that the caller did not give.
                {"append": {"header": timeout, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
            ],
        },
    }


def _access_log() -> dict[str, Any]:
    return {
        "name": "stdout",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                # Without the query: people put keys and passwords there.
                "formatters": [
                    {
                        "name": "envoy.formatter.req_without_query",
                        "typed_config": {
                            "@type": _TYPE + "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"
                        },
                    }
                ],
                "json_format": {
                    "level": "info",
                    "message": "%REQ(:METHOD)% %REQ_WITHOUT_QUERY(:PATH)% %RESPONSE_CODE% %DURATION%ms",
                    "namespace": "%REQ(MICRO-NAMESPACE)%",
                    "cluster": "%UPSTREAM_CLUSTER%",
                    "flags": "%RESPONSE_FLAGS%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                },
            },
        },
    }


def _control(address: str) -> dict[str, Any]:
    options = {
        "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
        },
    }
    return {
        "name": "control",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "control",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": asgi_server.socket_address(address)}}]}],
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _overload(limits: Limits) -> dict[str, Any]:
    heap = "envoy.resource_monitors.fixed_heap"

    def above(action: str, share: float) -> dict[str, Any]:
        return {
            "name": f"envoy.overload_actions.{action}",
            "triggers": [{"name": heap, "threshold": {"value": share}}],
        }

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": _TYPE + "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": limits.heap,
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": _TYPE
                    + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": limits.connections,
                },
            },
        ],
        "actions": [above("shrink_heap", 0.9), above("stop_accepting_requests", 0.95)],
    }
