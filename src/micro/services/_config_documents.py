"""The documents of config, as they are read, changed and followed."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from weakref import WeakValueDictionary

from micro.domain import backoff, config, errors
from micro.domain.config import Change, Document, Leaf, Path, Tree
from micro.domain.errors import Error, Kind
from micro.domain.record import Delete, Operation, Put, Query, Record
from micro.ports.sealing import DataKey, Sealing
from micro.ports.store import Now, Store
from micro.services import _config_records as records
from micro.services._config_records import DOCUMENT, HISTORY, KEYS

log = logging.getLogger("micro.config")

ATTEMPTS = 30
"""How often a change is tried while other processes change the same document."""

PARSED = 64
"""Documents that are kept as they were parsed."""

_FORGOTTEN = 500
"""Changes that one change lets go of at most."""

_CONFLICTS = (Kind.ABORTED, Kind.ALREADY_EXISTS)


@dataclass(frozen=True, slots=True)
class Edit:
    """What a change is to make of a document.

    Attributes:
        tree: the new values; secrets in it may still be in the clear.
        value: what history tells of it, masked.
    """

    tree: Mapping[str, Tree]
    value: str = ""


Decide = Callable[[Document], Awaitable[Edit]]


class Documents:
    """One document a database of the store, changed by compare-and-set: no change is lost to another one.

    Args:
        store: started by who owns it.
        sealing: for secrets.
        clock: milliseconds since 1970.
    """

    def __init__(self, store: Store, sealing: Sealing, clock: Now) -> None:
        self._store = store
        self._sealing = sealing
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._purges: Counter[str] = Counter()
        """How often all of a namespace was removed."""
        self._parsed: OrderedDict[str, tuple[bytes, Document]] = OrderedDict()

    async def read(self, namespace: str) -> Document:
        """The document; an empty one where nothing was set yet. Raises DATA_LOSS."""
        return (await self._read(namespace))[0]

    async def follow(self, namespace: str) -> AsyncGenerator[Document]:
        """The document, at once and after each change, for ever. Of changes in a row the last one may stand for all."""
        while True:
            revision = await self._store.revision(namespace)
            yield await self.read(namespace)
            try:
                async with aclosing(self._store.watch(namespace, revision)) as commits:
                    async for commit in commits:
                        if any(change.table == DOCUMENT for change in commit.changes):
                            yield await self.read(namespace)
            except Error as error:
                if error.kind is not Kind.OUT_OF_RANGE:
                    raise

    async def change(
        self, namespace: str, account: str, action: str, path: str, decide: Decide, *, if_revision: int | None = None
    ) -> int:
        """Make of the document what `decide` says, remember the change, and return the new revision.

        Args:
            decide: asked with the newest document; again when another process was faster.
            if_revision: the revision that it has to have.

        Raises:
            Error: ABORTED when it has another revision; INVALID_ARGUMENT when it would be too large;
                FAILED_PRECONDITION when all of the namespace was removed while this waited; as `decide` does.
        """
        purges = self._purges[namespace]
        delays = backoff.exponential(first=0.002, cap=0.1)
        async with self._lock(namespace):
            if self._purges[namespace] != purges:  # whoever gets the name next must not find it
                raise errors.failed_precondition(
                    f"everything of namespace {namespace} was removed: nothing was changed"
                )
            for attempt in range(1, ATTEMPTS + 1):
                document, version = await self._read(namespace)
                if if_revision not in (None, document.revision):
                    raise errors.aborted(
                        f"the config of namespace {namespace} is at revision {document.revision}, not {if_revision}: "
                        "read it again and decide anew"
                    )
                edit = await decide(document)
                draft = Change(document.revision + 1, self._clock(), account, action, path, edit.value, {})
                operations = await self._operations(namespace, document, version, edit.tree, draft)
                try:
                    await self._store.commit(namespace, operations)
                except Error as error:
                    if error.kind not in _CONFLICTS or attempt == ATTEMPTS:
                        raise
                    await asyncio.sleep(next(delays))
                else:
                    return draft.revision
        raise AssertionError("unreachable")

    async def _operations(
        self, namespace: str, document: Document, version: int, tree: Mapping[str, Tree], draft: Change
    ) -> list[Operation]:
        """The batch that makes a document of another one, both remembered."""
        operations: list[Operation] = []
        key_id = document.key
        if any(leaf.secret and not leaf.key for leaf in config.flat(tree).values()):
            key, made = await self._sealing_key(namespace, document)
            operations += made
            key_id = key.id
            tree = _as_dict(config.mapped(dict(tree), lambda at, leaf: self._sealed(namespace, key, at, leaf)))
        leaves = config.flat(tree)
        change = dataclasses.replace(draft, before=config.difference(config.flat(document.tree), leaves))
        remembered = records.change_value(change)
        after = Document(change.revision, tree, document.oldest, document.remembered + len(remembered), key_id)
        after, forgotten = await self._trimmed(namespace, after)
        value = records.document_value(after, leaves)
        if len(value) > config.DOCUMENT_BYTES:
            raise errors.invalid_argument(
                f"the config of namespace {namespace} would have {len(value):,} bytes: {config.DOCUMENT_BYTES:,} are "
                "allowed; keep large values in the store"
            )
        operations.append(Put(DOCUMENT, DOCUMENT, value, if_version=version))
        operations.append(Put(HISTORY, records.history_key(change.revision), remembered))
        return [*operations, *forgotten]

    def _sealed(self, namespace: str, key: DataKey, at: Path, leaf: Leaf) -> Leaf:
        if not leaf.secret or leaf.key:
            return leaf
        return Leaf(self._sealing.seal(namespace, key, config.written(at), leaf.text), True, key.id)

    async def _trimmed(self, namespace: str, after: Document) -> tuple[Document, list[Operation]]:
        """The document with as much history as there may be, and what to let go of for that."""
        oldest, size = after.oldest, after.remembered
        forgotten: list[Operation] = []
        while oldest < after.revision and len(forgotten) < _FORGOTTEN:
            if after.revision - oldest < config.HISTORY_CHANGES and size <= config.HISTORY_BYTES:
                break
            key = records.history_key(oldest)
            found = await self._store.read(namespace, HISTORY, key)
            size -= 0 if found is None else len(found.value)
            forgotten.append(Delete(HISTORY, key))
            oldest += 1
        return dataclasses.replace(after, oldest=oldest, remembered=max(size, 0)), forgotten

    # --- history ------------------------------------------------------------------------------------------------------

    async def history(self, namespace: str, after: int = 0, before: int = 0) -> AsyncGenerator[Change]:
        """The changes that are remembered between two revisions, both left out, the newest first; 0 for no bound."""
        query = Query(
            start=records.history_key(after + 1), until=records.history_key(before) if before else "", descending=True
        )
        while True:
            page = await self._store.scan(namespace, HISTORY, query)
            for record in page.records:
                yield records.change(namespace, record)
            if not page.more:
                return
            query = dataclasses.replace(query, after=page.records[-1].key)

    async def at_revision(self, namespace: str, document: Document, revision: int) -> Mapping[str, Tree]:
        """What the document was after that change. Raises OUT_OF_RANGE when that is not remembered."""
        if not document.oldest - 1 <= revision <= document.revision:
            reach = f"are {max(document.oldest - 1, 1)} to {document.revision}" if document.revision else "is none"
            raise errors.out_of_range(
                f"revision {revision} of the config of namespace {namespace} is not known: there {reach}, see "
                "micro config history"
            )
        # Another process may have gone on meanwhile; what it changed is not undone, and the change will be tried again.
        changes = [one async for one in self.history(namespace, revision, document.revision + 1)]
        if len(changes) != document.revision - revision:
            raise errors.data_loss(f"the history of the config of namespace {namespace} has gaps: restore a backup")
        return config.grown(config.undone(config.flat(document.tree), changes))

    # --- secrets ------------------------------------------------------------------------------------------------------

    async def opener(self, namespace: str, tree: Tree) -> Callable[[Path, Leaf], str]:
        """What opens the secrets of a tree. Raises FAILED_PRECONDITION and DATA_LOSS, as what it returns does."""
        keys = {id_: await self._key(namespace, id_) for id_ in config.data_keys(tree)}
        return lambda at, leaf: self._sealing.open(namespace, keys[leaf.key], config.written(at), leaf.text)

    async def rotate(self) -> int:
        """Wrap all data keys with the newest key, and return how many namespaces that was about. What cannot be
        unwrapped is passed over, and raised in the end."""
        await self._need_key()
        self._sealing.renew()
        count, failures = 0, []
        for namespace in await self._store.databases():
            async with self._lock(namespace):
                try:
                    count += await self._rewrap(namespace)
                except Error as error:
                    failures.append(error)
        if failures:
            told = f"{failures[0].message} ({count} namespaces were wrapped anew, {len(failures)} not)"
            raise Error(failures[0].kind, told)
        return count

    async def _rewrap(self, namespace: str) -> int:
        """1 when there was something to wrap."""
        changed: list[Operation] = []
        for record in await self._key_records(namespace):
            key = records.key(namespace, record)
            fresh = self._sealing.rewrap(namespace, key)
            if fresh.wrapped_by != key.wrapped_by:
                changed.append(Put(KEYS, key.id, records.key_value(fresh), if_version=record.version))
        if changed:
            await self._store.commit(namespace, changed)
        return 1 if changed else 0

    async def check_keys(self) -> None:
        """Say in the log when secrets cannot be opened; everything else is served all the same."""
        failures = []
        for namespace in await self._store.databases():
            try:
                for record in await self._key_records(namespace):
                    self._sealing.check(namespace, records.key(namespace, record))
            except Error as error:
                failures.append((namespace, error))
        if failures:
            names = ", ".join(namespace for namespace, _ in failures[:5])
            log.error("secrets cannot be read in %d namespaces (%s): %s", len(failures), names, failures[0][1])

    async def _sealing_key(self, namespace: str, document: Document) -> tuple[DataKey, list[Operation]]:
        """The data key to seal with, and what keeps it where it is a new one."""
        if document.key:
            try:
                key = await self._key(namespace, document.key)
                self._sealing.check(namespace, key)
            except Error:
                # Nothing that it has sealed is left, but in the history.
                if config.has_secrets(dict(document.tree)):
                    raise
            else:
                return key, []
        await self._need_key()
        self._sealing.begin()
        made = self._sealing.create(namespace)
        return made, [Put(KEYS, made.id, records.key_value(made), if_version=0)]

    async def _need_key(self) -> None:
        """Raise FAILED_PRECONDITION when the server's key is gone: none may take its place unseen."""
        if self._sealing.has_key():
            return
        for namespace in await self._store.databases():
            if await self._key_records(namespace):
                self._sealing.create(namespace)

    async def _key(self, namespace: str, id_: str) -> DataKey:
        record = await self._store.read(namespace, KEYS, id_)
        if record is None:
            raise errors.data_loss(f"the key {id_} of the secrets of namespace {namespace} is gone: restore a backup")
        return records.key(namespace, record)

    async def _key_records(self, namespace: str) -> list[Record]:
        return list((await self._store.scan(namespace, KEYS, Query())).records)

    # --- the store ----------------------------------------------------------------------------------------------------

    async def purge(self, namespace: str) -> None:
        """Remove all that is kept of a namespace."""
        async with self._lock(namespace):
            self._parsed.pop(namespace, None)
            await self._store.drop(namespace)
            self._purges[namespace] += 1

    async def _read(self, namespace: str) -> tuple[Document, int]:
        """The document and its record's version; 0 for none."""
        record = await self._store.read(namespace, DOCUMENT, DOCUMENT)
        if record is None:
            return Document(), 0
        known = self._parsed.get(namespace)
        if known is None or known[0] != record.value:
            known = self._parsed[namespace] = record.value, records.document(namespace, record.value)
            while len(self._parsed) > PARSED:
                self._parsed.popitem(last=False)
        self._parsed.move_to_end(namespace)
        return known[1], record.version

    def _lock(self, namespace: str) -> asyncio.Lock:
        return self._locks.setdefault(namespace, asyncio.Lock())


def _as_dict(tree: Tree) -> dict[str, Tree]:
    assert isinstance(tree, dict)
    return tree
