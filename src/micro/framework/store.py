"""Records that outlive the service: `from micro import store`, then `await store.write("ann", {"age": 36})`.

Works at once, in a service as well as in a script that has `MICRO_*` set; nothing needs to be opened. Keys are UTF-8 of
1 to 1,024 bytes, ordered by their bytes; values have 16 MiB at most. The table is the service's own (its name; "micro"
for users), `store.table("orders")` is another one, and every service of the namespace may use all of them.

A value is bytes, a string, a message, a dataclass or what JSON has. It comes back as bytes unless `as_type` says as
what: `await store.read("ann", as_type=Person)`.

Everything may raise `errors.Error`: INVALID_ARGUMENT for what no store takes, RESOURCE_EXHAUSTED when there is no room,
UNAVAILABLE when the store cannot be reached: a change may then have happened or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar, overload

from micro.domain import backoff
from micro.domain.errors import Error, Kind
from micro.domain.record import Cause, Json
from micro.framework import client, records, resuming
from micro.framework.batch import Batch, Result
from micro.framework.lock import Leadership, Lock, Term
from micro.framework.records import Change, Page, Record
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.gen.micro.store.v1.store_connect import StoreClient

__all__ = [
    "Batch", "Cause", "Change", "Leadership", "Lock", "Page", "Record", "Result", "Table", "Term", "batch", "delete",
    "get", "keys", "leader", "list", "lock", "page", "read", "table", "tables", "update", "watch", "write",
]  # fmt: skip

V = TypeVar("V")
T = TypeVar("T")
D = TypeVar("D")


class Table(Generic[V]):
    """One table of records.

    Args:
        name: of the table; empty for the caller's own.
        as_type: what its values are, where a call does not say.
    """

    def __init__(self, name: str, as_type: type[V]) -> None:
        self.name = name
        self.as_type = as_type
        self._store = client.of(StoreClient)

    @overload
    async def read(self, key: str) -> Record[V]: ...
    @overload
    async def read(self, key: str, *, as_type: type[T]) -> Record[T]: ...
    async def read(self, key: str, *, as_type: Any = None) -> Record[Any]:
        """The record of a key.

        Raises:
            Error: NOT_FOUND; FAILED_PRECONDITION when its value is of another type.
        """
        answer = await self._store.read(pb.ReadRequest(key=key, options=pb.ReadOptions(table=self.name)))
        return self._record(answer.records[0], as_type)

    @overload
    async def get(self, key: str) -> V | None: ...
    @overload
    async def get(self, key: str, default: D) -> V | D: ...
    @overload
    async def get(self, key: str, *, as_type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, as_type: type[T]) -> T | D: ...
    async def get(self, key: str, default: Any = None, *, as_type: Any = None) -> Any:
        """The value of a key, or the default where there is none."""
        try:
            return (await self.read(key, as_type=as_type)).value
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return default

    async def write(
        self,
        key: str,
        value: object,
        *,
        ttl: float | dt.timedelta | None = None,
        if_version: int | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> int:
        """Keep a value, in place of the one that is there; returns its version. Durable when it returns.

        Args:
            ttl: seconds, or a timedelta, until it is gone; None for never.
            if_version: write only if this is the version that is there; 0 only if nothing is.
            metadata: JSON values beside it, up to 16 KiB; whole numbers up to 2**53.

        Raises:
            Error: ALREADY_EXISTS where nothing should be; ABORTED where another version should be; INVALID_ARGUMENT
                for metadata that would not come back as they are.
            TypeError: a value that cannot be kept.
        """
        made = records.written(key, value, self.name, ttl, metadata)
        request = pb.WriteRequest(record=made, options=pb.Options(table=self.name), if_version=if_version)
        return (await self._store.write(request)).version

    async def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove a record; returns whether there was one. Raises ABORTED where another version should be."""
        request = pb.DeleteRequest(key=key, options=pb.Options(table=self.name), if_version=if_version)
        return (await self._store.delete(request)).deleted

    @overload
    async def update(self, key: str, change: Callable[[V], V | Awaitable[V]], default: V) -> V: ...
    @overload
    async def update(self, key: str, change: Callable[[T], T | Awaitable[T]], default: T, *, as_type: type[T]) -> T: ...
    async def update(self, key: str, change: Callable[[Any], Any], default: Any, *, as_type: Any = None) -> Any:
        """Change a value by what it is, whoever else does so at the same time; returns the new one.

        `change`, a function or an async one, is given the value and returns the new one; it is called again when
        somebody else was faster, so it does nothing else. What is left of its life, and its metadata, stay.

        Args:
            default: the value of a key that is absent.
        """
        for delay in backoff.exponential(first=0.002, cap=0.1, jitter=0.9):
            try:
                old: Record[Any] = await self.read(key, as_type=as_type)
            except Error as error:
                if error.kind is not Kind.NOT_FOUND:
                    raise
                old = Record(key, default)
            new = change(old.value)
            new = await new if inspect.isawaitable(new) else new
            try:
                await self.write(key, new, ttl=old.expiry, if_version=old.version, metadata=old.metadata)
            except Error as error:
                if error.kind not in (Kind.ABORTED, Kind.ALREADY_EXISTS):
                    raise
                await asyncio.sleep(delay)
            else:
                return new
        raise AssertionError  # the delays never end

    @overload
    async def page(self, *, prefix: str = ..., suffix: str = ..., start: str = ..., until: str = ..., limit: int = ...,
                   reverse: bool = ..., cursor: str = ...) -> Page[V]: ...  # fmt: skip
    @overload
    async def page(self, *, prefix: str = ..., suffix: str = ..., start: str = ..., until: str = ..., limit: int = ...,
                   reverse: bool = ..., cursor: str = ..., as_type: type[T]) -> Page[T]: ...  # fmt: skip
    async def page(
        self,
        *,
        prefix: str = "",
        suffix: str = "",
        start: str = "",
        until: str = "",
        limit: int = 0,
        reverse: bool = False,
        cursor: str = "",
        as_type: Any = None,
    ) -> Page[Any]:
        """Some records in order, and where the next page begins. All that is given must hold.

        Args:
            prefix: what keys begin with.
            suffix: what keys end with.
            start: the least key.
            until: the key that ends the range, itself left out.
            limit: how many at most; 0 for what fits a page, which is 1,000 or 4 MiB of them.
            reverse: from the greatest key down.
            cursor: of the page before.
        """
        if prefix and suffix:  # the request has one of the two: the other becomes a range
            start, until, prefix = max(start, prefix), _least(until, _after(prefix)), ""
        options = pb.ReadOptions(
            table=self.name, prefix=not suffix, suffix=bool(suffix), limit=limit, until=until, cursor=cursor,
            order="desc" if reverse else "asc", from_=start,
        )  # fmt: skip
        answer = await self._store.read(pb.ReadRequest(key=suffix or prefix, options=options))
        found = tuple(self._record(one, as_type) for one in answer.records)
        return Page(found, answer.cursor, answer.revision)

    @overload
    def list(self, *, prefix: str = ..., suffix: str = ..., start: str = ..., until: str = ..., limit: int = ...,
             reverse: bool = ...) -> AsyncGenerator[Record[V]]: ...  # fmt: skip
    @overload
    def list(self, *, prefix: str = ..., suffix: str = ..., start: str = ..., until: str = ..., limit: int = ...,
             reverse: bool = ..., as_type: type[T]) -> AsyncGenerator[Record[T]]: ...  # fmt: skip
    async def list(
        self,
        *,
        prefix: str = "",
        suffix: str = "",
        start: str = "",
        until: str = "",
        limit: int = 0,
        reverse: bool = False,
        as_type: Any = None,
    ) -> AsyncGenerator[Record[Any]]:
        """All records that fit, in order, fetched page by page as the iteration goes on; the arguments are those of
        `page`, and limit 0 is no limit. Each page is of one moment, not all of them."""
        cursor, told = "", 0
        while True:
            found = await self.page(
                prefix=prefix, suffix=suffix, start=start, until=until, limit=limit and limit - told, reverse=reverse,
                cursor=cursor, as_type=as_type,
            )  # fmt: skip
            for one in found.records:
                yield one
            cursor, told = found.cursor, told + len(found.records)
            if not cursor or (limit and told >= limit):
                return

    async def keys(
        self,
        *,
        prefix: str = "",
        suffix: str = "",
        start: str = "",
        until: str = "",
        limit: int = 0,
        reverse: bool = False,
        cursor: str = "",
    ) -> AsyncGenerator[str]:
        """The keys alone, as `list` tells records; `cursor` is the last one of an earlier call, to go on after it."""
        options = pb.ListOptions(
            table=self.name, prefix=prefix, suffix=suffix, limit=limit, until=until, cursor=cursor,
            order="desc" if reverse else "asc", from_=start,
        )  # fmt: skip
        async with contextlib.aclosing(self._store.list(pb.ListRequest(options=options))) as answers:  # type: ignore[type-var]
            async for answer in answers:
                for key in answer.keys:
                    yield key

    @overload
    def watch(self, prefix: str = "", *, key: str = "", after: int | None = None) -> AsyncGenerator[Change[V]]: ...
    @overload
    def watch(
        self, prefix: str = "", *, key: str = "", after: int | None = None, as_type: type[T]
    ) -> AsyncGenerator[Change[T]]: ...
    async def watch(
        self, prefix: str = "", *, key: str = "", after: int | None = None, as_type: Any = None
    ) -> AsyncGenerator[Change[Any]]:
        """Changes as they happen, in order, none missing and none twice, until the iteration is left.

        Goes on by itself when the store is away for a while; only a store that cannot be reached at first is an error.

        Args:
            prefix: what keys begin with; all without one.
            key: this key alone.
            after: a revision to begin after: a page's, or the `after` of a change; None for now.

        Raises:
            Error: OUT_OF_RANGE when the store does not know any more what came after `after` (it does for minutes), or
                all was replaced: read anew, and watch after that page's revision.
        """
        delays, reached = resuming.delays(), False
        while True:
            request = pb.WatchRequest(table=self.name, key=key or prefix, prefix=not key, after=after)
            try:
                async with contextlib.aclosing(self._store.watch(request)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        reached, delays = True, resuming.delays()
                        for number, told in enumerate(answer.changes, 1):
                            last = number == len(answer.changes)
                            resume = answer.revision if last else after or 0
                            yield records.change(told, as_type or self.as_type, self.name, resume)
                        after = answer.revision
            except Error as error:
                if not reached or error.kind not in resuming.PASSING:
                    raise
            await asyncio.sleep(next(delays))

    def batch(self) -> Batch[V]:
        """Several operations in one transaction: `async with store.batch() as batch: batch.write(…)`."""
        return Batch(self._store.batch, self.name, self.as_type)

    def _record(self, told: pb.Record, as_type: Any) -> Record[Any]:
        return records.record(told, as_type or self.as_type, self.name)


async def tables() -> tuple[str, ...]:
    """The tables of the namespace that hold records, sorted."""
    return tuple((await client.of(StoreClient).tables(pb.TablesRequest())).tables)


@overload
def table(name: str) -> Table[bytes]: ...
@overload
def table(name: str, as_type: type[V]) -> Table[V]: ...
def table(name: str, as_type: Any = bytes) -> Table[Any]:
    """Another table of the namespace; `as_type` is what its values are, where a call does not say."""
    return Table(name, as_type)


def lock(name: str, *, lease: float = 15.0, timeout: float | None = None) -> Lock:
    """Let one at a time do something, in the whole namespace: `async with store.lock("nightly") as lock:`.

    The lease is renewed as long as the block runs. When it is lost all the same, because the store could not be reached
    or the process was stopped for too long, the block is cancelled and ABORTED raised. What is protected can tell a
    holder that does not know yet by `lock.token`, which grows from holder to holder.

    Args:
        lease: seconds after which another may hold it when nothing is heard of the holder, up to 3,600.
        timeout: seconds to wait for it; None for as long as it takes, 0 for not at all.

    Raises:
        Error: ABORTED when it is held and `timeout` is 0; DEADLINE_EXCEEDED when it was not free in time.
    """
    return Lock(name, lease, timeout)


def leader(name: str, *, candidate: str = "", lease: float = 15.0) -> Leadership:
    """One of many leads: `async with store.leader("sweeper") as term:` waits for its turn, and cancels the block with
    ABORTED when the lead is lost. `async for term in store.leader("sweeper"):` tells who leads, each time that changes,
    and campaigns as long as the iteration goes on.

    Args:
        candidate: what the others are told of this one; its account and a number by default.
        lease: seconds after which another may lead when nothing is heard of the leader.
    """
    return Leadership(name, candidate, lease)


def _least(one: str, other: str) -> str:
    """The lesser of two ends of a range, where an empty one is none."""
    return min(one or other, other or one)


def _after(prefix: str) -> str:
    """The least key that is above all that begin with a prefix; empty when there is none."""
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1])
        if code < 0x10FFFF:
            return prefix[: end - 1] + chr(0xE000 if code == 0xD7FF else code + 1)
    return ""


_own: Table[bytes] = Table("", bytes)

read = _own.read
get = _own.get
write = _own.write
delete = _own.delete
update = _own.update
page = _own.page
list = _own.list  # noqa: A001 - read as store.list
keys = _own.keys
watch = _own.watch
batch = _own.batch
