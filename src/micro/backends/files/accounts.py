"""Service accounts, remembered: one JSON file a service and version, readable by its owner only. Auth
is asked whether the account is still there; where it does not answer, what is remembered is good."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

from micro.backends.files import naming
from micro.domain import errors
from micro.domain.errors import Error
from micro.domain.workload import Key
from micro.ports import private_file, private_folder
from micro.ports.accounts import ServiceAccount, ServiceAccounts, account_id

_log = logging.getLogger(__name__)


class FileAccounts(ServiceAccounts):
    """Accounts that `below` makes, remembered in `<folder>/<namespace>/accounts/`."""

    def __init__(self, folder: Path, below: ServiceAccounts) -> None:
        self._folder = folder
        self._below = below
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def ensure(self, namespace: str, service: str, version: str) -> ServiceAccount:
        key = (namespace, service, version)
        async with self._lock(key):
            found = await asyncio.to_thread(self._read, self._file(key))
            if found is not None and await self._there(key, found[1]):
                return found[1]
            made = await self._below.ensure(namespace, service, version)
            try:
                await asyncio.to_thread(self._write, key, made)
            except OSError as error:
                reason = error.strerror or error
                raise errors.unavailable(f"the account of {service} cannot be kept: {reason}") from error
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
            self._file(key).unlink(missing_ok=True)

    async def sweep(self, known: Callable[[Key], bool]) -> None:
        for file in await asyncio.to_thread(lambda: sorted(self._folder.glob("*/accounts/*.json"))):
            found = await asyncio.to_thread(self._read, file)
            if found is None or known(found[0]):
                continue
            key, _ = found
            async with self._lock(key):
                if known(key):  # it may be there again
                    continue
                try:
                    await self._below.remove(*key)
                except Error as error:
                    _log.warning("the account of %s in %s is left over: %s", key[1], key[0], error)
                    continue
                file.unlink(missing_ok=True)

    def _lock(self, key: Key) -> asyncio.Lock:
        """One at a time for each service: of two secrets that are set, only the last holds."""
        return self._locks.setdefault(key, asyncio.Lock())

    def _file(self, key: Key) -> Path:
        return self._folder / key[0] / "accounts" / naming.file_name(key)

    def _write(self, key: Key, account: ServiceAccount) -> None:
        file = self._file(key)
        private_folder.make(file.parent)
        kept = {
            "namespace": key[0],
            "service": key[1],
            "version": key[2],
            "id": account.id,
            "secret": account.secret,
        }
        private_file.write(file, json.dumps(kept))

    def _read(self, file: Path) -> tuple[Key, ServiceAccount] | None:
        try:
            kept = json.loads(file.read_text())
            key = (str(kept["namespace"]), str(kept["service"]), str(kept["version"]))
            return key, ServiceAccount(str(kept["id"]), str(kept["secret"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            # Without quoting it: a new secret takes the place of what cannot be read.
            _log.error("%s cannot be read: %s", file, type(error).__name__)
            return None
