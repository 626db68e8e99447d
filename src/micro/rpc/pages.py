"""Calls that a web page may have made behind its reader's back.

A page of any origin can have a browser send GETs and forms to an address on the reader's own machine, and a page whose
name was made to point there can send anything. Services that obey whoever reaches them do not answer either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micro.domain import errors
from micro.rpc import unary
from micro.rpc.context import Scope

_ASKED_FIRST = ("application/json", "application/grpc", "application/connect", "application/proto")
_FORM = "application/x-www-form-urlencoded"


def made_by_one(scope: Scope) -> bool:
    """Whether a page could have caused the request.

    Browsers name the origin in every POST that a script makes, of the page's own origin too, and send these content
    types to another origin only after it has agreed (https://fetch.spec.whatwg.org/#cors-safelisted-request-header). A
    token no page adds to a form, and no browser by itself: with one, a form's type will do, which is curl's own.
    """
    if scope["type"] == "websocket":
        return True
    if scope["type"] != "http":
        return False
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").decode("latin-1").strip().lower()
    if scope["method"] != "POST" or b"origin" in headers:
        return True
    bears_token = headers.get(b"authorization", b"")[:7].lower() == b"bearer "
    return not (kind.startswith(_ASKED_FIRST) or (bears_token and kind.startswith(_FORM)))


def foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page of another origin caused the request.

    It says so in `sec-fetch-site` where it trusts the address, as it does this machine's, else in `origin`.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


async def refuse(scope: Scope, send: Any) -> None:
    """Answer that nothing is called this way."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    error = errors.permission_denied("core services take POST with JSON or gRPC, and nothing from web pages")
    await unary.fail_http(send, error, None)
