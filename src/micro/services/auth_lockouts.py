"""Attempts that are refused unheard, while an account or an address has to wait: one line of the audit log for each
such time, with how many they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from micro.domain import names
from micro.domain.errors import Error
from micro.ports.clock import Clock
from micro.ports.identity import Entry, IdentityStore
from micro.services._auth_changes import Changes, Moments
from micro.services._auth_turns import network
from micro.services.auth_attempts import Allowance

ACTION = "login.lockout"

COUNTED = 1024
"""Lock-outs that are counted apart at a time; what comes beyond counts as one more, of nobody known."""

UNKNOWN_RECORDED = 20
"""Lock-outs a minute of addresses, and of accounts that there are none of, in the audit log: whoever has many
addresses, or makes up ids, does not fill it. Those of an account that there is follow each from a failure that is
there too."""

_LOG = "the audit log"


@dataclass(slots=True)
class _Lockout:
    """Refusals until a moment of the clock; `called` is empty where they are an address's."""

    namespace: str
    called: str
    address: str
    until: float
    last: float
    count: int = 0


class Lockouts:
    """Counts them, and writes down what has ended as soon as anybody logs in, or reads the log; the rest when the
    service stops. A crash forgets those that are being counted."""

    def __init__(self, store: IdentityStore, changes: Changes, moments: Moments, clock: Clock) -> None:
        self._store = store
        self._changes = changes
        self._moments = moments
        self._clock = clock
        self._unknown = Allowance(clock, UNKNOWN_RECORDED, 60.0)
        self._counted: dict[tuple[str, ...], _Lockout] = {}

    async def start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.record)

    def refused(self, account: str, address: str, account_rests: float, address_rests: float) -> None:
        """Count an attempt.

        Args:
            account: as NAMESPACE/ID.
            account_rests, address_rests: seconds that each still has to wait.
        """
        namespace, _, called = account.partition("/")
        key: tuple[str, ...] = (account,)
        rests = account_rests
        if account_rests <= 0:
            key, rests, called = (namespace, network(address)), address_rests, ""
        if key not in self._counted and len(self._counted) >= COUNTED:
            key, namespace, called, address = (), names.DEFAULT_NAMESPACE, "", ""
        found = self._counted.get(key)
        if found is None:
            found = self._counted[key] = _Lockout(namespace, called, address, self._clock.now() + rests, 0.0)
        found.count += 1
        found.last = self._moments.now()

    def settle(self) -> None:
        """Have those recorded that are over; nobody waits for it."""
        now = self._clock.now()
        if any(one.until <= now for one in self._counted.values()):
            self._changes.later(_LOG, lambda: self._write(lambda one: one.until <= now))

    async def record(self) -> None:
        """Record all that were counted until now: who reads the log, or ends the service, shall find them."""
        if self._counted:
            with contextlib.suppress(Error):  # they stay counted
                await self._changes.run(_LOG, lambda: self._write(lambda _: True))

    async def _write(self, chosen: Callable[[_Lockout], bool]) -> None:
        taken = {key: one for key, one in self._counted.items() if chosen(one)}
        counts = {key: one.count for key, one in taken.items()}
        entries = [entry for one in taken.values() if (entry := await self._entry(one)) is not None]
        if entries:
            await self._store.record(*entries)
        for key, one in taken.items():
            one.count -= counts[key]
            if one.count == 0:
                del self._counted[key]

    async def _entry(self, one: _Lockout) -> Entry | None:
        """The line of the log; None when there have been too many of nobody known."""
        account, _ = (await self._store.secret(one.namespace, one.called) or (None, "")) if one.called else (None, "")
        if account is None and not self._unknown.take():
            return None
        target = f"{one.namespace}/{account.id if account else '?'}"
        return Entry(one.last, "", ACTION, target, one.namespace, one.address, f"{one.count} refused")
