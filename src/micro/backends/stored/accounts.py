"""Service accounts, remembered as records of a store, their secrets sealed. Auth is asked whether an account is still
there; where it does not answer, what is remembered is good."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from micro.backends.stored.workloads import ACCOUNTS, RuntimeRecords
from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.domain.workload import Key
from micro.ports.accounts import ServiceAccount, ServiceAccounts, account_id

_log = logging.getLogger(__name__)


class StoredAccounts(ServiceAccounts):
    """Accounts that `below` makes, remembered in the runtime's database, which somebody else starts."""

    def __init__(self, records: RuntimeRecords, below: ServiceAccounts) -> None:
        self._records = records
        self._below = below
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def ensure(self, namespace: str, service: str, version: str) -> ServiceAccount:
        key = (namespace, service, version)
        async with self._lock(key):
            found = await self._read(key)
            if found is not None and await self._there(key, found):
                return found
            made = await self._below.ensure(namespace, service, version)
            try:
                await self._records.write(ACCOUNTS, key, *encoded(made))
            except Error as error:
                raise errors.unavailable(f"the account of {service} cannot be kept: {error.message}") from error
            return made

    async def exists(self, namespace: str, service: str, version: str) -> bool:
        return await self._below.exists(namespace, service, version)

    async def _there(self, key: Key, kept: ServiceAccount) -> bool:
        """Whether what is remembered may still be good: not when somebody has deleted the account."""
        if kept.id != account_id(key[1], key[2]):
            return False
        try:
            return await self._below.exists(*key)
        except Error as error:
            _log.info("the account of %s in %s is taken as it was: %s", key[1], key[0], error)
            return True

    async def remove(self, namespace: str, service: str, version: str) -> None:
        key = (namespace, service, version)
        async with self._lock(key):
            await self._below.remove(namespace, service, version)
            # Last, so that what auth did not hear of is found again by the next sweep.
            await self._records.remove(ACCOUNTS, key)

    async def sweep(self, known: Callable[[Key], bool]) -> None:
        for key in await self._records.keys(ACCOUNTS):
            if known(key):
                continue
            async with self._lock(key):
                if known(key):  # it may be there again
                    continue
                try:
                    await self._below.remove(*key)
                except Error as error:
                    _log.warning("the account of %s in %s is left over: %s", key[1], key[0], error)
                    continue
                await self._records.remove(ACCOUNTS, key)

    def _lock(self, key: Key) -> asyncio.Lock:
        """One at a time for each service: of two secrets that are set, only the last holds."""
        return self._locks.setdefault(key, asyncio.Lock())

    async def _read(self, key: Key) -> ServiceAccount | None:
        try:
            found = await self._records.read(ACCOUNTS, key)
            return None if found is None else ServiceAccount(str(found[0]["id"]), str(found[1]))
        except Error as error:
            if error.kind is not Kind.DATA_LOSS:
                raise
            # A new secret takes the place of what cannot be read.
            _log.error("what is remembered of %s in %s cannot be read: %s", key[1], key[0], error)
            return None


def encoded(account: ServiceAccount) -> tuple[dict[str, Any], str]:
    """What is kept of it in the clear, and its secret."""
    return {"id": account.id}, account.secret
