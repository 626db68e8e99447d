"""Service accounts at auth, as the runtime makes and removes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from micro.domain import errors
from micro.domain.account import Type
from micro.domain.errors import Error, Kind
from micro.domain.workload import Key
from micro.ports.accounts import ServiceAccount, ServiceAccounts, account_id
from micro.rpc.client import Client
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import AccountsClient, AuthClient

T = TypeVar("T")

_PATIENCE_MS = 5000
_GLANCE_MS = 1000  # where there is an answer without auth, too
_SILENT = (Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.CANCELED)


class RemoteAccounts(ServiceAccounts):
    """Over the RPCs of `auth`; calls need the admin scope of "micro". Remembers nothing: `ensure` sets a new secret
    each time."""

    def __init__(self, auth: Client) -> None:
        self._auth = auth.of(AuthClient, "auth")
        self._accounts = auth.of(AccountsClient, "auth")

    async def ensure(self, namespace: str, service: str, version: str) -> ServiceAccount:
        id_ = account_id(service, version)
        wanted = pb.GenerateRequest(
            id=id_, type=Type.SERVICE.value, metadata={"service": service, "version": version}, namespace=namespace
        )
        try:
            made = await _answered(id_, self._auth.generate(wanted, timeout_ms=_PATIENCE_MS))
        except Error as error:
            if error.kind is not Kind.ALREADY_EXISTS:
                raise
            return await self._renewed(namespace, service, version)
        return ServiceAccount(id_, made.secret)

    async def _renewed(self, namespace: str, service: str, version: str) -> ServiceAccount:
        """Give an account that is there a new secret: ours was lost. Never one that is not this service's own."""
        id_ = account_id(service, version)
        if not await self._own(namespace, service, version, _PATIENCE_MS):  # it may be only the name of another account
            raise errors.already_exists(
                f"{service} needs an account {id_} in namespace {namespace}, which is somebody else's already: "
                f"choose another name or version"
            )
        change = pb.ChangeSecretRequest(id=id_, namespace=namespace)
        answer = await _answered(id_, self._accounts.change_secret(change, timeout_ms=_PATIENCE_MS))
        return ServiceAccount(id_, answer.secret)

    async def exists(self, namespace: str, service: str, version: str) -> bool:
        return await self._own(namespace, service, version, _GLANCE_MS)

    async def remove(self, namespace: str, service: str, version: str) -> None:
        id_ = account_id(service, version)
        if await self._own(namespace, service, version, _PATIENCE_MS):
            gone = pb.AccountsDeleteRequest(id=id_, namespace=namespace)
            try:
                await _answered(id_, self._accounts.delete(gone, timeout_ms=_PATIENCE_MS))
            except Error as error:
                if error.kind is not Kind.NOT_FOUND:
                    raise

    async def _own(self, namespace: str, service: str, version: str, patience_ms: int) -> bool:
        """Whether the account of that id is there, and is the one that was made for this service: with its name for an
        id alone, a service could take over an account of a person."""
        id_ = account_id(service, version)
        read = pb.AccountsReadRequest(id=id_, namespace=namespace)
        try:
            found = (await _answered(id_, self._accounts.read(read, timeout_ms=patience_ms))).account
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return False
        if found is None or found.type != Type.SERVICE.value or found.scopes:
            return False
        return (found.metadata.get("service"), found.metadata.get("version")) == (service, version)

    async def sweep(self, known: Callable[[Key], bool]) -> None:
        """Nothing is remembered here."""


async def _answered(id_: str, call: Awaitable[T]) -> T:
    """The answer, or UNAVAILABLE that says what it was about when there is none."""
    try:
        return await call
    except Error as error:
        if error.kind in _SILENT:
            raise errors.unavailable(f"the service's account {id_} is not to be had now: {error.message}") from None
        raise
