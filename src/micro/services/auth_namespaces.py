"""Namespaces: made, limited, and removed with what is in them."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from micro.domain import errors, names
from micro.domain.namespace import Namespace, Quota
from micro.ports import identity
from micro.ports.identity import IdentityStore
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Namespaces
from micro.rpc.method import method
from micro.services import _auth_caller as caller
from micro.services import _auth_messages as messages
from micro.services._auth_changes import Changes, Moments
from micro.services.auth_accounts import Accountant
from micro.services.auth_policy import Feed

DELETE_SECONDS = 600.0
"""How long a namespace's end may take: its services finish what is in flight."""


class Tenants(Protocol):
    """What other core services hold of a namespace."""

    async def count(self, namespace: str) -> int:
        """How many services there are. Raises UNAVAILABLE when that cannot be told."""
        ...

    async def tables(self, namespace: str) -> int:
        """How many tables with records there are. Raises UNAVAILABLE when that cannot be told."""
        ...

    async def settings(self, namespace: str) -> int:
        """How many values its config has. Raises UNAVAILABLE when that cannot be told."""
        ...

    async def blobs(self, namespace: str) -> int:
        """How many blobs there are, a thousand for more. Raises UNAVAILABLE when that cannot be told."""
        ...

    async def topics(self, namespace: str) -> int:
        """How many topics of event streams its own there are. Raises UNAVAILABLE when that cannot be told."""
        ...

    async def end(self, namespace: str) -> None:
        """End and remove all services, with what they left, and all that is stored; return when that is gone."""
        ...


class NamespacesHandler(Namespaces):
    """The handler of `micro.auth.v1.Namespaces`."""

    def __init__(
        self,
        store: IdentityStore,
        accountant: Accountant,
        tenants: Tenants,
        feed: Feed,
        changes: Changes,
        moments: Moments,
    ) -> None:
        self._store = store
        self._accountant = accountant
        self._tenants = tenants
        self._feed = feed
        self._changes = changes
        self._moments = moments

    async def create(self, request: pb.NamespacesCreateRequest, ctx: Any) -> pb.NamespacesCreateResponse:
        if not request.name:
            raise errors.invalid_argument("name is missing: say how the namespace is called")
        now = self._moments.now()
        made = Namespace(names.namespace(request.name), Quota(), messages.rfc3339(now))
        entry = caller.entry(ctx, now, "namespace.create", made.name, made.name)

        async def change() -> None:
            await self._store.create_namespace(made, entry)
            self._feed.put_namespace(made)
            self._changes.announce(entry)

        await self._changes.run(_subject(made.name), change)
        return pb.NamespacesCreateResponse(namespace=messages.to_namespace(made))

    async def list(self, request: pb.NamespacesListRequest, ctx: Any) -> pb.NamespacesListResponse:
        account = ctx.account
        found = [each for each in await self._store.namespaces() if account.belongs(each.name)]
        return pb.NamespacesListResponse(namespaces=[messages.to_namespace(each) for each in found])

    async def set_quota(self, request: pb.SetQuotaRequest, ctx: Any) -> pb.SetQuotaResponse:
        if request.quota is None:
            raise errors.invalid_argument("quota is missing: give all limits, 0 for none")
        quota = messages.from_quota(request.quota)
        name = names.namespace(request.name)
        entry = caller.entry(ctx, self._moments.now(), "namespace.quota", name, name)

        async def change() -> Namespace:
            found = await self._found(name)
            if found.quota == quota:
                return found
            changed = dataclasses.replace(found, quota=quota)
            await self._store.replace_namespace(changed, entry)
            self._feed.put_namespace(changed)
            self._changes.announce(entry)
            return changed

        return pb.SetQuotaResponse(namespace=messages.to_namespace(await self._changes.run(_subject(name), change)))

    @method(timeout=DELETE_SECONDS)
    async def delete(self, request: pb.NamespacesDeleteRequest, ctx: Any) -> pb.NamespacesDeleteResponse:
        if not request.name:
            raise errors.invalid_argument("name is missing: say which namespace to delete")
        name = names.namespace(request.name)
        if name == names.DEFAULT_NAMESPACE:
            raise identity.namespace_stays(name)
        await self._changes.run(_subject(name), lambda: self._delete(name, ctx, force=request.force))
        return pb.NamespacesDeleteResponse()

    async def _delete(self, name: str, ctx: Any, *, force: bool) -> None:
        await self._found(name)
        if not force:
            await self._check_empty(name)
        # The accounts first: when they are gone, nobody of the namespace starts anything any more.
        for account in await self._accountant.all(name):
            entry = caller.entry(ctx, self._moments.now(), "account.delete", str(account), name)
            await self._accountant.delete(name, account.id, entry, announced=False)
        # Also where no service is left: who gets the name next must not find output of those who had it.
        await self._tenants.end(name)
        entry = caller.entry(ctx, self._moments.now(), "namespace.delete", name, name)
        await self._store.delete_namespace(name, entry)
        self._feed.drop_namespace(name)
        self._changes.announce(entry)

    async def _check_empty(self, name: str) -> None:
        held = {
            "service": await self._tenants.count(name),
            "record table": await self._tenants.tables(name),
            "blob": await self._tenants.blobs(name),
            "setting": await self._tenants.settings(name),
            "topic": await self._tenants.topics(name),
            "account": len(await self._accountant.all(name)),
            "rule": self._feed.rule_count(name),
        }
        if any(held.values()):
            counts = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in held.items() if count)
            raise errors.failed_precondition(
                f"namespace {name} is not empty: it has {counts}; remove them, or delete it with --force"
            )

    async def _found(self, name: str) -> Namespace:
        for namespace in await self._store.namespaces():
            if namespace.name == name:
                return namespace
        raise identity.no_namespace(name)


def _subject(name: str) -> str:
    return f"existence of {name}"
