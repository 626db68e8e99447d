"""What a handler knows of the call it serves, and what a client knows of the call it is made in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any

from connectrpc.request import Headers, RequestContext

from micro.domain import access, names
from micro.domain.audience import Audience

if TYPE_CHECKING:
    from connectrpc.method import MethodInfo

    from micro.domain.account import Account
    from micro.rpc.admission import Admission
    from micro.rpc.method import Method

Scope = Mapping[str, Any]


class Context(RequestContext[Any, Any]):
    """The call: who asks, how long it may take, what goes back beside the answer. Everything is worked out when asked.

    Attributes:
        deadline: when the answer is due, in seconds of `time.monotonic`; None for never.
        endpoint: the method that was called.
        done: whether it has been answered: what a handler leaves running is no longer bound by the call's deadline.
        account: who calls, as a verified token tells; None for a caller without one, and for everybody outside of the
            platform. Whether they may call was decided before the handler: it sees only those who may. What they may
            do with this or that thing of somebody else's is its own to decide.
        actor: the service that makes the call for `account`, where one does (`client.as_caller`); the decision was
            about the account.
        audience: whom the callers' tokens are for: users' services, unless this is one of the platform's own.
    """

    done = False
    account: Account | None = None
    actor: Account | None = None
    audience: Audience = Audience.SERVICES
    _admission: Admission | None = None
    _response_headers: Headers | None = None
    _response_trailers: Headers | None = None

    def __init__(self, endpoint: Method, scope: Scope, deadline: float | None) -> None:
        self.endpoint = endpoint
        self.deadline = deadline
        self._scope = scope

    @property
    def method(self) -> MethodInfo[Any, Any]:
        return self.endpoint.info

    @property
    def http_method(self) -> str:
        return str(self._scope.get("method", "GET"))

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The request's headers, names in lower case; of one that is repeated, the values joined with ", "."""
        found: dict[str, str] = {}
        for raw_key, raw_value in self._scope["headers"]:
            key, value = raw_key.decode("latin-1").lower(), raw_value.decode("utf-8", "replace")
            found[key] = f"{found[key]}, {value}" if key in found else value
        return found

    @cached_property
    def request_headers(self) -> Headers:
        return Headers(
            [(key.decode("latin-1"), value.decode("utf-8", "replace")) for key, value in self._scope["headers"]]
        )

    @property
    def timeout_ms(self) -> float | None:
        """What is left of the deadline, in milliseconds."""
        return None if self.deadline is None else (self.deadline - time.monotonic()) * 1000

    @cached_property
    def namespace(self) -> str:
        """The namespace that the call is made in: the header `micro-namespace`, else the account's, else "micro". In a
        service inside the platform always its own.

        Raises INVALID_ARGUMENT for a name that is none.
        """
        return named(self.metadata.get("micro-namespace", ""), self.account)

    def within(self, asked: str = "") -> str:
        """The namespace that a request asks for in a field of its own; the call's for an empty one.

        Raises:
            Error: PERMISSION_DENIED when the caller does not belong there; INVALID_ARGUMENT for a name that is none.
        """
        namespace = names.namespace(asked) if asked else self.namespace
        if self.account is not None and not self.account.belongs(namespace):
            raise access.foreign(self.account, namespace)
        return namespace

    @property
    def server_address(self) -> str | None:
        return self.metadata.get("host")

    @property
    def client_address(self) -> str | None:
        client = self._scope.get("client")
        return f"{client[0]}:{client[1]}" if client else None


def named(header: str, account: Account | None) -> str:
    """The namespace that the header `micro-namespace` of a call names; "-" is what gateways write for none.

    Raises INVALID_ARGUMENT for a name that is none.
    """
    if header in ("", "-"):
        return names.DEFAULT_NAMESPACE if account is None else account.namespace
    return names.namespace(header)


CURRENT: ContextVar[Context | None] = ContextVar("micro_call", default=None)
"""The call that the running code serves; None outside of one."""
