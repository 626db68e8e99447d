"""What the store costs beside what it is made of: SQLite, PostgreSQL, the framework's echo, a dictionary."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import operator
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import asyncpg
import uvloop

from bench import load, machine, processes
from bench.rows import MESSAGE, PATH, Row, paired, pin
from micro.backends.postgres.store import PostgresStore
from micro.backends.sqlite._store_rows import INSERT_RECORD, WRITE_STATE, State, checksum
from micro.backends.sqlite.store import SqliteStore
from micro.domain.record import Put, Query
from micro.ports.store import Store
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.testing.postgres import postgres_server

S = TypeVar("S", bound=Store)

IN_FLIGHT = 64
VALUE = 100
"""Bytes."""

KEYS = 10_000
GROWTH = (10**3, 10**5, 10**7)

_ROUNDS = 6
_READ = "/micro.store.v1.Store/Read"
_TABLE = "bench"


def state() -> Iterator[Row]:
    """The store: durable writes, lists and reads against SQLite, its service against the framework's echo, and
    PostgreSQL against asyncpg."""
    with tempfile.TemporaryDirectory(prefix="micro-bench-") as folder:
        yield from uvloop.run(_writes(Path(folder)))
        yield from uvloop.run(_lists(Path(folder)))
    yield from _service()
    with tempfile.TemporaryDirectory(prefix="micro-bench-") as folder:
        yield from uvloop.run(_growth(Path(folder)))
    with postgres_server() as server:
        yield from uvloop.run(_postgres(server.url))


# --- SQLite -----------------------------------------------------------------------------------------------------------


async def _writes(folder: Path) -> list[Row]:
    """The same upserts one commit each, and 64 in flight; round by round, since disks change their speed as well."""
    numbers = itertools.count()
    raw = _table(folder / "raw.db")
    alone: list[float] = []
    together: list[float] = []
    taken: list[float] = []
    async with _opened(SqliteStore(folder / "store")) as store:

        async def write() -> None:
            await store.commit("micro", (Put(_TABLE, *_record(next(numbers))),))

        for number in range(_ROUNDS):
            begin = time.perf_counter()
            for _ in range(1000):
                raw.execute("INSERT OR REPLACE INTO record VALUES (?, ?)", _record(next(numbers)))
            one = 1000 / (time.perf_counter() - begin)
            many, each = await _in_flight(write, 16_000)
            if number:  # the first round warms up
                alone.append(one)
                together.append(many)
                taken += each
    raw.close()
    return [
        Row("durable writes, SQLite with one commit each", statistics.median(alone), "writes/s"),
        Row(f"durable writes, {IN_FLIGHT} in flight", statistics.median(together), "writes/s"),
        Row("durable writes in flight / one commit each", paired(operator.truediv, together, alone), "ratio", 5),
        Row(f"durable write, {IN_FLIGHT} in flight, p50", statistics.median(taken) * 1000, "ms"),
        Row(f"durable write, {IN_FLIGHT} in flight, p99", sorted(taken)[int(len(taken) * 0.99)] * 1000, "ms"),
    ]


def _record(number: int) -> tuple[str, bytes]:
    """One of a thousand keys, met in no order, and a value that it did not have before."""
    return f"user/{number * 7919 % 1000:08}", b"%0*d" % (VALUE, number)


def _table(path: Path) -> sqlite3.Connection:
    """A table as anybody would make it, in a file as durable as the store's."""
    raw = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode = WAL", "synchronous = FULL"):
        raw.execute(f"PRAGMA {setting}").fetchall()
    raw.execute("CREATE TABLE record (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    return raw


async def _in_flight(work: Callable[[], Awaitable[object]], count: int) -> tuple[float, list[float]]:
    """Calls a second, and the seconds that each took."""
    left, taken = iter(range(count)), []

    async def worker() -> None:
        for _ in left:
            begin = time.perf_counter()
            await work()
            taken.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - begin), taken


@contextlib.asynccontextmanager
async def _opened(store: S) -> AsyncIterator[S]:
    async with AsyncExitStack() as stack:
        await store.start(stack)
        yield store


async def _lists(folder: Path) -> list[Row]:
    """All keys of a prefix, in order, among as many others."""
    raw = _table(folder / "listed.db")
    records = [(f"{head}/{number:08}", b"x" * VALUE) for head in ("user", "item") for number in range(KEYS)]
    raw.execute("BEGIN")
    raw.executemany("INSERT INTO record VALUES (?, ?)", records)
    raw.execute("COMMIT")
    plain: list[float] = []
    ours: list[float] = []
    async with _opened(SqliteStore(folder / "lists")) as store:
        for start in range(0, len(records), 1000):
            await store.commit("micro", [Put(_TABLE, *each) for each in records[start : start + 1000]])
        for number in range(3 * _ROUNDS):
            begin = time.perf_counter()
            found = [key for (key,) in raw.execute("SELECT key FROM record WHERE key >= 'user/' AND key < 'user0'")]
            between = time.perf_counter()
            told = await _keys(store, "user/")
            end = time.perf_counter()
            if told != sorted(found) or len(told) != KEYS:
                raise SystemExit("bench: the store lists other keys than SQLite")
            if number:
                plain.append(between - begin)
                ours.append(end - between)
    raw.close()
    return [
        Row(f"list of {KEYS:,} keys by prefix", statistics.median(ours) * 1000, "ms"),
        Row("list of keys / SQLite", paired(operator.truediv, ours, plain), "times", 5, at_most=True),
    ]


async def _keys(store: Store, prefix: str) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while True:
        page = await store.keys("micro", _TABLE, Query(prefix=prefix, after=after))
        found += page.keys
        if not page.more:
            return found
        after = found[-1]


async def _growth(folder: Path) -> list[Row]:
    """Point reads among more and more records, in turns, of keys in no order."""
    choice = random.Random(7)
    taken: list[list[float]] = [[] for _ in GROWTH]
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(_grown(folder / str(count), count)) for count in GROWTH]
        for number in range(2 * _ROUNDS):
            for store, count, into in zip(stores, GROWTH, taken, strict=True):
                keys = [f"{choice.randrange(count):08}" for _ in range(10_000)]
                begin = time.perf_counter()
                for key in keys:
                    if await store.read("micro", _TABLE, key) is None:
                        raise SystemExit(f"bench: {key} is not among {count:,} records")
                if number:  # the first round warms up
                    into.append((time.perf_counter() - begin) / len(keys))
    rows = [
        Row(f"point read among {count:,} records", statistics.median(each) * 1e6, "us")
        for count, each in zip(GROWTH, taken, strict=True)
    ]
    times = paired(operator.truediv, taken[-1], taken[0])
    return [*rows, Row(f"point read, {GROWTH[-1]:,} records / {GROWTH[0]:,}", times, "times", 2, at_most=True)]


@contextlib.asynccontextmanager
async def _grown(folder: Path, count: int) -> AsyncIterator[Store]:
    """A store with so many records."""
    async with _opened(SqliteStore(folder)) as store:
        await store.commit("micro", (Put(_TABLE, "x"),))
    await asyncio.to_thread(_grow, folder / "micro.db", count)
    store = SqliteStore(folder)
    async with _opened(store):
        # Else all of it would be read first, or beside what is measured.
        store._known("micro").file.verified = True
        yield store


def _grow(path: Path, count: int) -> None:
    """Let that many records be what is in a file of the store's, as it would write them, but at once and unsafely."""
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    table, value, total = _TABLE.encode(), b"0123456789", 0

    def rows() -> Iterator[tuple[object, ...]]:
        nonlocal total
        for number in range(count):
            key = b"%08d" % number
            found = checksum(table, key, 2, None, b"", value)
            total += found
            yield table, key, 2, None, found, b"", value

    connection.execute("BEGIN")
    connection.execute("DELETE FROM record")
    connection.execute("DELETE FROM history")
    connection.executemany(INSERT_RECORD, rows())
    connection.execute(WRITE_STATE, State(2, 2, count, total % 2**63).row())
    connection.execute("COMMIT")
    connection.execute("PRAGMA locking_mode = NORMAL").fetchall()
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()


# --- the service ------------------------------------------------------------------------------------------------------


def _service() -> Iterator[Row]:
    """Straight to the processes, with a token each; the service on one core, the generator on the other."""
    with processes.platform(MICRO_GATEWAY_WORKERS="1") as platform:
        platform.cli("run", str(processes.CONTRACT))
        services = json.loads(platform.cli("services", "-o", "json"))
        echo = next(each["nodes"][0]["address"] for each in services if each["name"] == "helloworld")
        platform.cli("store", "write", "user/1", "x" * VALUE)
        own, other = machine.cores()
        pin(platform.pids(), own)
        read = load.frame(pb.ReadRequest(key="user/1").to_binary())
        targets = (
            (f"http://{echo}{PATH}", load.frame(MESSAGE), platform.cli("user", "token").strip()),
            (
                f"http://{platform.settings['store_address']}{_READ}",
                read,
                platform.cli("user", "token", "--platform").strip(),
            ),
        )
        rates: list[list[float]] = [[], []]
        for number in range(_ROUNDS):
            for (url, body, token), into in zip(targets, rates, strict=True):
                run = load.run(url, body, count=15_000, core=other, token=token)
                if run.failed:
                    raise SystemExit(f"bench: {run.failed} requests to {url} failed")
                if number:
                    into.append(run.rate)
        yield Row("the framework's echo, with a token", statistics.median(rates[0]), "requests/s")
        yield Row("point reads through the service", statistics.median(rates[1]), "requests/s")
        yield Row("point reads through the service / echo", paired(operator.truediv, rates[1], rates[0]), "ratio", 0.5)
        account = json.loads(platform.cli("auth", "create", "account", "bench", "-o", "json"))
        program = processes.PROGRAMS / "state.py"
        figures = json.loads(platform.python(program, account["id"], account["secret"], str(IN_FLIGHT), str(KEYS)))
        yield Row(f"durable writes through mesh and service, {IN_FLIGHT} in flight", figures["rate"], "writes/s")
        yield Row("durable write through mesh and service, p99", figures["p99"] * 1000, "ms")
        yield Row(f"list of {KEYS:,} keys through mesh and service", figures["list"] * 1000, "ms")
        yield Row("cached config read", figures["config"] * 1e6, "us", 2, at_most=True)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def _postgres(url: str) -> list[Row]:
    """Reads and upserts through the store and through asyncpg, a pool each, 64 in flight."""
    numbers = itertools.count()
    rates: dict[str, list[float]] = {name: [] for name in ("read", "raw read", "write", "raw write")}
    async with _opened(PostgresStore(url, "bench")) as store, asyncpg.create_pool(url) as pool:
        await pool.execute("CREATE TABLE plain (key TEXT PRIMARY KEY, value BYTEA)")
        upsert = "INSERT INTO plain VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        for number in range(1000):
            key, value = _record(number)
            await pool.execute(upsert, key, value)
            await store.commit("micro", (Put(_TABLE, key, value),))

        def place() -> tuple[str, bytes]:
            return _record(next(numbers))

        works: dict[str, Callable[[], Awaitable[object]]] = {
            "read": lambda: store.read("micro", _TABLE, place()[0]),
            "raw read": lambda: pool.fetchrow("SELECT value FROM plain WHERE key = $1", place()[0]),
            "write": lambda: store.commit("micro", (Put(_TABLE, *place()),)),
            "raw write": lambda: pool.execute(upsert, *place()),
        }
        for number in range(_ROUNDS):
            for name, work in works.items():
                rate, _ = await _in_flight(work, 4000)
                if number:
                    rates[name].append(rate)
    rows = []
    for name in ("read", "write"):
        ratio = paired(operator.truediv, rates[name], rates[f"raw {name}"])
        rows.append(Row(f"{name}s on PostgreSQL", statistics.median(rates[name]), "calls/s"))
        rows.append(Row(f"{name}s on PostgreSQL / asyncpg", ratio, "ratio", 0.4))
    return rows
