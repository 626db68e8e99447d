"""Every backend of records gives the same answers to the same questions: memory is the one they are compared with."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from micro.backends.memory.store import MemoryStore
from micro.backends.postgres.store import PostgresStore
from micro.backends.sqlite.store import SqliteStore
from micro.domain import errors
from micro.domain.record import Check, Commit, Committed, Delete, Get, Operation, Put, Query
from micro.ports.store import Kept, Store
from micro.testing.contracts.store import SettableClock
from micro.testing.postgres import FAST, PostgresServer, postgres_server

EXAMPLES = int(os.environ.get("MICRO_SOAK", "10"))

pytestmark = pytest.mark.timeout(120 + 10 * EXAMPLES)

Backend: TypeAlias = Callable[[Path, SettableClock], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def memory(folder: Path, clock: SettableClock) -> AsyncGenerator[Store]:
    async with AsyncExitStack() as stack:
        store = MemoryStore(clock=clock)
        await store.start(stack)
        yield store


@asynccontextmanager
async def sqlite(folder: Path, clock: SettableClock) -> AsyncGenerator[Store]:
    async with AsyncExitStack() as stack:
        store = SqliteStore(folder / "store", clock=clock, open_files=1)
        await store.start(stack)
        yield store


BACKENDS: list[Backend] = [memory, sqlite]
"""Each is opened over an empty folder, which it may use. The first is the model. PostgreSQL comes with its server."""


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[PostgresServer]:
    with postgres_server(**FAST) as server:

        @asynccontextmanager
        async def postgres(folder: Path, clock: SettableClock) -> AsyncGenerator[Store]:
            async with AsyncExitStack() as stack:
                store = PostgresStore(server.url, folder.name, clock=clock)
                await store.start(stack)
                yield store

        BACKENDS.append(postgres)
        yield server
        BACKENDS.remove(postgres)


DATABASES = st.sampled_from(["one", "two"])
TABLES = st.sampled_from(["a", "b", ".c"])
KEYS = st.sampled_from(["a", "a/", "a/1", "a/2", "aé", "b", "b\0", "é", "☃", "\U00010348", "\U0010ffff"])
PARTS = st.sampled_from(["", "", "", "a", "a/", "/", "1", "b", "\0", "é", "\U0010ffff", "z"])
VALUES = st.binary(max_size=20)
METADATA = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=3,
    ),
    max_size=2,
)
CONDITIONS = st.sampled_from([None, None, None, 0, 1, 2, 5])
PUTS = st.builds(
    Put, TABLES, KEYS, VALUES, st.sampled_from([None, None, 1, 500, 900, 10_000]), METADATA, CONDITIONS
)  # `expires` is milliseconds from now on, until the batch is made
OPERATIONS = st.one_of(
    PUTS, PUTS, st.builds(Get, TABLES, KEYS), st.builds(Delete, TABLES, KEYS, CONDITIONS),
    st.builds(Check, TABLES, KEYS, st.integers(0, 6)),
)  # fmt: skip
QUERIES = st.builds(
    Query,
    prefix=PARTS,
    suffix=PARTS,
    start=PARTS,
    until=PARTS,
    limit=st.integers(0, 4),
    offset=st.integers(0, 3),
    descending=st.booleans(),
    after=st.none() | KEYS,
    keys_only=st.booleans(),
)


def changed_once(operations: list[Operation]) -> bool:
    places = [(each.table, each.key) for each in operations if isinstance(each, Put | Delete)]
    return len(places) == len(set(places))


async def gathered(records: AsyncIterator[Kept]) -> list[Kept]:
    return [each async for each in records]


async def given(records: list[Kept]) -> AsyncIterator[Kept]:
    for each in records:
        yield each


class Agreement(RuleBasedStateMachine):
    """All backends are asked the same, and answer the same."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = SettableClock()
        self.ends: dict[tuple[str, str, str], int] = {}
        self.places = [tempfile.TemporaryDirectory() for _ in BACKENDS]
        self.stacks: list[AsyncExitStack] = []
        self.stores: list[Store] = []
        for backend, place in zip(BACKENDS, self.places, strict=True):
            stack = AsyncExitStack()
            self.stacks.append(stack)
            self.stores.append(self.run(stack.enter_async_context(backend(Path(place.name), self.clock))))

    def teardown(self) -> None:
        for stack, place in zip(self.stacks, self.places, strict=True):
            self.run(stack.aclose())
            place.cleanup()
        self.loop.close()

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(call, 60))

    def same(self, ask: Callable[[Store], Any]) -> Any:
        """What all answer, or the kind and the words of the error that they raise."""
        answers = []
        for store in self.stores:
            try:
                answers.append(self.run(ask(store)))
            except errors.Error as error:
                answers.append((error.kind, error.message))
        for answer in answers[1:]:
            assert answer == answers[0]
        return answers[0]

    @rule(database=DATABASES, operations=st.lists(OPERATIONS, min_size=1, max_size=5).filter(changed_once))
    def commit(self, database: str, operations: list[Operation]) -> None:
        made = [
            replace(each, expires=self.clock.now + each.expires)
            if isinstance(each, Put) and each.expires is not None
            else each
            for each in operations
        ]
        if isinstance(self.same(lambda store: store.commit(database, made)), Committed):
            for each in made:
                if isinstance(each, Put | Delete):
                    self.ends.pop((database, each.table, each.key), None)
                if isinstance(each, Put) and each.expires is not None:
                    self.ends[database, each.table, each.key] = each.expires

    @rule(database=DATABASES, table=TABLES, key=KEYS)
    def read(self, database: str, table: str, key: str) -> None:
        self.same(lambda store: store.read(database, table, key))

    @rule(database=DATABASES, table=TABLES, query=QUERIES)
    def scan(self, database: str, table: str, query: Query) -> None:
        self.same(lambda store: store.scan(database, table, query))

    @rule(database=DATABASES)
    def look(self, database: str) -> None:
        self.same(lambda store: store.databases())
        self.same(lambda store: store.tables(database))
        self.same(lambda store: store.revision(database))
        self.same(lambda store: gathered(store.dump(database)))

    @rule(database=DATABASES, after=st.integers(0, 12))
    def watch(self, database: str, after: int) -> None:
        revision = self.same(lambda store: store.revision(database))
        if after != revision:
            self.same(lambda store: self.told(store, database, after, revision))

    async def told(self, store: Store, database: str, after: int, revision: int) -> list[Commit]:
        async with aclosing(store.watch(database, after)) as commits:
            return [await anext(commits) for _ in range(max(1, revision - after))]

    @rule(milliseconds=st.sampled_from([1, 400, 600, 20_000]))
    def advance(self, milliseconds: int) -> None:
        """What ends is swept, in one commit."""
        before = {name: self.same(lambda store: store.revision(name)) for name in ("one", "two")}  # noqa: B023
        self.clock.now += milliseconds
        for name, revision in before.items():
            ended = [place for place, end in self.ends.items() if place[0] == name and end <= self.clock.now]
            if ended:
                self.same(lambda store: store.read(name, "a", "a"))  # noqa: B023
                (commit,) = self.same(lambda store: self.told(store, name, revision, revision + 1))  # noqa: B023
                assert {(name, each.table, each.record.key) for each in commit.changes} == set(ended)
            for place in ended:
                del self.ends[place]

    @rule(source=DATABASES, destination=DATABASES)
    def copy(self, source: str, destination: str) -> None:
        records = self.same(lambda store: gathered(store.dump(source)))
        self.same(lambda store: store.load(destination, given(records)))
        self.forget(destination)
        self.ends |= {
            (destination, each.table, each.record.key): each.record.expires for each in records if each.record.expires
        }

    @rule(database=DATABASES)
    def drop(self, database: str) -> None:
        self.same(lambda store: store.drop(database))
        self.forget(database)

    @rule()
    def restart(self) -> None:
        """Those that keep what they have."""
        for number, backend in enumerate(BACKENDS):
            if backend is not memory:
                self.run(self.stacks[number].aclose())
                self.stacks[number] = AsyncExitStack()
                opened = backend(Path(self.places[number].name), self.clock)
                self.stores[number] = self.run(self.stacks[number].enter_async_context(opened))

    def forget(self, database: str) -> None:
        self.ends = {place: end for place, end in self.ends.items() if place[0] != database}


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
