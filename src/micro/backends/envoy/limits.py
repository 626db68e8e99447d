"""How many requests a second a namespace may send through the HTTP gateway: counted there, in all of its threads
together. A gateway where no namespace has a limit does not look at requests for it."""

from __future__ import annotations

from collections.abc import Mapping

from micro.backends.envoy.shared import LIMITED
from micro.rpc.gen.envoy.config.core.v3.base_pb import HeaderValue, HeaderValueOption, RuntimeFractionalPercent
from micro.rpc.gen.envoy.config.route.v3.route_components_pb import RateLimit
from micro.rpc.gen.envoy.extensions.common.ratelimit.v3.ratelimit_pb import (
    LocalRateLimitDescriptor,
    RateLimitDescriptor,
)
from micro.rpc.gen.envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb import LocalRateLimit
from micro.rpc.gen.envoy.type.v3.percent_pb import FractionalPercent
from micro.rpc.gen.envoy.type.v3.token_bucket_pb import TokenBucket
from micro.rpc.wkt import Duration, UInt32Value, oneof

_KEY = "namespace"
_ALWAYS = RuntimeFractionalPercent(default_value=FractionalPercent(numerator=100))


def counted(namespace: str) -> RateLimit:
    """What a route's requests count as."""
    pair = RateLimit.Action.GenericKey(descriptor_key=_KEY, descriptor_value=namespace)
    return RateLimit(actions=[RateLimit.Action(action_specifier=oneof("generic_key", pair))])


def limits(quotas: Mapping[str, int]) -> LocalRateLimit:
    """The limits of these namespaces: as many at once as in a second."""
    return LocalRateLimit(
        stat_prefix=LIMITED,
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        response_headers_to_add=[HeaderValueOption(header=HeaderValue(key="retry-after", value="1"))],
        # Envoy insists on one for all; nobody empties it.
        token_bucket=_bucket(2**32 - 1),
        descriptors=[
            LocalRateLimitDescriptor(
                entries=[RateLimitDescriptor.Entry(key=_KEY, value=namespace)], token_bucket=_bucket(requests)
            )
            for namespace, requests in sorted(quotas.items())
        ],
        rate_limited_as_resource_exhausted=True,
    )


def _bucket(requests: int) -> TokenBucket:
    return TokenBucket(
        max_tokens=requests, tokens_per_fill=UInt32Value(value=requests), fill_interval=Duration(seconds=1)
    )
