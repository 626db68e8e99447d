"""Whether a service can take calls, told as every gRPC service tells it: grpc.health.v1."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

from micro.domain import errors
from micro.rpc.gen.grpc.health.v1 import health_connect
from micro.rpc.gen.grpc.health.v1.health_pb import HealthCheckRequest, HealthCheckResponse

Status = HealthCheckResponse.ServingStatus


_PROBING = 1.0
"""Seconds after which those who watch have the probes asked again."""


class Readiness:
    """A service's state, or that of one side of it: ready while none of its named checks says why it is not."""

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
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_PROBING if self._probes else None):
                            await event.wait()
        finally:
            self._waiting.discard(event)


class Health(health_connect.Health):
    """The handler. It knows the service as a whole ("") and each contract by its full name, and other sides of it,
    which say nothing of whether it takes calls.

    Args:
        readiness: of the service.
        services: full names of its contracts.
        aspects: the other sides by name; looked into at each question.
    """

    def __init__(self, readiness: Readiness, services: Collection[str], aspects: Mapping[str, Readiness]) -> None:
        self._readiness = readiness
        self._services = frozenset(services)
        self._aspects = aspects

    def _of(self, name: str) -> Readiness | None:
        return self._readiness if not name or name in self._services else self._aspects.get(name)

    async def check(self, request: HealthCheckRequest, ctx: Any) -> HealthCheckResponse:
        readiness = self._of(request.service)
        if readiness is None:
            raise errors.not_found(f"{request.service} is not served here")
        return HealthCheckResponse(status=_status(ready=readiness.ready))

    async def watch(self, request: HealthCheckRequest, ctx: Any) -> AsyncIterator[HealthCheckResponse]:
        readiness = self._of(request.service)
        if readiness is None:
            yield HealthCheckResponse(status=Status.SERVICE_UNKNOWN)
            await asyncio.Event().wait()
            return
        async for ready in readiness.changes():
            yield HealthCheckResponse(status=_status(ready=ready))


def _status(*, ready: bool) -> Status:
    return Status.SERVING if ready else Status.NOT_SERVING
