"""What Envoy says when it answers by itself: the platform's error shape, in JSON or as a gRPC message. Pure.

The first row whose condition holds decides; the conditions are Envoy's response flags and statuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from micro.backends.envoy import shared
from micro.domain.errors import Kind

_GRPC = {
    "header_filter": {
        "header": {
            "name": "content-type",
            "string_match": {"safe_regex": {"regex": r"application/grpc(?:\+[a-z]+)?(?:;.*)?"}},
        }
    }
}
_NAMED = {"header_filter": {"header": {"name": "micro-service", "present_match": True}}}
_PAGED = {"header_filter": {"header": {"name": "origin", "present_match": True}}}
_PLACED = {
    "header_filter": {
        "header": {"name": shared.NAMESPACE, "string_match": {"exact": shared.NO_NAMESPACE}, "invert_match": True}
    }
}
_UNTOLD = {"header_filter": {"header": {"name": "authorization", "present_match": True, "invert_match": True}}}
_EVERYONES = {
    "header_filter": {
        "header": {"name": ":path", "string_match": {"safe_regex": {"regex": r"/grpc\.(?:health|reflection)\..*"}}}
    }
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A row: when, which kind, and the words, in which Envoy replaces %...%.

    Attributes:
        flags: Envoy's response flags, any of which fits; empty fits all.
        status: the status that Envoy would have answered; 0 fits all from 400 on.
        named: only requests with the header micro-service.
        placed: only requests that name a namespace in the header.
        untold: only requests without a token, which would tell a namespace.
        everyones: only requests for what every service has, and only where the header micro-service names one.
        paged: only requests that a web page may have made.
        answer: HTTP status instead of the one that belongs to the kind; 0 for that one.
    """

    kind: Kind
    message: str
    flags: tuple[str, ...] = ()
    status: int = 0
    named: bool = False
    placed: bool = False
    untold: bool = False
    everyones: bool = False
    paged: bool = False
    answer: int = 0


_SHOW = "see what runs: micro services"
_PLACE = ", or name its namespace: micro-namespace or a token"
# Without the query: people put keys and passwords there.
_PATH = "%PATH(NQ:PATH)%"
_LOST = "the instance went away before it had answered; see: micro logs"

REPLIES = (
    Reply(
        Kind.NOT_FOUND,
        f"service %REQ(MICRO-SERVICE)% not found in namespace %REQ(MICRO-NAMESPACE)%; {_SHOW}",
        flags=("NR",),
        named=True,
        placed=True,
    ),
    Reply(Kind.NOT_FOUND, f"service %REQ(MICRO-SERVICE)% not found; {_SHOW}", flags=("NR",), named=True),
    Reply(
        Kind.NOT_FOUND,
        f"every service answers at {_PATH}: name the service in the header micro-service",
        flags=("NR",),
        everyones=True,
    ),
    Reply(
        Kind.NOT_FOUND,
        f"no service found for {_PATH} in namespace %REQ(MICRO-NAMESPACE)%; {_SHOW}",
        flags=("NR",),
        placed=True,
    ),
    Reply(Kind.NOT_FOUND, f"no service found for {_PATH}; {_SHOW}{_PLACE}", flags=("NR",), untold=True),
    Reply(Kind.NOT_FOUND, f"no service found for {_PATH}; {_SHOW}", flags=("NR",)),
    Reply(
        Kind.RESOURCE_EXHAUSTED,
        "the namespace has had all of its requests of this second; try again in 1 s, or see: micro namespace quota",
        status=429,
    ),
    Reply(Kind.UNAVAILABLE, "no instance is available; see: micro status", flags=("UH", "NC")),
    # Before the next ones: giving up on retries carries UO or URX as well, whatever the reason to retry was.
    Reply(Kind.UNAVAILABLE, "no instance of the service answers; see: micro status", flags=("UF",)),
    Reply(Kind.UNAVAILABLE, _LOST, flags=("UC",)),
    Reply(Kind.UNAVAILABLE, "too many requests in flight; try again later", flags=("UO", "OM", "URX")),
    Reply(Kind.UNAVAILABLE, _LOST, flags=("UR", "LR")),
    Reply(Kind.DEADLINE_EXCEEDED, "the service did not answer in time", flags=("UT", "DT", "UMSDR")),
    Reply(Kind.DEADLINE_EXCEEDED, "nothing was sent for too long", flags=("SI",)),
    # Statuses that the routes give to what they refuse.
    Reply(
        Kind.PERMISSION_DENIED,
        "a web page of another origin asks for this: name its origin in MICRO_CORS_ORIGINS where it may",
        status=shared.FOREIGN,
    ),
    Reply(
        Kind.PERMISSION_DENIED,
        "the host %REQ(:AUTHORITY)% is not known here: use the address, or start the server with --base-domain",
        status=shared.UNKNOWN_HOST,
    ),
    Reply(
        Kind.UNAUTHENTICATED,
        'this needs a token: -H "authorization: Bearer $(micro user token --platform)"',
        status=shared.NO_TOKEN,
    ),
    Reply(Kind.RESOURCE_EXHAUSTED, "the request is too large", status=413, answer=413),
    Reply(Kind.RESOURCE_EXHAUSTED, "the headers are too large: the limit is 60 KiB", status=431, answer=431),
    Reply(Kind.DEADLINE_EXCEEDED, "the request took too long to arrive", status=408, answer=408),
    Reply(Kind.DEADLINE_EXCEEDED, "the service did not answer in time", status=504),
    Reply(Kind.UNAVAILABLE, "too many requests; try again later", status=503),
    Reply(Kind.INVALID_ARGUMENT, "not a valid HTTP request: check the path and the headers", status=400),
    Reply(
        Kind.PERMISSION_DENIED, "this protocol upgrade is not offered here, or not to this page", status=403, paged=True
    ),
    Reply(Kind.INVALID_ARGUMENT, "this protocol upgrade is not offered here", status=403, answer=400),
    Reply(Kind.INTERNAL, "the gateway cannot handle this request"),
)


def local_replies(*, by_name: bool) -> dict[str, Any]:
    """The `local_reply_config` of a listener.

    Args:
        by_name: whether its routes look at the header micro-service.
    """
    rows = [reply for reply in REPLIES if by_name or not reply.everyones]
    return {"mappers": [mapper for row in rows for mapper in (_mapper(row, grpc=True), _mapper(row, grpc=False))]}


def _mapper(reply: Reply, *, grpc: bool) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = [_GRPC] if grpc else []
    if reply.named:
        conditions.append(_NAMED)
    if reply.placed:
        conditions.append(_PLACED)
    if reply.untold:
        conditions.append(_UNTOLD)
    if reply.everyones:
        conditions.append(_EVERYONES)
    if reply.paged:
        conditions.append(_PAGED)
    if reply.flags:
        conditions.append({"response_flag_filter": {"flags": list(reply.flags)}})
    if reply.status or not conditions:
        conditions.append(_status(reply.status))
    condition = conditions[0] if len(conditions) == 1 else {"and_filter": {"filters": conditions}}
    body: dict[str, Any] = (
        {"text_format_source": {"inline_string": reply.message}}
        if grpc
        else {"json_format": {"code": reply.kind.code, "message": reply.message}}
    )
    return {
        "filter": condition,
        "status_code": reply.answer or reply.kind.http_status,
        "body_format_override": body,
    }


def _status(status: int) -> dict[str, Any]:
    operation = {"op": "EQ" if status else "GE", "value": {"default_value": status or 400, "runtime_key": "micro.none"}}
    return {"status_code_filter": {"comparison": operation}}
