"""Records on PostgreSQL: the port's contract on a real server, and what can happen to that server."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest

from micro.backends.postgres import _rows, _tables, _watch
from micro.backends.postgres.store import PostgresStore
from micro.domain import errors
from micro.domain.errors import Kind
from micro.domain.record import Cause, Change, Commit, Committed, Get, Operation, Page, Put, Query, Record
from micro.ports import store as port
from micro.ports.free_address import free_address
from micro.ports.store import HISTORY_SECONDS, Now, Store
from micro.testing.contracts.store import (
    DB,
    PATIENCE,
    SettableClock,
    StoreContract,
    everything,
    put,
    refused,
    watching,
    write,
)
from micro.testing.postgres import FAST, PostgresServer, postgres_server

SCHEMAS = (f"test_{number}" for number in itertools.count())
ROUNDS = int(os.environ.get("MICRO_SOAK", "1"))
"""How often the server is struck, of each kind."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server(**FAST) as server:
        yield server


@pytest.fixture
def schema() -> str:
    return next(SCHEMAS)


@asynccontextmanager
async def started(
    server: PostgresServer, schema: str, clock: Now = port.now, connect_seconds: float = 10.0
) -> AsyncGenerator[PostgresStore]:
    async with AsyncExitStack() as stack:
        backend = PostgresStore(server.url, schema, clock=clock, connect_seconds=connect_seconds)
        await backend.start(stack)
        yield backend


@asynccontextmanager
async def connected(server: PostgresServer) -> AsyncGenerator[asyncpg.Connection]:
    """Beside the store's own."""
    connection = await asyncpg.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


class TestPostgres(StoreContract):
    @pytest.fixture
    async def store(self, server: PostgresServer, schema: str, clock: SettableClock) -> AsyncGenerator[Store]:
        async with started(server, schema, clock) as backend:
            yield backend


# --- what happens to the server -----------------------------------------------------------------------------------


@dataclass
class Load:
    """Writers that go on whatever happens, and what they were told. Each batch writes two records."""

    store: Store
    acknowledged: dict[str, int] = field(default_factory=dict)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, writer: str) -> None:
        for number in itertools.count():
            key = f"{writer}/{number:06}"
            try:
                done = await write(self.store, put(f"{key}/a", b"x" * 500), put(f"{key}/b", key.encode()))
            except errors.Error as error:
                if error.kind is not Kind.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)  # a client that tries again
            else:
                self.acknowledged[key] = done.revision
                self.progress.set()

    async def more(self, count: int) -> None:
        """Return when so many more have been acknowledged."""
        end = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE):
            while len(self.acknowledged) < end:
                self.progress.clear()
                await self.progress.wait()


@asynccontextmanager
async def under_load(store: Store) -> AsyncGenerator[Load]:
    """Writers and a watch, whose tale is compared with what was acknowledged and with what is there at the end."""
    told: list[Commit] = []

    async def watch() -> None:
        async with aclosing(store.watch(DB, 0)) as commits:
            async for commit in commits:
                told.append(commit)
                load.progress.set()

    load = Load(store)
    tasks = [asyncio.ensure_future(load.write(f"w{number}")) for number in range(6)]
    tasks.append(asyncio.ensure_future(watch()))
    try:
        yield load
        for task in tasks[:-1]:
            task.cancel()
        await asyncio.wait(tasks[:-1])
        last = (await write(store, put("end/a"), put("end/b"))).revision
        async with asyncio.timeout(PATIENCE):
            while not told or told[-1].revision < last:
                load.progress.clear()
                await load.progress.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert [commit.revision for commit in told] == list(range(1, last + 1))
    assert all(len(commit.changes) == 2 for commit in told)
    tale = {change.record.key: change.record for commit in told for change in commit.changes}
    assert tale == {kept.record.key: kept.record for kept in await everything(store)}
    for key, revision in load.acknowledged.items():
        assert tale[f"{key}/a"].version == tale[f"{key}/b"].version == revision


async def backend_killed(server: PostgresServer) -> None:
    os.kill(server.backends()[0], signal.SIGKILL)  # PostgreSQL ends all others then, and recovers


async def server_killed(server: PostgresServer) -> None:
    server.kill()
    await asyncio.to_thread(server.start)


async def stopped_at_once(server: PostgresServer) -> None:
    server.stop(immediate=True)
    await asyncio.to_thread(server.start)


async def restarted(server: PostgresServer) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def connections_ended(server: PostgresServer) -> None:
    async with connected(server) as connection:
        await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'micro'"
        )


@pytest.mark.timeout(120 + 5 * ROUNDS)
@pytest.mark.parametrize("strike", [backend_killed, server_killed, stopped_at_once, restarted, connections_ended])
async def test_what_was_acknowledged_outlives_the_server(
    server: PostgresServer, schema: str, strike: Callable[[PostgresServer], Awaitable[None]]
) -> None:
    async with started(server, schema) as store, under_load(store) as load:
        for _ in range(ROUNDS):
            await load.more(50)
            await strike(server)
            await load.more(50)


async def test_health_follows_the_server(server: PostgresServer, schema: str) -> None:
    async with started(server, schema) as store, asyncio.timeout(PATIENCE):
        await write(store, put("k", b"v"))
        assert store.healthy()
        server.kill()
        try:
            while store.healthy():
                await asyncio.sleep(0.01)
            await refused(Kind.UNAVAILABLE, store.read(DB, "orders", "k"), server.address, "is it running?")
            await refused(Kind.UNAVAILABLE, write(store, put("l")), server.address)
        finally:
            await asyncio.to_thread(server.start)
        while not store.healthy():
            await asyncio.sleep(0.01)
        assert await store.read(DB, "orders", "k") == Record("k", b"v", 1)
        assert (await write(store, put("l"))).revision == 2


async def test_closing_leaves_nobody_waiting(server: PostgresServer, schema: str) -> None:
    for steps in range(4):
        async with started(server, schema) as store:
            writes = [asyncio.ensure_future(write(store, put(f"{steps}/{number}"))) for number in range(20)]
            watches = [asyncio.ensure_future(anext(store.watch(DB, 0))) for _ in range(3)]
            for _ in range(steps * 3):
                await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*writes, *watches, return_exceptions=True)
        for each in outcomes:
            assert isinstance(each, Committed | Commit) or (
                isinstance(each, errors.Error) and each.kind is Kind.UNAVAILABLE
            ), each


# --- several processes over one schema ----------------------------------------------------------------------------


async def test_two_stores_over_one_schema_act_as_one(server: PostgresServer, schema: str) -> None:
    async with started(server, schema) as one, started(server, schema) as two:

        async def add(store: Store) -> None:
            while True:
                found = await store.read(DB, "orders", "count")
                number = int(found.value) + 1 if found else 1
                try:
                    await write(store, put("count", str(number).encode(), if_version=found.version if found else 0))
                except errors.Error as error:
                    if error.kind not in (Kind.ABORTED, Kind.ALREADY_EXISTS):
                        raise
                else:
                    return

        async with watching(one, 0) as here, watching(two, 0) as there:
            await asyncio.gather(*(add(store) for store in (one, two) for _ in range(15)))
            seen = await here.until(30)
            assert await there.until(30) == seen
        assert [each.changes[0].record.value for each in seen] == [str(number).encode() for number in range(1, 31)]
        assert await one.revision(DB) == await two.revision(DB) == 30


async def test_what_was_acknowledged_by_one_store_the_other_reads_at_once(server: PostgresServer, schema: str) -> None:
    async with started(server, schema) as one, started(server, schema) as two:
        for number, (writer, reader) in enumerate([(one, two), (two, one)] * 20):
            done = await write(writer, put("k", b"%d" % number))
            expected = Record("k", b"%d" % number, done.revision)
            assert await reader.read(DB, "orders", "k") == expected
            assert await reader.scan(DB, "orders", Query()) == Page((expected,), done.revision)


async def test_what_expires_is_swept_once(server: PostgresServer, schema: str) -> None:
    clock = SettableClock()
    async with started(server, schema, clock) as one, started(server, schema, clock) as two:
        await write(one, *(put(f"{number:04}", expires=clock.now + 5) for number in range(1000)))
        await write(two, *(put(f"{number:04}", expires=clock.now + 5) for number in range(1000, 1500)))
        async with watching(two) as watch:
            await asyncio.sleep(0)
            clock.now += 5
            seen = [*(await watch.until(3))[-1].changes, *(await watch.until(4))[-1].changes]
        assert {each.cause for each in seen} == {Cause.EXPIRED}
        assert sorted(each.record.key for each in seen) == [f"{number:04}" for number in range(1500)]
        assert await write(one, Get("orders", "0000")) == (await write(two, Get("orders", "0001")))
        assert await one.revision(DB) == 4


async def test_those_who_start_together_make_the_tables_once(server: PostgresServer, schema: str) -> None:
    async with AsyncExitStack() as stack:
        stores = [PostgresStore(server.url, schema) for _ in range(5)]
        await asyncio.gather(*(store.start(stack) for store in stores))
        done = await asyncio.gather(*(write(store, put(f"k{place}")) for place, store in enumerate(stores)))
        assert sorted(each.revision for each in done) == [1, 2, 3, 4, 5]


async def test_schemas_know_nothing_of_each_other(server: PostgresServer) -> None:
    async with started(server, next(SCHEMAS)) as one, started(server, next(SCHEMAS)) as two:
        await write(one, put("k"))
        assert await two.databases() == []


# --- what is refused, and in which words --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://u:hush@h/db",
        "postgresql:/u:hush@h/db",
        "postgresql://u:hush@h:port/db",
        "postgresql://u:hush@h:99999/db",
        "postgresql://u:hu/sh@h/db",
        "postgresql://u:hu#sh@h/db",
        "postgresql://u:12?sh@h/db",
        "postgresql://u:hush@[h/db",
    ],
)
def test_a_url_that_cannot_be_one(url: str) -> None:
    with pytest.raises(errors.Error) as caught:
        PostgresStore(url)
    assert caught.value.kind is Kind.INVALID_ARGUMENT
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in caught.value.message
    assert "hu" not in caught.value.message
    assert "sh" not in caught.value.message


def test_a_schema_that_cannot_be_one(server: PostgresServer) -> None:
    for schema in ("", "a;b", "Ä", "x" * 60, '"x"'):
        with pytest.raises(errors.Error) as caught:
            PostgresStore(server.url, schema)
        assert caught.value.kind is Kind.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("user", "database", "words"),
    [
        ("micro:hush", "postgres", ("refuses user or password",)),
        ("nobody:hush", "postgres", ("refuses user or password",)),
        (None, "nowhere", ("nowhere", "create it")),
        ("late:hush", "postgres", ("no more connections", "max_connections")),
        (None, "postgres?sslmode=maybe", ("settings make no sense",)),
        (None, "postgres?no_such_thing=1", ("no_such_thing", "mend the settings")),
    ],
)
async def test_a_server_that_says_no(
    server: PostgresServer, user: str | None, database: str, words: tuple[str, ...]
) -> None:
    async with connected(server) as connection:
        await connection.execute("DROP ROLE IF EXISTS late; CREATE ROLE late LOGIN PASSWORD 'hush' CONNECTION LIMIT 0")
    url = server.url.replace("/postgres", f"/{database}")
    if user is not None:
        url = f"postgresql://{user}@{server.address}/{database}"
    with pytest.raises(errors.Error) as caught:
        async with AsyncExitStack() as stack:
            await PostgresStore(url, connect_seconds=0.0).start(stack)
    assert caught.value.kind is Kind.UNAVAILABLE
    for word in (server.address, *words):
        assert word in caught.value.message
    for secret in ("hush", server.url.split(":")[2].split("@")[0]):
        assert secret not in caught.value.message


async def test_no_server() -> None:
    address = free_address()
    async with AsyncExitStack() as stack:
        store = PostgresStore(f"postgres://u:hush@{address}/db", connect_seconds=0.0)
        await refused(Kind.UNAVAILABLE, store.start(stack), f"PostgreSQL at {address}/db", "connection refused")
        assert not store.healthy()


async def test_a_schema_of_a_newer_release(server: PostgresServer, schema: str) -> None:
    async with started(server, schema) as store, connected(server) as connection:
        await write(store, put("k", b"v"))
        await connection.execute(f"INSERT INTO {schema}.migrations VALUES (99)")
        async with AsyncExitStack() as stack:
            await refused(
                Kind.FAILED_PRECONDITION,
                PostgresStore(server.url, schema).start(stack),
                schema,
                "version 99",
                "upgrade",
            )
        await connection.execute(f"DELETE FROM {schema}.migrations WHERE version = 99")
    async with started(server, schema) as store:
        assert await store.read(DB, "orders", "k") == Record("k", b"v", 1)


async def test_what_is_lost_is_told_and_not_made_anew(server: PostgresServer, schema: str) -> None:
    async with started(server, schema) as store, connected(server) as connection:
        await write(store, put("k"))
        await connection.execute(f"DROP TABLE {schema}.records")
        await refused(Kind.DATA_LOSS, store.read(DB, "orders", "k"), "records", "restore a backup")
        await refused(Kind.DATA_LOSS, write(store, put("l")), "restore a backup")
        async with AsyncExitStack() as stack:
            await refused(Kind.DATA_LOSS, PostgresStore(server.url, schema).start(stack), "restore a backup")


async def test_what_the_server_refuses_hits_only_who_asked_for_it(server: PostgresServer, schema: str) -> None:
    async with started(server, schema) as store, connected(server) as connection:
        await write(store, put("first"))
        for key, code in (("full", "53100"), ("torn", "XX001")):
            await connection.execute(f"""
                CREATE FUNCTION {schema}.is_{key}() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE EXCEPTION 'the {key} file' USING ERRCODE = '{code}'; END $$;
                CREATE TRIGGER is_{key} BEFORE INSERT ON {schema}.records
                    FOR EACH ROW WHEN (new.key = '{key}') EXECUTE FUNCTION {schema}.is_{key}()""")
        batches: list[list[Operation]] = [[put(f"good{number}")] for number in range(20)]
        batches[7] = [put("full"), put("beside the full")]
        batches[11] = [put("torn")]
        outcomes = await asyncio.gather(*(store.commit(DB, each) for each in batches), return_exceptions=True)
        failed = {place: each for place, each in enumerate(outcomes) if isinstance(each, errors.Error)}
        assert {place: each.kind for place, each in failed.items()} == {
            7: Kind.RESOURCE_EXHAUSTED,
            11: Kind.DATA_LOSS,
        }
        assert "the full file" in failed[7].message
        assert "restore a backup" in failed[11].message
        assert await store.revision(DB) == 19
        assert await store.read(DB, "orders", "beside the full") is None


# --- the history --------------------------------------------------------------------------------------------------


async def forgotten(store: Store, after: int) -> None:
    """Return when a watch after that revision is refused."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with aclosing(store.watch(DB, after)) as commits:
                    await anext(commits)
            except errors.Error as error:
                if error.kind is not Kind.OUT_OF_RANGE:
                    raise
                return
            await asyncio.sleep(0.05)


async def test_history_goes_when_it_is_old(server: PostgresServer, schema: str) -> None:
    clock = SettableClock()
    async with started(server, schema, clock) as store:
        await write(store, put("old"))
        await write(store, put("older"))
        clock.advance(HISTORY_SECONDS)
        await write(store, put("new"))
        clock.advance(1)
        await forgotten(store, 1)
        async with watching(store, 2) as watch:
            assert (await watch.commit()).revision == 3


async def test_a_watch_looks_by_itself_as_well(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "POLL_SECONDS", 0.1)
    async with started(server, schema) as store, connected(server) as connection:
        await write(store, put("k", b"v"))
        async with watching(store, 1) as watch:
            await connection.execute(f"""
                INSERT INTO {schema}.history SELECT database, 2, 0, start + 1, at, cause, tab, key, expires, metadata,
                    value FROM {schema}.history;
                UPDATE {schema}.databases SET revision = 2""")
            assert await watch.commit() == Commit(2, (Change("orders", Record("k", b"v", 2)),))


async def test_many_watches_are_few_questions(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    read = _watch.Watches._read

    async def counted(self: _watch.Watches, database: str, after: int | None) -> object:
        asked.append(after)
        return await read(self, database, after)

    monkeypatch.setattr(_watch.Watches, "_read", counted)
    async with started(server, schema) as store, AsyncExitStack() as stack:
        await write(store, put("k"))
        watches = [await stack.enter_async_context(watching(store, 0)) for _ in range(50)]
        assert {(await each.commit()).revision for each in watches} == {1}
        await write(store, put("k"))
        assert {(await each.commit()).revision for each in watches} == {2}
    assert len(asked) < 15


async def test_history_goes_when_it_is_much(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "HISTORY_BYTES", 5000)
    async with started(server, schema) as store:
        for number in range(6):
            await write(store, put("k", bytes([number]) * 1000))
        await forgotten(store, 0)
        async with watching(store, 2) as watch:
            assert [each.revision for each in await watch.until(6)] == [3, 4, 5, 6]
        assert (await store.scan(DB, "orders", Query())).revision == 6


async def test_a_plain_write_of_many_at_once_is_few_transactions(server: PostgresServer, schema: str) -> None:
    async with started(server, schema) as store, connected(server) as connection:
        before = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await asyncio.gather(*(write(store, Put("orders", f"{number}")) for number in range(200)))
        assert await connection.fetchval("SELECT pg_current_xact_id()::text::bigint") - before < 20


async def test_batches_do_not_fetch_more_than_one_answer_holds(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []

    def stored(row: asyncpg.Record) -> Record:
        fetched.append(len(row["value"] or b""))
        return _rows.stored(row)

    monkeypatch.setattr(_tables, "stored", stored)
    async with started(server, schema) as store:
        for name in "abc":
            await write(store, put(name, bytes(9 << 20)))
        for key in ("a", "b", "c"):
            assert (await store.commit(DB, [Get("orders", key)])).revision == 3
        fetched.clear()
        several = [store.commit(DB, [Get("orders", key) for key in keys]) for keys in ("abc", "ab", "bc")]
        first, *others = await asyncio.gather(*several, return_exceptions=True)
        assert isinstance(first, errors.Error)
        assert first.kind is Kind.RESOURCE_EXHAUSTED
        assert all(isinstance(each, Committed) for each in others)
        assert sum(fetched) == 4 * (9 << 20)
