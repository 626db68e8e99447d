"""Which web pages may call the HTTP gateway: its own, and those of the origins that the operator names.

A browser sends what any page asks it to, to an address on its reader's own machine too, where services may be open to
anyone. So what shows that a foreign page made it is refused here, before any service sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from micro.backends.envoy import trees
from micro.backends.envoy.front import Front
from micro.domain import address
from micro.rpc.gen.envoy.extensions.filters.http.cors.v3.cors_pb import CorsPolicy
from micro.rpc.gen.envoy.type.matcher.v3.string_pb import StringMatcher
from micro.rpc.wkt import BoolValue, oneof

_LOOPBACK_NAME = "localhost"


def foreign(front: Front) -> trees.Predicate:
    """Whether a page that may not has made the request.

    Browsers name the origin in whatever a script sends and may not be read by any page, and none in GETs of images,
    links and the like, which say `sec-fetch-site` instead where the gateway's address is one that they trust: https,
    or this machine.
    """
    page = trees.header_like("origin", ".*://.*|null")
    own = [trees.header("origin", "exact", origin) for origin in (*front.origins, *_own(front))]
    if front.base_domain:
        domain = re.escape(front.base_domain)
        own.append(trees.header_like("origin", rf"(?i)https?://(?:[^.:/]+\.)?{domain}(?::[0-9]+)?"))
    # A page cannot forge it.
    own.append(trees.header("sec-fetch-site", "exact", "same-origin"))
    crossing = trees.header("sec-fetch-site", "exact", "cross-site")
    return trees.either(trees.every(page, trees.unless(trees.either(*own))), trees.every(crossing, trees.unless(page)))


def no_host() -> trees.Predicate:
    """Whether the request names what is no host: nothing, or somebody at a host. The instance's side of the data plane
    takes either for a broken connection, and ends everybody's calls on it."""
    return trees.either(trees.header(":authority", "contains", "@"), trees.header(":authority", "exact", ""))


def unknown_host(front: Front) -> trees.Predicate | None:
    """Whether the request names a host that this machine has no business with; None where any may.

    A page whose own name was made to point to 127.0.0.1 is of the gateway's origin as far as a browser can tell. Only
    its name gives it away, so on the loopback address the gateway answers to addresses, names that nobody can own
    (localhost, or without a dot), and those of its base domain.
    """
    if front.listens is None or not address.is_loopback(address.split(front.listens)[0]):
        return None
    patterns = [r"[^.:]+", r".+\.localhost", r"[0-9.]+", r"\[[0-9a-f:.]+\]"]
    if front.base_domain:
        patterns.append(rf"(?:[^.:]+\.)?{re.escape(front.base_domain)}")
    known = trees.header_like(":authority", rf"(?i)(?:{'|'.join(patterns)})(?::[0-9]+)?")
    # What most requests name costs no look at a pattern.
    usual = [trees.header(":authority", "exact", host) for host in _hosts(front.listens)]
    return trees.unless(trees.either(*usual, known))


def cors(origins: Sequence[str]) -> CorsPolicy:
    """What pages of these origins may send and read."""
    return CorsPolicy(
        allow_origin_string_match=[StringMatcher(match_pattern=oneof("exact", origin)) for origin in origins],
        allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
        allow_headers="authorization, content-type, grpc-timeout, micro-namespace, x-grpc-web, x-user-agent, "
        "connect-protocol-version, connect-timeout-ms",
        expose_headers="grpc-status, grpc-message, grpc-status-details-bin, x-request-id",
        max_age="600",
        # Every origin is named by the operator; "*" is none.
        allow_credentials=BoolValue(value=True),
    )


def _own(front: Front) -> list[str]:
    """The gateway's own origins, as far as its address tells."""
    hosts = _hosts(front.listens) if front.listens is not None else []
    return [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]


def _hosts(listens: str) -> list[str]:
    """HOST:PORT in the ways that it is usually called."""
    host, port = address.split(listens)
    names = [host, _LOOPBACK_NAME, "127.0.0.1", "::1"] if address.is_loopback(host) else [host]
    return [address.join(name, port) for name in dict.fromkeys(names)]
