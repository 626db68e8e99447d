"""The store: records that services and users keep, by database, table and key."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from micro.domain import errors
from micro.domain.record import Change, Delete, check_batch, check_key
from micro.ports.store import now
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.gen.micro.store.v1.store_connect import Store
from micro.services import _caller as caller
from micro.services import _store_messages as messages
from micro.services._store_databases import Databases, table

TOLD_MILLISECONDS = 30_000
"""How long a watch may be silent while other keys change: then it tells how far it has come, so that whoever resumes it
does not ask for what is forgotten."""

_NO_OPTIONS = pb.ListOptions()


class StoreHandler(Store):
    """The handler of `micro.store.v1.Store`.

    Args:
        databases: where records are.
        clock: milliseconds since 1970.
    """

    def __init__(self, databases: Databases, *, clock: Callable[[], int] = now) -> None:
        self._databases = databases
        self._store = databases.store
        self._now = clock

    async def read(self, request: pb.ReadRequest, ctx: Any) -> pb.ReadResponse:
        options, key = request.options, request.key
        if not messages.is_point(options, key):
            assert options is not None
            return await self._page(key, options, ctx)
        database = self._databases.of(ctx, options.database if options else "")
        where = table(ctx, options.table if options else "")
        if not key:
            raise errors.invalid_argument("the key is empty: name one, or set prefix to read all")
        check_key(key)
        # Asked first: a watch after it may tell this record's last change again, and misses none.
        revision = await self._store.revision(database)
        found = await self._store.read(database, where, key)
        if found is None:
            raise errors.not_found(f"there is no {key[:80]!r} in table {where}")
        told = messages.to_record(found, self._now())
        if options is not None and options.keys_only:
            told = pb.Record(key=told.key, expiry=told.expiry, version=told.version)
        return pb.ReadResponse(records=[told], revision=revision)

    async def _page(self, key: str, options: pb.ReadOptions, ctx: Any) -> pb.ReadResponse:
        database, where = self._databases.of(ctx, options.database), table(ctx, options.table)
        query = messages.read_query(key, options)
        async with self._databases.searching(database):
            page = await self._store.scan(database, where, query)
        present = self._now()
        return pb.ReadResponse(
            records=[messages.to_record(record, present) for record in page.records],
            revision=page.revision,
            cursor=page.records[-1].key if page.more and page.records else "",
        )

    async def write(self, request: pb.WriteRequest, ctx: Any) -> pb.WriteResponse:
        if request.record is None:
            raise errors.invalid_argument("record is missing: say what to keep")
        database, where = self._where(request.options, ctx)
        put = messages.put(request.record, where, messages.condition(request), self._now())
        check_batch((put,))
        with self._databases.changing(database):
            done = await self._store.commit(database, (put,))
        return pb.WriteResponse(version=done.revision)

    async def delete(self, request: pb.DeleteRequest, ctx: Any) -> pb.DeleteResponse:
        database, where = self._where(request.options, ctx)
        delete = Delete(where, request.key, messages.condition(request))
        check_batch((delete,))
        with self._databases.changing(database):
            done = await self._store.commit(database, (delete,))
        return pb.DeleteResponse(deleted=done.results[0] is not None)

    async def list(self, request: pb.ListRequest, ctx: Any) -> AsyncIterator[pb.ListResponse]:
        options = request.options or _NO_OPTIONS
        database, where = self._databases.of(ctx, options.database), table(ctx, options.table)
        query, left = messages.list_query(options), options.limit
        while True:
            async with self._databases.searching(database):
                found = await self._store.keys(database, where, query)
            if options.key:
                yield pb.ListResponse(keys=[key for key in found.keys if key == options.key], revision=found.revision)
                return
            cursor = found.keys[-1] if found.more and found.keys else ""
            yield pb.ListResponse(keys=list(found.keys), revision=found.revision, cursor=cursor)
            left -= len(found.keys)
            if not cursor or (query.limit and left <= 0):
                return
            query = dataclasses.replace(query, after=cursor, offset=0, limit=left if query.limit else 0)

    async def batch(self, request: pb.BatchRequest, ctx: Any) -> pb.BatchResponse:
        database, usual, present = self._databases.of(ctx, request.database), table(ctx, request.table), self._now()
        asked = [
            messages.operation(number, one, table(ctx, one.table) if one.table else usual, present)
            for number, one in enumerate(request.operations, 1)
        ]
        check_batch(asked)
        with self._databases.changing(database):
            done = await self._store.commit(database, asked)
        present = self._now()
        results = [messages.result(one, found, present) for one, found in zip(asked, done.results, strict=True)]
        return pb.BatchResponse(revision=done.revision, results=results)

    async def watch(self, request: pb.WatchRequest, ctx: Any) -> AsyncIterator[pb.WatchResponse]:
        database, where = self._databases.of(ctx, request.database), table(ctx, request.table)
        if request.key:
            check_key(request.key)
        wanted = _wanted(where, request.key, prefix=request.prefix)
        if not request.has_field("after"):
            begin = await self._store.revision(database)
        elif (begin := request.after) < 0:
            raise errors.invalid_argument(f"after {begin} is below 0: name a revision, 0 for all that is remembered")
        told = self._now()
        yield pb.WatchResponse(revision=begin)
        async with aclosing(self._store.watch(database, begin)) as commits:
            async for commit in commits:
                present = self._now()
                changes = [messages.to_change(change, present) for change in commit.changes if wanted(change)]
                if changes or present - told >= TOLD_MILLISECONDS:
                    told = present
                    yield pb.WatchResponse(revision=commit.revision, changes=changes)

    async def databases(self, request: pb.DatabasesRequest, ctx: Any) -> pb.DatabasesResponse:
        account = caller.account(ctx)
        return pb.DatabasesResponse(databases=[name for name in await self._store.databases() if account.belongs(name)])

    async def tables(self, request: pb.TablesRequest, ctx: Any) -> pb.TablesResponse:
        database = self._databases.of(ctx, request.database)
        async with self._databases.searching(database):
            found = await self._store.tables(database)
        return pb.TablesResponse(tables=[name for name in found if not name.startswith(".")])

    def _where(self, options: pb.Options | None, ctx: Any) -> tuple[str, str]:
        if options is None:
            return self._databases.of(ctx, ""), table(ctx, "")
        return self._databases.of(ctx, options.database), table(ctx, options.table)


def _wanted(where: str, key: str, *, prefix: bool) -> Callable[[Change], bool]:
    """Whether a change is one that a watch asks for."""
    if not key:
        return lambda change: change.table == where
    if prefix:
        return lambda change: change.table == where and change.record.key.startswith(key)
    return lambda change: change.table == where and change.record.key == key
