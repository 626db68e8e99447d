"""Whether a service can take calls, told as every gRPC service tells it: grpc.health.v1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from micro.domain import errors
from micro.rpc.gen.grpc.health.v1 import health_connect
from micro.rpc.gen.grpc.health.v1.health_pb import HealthCheckRequest, HealthCheckResponse

Status = HealthCheckResponse.ServingStatus


class Readiness:
    """A service's state: ready while none of its named checks says why it is not."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._probes: dict[str, Callable[[], str]] = {}
        self._waiting: set[asyncio.Event] = set()

    @property
    def ready(self) -> bool:
        return not self.reasons

    @property
    def reasons(self) -> dict[str, str]:
        """Why it is not ready, by check."""
        probed = {check: probe() for check, probe in self._probes.items()}
        return self._reasons | {check: reason for check, reason in probed.items() if reason}

    def add(self, check: str, probe: Callable[[], str]) -> None:
        """Ask `probe` whenever somebody wants to know: it says why the service is not ready, or nothing."""
        self._probes[check] = probe

    def fail(self, check: str, reason: str) -> None:
        """Take the service out of service until the check is cleared."""
        self._reasons[check] = reason
        self._notify()

    def clear(self, check: str) -> None:
        """The check is content again, or gone."""
        self._reasons.pop(check, None)
        self._notify()

    def _notify(self) -> None:
        for event in self._waiting:
            event.set()

    async def changes(self) -> AsyncIterator[bool]:
        """The state now, and again at each change."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            known: bool | None = None
            while True:
                event.clear()
                if self.ready is not known:
                    known = self.ready
                    yield known
                else:
                    await event.wait()
        finally:
            self._waiting.discard(event)


class Health(health_connect.Health):
    """The handler. It knows the service as a whole ("") and each contract by its full name."""

    def __init__(self, readiness: Readiness, services: Collection[str]) -> None:
        self._readiness = readiness
        self._services = frozenset(services)

    async def check(self, request: HealthCheckRequest, ctx: Any) -> HealthCheckResponse:
        if request.service and request.service not in self._services:
            raise errors.not_found(f"{request.service} is not served here")
        return HealthCheckResponse(status=_status(ready=self._readiness.ready))

    async def watch(self, request: HealthCheckRequest, ctx: Any) -> AsyncIterator[HealthCheckResponse]:
        if request.service and request.service not in self._services:
            yield HealthCheckResponse(status=Status.SERVICE_UNKNOWN)
            await asyncio.Event().wait()
        async for ready in self._readiness.changes():
            yield HealthCheckResponse(status=_status(ready=ready))


def _status(*, ready: bool) -> Status:
    return Status.SERVING if ready else Status.NOT_SERVING
