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
        try:
            read = pb.AccountsReadRequest(id=id_, namespace=namespace)
            found = (await _answered(id_, self._accounts.read(read, timeout_ms=_PATIENCE_MS))).account
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:  # then it is only the name of another account
                raise
            found = None
        if found is None or not _belongs(found, service, version):
            raise errors.already_exists(
                f"{service} needs an account {id_} in namespace {namespace}, which is somebody else's already: "
                f"choose another name or version"
            )
        change = pb.ChangeSecretRequest(id=id_, namespace=namespace)
        answer = await _answered(id_, self._accounts.change_secret(change, timeout_ms=_PATIENCE_MS))
        return ServiceAccount(id_, answer.secret)

    async def exists(self, namespace: str, service: str, version: str) -> bool:
        id_ = account_id(service, version)
        try:
            read = pb.AccountsReadRequest(id=id_, namespace=namespace)
            found = (await _answered(id_, self._accounts.read(read, timeout_ms=_GLANCE_MS))).account
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return False
        return found is not None and _belongs(found, service, version)

    async def remove(self, namespace: str, service: str, version: str) -> None:
        id_ = account_id(service, version)
        try:
            read = pb.AccountsReadRequest(id=id_, namespace=namespace)
            found = (await _answered(id_, self._accounts.read(read, timeout_ms=_PATIENCE_MS))).account
            if found is not None and _belongs(found, service, version):
                gone = pb.AccountsDeleteRequest(id=id_, namespace=namespace)
                await _answered(id_, self._accounts.delete(gone, timeout_ms=_PATIENCE_MS))
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:
                raise

    async def sweep(self, known: Callable[[Key], bool]) -> None:
        """Nothing is remembered here."""


def _belongs(account: pb.Account, service: str, version: str) -> bool:
    """Whether the account is the one that was made for this service: with its name for an id alone, a service could
    take over an account of a person."""
    made = account.type == Type.SERVICE.value and not account.scopes
    return made and (account.metadata.get("service"), account.metadata.get("version")) == (service, version)


async def _answered(id_: str, call: Awaitable[T]) -> T:
    """The answer, or UNAVAILABLE that says what it was about when there is none."""
    try:
        return await call
    except Error as error:
        if error.kind in _SILENT:
            raise errors.unavailable(f"the service's account {id_} is not to be had now: {error.message}") from None
        raise
