"""The control plane's side of Envoy's aggregated discovery service: one stream a proxy, increments only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from micro.backends.envoy.compile import Compiler, Snapshot
from micro.backends.envoy.front import Front
from micro.backends.envoy.session import Session
from micro.domain import errors
from micro.domain.route import RouteTable
from micro.ports.dataplane import Dataplane, ProxyState
from micro.rpc.gen.envoy.service.discovery.v3.ads_connect import AggregatedDiscoveryService
from micro.rpc.gen.envoy.service.discovery.v3.discovery_pb import DeltaDiscoveryRequest, DeltaDiscoveryResponse


class _Stream:
    """A connected proxy: its session, and what wakes whoever writes to it."""

    def __init__(self) -> None:
        self.session = Session()
        self.wake = asyncio.Event()
        self.ended = False

    async def read(self, requests: AsyncIterator[DeltaDiscoveryRequest]) -> None:
        try:
            async for request in requests:
                self.session.receive(request)
                self.wake.set()
        finally:
            self.ended = True
            self.wake.set()


class EnvoyDataplane(Dataplane, AggregatedDiscoveryService):
    """Serves whoever connects. Mount it as a handler beside the control plane's own.

    Args:
        version: what `GET /` on the HTTP gateway answers.
        front: how the HTTP gateway is known outside.
        expected: ids of the proxies that `sync` waits for even while they are not connected: they may be about to
            come back, with old routes in use. Whoever else connects is not waited for. None: for all that connect.
    """

    def __init__(self, version: str, front: Front | None = None, expected: Iterable[str] = ()) -> None:
        self._compiler = Compiler(version, front)
        self._expected = frozenset(expected)
        self._snapshot: Snapshot | None = None
        self._streams: dict[_Stream, asyncio.Task[None]] = {}
        self._progress = asyncio.Event()

    def apply(self, table: RouteTable, revision: int, quotas: Mapping[str, int] | None = None) -> None:
        self._snapshot = self._compiler.compile(table, revision, quotas)
        for stream in self._streams:
            stream.wake.set()
        self._tell()

    def proxies(self) -> list[ProxyState]:
        # Several streams may go by one name; none may hide that another of them lags behind.
        states: dict[str, ProxyState] = {}
        for stream in self._streams:
            session = stream.session
            if not session.proxy or stream.ended:
                continue
            known = states.get(session.proxy)
            if known is None or session.accepted <= known.revision:
                states[session.proxy] = ProxyState(session.proxy, session.accepted, session.error)
        return [states[proxy] for proxy in sorted(states)]

    async def sync(self, revision: int, timeout: float) -> int:
        try:
            async with asyncio.timeout(timeout):
                while (lowest := self._lowest()) < revision:
                    await self._progress.wait()
                return lowest
        except TimeoutError:
            raise errors.deadline_exceeded(self._behind(revision, timeout)) from None

    async def delta_aggregated_resources(
        self,
        request: AsyncIterator[DeltaDiscoveryRequest],
        ctx: Any,
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        """Answer a proxy for as long as it stays."""
        stream = _Stream()
        self._streams[stream] = asyncio.get_running_loop().create_task(stream.read(request))  # owned: below
        try:
            while not stream.ended:
                stream.wake.clear()
                if self._snapshot is not None:
                    before = stream.session.accepted
                    for response in stream.session.responses(self._snapshot):
                        yield response
                    if stream.session.accepted != before:
                        self._tell()
                await stream.wake.wait()
        finally:
            reader = self._streams.pop(stream)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader
            self._tell()

    def _tell(self) -> None:
        """Wake those who wait for progress, once."""
        passed, self._progress = self._progress, asyncio.Event()
        passed.set()

    def _awaited(self) -> list[ProxyState]:
        """The connected proxies that count: the expected ones alone, where there are any."""
        return [state for state in self.proxies() if not self._expected or state.id in self._expected]

    def _lowest(self) -> int:
        if self._snapshot is None:
            return -1
        states = self._awaited()
        if not self._expected <= {state.id for state in states}:
            return -1
        return min((state.revision for state in states), default=self._snapshot.revision)

    def _behind(self, revision: int, timeout: float) -> str:
        if self._snapshot is None or self._snapshot.revision < revision:
            return f"routes of revision {revision} are not made after {timeout:g} s: the registry has not sent it yet"
        states = self._awaited()
        behind = [f"{name} (not connected)" for name in sorted(self._expected - {state.id for state in states})]
        behind += [
            f"{state.id} (refused: {state.error})" if state.error else state.id
            for state in states
            if state.revision < revision
        ]
        return f"routes of revision {revision} are not in use after {timeout:g} s: waiting for {', '.join(behind)}"
