"""Copies of whole databases, made and put back while they are in use."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from micro.domain import errors
from micro.domain.dump import Digest
from micro.domain.record import Put, Query, Record, check_batch
from micro.ports.store import Kept
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.gen.micro.store.v1.store_connect import Backup
from micro.rpc.method import method
from micro.services import _caller as caller
from micro.services import _store_leases
from micro.services import _store_messages as messages
from micro.services._store_databases import Databases, namespace_named, removed

PIECE_RECORDS = 500
PIECE_BYTES = 256 << 10
"""What one message of a copy holds, at most; one record at least."""

PLATFORM_TABLES = (_store_leases.TABLE,)
"""What a copy holds beside the tables of users and services."""

MOST_ABOVE = 1 << 52
"""Revisions that a copy may ask for; as many again can follow."""

COUNTED = 100_000
"""Up to how many records are counted before they are told: more are estimated by what they are."""

PURGE_SECONDS = 60.0

Drop = Callable[[str], Awaitable[None]]


class BackupHandler(Backup):
    """The handler of `micro.store.v1.Backup`.

    Args:
        databases: what is copied.
        drops: what else is removed with a namespace.
    """

    def __init__(self, databases: Databases, *drops: Drop) -> None:
        self._databases = databases
        self._drops = drops

    async def dump(self, request: pb.DumpRequest, ctx: Any) -> AsyncIterator[pb.DumpResponse]:
        database = self._databases.of(ctx, request.database)
        yield pb.DumpResponse(count=await self._count(database))
        digest, piece, size = Digest(), pb.DumpResponse(), 0
        async with _closing(self._databases.store.dump(database)) as records:
            async for kept in records:
                told = _told(kept)
                digest.add(kept.table, _record(told))
                piece.records.append(told)
                size += len(kept.record.value) + len(kept.record.key) + 64
                if size >= PIECE_BYTES or len(piece.records) >= PIECE_RECORDS:
                    yield piece
                    piece, size = pb.DumpResponse(), 0
        piece.checksum, piece.revision = digest.told(), await self._databases.store.revision(database)
        yield piece

    async def _count(self, database: str) -> int:
        """How many there are; of very many, how many at least."""
        store, counted = self._databases.store, 0
        for table in await store.tables(database):
            after: str | None = None
            while counted < COUNTED:
                page = await store.scan(database, table, Query(after=after, keys_only=True))
                counted += len(page.records)
                if not page.more or not page.records:
                    break
                after = page.records[-1].key
        return counted

    async def load(self, request: AsyncIterator[pb.LoadRequest], ctx: Any) -> pb.LoadResponse:
        sent = aiter(request)
        first = await anext(sent, None)
        if first is None:
            raise errors.invalid_argument("the copy is empty: the first message names the database")
        database = self._databases.of(ctx, first.database)
        if self._databases.closed(database):
            raise removed(database)
        if not 0 <= first.above <= MOST_ABOVE:
            raise errors.invalid_argument(f"above {first.above} is no revision: nothing was replaced")
        with contextlib.ExitStack() as changing:

            async def whole() -> AsyncIterator[Kept]:
                async for kept in _loaded(first, sent):
                    yield kept
                # A database that is being removed waits for what follows, not for senders that may be slow.
                changing.enter_context(self._databases.changing(database))

            return pb.LoadResponse(count=await self._databases.store.load(database, whole(), above=first.above))

    @method(timeout=PURGE_SECONDS)
    async def purge(self, request: pb.PurgeRequest, ctx: Any) -> pb.PurgeResponse:
        # Not only where the namespace exists: what is left of one that is gone can still be removed.
        namespace = caller.namespace(ctx, namespace_named(request.namespace))
        if not caller.account(ctx).platform:
            raise errors.permission_denied("a namespace is purged by admins of namespace micro only")
        await self._databases.purge(namespace)
        for drop in self._drops:
            await drop(namespace)
        return pb.PurgeResponse()


@contextlib.asynccontextmanager
async def _closing(records: AsyncIterator[Kept]) -> AsyncGenerator[AsyncIterator[Kept]]:
    """Records, whose source is closed when nobody wants the rest."""
    try:
        yield records
    finally:
        if isinstance(records, AsyncGenerator):
            await records.aclose()


async def _loaded(first: pb.LoadRequest, sent: AsyncIterator[pb.LoadRequest]) -> AsyncIterator[Kept]:
    """The records of a copy, each as it comes.

    Raises INVALID_ARGUMENT for what cannot be stored or is out of order, and at the end for a copy that is not whole.
    """
    digest, message, last = Digest(), first, ("", "")
    while True:
        for told in message.records:
            record = _record(told)
            check_batch((Put(told.table, record.key, record.value, record.expires, record.metadata),))
            if told.table.startswith(".") and told.table not in PLATFORM_TABLES:
                raise errors.invalid_argument(f"table {told.table!r} is none of the platform's: nothing was replaced")
            if (told.table, record.key) <= last:
                raise errors.invalid_argument(
                    f"the copy is not in order: {record.key[:80]!r} of table {told.table} comes after {last[1][:80]!r} "
                    f"of table {last[0]}"
                )
            last = (told.table, record.key)
            digest.add(told.table, record)
            yield Kept(told.table, record)
        if message.checksum:
            break
        following = await anext(sent, None)
        if following is None:
            raise errors.invalid_argument("the copy ends before its checksum: it was cut off, and nothing was replaced")
        message = following
    if not hmac.compare_digest(digest.told(), message.checksum):
        raise errors.invalid_argument("the copy is damaged, its checksum does not fit: nothing was replaced")
    if await anext(sent, None) is not None:
        raise errors.invalid_argument("the copy goes on after its checksum: nothing was replaced")


def _told(kept: Kept) -> pb.Kept:
    found = kept.record
    record = messages.to_record(Record(found.key, found.value, found.version, metadata=found.metadata), 0)
    return pb.Kept(table=kept.table, record=record, expires=found.expires or 0)


def _record(told: pb.Kept) -> Record:
    """The record of a copy. Raises INVALID_ARGUMENT when it holds none, or ends at no time."""
    if told.record is None or told.expires < 0:
        raise errors.invalid_argument("the copy holds a record that is none: nothing was replaced")
    found = told.record
    return Record(found.key, found.value, 0, told.expires or None, messages.metadata(found.metadata))
