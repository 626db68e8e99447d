"""Guessing secrets is made slow: failures are counted, by account and by address, and cost time."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from micro.domain import errors
from micro.domain.account import LONGEST_SECRET, Account
from micro.ports.clock import Clock, MonotonicClock
from micro.ports.identity import IdentityStore
from micro.ports.secrets import SecretHasher
from micro.services._auth_secrets import could_be_made
from micro.services._auth_turns import Turns, network

ACCOUNT_FAILURES, ACCOUNT_LONGEST = 5, 30.0
"""From the fifth failure on an account rests, for 1 s, then twice as long each time, to half a minute: somebody who
guesses gets nowhere, and whose account it is gets in."""

ADDRESS_FAILURES, ADDRESS_LONGEST = 20, 900.0
"""From the twentieth on an address rests, to a quarter of an hour."""

FORGOTTEN_SECONDS = 3600.0
"""Failures before so long a quiet time do not count."""

KEPT = 16384
"""Accounts, and addresses, that are remembered; those that failed longest ago make room."""


@dataclass(slots=True)
class _Failures:
    count: int
    last: float
    until: float


class _Counter:
    def __init__(self, clock: Clock, free: int, longest: float) -> None:
        self._clock = clock
        self._free = free
        self._longest = longest
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def rest(self, key: str) -> float:
        """Seconds to wait."""
        found = self._failures.get(key)
        return max(0.0, found.until - self._clock.now()) if found else 0.0

    def failed(self, key: str) -> None:
        now = self._clock.now()
        known = self._failures.pop(key, None)
        count = 1 + (known.count if known is not None and now - known.last < FORGOTTEN_SECONDS else 0)
        over = count - self._free
        rest = min(2.0 ** min(over, 32), self._longest) if over >= 0 else 0.0
        self._failures[key] = _Failures(count, now, now + rest)
        if len(self._failures) > KEPT:
            self._failures.popitem(last=False)

    def forget(self, key: str) -> None:
        self._failures.pop(key, None)


Unheard = Callable[[str, str, float, float], None]
"""Hears of each attempt that is refused because somebody rests: the account as NAMESPACE/ID, the address, and the
seconds that each of them still has to."""


class Attempts:
    """How often it went wrong lately.

    The loopback address is not counted: all of a host's services share it, and one of them could lock out the others.
    """

    def __init__(self, clock: Clock, unheard: Unheard | None = None) -> None:
        self._accounts = _Counter(clock, ACCOUNT_FAILURES, ACCOUNT_LONGEST)
        self._addresses = _Counter(clock, ADDRESS_FAILURES, ADDRESS_LONGEST)
        self._unheard = unheard

    def check(self, account: str, address: str) -> None:
        """Raises RESOURCE_EXHAUSTED, with the time to wait, as long as one of them rests."""
        rests = self._accounts.rest(account), self._addresses.rest(network(address))
        if (seconds := max(rests)) > 0:
            if self._unheard is not None:
                self._unheard(account, address, *rests)
            raise errors.resource_exhausted(f"too many attempts failed: try again in {math.ceil(seconds)} s")

    def failed(self, account: str, address: str) -> None:
        self._accounts.failed(account)
        if where := network(address):
            self._addresses.failed(where)

    def succeeded(self, account: str) -> None:
        """The account's failures are forgotten; the address's are not, since whoever guesses may have one account."""
        self._accounts.forget(account)


class Allowance:
    """So many of something in so many seconds, and no more.

    Args:
        most: how many.
        seconds: in what time.
    """

    def __init__(self, clock: Clock, most: int, seconds: float) -> None:
        self._clock = clock
        self._most = most
        self._seconds = seconds
        self._began = -seconds
        self._taken = 0

    def take(self) -> bool:
        """Take one; whether there was one left."""
        if (now := self._clock.now()) - self._began >= self._seconds:
            self._began, self._taken = now, 0
        self._taken += 1
        return self._taken <= self._most


class Proofs:
    """Tells whether a secret that somebody shows is the account's.

    Answer and time are the same whether there is no such account, or it has another secret. A secret that was made here
    opens at once, whoever guesses meanwhile: nobody guesses one of 256 bits.
    """

    def __init__(
        self,
        store: IdentityStore,
        hasher: SecretHasher,
        turns: Turns | None = None,
        clock: Clock | None = None,
        unheard: Unheard | None = None,
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._turns = turns or Turns()
        self._attempts = Attempts(clock or MonotonicClock(), unheard)

    async def check(
        self, namespace: str, id_or_name: str, secret: str, address: str
    ) -> tuple[bool, Account | None, str]:
        """Whether it is; the account, if there is one, and the hash that was compared.

        Raises:
            Error: RESOURCE_EXHAUSTED after too many failures, or while too many wait.
        """
        if could_be_made(secret):
            account, hashed = await self._store.secret(namespace, id_or_name) or (None, "")
            if account is not None and self._hasher.proves(hashed, secret):
                return True, account, hashed
        who = f"{namespace}/{id_or_name[:256]}"
        self._attempts.check(who, address)
        async with self._turns.turn(who, address):
            # Looked at again in the same turn, so that a thousand guesses at once are no way around the count.
            self._attempts.check(who, address)
            return await self._compare(who, namespace, id_or_name, secret, address)

    async def _compare(
        self, who: str, namespace: str, id_or_name: str, secret: str, address: str
    ) -> tuple[bool, Account | None, str]:
        account, hashed = await self._store.secret(namespace, id_or_name) or (None, None)
        slow = hashed is not None and not self._hasher.is_made(hashed) and len(secret) <= LONGEST_SECRET
        right = False
        try:
            right = await self._hasher.verify(hashed if slow else None, secret[:LONGEST_SECRET])
        finally:  # also when the caller has gone meanwhile
            if right:
                self._attempts.succeeded(who)
            else:
                self._attempts.failed(who, address)
        return right, account, hashed or ""
