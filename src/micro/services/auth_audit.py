"""The audit log, for who administers."""

from __future__ import annotations

import math
from typing import Any

from micro.ports.identity import IdentityStore
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Audit
from micro.services import _auth_caller as caller
from micro.services import _auth_messages as messages
from micro.services import _caller
from micro.services.auth_lockouts import Lockouts
from micro.services.auth_policy import Feed

_PAGE, _LONGEST_PAGE = 50, 1000


class AuditHandler(Audit):
    """The handler of `micro.auth.v1.Audit`."""

    def __init__(self, store: IdentityStore, feed: Feed, lockouts: Lockouts) -> None:
        self._store = store
        self._feed = feed
        self._lockouts = lockouts

    async def list(self, request: pb.AuditListRequest, ctx: Any) -> pb.AuditListResponse:
        account, namespace = request.account, _caller.listed(ctx, request.namespace)
        if namespace and not ctx.account.administers(namespace):
            raise caller.no_admin(ctx, namespace)
        if account and "/" not in account:
            account = f"{namespace or ctx.account.namespace}/{account}"
        limit = caller.page(request.limit, _PAGE, _LONGEST_PAGE)
        since, until = (
            messages.moment(request.since, "since") or 0.0,
            messages.moment(request.until, "until") or math.inf,
        )
        if not request.cursor:
            await self._lockouts.record()
        found = await self._store.audit(
            namespace, account=account, limit=limit + 1, before=request.cursor, since=since, until=until
        )
        # What was done in a namespace that is gone is still told.
        if namespace and not self._feed.has_namespace(namespace) and not await self._store.audit(namespace, limit=1):
            raise caller.missing(namespace)
        page = found[:limit]
        return pb.AuditListResponse(
            entries=[messages.to_entry(entry) for entry in page], next=page[-1].place if len(found) > limit else ""
        )
