"""Clients of a store that goes away again and again, what they were told, and whether that is one history."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import math
import operator
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.wkt import oneof

STORE, LOCK, LEADER = "/micro.store.v1.Store/", "/micro.store.v1.Lock/", "/micro.store.v1.Leader/"
REFUSED = (grpc.StatusCode.ABORTED, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND)
LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
)
"""Codes of calls of which nobody knows whether they happened."""


def lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether nobody knows: a proxy that loses the store in the middle of a stream resets it, which is INTERNAL too."""
    return error.code() in LOST or "RST_STREAM" in (error.details() or "")


COUNTER = "counter"


State = dict[str, tuple[int, bytes]]
"""Records by key: version and value."""


class Store:
    """One client: a connection of its own, as the bearer of a token, which is asked for at each call."""

    def __init__(self, address: str, token: Callable[[], str]) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200))
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._token = token

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token()}"),)

    async def close(self) -> None:
        await self._channel.close()

    async def ask(self, path: str, request: Any, answer: Any, timeout: float = 5) -> Any:
        call = self._channel.unary_unary(path, lambda one: one.to_binary(), answer.from_binary)
        return await call(request, metadata=self._metadata, timeout=timeout)

    def stream(self, path: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_stream(path, lambda one: one.to_binary(), answer.from_binary)
        return call(request, metadata=self._metadata)

    async def write(self, key: str, value: bytes, version: int | None = None) -> int:
        request = pb.WriteRequest(record=pb.Record(key=key, value=value))
        if version is not None:
            request.if_version = version
        return int((await self.ask(f"{STORE}Write", request, pb.WriteResponse)).version)

    async def read(self, key: str) -> pb.Record | None:
        try:
            return (await self.ask(f"{STORE}Read", pb.ReadRequest(key=key), pb.ReadResponse)).records[0]
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    async def below(self, prefix: str) -> tuple[State, int]:
        """The records of a page, and the revision that they are of."""
        options = pb.ReadOptions(prefix=True)
        page = await self.ask(f"{STORE}Read", pb.ReadRequest(key=prefix, options=options), pb.ReadResponse)
        assert not page.cursor, "it was meant to be one page"
        return {record.key: (record.version, record.value) for record in page.records}, page.revision

    async def all(self) -> State:
        """Every record, by key: its version and value."""
        found: State = {}
        options = pb.ReadOptions(prefix=True)
        while True:
            page = await self.ask(f"{STORE}Read", pb.ReadRequest(options=options), pb.ReadResponse)
            found |= {record.key: (record.version, record.value) for record in page.records}
            if not page.cursor:
                return found
            options.cursor = page.cursor


@dataclass(frozen=True)
class Seen:
    """What a read found under a key.

    Attributes:
        version: 0 where there was nothing.
        least: a revision that somebody knew of before the read began, so that it has to have been of that or a later
            one.
        revision: the one that it says it is of; None where it does not say.
    """

    key: str
    version: int
    least: int
    revision: int | None = None


@dataclass
class History:
    """What clients were told, and what a watch told.

    Attributes:
        begin: the revision before; `initial` what was there then.
    """

    begin: int = 0
    initial: State = field(default_factory=dict)
    acknowledged: dict[tuple[str, bytes], int] = field(default_factory=dict)
    """The version of each write, by key and value; values are used once."""
    refused: set[tuple[str, bytes]] = field(default_factory=set)
    reads: list[Seen] = field(default_factory=list)
    newest: int = 0
    """The greatest revision that any client has been told of."""
    commits: list[pb.WatchResponse] = field(default_factory=list)
    lost: int = 0
    faults: list[str] = field(default_factory=list)
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.know(self.begin)

    def know(self, revision: int) -> None:
        """A call that told of it has ended: whatever begins from now on has to know of it too."""
        self.newest = max(self.newest, revision)

    async def told(self) -> None:
        async with self.progress:
            self.progress.notify_all()

    async def more(self, count: int, within: float = 60) -> None:
        """Return when so many more writes have been acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(within), self.progress:
            await self.progress.wait_for(lambda: len(self.acknowledged) >= wanted or bool(self.faults))
        assert not self.faults, self.faults

    async def seen(self, revision: int, within: float = 60) -> None:
        """Return when the watch has come so far."""
        async with asyncio.timeout(within), self.progress:
            await self.progress.wait_for(lambda: bool(self.commits) and self.commits[-1].revision >= revision)

    def check(self, final: State) -> None:
        """What must hold, whatever happened in between."""
        assert not self.faults, self.faults
        revisions = [commit.revision for commit in self.commits]
        expected = list(range(self.begin + 1, self.begin + 1 + len(revisions)))
        # Each commit of the database has a number, those of other tables too: nobody else is to write meanwhile.
        odd = [one for one in zip(revisions, expected, strict=True) if one[0] != one[1]]
        assert not odd, f"each is told once, in order, none missing: (told, expected) {odd[:5]}"
        written: dict[tuple[str, bytes], int] = {}
        state = dict(self.initial)
        counted = int(state[COUNTER][1]) if COUNTER in state else 0
        for commit in self.commits:
            for change in commit.changes:
                record = change.record
                assert record is not None
                if change.action is pb.Change.Action.DELETED:
                    state.pop(record.key, None)
                    continue
                assert record.version == commit.revision
                assert (record.key, record.value) not in written, "one write happened twice"
                written[record.key, record.value] = record.version
                state[record.key] = (record.version, record.value)
                if record.key == COUNTER:
                    counted += 1
                    assert int(record.value) == counted, "an increment was lost"
            halves = {name.rpartition("/")[0] for name, _ in ((c.record.key, c) for c in commit.changes if c.record)}
            for pair in (name for name in halves if name.startswith("pair")):
                assert state[f"{pair}/a"] == state[f"{pair}/b"], "half a batch"
        for write, version in self.acknowledged.items():
            assert written.get(write) == version, f"{write} was acknowledged as {version}: {written.get(write)}"
        assert not self.refused & written.keys(), "what was refused has happened"
        assert final == state, "what is read is what the watch told"
        self.check_reads()

    def check_reads(self) -> None:
        """Each read found what was there at one moment between its beginning and its end."""
        versions = {key: [(self.begin, version)] for key, (version, _) in self.initial.items()}
        for commit in self.commits:
            for change in commit.changes:
                assert change.record is not None
                gone = change.action is not pb.Change.Action.WRITTEN
                of_key = versions.setdefault(change.record.key, [(self.begin, 0)])
                of_key.append((commit.revision, 0 if gone else change.record.version))
        ends: dict[tuple[str, int], float] = {}
        """When a version was there for the last time."""
        for key, of_key in versions.items():
            for (_, version), (until, _) in itertools.pairwise([*of_key, (math.inf, 0)]):
                ends[key, version] = until
        for read in self.reads:
            its = versions.get(read.key)
            if its is None:
                right = read.version == 0
            elif read.revision is None:
                right = ends.get((read.key, read.version), 0) > read.least
            else:
                place = bisect.bisect_right(its, read.revision, key=operator.itemgetter(0)) - 1
                right = read.least <= read.revision and its[place][1] == read.version
            assert right, f"{read} is stale: {its and its[-100:]}"


class Writer:
    """Writes, deletes, batches, counts, and reads what others write, one call after the other, until it is told to
    stop."""

    def __init__(self, number: int, others: int, store: Store, history: History, seed: int) -> None:
        self._number = number
        self._others = others
        self._store = store
        self._history = history
        self._random = random.Random(seed * 100 + number)
        self._values = itertools.count(seed * 10**6)
        self._last: dict[str, bytes | None] = {}
        """What keys of its own hold for certain."""
        self._version = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            does = (self._put, self._delete, self._pair, self._count, self._read, self._look, self._page)
            [what] = self._random.choices(does, (4, 1, 2, 3, 2, 2, 1))
            try:
                await what()
            except grpc.aio.AioRpcError as error:
                if lost(error):
                    self._history.lost += 1
                    await asyncio.sleep(0.02)  # as clients do that are told that nobody answers
                elif error.code() not in REFUSED:
                    self._history.faults.append(f"{error.code()} {error.details()}")
                    stop.set()
            await self._history.told()

    def _value(self) -> bytes:
        return f"{self._number}-{next(self._values)}-".encode() + bytes(self._random.randrange(2000))

    def _acknowledge(self, key: str, value: bytes, version: int) -> None:
        self._history.acknowledged[key, value] = version
        if version <= self._version:
            self._history.faults.append(f"version {version} of {key} after {self._version}")
        self._version = version
        self._history.know(version)

    async def _put(self) -> None:
        key, value = f"own/{self._number}/{self._random.randrange(8)}", self._value()
        self._last.pop(key, None)
        self._acknowledge(key, value, await self._store.write(key, value))
        self._last[key] = value

    async def _delete(self) -> None:
        key = f"own/{self._number}/{self._random.randrange(8)}"
        self._last.pop(key, None)
        if self._random.random() < 0.5:
            await self._store.ask(f"{STORE}Delete", pb.DeleteRequest(key=key), pb.DeleteResponse)
        else:
            request = pb.BatchRequest(operations=[pb.Operation(does=oneof("delete", key))])
            self._history.know((await self._store.ask(f"{STORE}Batch", request, pb.BatchResponse)).revision)
        self._last[key] = None

    async def _read(self) -> None:
        key = f"own/{self._number}/{self._random.randrange(8)}"
        found = await self._store.read(key)
        if key in self._last and (found.value if found else None) != self._last[key]:
            self._history.faults.append(f"{key} is not what was acknowledged")

    async def _look(self) -> None:
        """One record that another may just have written."""
        least, latest = self._history.newest, next(reversed(self._history.acknowledged), (COUNTER,))[0]
        other = self._random.randrange(self._others)
        key = self._random.choice([COUNTER, latest, latest, f"own/{other}/{self._random.randrange(8)}"])
        found = await self._store.read(key)
        self._found(Seen(key, found.version if found else 0, least))

    async def _page(self) -> None:
        """All keys of another at once."""
        other, least = self._random.randrange(self._others), self._history.newest
        found, revision = await self._store.below(f"own/{other}/")
        for key in (f"own/{other}/{number}" for number in range(8)):
            self._found(Seen(key, found[key][0] if key in found else 0, least, revision))

    def _found(self, seen: Seen) -> None:
        self._history.reads.append(seen)
        self._history.know(seen.revision or seen.version)

    async def _pair(self) -> None:
        value = self._value()
        keys = [f"pair/{self._number}/{half}" for half in ("a", "b")]
        request = pb.BatchRequest(
            operations=[pb.Operation(does=oneof("write", pb.Record(key=key, value=value))) for key in keys]
        )
        done = await self._store.ask(f"{STORE}Batch", request, pb.BatchResponse)
        self._acknowledge(keys[0], value, done.revision)
        self._history.acknowledged[keys[1], value] = done.revision

    async def _count(self) -> None:
        least = self._history.newest
        found = await self._store.read(COUNTER)
        self._found(Seen(COUNTER, found.version if found else 0, least))
        value = str(int(found.value) + 1 if found else 1).encode()
        version = await self._store.write(COUNTER, value, found.version if found else 0)
        self._acknowledge(COUNTER, value, version)


class Watcher:
    """Follows everything from the beginning, and goes on where it was after whatever happens to the store."""

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history
        self.after = history.begin
        self.resumed = 0

    async def run(self) -> None:
        while True:
            stream = self._store.stream(f"{STORE}Watch", pb.WatchRequest(after=self.after), pb.WatchResponse)
            try:
                async for message in stream:
                    if message.changes:
                        self._history.commits.append(message)
                        self.after = message.revision
                        await self._history.told()
            except grpc.aio.AioRpcError as error:
                if not lost(error):
                    self._history.faults.append(f"watch: {error.code()} {error.details()}")
                    return
                self.resumed += 1
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def load(
    connect: Callable[[], Store], *, clients: int = 6, seed: int = 1
) -> AsyncIterator[tuple[History, Watcher]]:
    """Clients write while the block runs; afterwards what they were told is checked."""
    stop, stores = asyncio.Event(), [connect() for _ in range(clients + 1)]
    last = f"last of {seed}"
    history = History(await _first(stores[0], f"first of {seed}"), await stores[0].all())
    watcher = Watcher(stores[-1], history)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watcher.run())
        writing = [
            group.create_task(Writer(number, clients, store, history, seed).run(stop))
            for number, store in enumerate(stores[:-1])
        ]
        try:
            yield history, watcher
        finally:
            stop.set()
            await asyncio.wait(writing)
            watching_ended = watching
            if not history.faults:
                final = await stores[0].all()
                await history.seen(max((version for version, _ in final.values()), default=0))
                # Deletes come after the last version: one more write comes after them.
                await history.seen(await stores[0].write(last, b""))
                final = await stores[0].all()
            watching_ended.cancel()
    for store in stores:
        await store.close()
    assert not history.faults, history.faults
    history.check(final)


async def _first(store: Store, key: str) -> int:
    """Write as soon as the store answers: one that has just started does not know yet who may call."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.write(key, b"")
            except grpc.aio.AioRpcError as error:
                if not lost(error):
                    raise
            await asyncio.sleep(0.05)
