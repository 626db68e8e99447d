"""How Envoy reaches the instances of a service: connections, limits, and what it does about sick ones."""

from __future__ import annotations

from collections.abc import Iterable

from micro.domain.route import Route
from micro.rpc.gen.envoy.config.cluster.v3.circuit_breaker_pb import CircuitBreakers
from micro.rpc.gen.envoy.config.cluster.v3.cluster_pb import Cluster
from micro.rpc.gen.envoy.config.cluster.v3.outlier_detection_pb import OutlierDetection
from micro.rpc.gen.envoy.config.core.v3.address_pb import Address, SocketAddress
from micro.rpc.gen.envoy.config.core.v3.config_source_pb import AggregatedConfigSource, ApiVersion, ConfigSource
from micro.rpc.gen.envoy.config.core.v3.protocol_pb import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    KeepaliveSettings,
)
from micro.rpc.gen.envoy.config.core.v3.protocol_pb import (
    HttpProtocolOptions as CommonOptions,
)
from micro.rpc.gen.envoy.config.endpoint.v3.endpoint_components_pb import Endpoint, LbEndpoint, LocalityLbEndpoints
from micro.rpc.gen.envoy.config.endpoint.v3.endpoint_pb import ClusterLoadAssignment
from micro.rpc.gen.envoy.extensions.upstreams.http.v3.http_protocol_options_pb import HttpProtocolOptions
from micro.rpc.gen.envoy.type.v3.percent_pb import Percent
from micro.rpc.wkt import Any, BoolValue, Duration, UInt32Value, oneof

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PLAIN = "|h1"

_PING = 5  # seconds between pings of a connection
_UNANSWERED = (
    10  # seconds that one may stay so: code that lets nothing else run holds it up, and ten are a call's limit
)


def name(route: Route) -> str:
    """The cluster of a service: "micro|helloworld"; neither part can contain the bar."""
    return f"{route.namespace}|{route.service}"


def plain(route: Route) -> str:
    """The cluster that WebSockets go to, and bytes in bulk: the same instances, spoken to in HTTP/1.1."""
    return name(route) + _PLAIN


def names(route: Route) -> tuple[str, ...]:
    """The clusters of a service; each has an assignment of the same name."""
    return (name(route), plain(route)) if route.pushes else (name(route),)


def cluster(cluster_name: str) -> Cluster:
    """Everything but the instances: it depends on the name alone, so clusters are added and removed, never changed."""
    return Cluster(
        name=cluster_name,
        cluster_discovery_type=oneof("type", Cluster.DiscoveryType.EDS),
        eds_cluster_config=Cluster.EdsClusterConfig(
            eds_config=ConfigSource(
                config_source_specifier=oneof("ads", AggregatedConfigSource()),
                resource_api_version=ApiVersion.V3,
            )
        ),
        connect_timeout=Duration(seconds=1),
        per_connection_buffer_limit_bytes=UInt32Value(value=1 << 20),
        circuit_breakers=_limits(),
        outlier_detection=_sick(),
        ignore_health_on_host_removal=True,
        typed_extension_protocol_options={_OPTIONS: Any.pack(_protocol(cluster_name.endswith(_PLAIN)))},
    )


def assignment(cluster_name: str, addresses: Iterable[tuple[str, int]]) -> ClusterLoadAssignment:
    """The instances of a cluster, in the order given."""
    instances = [
        LbEndpoint(
            host_identifier=oneof(
                "endpoint",
                Endpoint(
                    address=Address(
                        address=oneof(
                            "socket_address",
                            SocketAddress(address=host, port_specifier=oneof("port_value", port)),
                        )
                    )
                ),
            )
        )
        for host, port in addresses
    ]
    return ClusterLoadAssignment(cluster_name=cluster_name, endpoints=[LocalityLbEndpoints(lb_endpoints=instances)])


def _limits() -> CircuitBreakers:
    # Envoy's own defaults of 1,024 are less than one busy web page's worth of idle streams.
    return CircuitBreakers(
        thresholds=[
            CircuitBreakers.Thresholds(
                max_connections=UInt32Value(value=4096),
                max_pending_requests=UInt32Value(value=4096),
                max_requests=UInt32Value(value=16384),
                retry_budget=CircuitBreakers.Thresholds.RetryBudget(
                    budget_percent=Percent(value=20.0), min_retry_concurrency=UInt32Value(value=16)
                ),
            )
        ]
    )


def _sick() -> OutlierDetection:
    # Only what says that an instance, not its work, is broken: no connection, one that is lost or whose pings are not
    # answered, or gateway errors in a row. At most half of the instances are out, and when all are bad, or there is
    # but one, requests go on to it.
    return OutlierDetection(
        interval=Duration(seconds=1),
        base_ejection_time=Duration(seconds=2),
        max_ejection_time=Duration(seconds=30),
        max_ejection_percent=UInt32Value(value=50),
        always_eject_one_host=BoolValue(value=False),
        split_external_local_origin_errors=True,
        consecutive_gateway_failure=UInt32Value(value=10),
        enforcing_consecutive_gateway_failure=UInt32Value(value=100),
        consecutive_local_origin_failure=UInt32Value(value=2),
        enforcing_consecutive_local_origin_failure=UInt32Value(value=100),
        enforcing_consecutive_5xx=UInt32Value(value=0),
        enforcing_success_rate=UInt32Value(value=0),
        enforcing_local_origin_success_rate=UInt32Value(value=0),
    )


def _protocol(plain: bool) -> HttpProtocolOptions:
    if plain:
        explicit = HttpProtocolOptions.ExplicitHttpConfig(
            protocol_config=oneof("http_protocol_options", Http1ProtocolOptions())
        )
    else:
        explicit = HttpProtocolOptions.ExplicitHttpConfig(
            protocol_config=oneof(
                "http2_protocol_options",
                Http2ProtocolOptions(
                    max_concurrent_streams=UInt32Value(value=1024),
                    initial_stream_window_size=UInt32Value(value=1 << 20),
                    initial_connection_window_size=UInt32Value(value=16 << 20),
                    # An instance that hangs takes connections and ends none: streams to it would wait for ever, and
                    # a route's limit that runs out counts for nobody.
                    connection_keepalive=KeepaliveSettings(
                        interval=Duration(seconds=_PING), timeout=Duration(seconds=_UNANSWERED)
                    ),
                ),
            )
        )
    return HttpProtocolOptions(
        common_http_protocol_options=CommonOptions(idle_timeout=Duration(seconds=300)),
        upstream_protocol_options=oneof("explicit_http_config", explicit),
    )
