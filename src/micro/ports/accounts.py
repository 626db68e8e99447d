"""Accounts of the services that the runtime starts: one a service and version, made with it and removed with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from micro.domain.workload import Key


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """What a service logs in with; the secret is shown nowhere."""

    id: str
    secret: str = field(repr=False)


class ServiceAccounts(ABC):
    """Accounts of type service without scopes, with metadata `service` and `version`, in the service's namespace."""

    @abstractmethod
    async def ensure(self, namespace: str, service: str, version: str) -> ServiceAccount:
        """The account, made where there is none. One that is there and whose secret is not known gets a new secret.

        Raises:
            Error: ALREADY_EXISTS when the id is that of an account which does not belong to this service and version,
                NOT_FOUND when there is no such namespace, UNAVAILABLE when auth does not answer.
        """

    @abstractmethod
    async def exists(self, namespace: str, service: str, version: str) -> bool:
        """Whether the account is there. Raises UNAVAILABLE when auth does not answer."""

    @abstractmethod
    async def remove(self, namespace: str, service: str, version: str) -> None:
        """Remove the account; its tokens are refused from then on. Removing what is absent is nothing to do.

        Raises UNAVAILABLE when auth does not answer."""

    @abstractmethod
    async def sweep(self, known: Callable[[Key], bool]) -> None:
        """Remove the accounts of services that are not known any more, as far as they are remembered here. Those that
        cannot be removed now are left for the next time."""


def account_id(service: str, version: str) -> str:
    """Id of a service's account: NAME@VERSION, so that no two have one id: neither part can hold the sign."""
    return f"{service}@{version}"
