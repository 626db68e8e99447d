"""No acknowledged batch is lost, or half there, or told twice, when the process that keeps records is killed."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

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
    told: int = 0
    seen: int = 0
    """Up to where the history was looked at."""

    records: dict[str, Record] = field(default_factory=dict)

    def round(self, generation: int, after: int) -> dict[int, str]:
        """Let a process work, and kill it after so many lines; what it acknowledged."""
        argv = [sys.executable, __file__, str(self.folder), str(generation), str(self.told)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                lines = [child.stdout.readline() for _ in range(after)]
            finally:
                os.kill(child.pid, signal.SIGKILL)
            lines += child.stdout.read().splitlines(keepends=True)
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


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
