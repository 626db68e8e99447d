"""Several operations on records in one transaction: all, in order, or none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar, overload

from micro.domain.record import Json
from micro.framework import records
from micro.framework.records import Record
from micro.rpc import wkt
from micro.rpc.gen.micro.store.v1 import store_pb as pb

V = TypeVar("V")
T = TypeVar("T")

Commit = Callable[[pb.BatchRequest], Awaitable[pb.BatchResponse]]


class Result(Generic[V]):
    """What an operation of a batch came to, once the batch is committed; before, asking raises RuntimeError."""

    def __init__(self, as_type: type[V], table: str) -> None:
        self._as_type = as_type
        self._table = table
        self._told: pb.Result | None = None

    def _take(self, told: pb.Result) -> None:
        self._told = told

    @property
    def _result(self) -> pb.Result:
        if self._told is None:
            raise RuntimeError("the batch is not committed: its results are there after the `async with`")
        return self._told

    @property
    def record(self) -> Record[V] | None:
        """What a read found; None for nothing. Raises FAILED_PRECONDITION when its value is of another type."""
        found = self._result.record
        return records.record(found, self._as_type, self._table) if found else None

    @property
    def version(self) -> int:
        """What a write gave the record; 0 for all else."""
        return self._result.version

    @property
    def deleted(self) -> bool:
        """Whether a delete found something."""
        return self._result.deleted


class Batch(Generic[V]):
    """Collects operations, and commits them when its block ends without an exception.

    Conditions are about what was there before the batch; reads see the operations before them. It changes a key once,
    and holds up to 1,000 operations and 24 MiB. Without operations it does nothing.

    The block's end raises ALREADY_EXISTS or ABORTED for a condition that does not hold; then nothing has changed.

    Attributes:
        revision: of the database after the commit, which is the version of all that it wrote; 0 before.
    """

    def __init__(self, commit: Commit, table: str, as_type: type[V], of: Batch[Any] | None = None) -> None:
        self._commit = commit
        self._table = table
        self._as_type = as_type
        self._all: list[tuple[pb.Operation, Result[Any]]] = [] if of is None else of._all
        self.revision = 0

    @overload
    def table(self, name: str) -> Batch[bytes]: ...
    @overload
    def table(self, name: str, as_type: type[T]) -> Batch[T]: ...
    def table(self, name: str, as_type: Any = bytes) -> Batch[Any]:
        """The same batch, for operations on another table."""
        return Batch(self._commit, name, as_type, self)

    @overload
    def read(self, key: str) -> Result[V]: ...
    @overload
    def read(self, key: str, *, as_type: type[T]) -> Result[T]: ...
    def read(self, key: str, *, as_type: Any = None) -> Result[Any]:
        """Tell a record as it is after the operations before this one; an absent one is no error."""
        return self._add(wkt.oneof("read", key), None, as_type)

    def write(
        self,
        key: str,
        value: object,
        *,
        ttl: float | dt.timedelta | None = None,
        if_version: int | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> Result[V]:
        """Keep a value, as `store.write` does."""
        made = records.written(key, value, self._table, ttl, metadata)
        return self._add(wkt.oneof("write", made), if_version)

    def delete(self, key: str, *, if_version: int | None = None) -> Result[V]:
        """Remove a record; an absent one is no error."""
        return self._add(wkt.oneof("delete", key), if_version)

    def check(self, key: str, version: int) -> None:
        """Let the batch fail with ABORTED unless this is the version that is there; 0 for nothing there."""
        self._add(wkt.oneof("check", key), version)

    def _add(self, does: wkt.Oneof[Any, Any], if_version: int | None, as_type: Any = None) -> Result[Any]:
        result: Result[Any] = Result(as_type or self._as_type, self._table)
        self._all.append((pb.Operation(does=does, if_version=if_version, table=self._table), result))
        return result

    async def __aenter__(self) -> Batch[V]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or not self._all:
            return
        answer = await self._commit(pb.BatchRequest(operations=[operation for operation, _ in self._all]))
        self.revision = answer.revision
        for (_operation, result), told in zip(self._all, answer.results, strict=True):
            result._take(told)
