"""Service accounts in a dict, for tests."""

from __future__ import annotations

from collections.abc import Callable

from micro.domain import errors
from micro.domain.workload import Key
from micro.ports.accounts import ServiceAccount, ServiceAccounts, account_id


class MemoryAccounts(ServiceAccounts):
    """Accounts for tests.

    Attributes:
        accounts: those that are there, by namespace and id; its secret tells how often one was asked for.
        asked: how often any was.
        down: whether auth does not answer.
    """

    def __init__(self) -> None:
        self.accounts: dict[tuple[str, str], ServiceAccount] = {}
        self.asked = 0
        self.down = False

    async def ensure(self, namespace: str, service: str, version: str) -> ServiceAccount:
        self._answer()
        self.asked += 1
        made = ServiceAccount(account_id(service, version), f"secret-{self.asked}")
        self.accounts[namespace, made.id] = made
        return made

    async def exists(self, namespace: str, service: str, version: str) -> bool:
        self._answer()
        return (namespace, account_id(service, version)) in self.accounts

    async def remove(self, namespace: str, service: str, version: str) -> None:
        self._answer()
        self.accounts.pop((namespace, account_id(service, version)), None)

    async def sweep(self, known: Callable[[Key], bool]) -> None:
        return

    def _answer(self) -> None:
        if self.down:
            raise errors.unavailable("auth does not answer: try again")
