"""No acknowledged batch is lost, or half there, or told twice, when the process that keeps records is killed, nor when
the machine's power is cut."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from disks import Disk
from micro.backends.sqlite import _store_file
from micro.backends.sqlite.store import SqliteStore
from micro.domain import errors
from micro.domain.record import Cause, Commit, Delete, Operation, Put, Record
from micro.ports import store

ROUNDS = int(os.environ.get("MICRO_SOAK", "4"))
MOST = 150
"""Acknowledgements that a round waits for at most."""

WORKERS = 8
DB = "d"


def batch(choose: random.Random, worker: int, token: str) -> list[Operation]:
    """Some of a worker's keys and some that all share; each value names the batch and how many changes it has."""
    keys = [*choose.sample([f"{worker}/{n}" for n in range(6)], choose.randint(1, 4)), f"shared/{choose.randint(0, 9)}"]
    value = json.dumps([token, len(keys)]).encode() + b" " * choose.choice([0, 0, 3000, 20_000])
    ends = [store.now() + choose.randint(1, 400) if choose.random() < 0.2 else None for _ in keys]
    return [Put("t", key, value, end) for key, end in zip(keys, ends, strict=True)]


async def work(backend: store.Store, worker: int, generation: str) -> None:
    choose = random.Random()
    number = 0
    while True:
        number += 1
        token = f"{generation}.{worker}.{number}"
        operations = batch(choose, worker, token)
        if choose.random() < 0.2:
            operations.append(Delete("t", f"{worker}/gone"))
        if choose.random() < 0.2:  # sometimes it holds
            operations.append(Put("t", f"{worker}/cas", b"", if_version=choose.choice([0, 5, 10**6])))
            operations[:-1] = []
        try:
            committed = await backend.commit(DB, operations)
        except errors.Error:
            continue
        print("done", committed.revision, token, flush=True)


async def watch(backend: store.Store, after: int) -> None:
    async with aclosing(backend.watch(DB, after)) as commits:
        async for commit in commits:
            print("told", commit.revision, flush=True)


def careless(synchronous: str) -> None:
    """Have the backend leave it to the system when what it writes goes to disk."""
    careful = _store_file.connect

    def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
        connection = careful(path, mode)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    _store_file.connect = connect


async def serve(folder: Path, generation: str, after: int) -> None:
    """Write for ever, and print what is acknowledged and what is told."""
    async with AsyncExitStack() as stack:
        backend = SqliteStore(folder)
        await backend.start(stack)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(backend, after))
            for worker in range(WORKERS):
                tasks.create_task(work(backend, worker, generation))


@dataclass
class World:
    """What the outside knows."""

    folder: Path
    disk: Disk | None = None
    """Whose power is cut after each round."""

    synchronous: str = ""
    """What SQLite is told instead of what the backend tells it."""

    told: int = 0
    seen: int = 0
    """Up to where the history was looked at."""

    records: dict[str, Record] = field(default_factory=dict)

    def round(self, generation: int, after: int, choose: random.Random | None = None) -> dict[int, str]:
        """Let a process work, and kill it after so many lines; what it acknowledged. `choose` as for the disk."""
        argv = [sys.executable, __file__, str(self.folder), str(generation), str(self.told), self.synchronous]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if self.disk:
            env |= self.disk.env
            self.disk.begin()
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                lines = [child.stdout.readline() for _ in range(after)]
            finally:
                os.kill(child.pid, signal.SIGKILL)
            lines += child.stdout.read().splitlines(keepends=True)
        if self.disk:
            self.disk.cut(choose)
        assert all(lines[:after]), "the process ended by itself"
        words = [line.split() for line in lines if line.endswith("\n")]
        for told in (int(line[1]) for line in words if line[0] == "told"):
            assert told == self.told + 1, "a watcher is told everything once, in order, also by the next process"
            self.told = told
        return {int(line[1]): line[2] for line in words if line[0] == "done"}

    async def check(self, acknowledged: dict[int, str]) -> None:
        async with AsyncExitStack() as stack:
            backend = SqliteStore(self.folder, clock=lambda: 0)  # nothing ends
            await backend.start(stack)
            revision = await backend.revision(DB)
            assert revision >= max(acknowledged, default=0), "an acknowledged batch is lost"
            assert revision >= self.told, "what was told is lost"
            commits: dict[int, Commit] = {}
            async with aclosing(backend.watch(DB, self.seen)) as history:
                while self.seen < revision:
                    commit = await anext(history)
                    assert commit.revision == self.seen + 1
                    self.seen = commit.revision
                    commits[commit.revision] = commit
                    self.apply(commit)
            for number, token in acknowledged.items():
                values = [change.record.value for change in commits[number].changes]
                assert values == [b""] or any(json.loads(value)[0] == token for value in values if value)
            assert {each.record.key: each.record async for each in backend.dump(DB)} == self.records

    def apply(self, commit: Commit) -> None:
        for change in commit.changes:
            assert change.record.version == commit.revision
            if change.cause is Cause.WRITTEN:
                self.records[change.record.key] = change.record
            else:
                assert self.records.pop(change.record.key).version < commit.revision
        values = [json.loads(each.record.value) for each in commit.changes if each.record.value]
        assert all(value == [values[0][0], len(values)] for value in values), "a batch is half there"


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ROUNDS)
async def test_every_acknowledged_batch_outlives_a_kill(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    choose = random.Random()  # no seed: other moments each time
    for generation in range(ROUNDS):
        acknowledged = await asyncio.to_thread(world.round, generation, choose.randint(1, MOST))
        await world.check(acknowledged)


def powered(tmp_path: Path, synchronous: str = "") -> World:
    """On a disk of its own, where not even the store's folder is yet."""
    (tmp_path / "disk").mkdir()
    return World(tmp_path / "disk" / "store", Disk(tmp_path / "disk", tmp_path / "aside"), synchronous)


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ROUNDS)
async def test_every_acknowledged_batch_outlives_a_power_cut(tmp_path: Path) -> None:
    world = powered(tmp_path)
    choose = random.Random()
    for generation in range(ROUNDS):
        some = choose if generation % 2 else None
        acknowledged = await asyncio.to_thread(world.round, generation, choose.randint(1, MOST), some)
        await world.check(acknowledged)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
async def test_a_store_that_does_not_wait_for_the_disk_is_found_out(tmp_path: Path, synchronous: str) -> None:
    world = powered(tmp_path, synchronous)
    acknowledged = await asyncio.to_thread(world.round, 0, 20)
    with pytest.raises((AssertionError, errors.Error), match=r"is lost|is empty"):
        await world.check(acknowledged)


if __name__ == "__main__":
    if sys.argv[4]:
        careless(sys.argv[4])
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
