"""The core services as the commands see them: JSON in, JSON out, errors in the platform's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from micro.cli import failures
from micro.cli.transport import Transport
from micro.domain import names
from micro.domain.errors import Error, Kind

PIECE = 256 * 1024
"""Bytes of an archive in one message: small beside every limit, large beside the cost of a message."""

QUICK = 10.0
"""Seconds that an answer may take which needs no work."""

WAIT = 600.0
"""Seconds that building and starting a service may take; the runtime gives up long before."""


class Platform:
    """Calls to the core services in one namespace."""

    def __init__(self, transport: Transport, namespace: str) -> None:
        self._transport = transport
        self._namespace = namespace

    def list_services(self, timeout: float = QUICK) -> list[dict[str, Any]]:
        """The registry's services, without descriptors, sorted by name and version."""
        found = self._call("registry", "micro.registry.v1.Registry/ListServices", self._scoped(), timeout)
        return list(found.get("services", []))

    def get_service(self, name: str, timeout: float = QUICK) -> list[dict[str, Any]]:
        """Every version of one service; the platform's own are found from every namespace.

        Raises:
            NoServiceError: there is none of that name.
        """
        namespaces = [self._namespace]
        if self._namespace != names.DEFAULT_NAMESPACE:
            core = name in names.CORE_SERVICES
            namespaces = [names.DEFAULT_NAMESPACE] if core else [self._namespace, names.DEFAULT_NAMESPACE]
        for namespace in namespaces:
            try:
                request = {"name": name, "namespace": namespace}
                found = self._call("registry", "micro.registry.v1.Registry/GetService", request, timeout)
            except failures.NoServiceError:
                continue
            if services := found.get("services"):
                return list(services)
        raise failures.NoServiceError(
            f"service {name!r} not found in namespace {self._namespace!r}: see micro services"
        )

    def create(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._service(self._call("runtime", "micro.runtime.v1.Runtime/Create", request, WAIT))

    def update(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._service(self._call("runtime", "micro.runtime.v1.Runtime/Update", request, WAIT))

    def read(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """The runtime's services, sorted by name and version."""
        request = self._scoped(name=name, version=version)
        found = self._call("runtime", "micro.runtime.v1.Runtime/Read", request, QUICK)
        return list(found.get("services", []))

    def delete(self, name: str, version: str) -> None:
        self._call("runtime", "micro.runtime.v1.Runtime/Delete", self._scoped(name=name, version=version), WAIT)

    def upload(self, name: str, archive: bytes) -> str:
        """Hand over an archive and return its id."""
        import base64

        def pieces() -> Iterator[bytes]:
            head: dict[str, str] = self._scoped(name=name)
            for start in range(0, max(len(archive), 1), PIECE):
                data = base64.b64encode(archive[start : start + PIECE]).decode("ascii")
                yield json.dumps(head | {"data": data}).encode("utf-8")
                head = {}

        with _translated("runtime"):
            answers = list(
                self._transport.stream("runtime", "/micro.runtime.v1.Source/Upload", pieces(), patience=WAIT)
            )
        found = json.loads(answers[-1]) if answers else {}
        return str(found.get("id", ""))

    def logs(self, name: str, version: str, lines: int, follow: bool) -> Iterator[dict[str, Any]]:
        """The last lines of a service's output, and with `follow` what comes after them."""
        request: dict[str, Any] = self._scoped(name=name, version=version)
        request |= {"lines": lines, "follow": follow}
        body = json.dumps(request).encode("utf-8")
        patience = None if follow else QUICK
        with _translated("runtime"):
            for line in self._transport.stream("runtime", "/micro.runtime.v1.Runtime/Logs", [body], patience=patience):
                yield json.loads(line)

    def check(self, service: str, timeout: float = 3.0) -> str:
        """What a core service says of its own health: "SERVING" when it is ready."""
        return str(self._call(service, "grpc.health.v1.Health/Check", {}, timeout).get("status", "UNKNOWN"))

    def proxies(self, timeout: float = 3.0) -> list[dict[str, Any]]:
        """The data planes that the control plane feeds."""
        found = self._call("network", "micro.network.v1.Network/Proxies", {}, timeout)
        return list(found.get("proxies", []))

    def _scoped(self, **fields: str) -> dict[str, str]:
        return {name: value for name, value in fields.items() if value} | {"namespace": self._namespace}

    def _service(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        return dict(answer.get("service", {}))

    def _call(self, service: str, path: str, request: Mapping[str, Any], patience: float) -> dict[str, Any]:
        with _translated(service):
            body = json.dumps(request).encode("utf-8")
            answer = self._transport.unary(service, f"/{path}", body, patience=patience)
            found = json.loads(answer or b"{}")
        return found if isinstance(found, dict) else {}


class _translated:  # noqa: N801 - reads as a sentence at the `with`
    """Turns a core service's error into the platform's: no kind before the message, exit codes by what it means."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise Error(Kind.INTERNAL, f"{self._service} answered with something that is not JSON") from None
        if not isinstance(error, failures.AnsweredError):
            return
        if error.kind is Kind.NOT_FOUND:
            raise failures.NoServiceError(error.message) from None
        if error.kind is Kind.UNAVAILABLE:
            why = f": {error.message}" if error.message else ""
            raise failures.UnreachableError(f"{self._service} is not available{why}; see: micro health") from None
        if error.kind is Kind.UNIMPLEMENTED:
            raise failures.UnreachableError(
                f"what answers there has no {self._service}: is it a micro server?"
            ) from None
        raise Error(error.kind, error.message or error.kind.code) from None
