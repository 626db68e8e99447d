"""What only real processes show: groups, signals, owners that die, and sockets between processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from micro.backends.process import proc
from micro.backends.process.launcher import LocalLauncher
from micro.backends.process.launcher_client import RemoteLauncher
from micro.backends.process.launcher_server import LauncherServer
from micro.backends.process.logs import LogFile
from micro.domain.errors import Error, Kind
from micro.ports.launcher import ProcessSpec

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

# A process that has a child of its own, in its group, and tells its pid.
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""

OWNER = """
import asyncio, sys
from pathlib import Path
from micro.backends.process.launcher import LocalLauncher
from micro.ports.launcher import ProcessSpec

async def main():
    home = Path(sys.argv[1])
    launcher = LocalLauncher(home / "state")
    spec = ProcessSpec("family", (sys.executable, "-c", sys.argv[2]), {}, home, home / "x.log")
    print((await launcher.start(spec)).pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(*pids: int) -> None:
    async with asyncio.timeout(30):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.01)


async def said(log: Path) -> str:
    """The first line of output."""
    async with asyncio.timeout(30):
        async for record in LogFile(log).follow(100):
            return record.message
    raise AssertionError("a log has no end")


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[LocalLauncher]:
    made = LocalLauncher(tmp_path / "state")
    yield made
    await made.stop_all(grace=0.1)


def spec(home: Path, code: str, process_id: str = "one") -> ProcessSpec:
    return ProcessSpec(process_id, (sys.executable, "-c", code), {}, home, home / "x.log")


@linux
async def test_stop_ends_the_whole_family(launcher: LocalLauncher, tmp_path: Path) -> None:
    parent = (await launcher.start(spec(tmp_path, FAMILY))).pid
    child = int(await said(tmp_path / "x.log"))
    assert alive(child)
    await launcher.stop("one")
    await gone(parent, child)


@linux
async def test_when_a_process_dies_its_family_goes_too(launcher: LocalLauncher, tmp_path: Path) -> None:
    parent = (await launcher.start(spec(tmp_path, FAMILY))).pid
    child = int(await said(tmp_path / "x.log"))
    os.kill(parent, signal.SIGKILL)
    await gone(parent, child)


@linux
async def test_a_record_of_each_running_process_is_kept(launcher: LocalLauncher, tmp_path: Path) -> None:
    started = await launcher.start(spec(tmp_path, "import time; time.sleep(600)", "a/b"))
    [record] = (tmp_path / "state").glob("*.json")
    kept = json.loads(record.read_text())
    assert (kept["id"], kept["pid"], kept["started"]) == ("a/b", started.pid, proc.start_time(started.pid))
    await launcher.stop("a/b")
    assert list((tmp_path / "state").iterdir()) == []


@linux
async def test_nothing_outlives_an_owner_that_was_killed(tmp_path: Path) -> None:
    """The kernel ends the child; what the child had started is ended by the next owner."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), FAMILY], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    parent = int(owner.stdout.readline())
    child = int(await said(tmp_path / "x.log"))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    await gone(parent)
    assert alive(child)
    assert await LocalLauncher(tmp_path / "state").end_leftovers() == 1
    await gone(child)
    assert list((tmp_path / "state").iterdir()) == []


@linux
async def test_a_pid_that_belongs_to_somebody_else_now_is_left_alone(launcher: LocalLauncher, tmp_path: Path) -> None:
    started = await launcher.start(spec(tmp_path, "import time; time.sleep(600)"))
    (tmp_path / "old").mkdir()
    kept = {"id": "x", "pid": started.pid, "started": (proc.start_time(started.pid) or 0) - 1, "boot": proc.boot_id()}
    (tmp_path / "old" / "x.json").write_text(json.dumps(kept))
    (tmp_path / "old" / "y.json").write_text(json.dumps({**kept, "started": kept["started"] + 1, "boot": "another"}))
    (tmp_path / "old" / "z.json").write_text("not json")
    assert await LocalLauncher(tmp_path / "old").end_leftovers() == 0
    assert alive(started.pid)
    assert list((tmp_path / "old").iterdir()) == []


async def test_output_of_a_crash_is_complete(launcher: LocalLauncher, tmp_path: Path) -> None:
    watch = launcher.watch()
    await launcher.start(spec(tmp_path, "import time; time.sleep(600)", "keeper"))
    await anext(watch)
    code = "import os, sys; sys.stdout.write('x' * 500_000 + '\\nlast words'); sys.stdout.flush(); os._exit(3)"
    await launcher.start(spec(tmp_path, code))
    ended = await asyncio.wait_for(anext(watch), 30)
    assert (ended.exit_status, ended.tail[-1]) == (3, "last words")
    records = LogFile(tmp_path / "x.log").read(10)
    assert [record.message for record in records] == ["x" * 65_536, "last words", "ended: exit status 3"]
    assert (records[-1].level, records[-1].instance) == ("error", ended.id)


async def test_the_log_says_of_a_process_what_it_cannot_say_itself(launcher: LocalLauncher, tmp_path: Path) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    watch = launcher.watch()
    await launcher.start(spec(tmp_path, "import time; time.sleep(600)", "keeper"))
    await anext(watch)
    started = await launcher.start(replace(spec(tmp_path, code), note="started again"))
    async with asyncio.timeout(30):
        async for record in LogFile(tmp_path / "x.log").follow(100):
            if record.message == "up":
                break
    os.kill(started.pid, signal.SIGKILL)
    ended = await asyncio.wait_for(anext(watch), 30)
    assert (ended.exit_status, ended.tail) == (137, ("up",))
    await launcher.stop("keeper")
    assert [(record.level, record.message) for record in LogFile(tmp_path / "x.log").read(10)] == [
        ("warning", "started again"),
        ("info", "up"),
        ("error", "ended: killed by signal 9"),
    ], "and no word of the one that was stopped"


async def test_a_missing_folder_is_named(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"its folder .*/nowhere is not there") as caught:
        await launcher.start(spec(tmp_path / "nowhere", "pass"))
    assert caught.value.kind is Kind.FAILED_PRECONDITION


async def test_many_start_and_stop_at_the_same_time(launcher: LocalLauncher, tmp_path: Path) -> None:
    ids = [f"p{i}" for i in range(8)]
    started = [asyncio.ensure_future(launcher.start(spec(tmp_path, "import time; time.sleep(600)", i))) for i in ids]
    await asyncio.sleep(0)
    await launcher.stop_all(grace=5)
    await asyncio.gather(*started)
    assert await launcher.list() == []


def test_it_works_on_the_loop_that_servers_use(tmp_path: Path) -> None:
    async def main() -> None:
        launcher = LocalLauncher(tmp_path / "state")
        started = await launcher.start(spec(tmp_path, "print('hello', flush=True); import time; time.sleep(600)"))
        assert await said(tmp_path / "x.log") == "hello"
        watch = launcher.watch()
        assert (await anext(watch)).pid == started.pid
        os.kill(started.pid, signal.SIGKILL)
        assert (await asyncio.wait_for(anext(watch), 30)).exit_status == 137

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


class TestRemote:
    """The launcher over its socket."""

    @pytest.fixture
    def socket(self) -> AsyncIterator[Path]:
        with tempfile.TemporaryDirectory(prefix="micro-") as short:
            yield Path(short) / "l"

    async def test_the_socket_is_for_its_owner_only(self, launcher: LocalLauncher, socket: Path) -> None:
        async with AsyncExitStack() as stack:
            await LauncherServer(launcher, socket).start(stack)
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert not socket.exists()

    async def test_a_watch_goes_on_through_a_lost_connection(
        self, launcher: LocalLauncher, socket: Path, tmp_path: Path
    ) -> None:
        started = await launcher.start(spec(tmp_path, "import time; time.sleep(600)"))
        watch = RemoteLauncher(socket).watch()
        async with AsyncExitStack() as stack:
            await LauncherServer(launcher, socket).start(stack)
            assert await asyncio.wait_for(anext(watch), 30) == started
        again = asyncio.ensure_future(anext(watch))
        async with AsyncExitStack() as stack:
            await LauncherServer(launcher, socket).start(stack)
            assert await asyncio.wait_for(again, 30) == started
            await launcher.stop("one")
            assert (await asyncio.wait_for(anext(watch), 30)).exit_status == 143

    async def test_a_note_reaches_the_log(self, launcher: LocalLauncher, socket: Path, tmp_path: Path) -> None:
        async with AsyncExitStack() as stack:
            await LauncherServer(launcher, socket).start(stack)
            asked = replace(spec(tmp_path, "import time; time.sleep(600)"), note="started again")
            await RemoteLauncher(socket).start(asked)
            assert await said(tmp_path / "x.log") == "started again"

    async def test_a_call_waits_for_a_server_that_is_not_there_yet(self, launcher: LocalLauncher, socket: Path) -> None:
        asking = asyncio.ensure_future(RemoteLauncher(socket).list())
        await asyncio.sleep(0)
        async with AsyncExitStack() as stack:
            await LauncherServer(launcher, socket).start(stack)
            assert await asyncio.wait_for(asking, 30) == []

    @pytest.mark.parametrize("line", [b"", b"\n", b"[]\n", b"{}\n", b'{"method": "start"}\n', b"\xff\n", b"no end"])
    async def test_nonsense_is_answered_or_closed_and_the_server_goes_on(
        self, launcher: LocalLauncher, socket: Path, line: bytes
    ) -> None:
        async with AsyncExitStack() as stack:
            await LauncherServer(launcher, socket).start(stack)
            reader, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(line)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            assert not answer or "error" in json.loads(answer)
            assert await RemoteLauncher(socket).list() == []


@linux
async def test_a_group_that_a_process_made_of_its_own_ends_with_it(launcher: LocalLauncher, tmp_path: Path) -> None:
    code = FAMILY.replace('time.sleep(600)"])', 'time.sleep(600)"], process_group=0)')
    parent = (await launcher.start(spec(tmp_path, code))).pid
    child = int(await said(tmp_path / "x.log"))
    assert os.getpgid(child) == child
    os.kill(parent, signal.SIGKILL)
    await gone(parent, child)
