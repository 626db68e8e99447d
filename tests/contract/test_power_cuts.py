"""What was acknowledged is on disk: blobs and private files, as they are after the machine's power was cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from disks import Disk
from micro.backends.files.blobs import FileBlobs
from micro.domain import errors
from micro.ports import private_file, private_folder

ROUNDS = int(os.environ.get("MICRO_SOAK", "2"))
MOST = 30
"""Changes that a process makes at most before the power is cut."""

KEYS = ["a", "b/c", "k" * 100 + "1", "k" * 100 + "2", "l" * 100]
"""Of blobs; long ones lie in folders of their own."""

State = dict[str, bytes]


def change(state: State, number: int) -> State:
    """What is there after the change of that number: most write something new, others remove."""
    key = KEYS[number * 7 % len(KEYS)]
    left = {name: content for name, content in state.items() if name != key}
    return left if number % 4 == 3 and key in state else {**left, key: b"%d " % number * (1 + number * 1009 % 20_000)}


class Blobs:
    """They are written, replaced and removed."""

    async def serve(self, folder: Path, state: State, number: int, until: int) -> None:
        async with AsyncExitStack() as stack:
            blobs = FileBlobs(folder / "blobs")
            await blobs.start(stack)
            while number < until:
                after = change(state, number)
                for key in state.keys() - after.keys():
                    await blobs.delete("shop", key)
                for key in (key for key, content in after.items() if state.get(key) != content):
                    await blobs.write("shop", key, _pieces(after[key]))
                state, number = after, number + 1
                print(number, flush=True)

    async def found(self, folder: Path) -> State:
        state: State = {}
        async with AsyncExitStack() as stack:
            blobs = FileBlobs(folder / "blobs")
            await blobs.start(stack)
            for blob in await blobs.list("shop"):
                async with aclosing(blobs.read("shop", blob.key)) as pieces:
                    state[blob.key] = b"".join([piece async for piece in pieces])
        return state


class Files:
    """One file, which is replaced again and again."""

    async def serve(self, folder: Path, state: State, number: int, until: int) -> None:
        private_folder.make(folder / "made" / "here")
        while number < until:
            state, number = change(state, number), number + 1
            private_file.write(folder / "made" / "here" / "state.json", json.dumps(_texts(state)))
            print(number, flush=True)

    async def found(self, folder: Path) -> State:
        file = folder / "made" / "here" / "state.json"
        if not file.exists():
            return {}
        return {key: content.encode() for key, content in json.loads(file.read_text()).items()}


KINDS: dict[str, Blobs | Files] = {"blobs": Blobs(), "files": Files()}


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


def _texts(state: State) -> dict[str, str]:
    return {key: content.decode() for key, content in state.items()}


def careless(about: str) -> None:
    """Do without the sync of files, or of folders."""
    careful = os.fsync

    def fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if folder != (about == "folders"):
            careful(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


class World:
    """A process that changes something, and what is there after it has lost its power."""

    def __init__(self, tmp_path: Path, kind: str, without: str = "") -> None:
        self._kind, self._without = kind, without
        self._folder = tmp_path / "disk"
        self._folder.mkdir()
        self._disk = Disk(self._folder, tmp_path / "aside")
        self._state: State = {}
        self._number = 0

    async def round(self, after: int, choose: random.Random | None = None, *, resting: bool = False) -> None:
        """Cut the power after so many changes: they are there, and perhaps the one that was under way, which there is
        none with `resting`."""
        until = self._number + after if resting else 1 << 30
        argv = [sys.executable, __file__, self._kind, str(self._folder), str(self._number), str(until), self._without]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **self._disk.env}
        self._disk.begin()
        with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps(_texts(self._state)) + "\n")
                    child.stdin.flush()
                lines = [child.stdout.readline() for _ in range(after)]
            finally:
                child.kill()
            told = [line for line in (*lines, *child.stdout.read().splitlines(keepends=True)) if line.endswith("\n")]
        assert len(told) >= after, "the process ended by itself"
        self._disk.cut(choose)
        for number in range(self._number, int(told[-1])):
            self._state = change(self._state, number)
        self._number = int(told[-1])
        found = await KINDS[self._kind].found(self._folder)
        following = change(self._state, self._number)
        assert found in (self._state, following), "what was acknowledged is lost"
        if found == following:
            self._state, self._number = following, self._number + 1

    async def removed(self) -> None:
        """Cut the power right after something was removed."""
        state, number = self._state, self._number
        while (after := change(state, number)).keys() >= state.keys():
            state, number = after, number + 1
        await self.round(number + 1 - self._number, resting=True)


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ROUNDS)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_acknowledged_outlives_a_power_cut(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path, kind)
    choose = random.Random()  # no seed: other moments each time
    for number in range(ROUNDS):
        await world.round(choose.randint(1, MOST), choose if number % 2 else None)
    await world.removed()


@pytest.mark.parametrize("without", ["files", "folders"])
@pytest.mark.parametrize("kind", KINDS)
async def test_who_does_not_wait_for_the_disk_is_found_out(tmp_path: Path, kind: str, without: str) -> None:
    world = World(tmp_path, kind, without)
    with pytest.raises((AssertionError, ValueError, errors.Error), match=r"is lost|damaged|Expecting value"):
        await world.round(3)


def begin() -> None:
    kind, folder, number, until, without = sys.argv[1:]
    if without:
        careless(without)
    state = {key: content.encode() for key, content in json.loads(sys.stdin.readline()).items()}
    asyncio.run(KINDS[kind].serve(Path(folder), state, int(number), int(until)))
    signal.pause()


if __name__ == "__main__":
    begin()
