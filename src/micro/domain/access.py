"""What each endpoint of the platform's own services asks of its caller. Rules are about users' services; this table is
not changed by anybody."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from types import MappingProxyType

from micro.domain import errors
from micro.domain.account import Account, Type


class Need(enum.Enum):
    """What a caller must be, in the namespace that the call is about."""

    OPEN = "anyone"
    """A login needs it."""

    ACCOUNT = "an account of the namespace"
    """What the handler does with other people's things it checks by itself."""

    USER = "a user's account of the namespace"
    """Not a service's, unless that is an admin."""

    SERVICE = "a service's account of the namespace"
    """Or an admin's."""

    ADMIN = "the admin scope of the namespace"

    PLATFORM = "the admin scope of namespace micro"

    GATEWAY = "a gateway of this server"
    """Which shows the server's own secret, not a token."""

    SERVER = "this server itself"


_A, _U, _ADMIN = Need.ACCOUNT, Need.USER, Need.ADMIN

NEEDS: Mapping[str, Need] = MappingProxyType(
    {
        "/micro.auth.v1.Auth/Generate": _ADMIN,
        "/micro.auth.v1.Auth/Inspect": _A,
        "/micro.auth.v1.Auth/Token": Need.OPEN,
        "/micro.auth.v1.Auth/Explain": _ADMIN,
        "/micro.auth.v1.Accounts/List": _ADMIN,
        "/micro.auth.v1.Accounts/Read": _A,
        "/micro.auth.v1.Accounts/Delete": _ADMIN,
        "/micro.auth.v1.Accounts/ChangeSecret": _A,
        "/micro.auth.v1.Accounts/UpdateScopes": _ADMIN,
        "/micro.auth.v1.Rules/Create": _ADMIN,
        "/micro.auth.v1.Rules/Update": _ADMIN,
        "/micro.auth.v1.Rules/Delete": _ADMIN,
        "/micro.auth.v1.Rules/List": _ADMIN,
        "/micro.auth.v1.Tokens/List": _A,
        "/micro.auth.v1.Tokens/Revoke": _A,
        "/micro.auth.v1.Keys/Rotate": Need.PLATFORM,
        "/micro.auth.v1.Keys/List": Need.OPEN,
        "/micro.auth.v1.Namespaces/Create": Need.PLATFORM,
        "/micro.auth.v1.Namespaces/List": _A,
        "/micro.auth.v1.Namespaces/Delete": Need.PLATFORM,
        "/micro.auth.v1.Namespaces/SetQuota": Need.PLATFORM,
        "/micro.auth.v1.Audit/List": _ADMIN,
        "/micro.auth.v1.Policy/Watch": Need.SERVICE,
        "/micro.auth.v1.Setup/Begin": Need.SERVER,
        "/micro.registry.v1.Registry/GetService": _A,
        "/micro.registry.v1.Registry/ListServices": _A,
        "/micro.registry.v1.Registry/Register": _A,
        "/micro.registry.v1.Registry/Deregister": _A,
        "/micro.registry.v1.Registry/Watch": _A,
        "/micro.network.v1.Network/Routes": _A,
        "/micro.network.v1.Network/Proxies": Need.PLATFORM,
        "/micro.network.v1.Network/Sync": Need.PLATFORM,
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources": Need.GATEWAY,
        "/micro.runtime.v1.Runtime/Create": _U,
        "/micro.runtime.v1.Runtime/Read": _A,
        "/micro.runtime.v1.Runtime/Update": _U,
        "/micro.runtime.v1.Runtime/Delete": _U,
        "/micro.runtime.v1.Runtime/Logs": _A,
        "/micro.runtime.v1.Runtime/Purge": Need.PLATFORM,
        "/micro.runtime.v1.Source/Upload": _U,
        "/micro.store.v1.Store/Read": _A,
        "/micro.store.v1.Store/Write": _A,
        "/micro.store.v1.Store/Delete": _A,
        "/micro.store.v1.Store/List": _A,
        "/micro.store.v1.Store/Batch": _A,
        "/micro.store.v1.Store/Watch": _A,
        "/micro.store.v1.Store/Databases": _A,
        "/micro.store.v1.Store/Tables": _A,
        "/micro.store.v1.BlobStore/Read": _A,
        "/micro.store.v1.BlobStore/Write": _A,
        "/micro.store.v1.BlobStore/Stat": _A,
        "/micro.store.v1.BlobStore/List": _A,
        "/micro.store.v1.BlobStore/Delete": _A,
        "/micro.store.v1.Lock/Acquire": _A,
        "/micro.store.v1.Lock/Renew": _A,
        "/micro.store.v1.Lock/Release": _A,
        "/micro.store.v1.Leader/Campaign": _A,
        "/micro.store.v1.Backup/Dump": _ADMIN,
        "/micro.store.v1.Backup/Load": _ADMIN,
        "/micro.store.v1.Backup/Purge": Need.PLATFORM,
        "/micro.config.v1.Config/Get": _A,
        "/micro.config.v1.Config/Set": _U,
        "/micro.config.v1.Config/Delete": _U,
        "/micro.config.v1.Config/List": _A,
        "/micro.config.v1.Config/History": _A,
        "/micro.config.v1.Config/Rollback": _U,
        "/micro.config.v1.Config/Watch": _A,
        "/micro.config.v1.Config/Rotate": Need.PLATFORM,
        "/micro.config.v1.Config/Purge": Need.PLATFORM,
        "/micro.broker.v1.Broker/Publish": _A,
        "/micro.broker.v1.Broker/PublishBatch": _A,
        "/micro.broker.v1.Broker/Subscribe": _A,
        "/micro.events.v1.Stream/Publish": _A,
        "/micro.events.v1.Stream/PublishBatch": _A,
        "/micro.events.v1.Stream/PublishEach": _A,
        "/micro.events.v1.Stream/Consume": _A,
        "/micro.events.v1.Events/Read": _A,
        "/micro.events.v1.Topics/List": _A,
        "/micro.events.v1.Topics/Info": _A,
        "/micro.events.v1.Topics/Configure": _U,
        "/micro.events.v1.Topics/Delete": _ADMIN,
        "/micro.events.v1.Topics/Purge": Need.PLATFORM,
        "/micro.events.v1.Groups/List": _A,
        "/micro.events.v1.Groups/Reset": _U,
        "/micro.events.v1.Groups/Delete": _U,
        "/micro.events.v1.DeadLetters/List": _A,
        "/micro.events.v1.DeadLetters/Redrive": _U,
        "/micro.events.v1.DeadLetters/Drop": _U,
        "/grpc.health.v1.Health/Check": Need.OPEN,
        "/grpc.health.v1.Health/Watch": Need.OPEN,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _A,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _A,
    }
)
"""By gRPC path. An endpoint that is not in it cannot be called."""


def check(path: str, account: Account | None, namespace: str) -> None:
    """Whether the caller may call a core endpoint about that namespace. GATEWAY and SERVER are checked elsewhere.

    Raises:
        Error: UNAUTHENTICATED without an account, PERMISSION_DENIED with one that is not enough.
    """
    need = NEEDS.get(path)
    if need is Need.OPEN:
        return
    if account is None:
        raise errors.unauthenticated(
            f"{_named(path)} needs an account: log in with `micro login`, or start a program with MICRO_AUTH_ID and "
            "MICRO_AUTH_SECRET"
        )
    if need is None or need in (Need.GATEWAY, Need.SERVER):
        raise errors.permission_denied(f"{_named(path)} is not for accounts")
    if not account.belongs(namespace):
        raise foreign(account, namespace)
    if need is Need.ADMIN and not account.administers(namespace):
        raise errors.permission_denied(
            f"{_named(path)} needs the admin scope in namespace {namespace}: {account} lacks it"
        )
    if need is Need.PLATFORM and not account.platform:
        raise errors.permission_denied(f"{_named(path)} needs the admin scope in namespace micro: {account} lacks it")
    if need is Need.USER and account.type is Type.SERVICE and not account.administers(namespace):
        raise errors.permission_denied(f"{_named(path)} is for users: {account} is a service without the admin scope")
    if need is Need.SERVICE and account.type is not Type.SERVICE and not account.administers(namespace):
        raise errors.permission_denied(f"{_named(path)} is for services: {account} is a user without the admin scope")


def _named(path: str) -> str:
    """An endpoint as people type it: "runtime Runtime.Read" for "/micro.runtime.v1.Runtime/Read"; others by path."""
    found = re.fullmatch(r"/micro\.(\w+)\.v\d+\.(\w+)/(\w+)", path)
    return f"{found[1]} {found[2]}.{found[3]}" if found else path


def foreign(account: Account, namespace: str) -> errors.Error:
    """What an account of another namespace is told; nothing about what is there."""
    return errors.permission_denied(f"{account} is not of namespace {namespace}: log in to it with `micro login`")
