"""A world to test in: a real server of its own, and a load that counts what fails. Cleans up even when a test fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from micro.ports.free_address import free_addresses
from micro.server.settings import Layout

BIN = Path(sys.executable).parent
MICRO = str(BIN / "micro")

HELLO = """
import asyncio, os
from micro import Service, errors
from proto.helloworld_connect import Helloworld
from proto.helloworld_pb import Response

GREETING = "Hello"

class Handler(Helloworld):
    async def call(self, request, ctx):
        if request.name == "slow":
            await asyncio.sleep(2)
        if request.name == "pid":
            return Response(msg=str(os.getpid()))
        if not request.name:
            raise errors.invalid_argument("name is empty")
        return Response(msg=f"{GREETING} {request.name}")

app = Service("helloworld", Handler())
"""

PROTO = """
syntax = "proto3";
package helloworld;
service Helloworld { rpc Call(Request) returns (Response); }
message Request { string name = 1; }
message Response { string msg = 1; }
"""


def written(folder: Path, name: str, source: str, proto: str) -> Path:
    """A folder with the source of a service, and the generated code of its contract."""
    (folder / "proto").mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(source)
    if proto:
        for file, content in generated(name, proto).items():
            (folder / "proto" / file).write_text(content)
    return folder


@functools.cache
def generated(name: str, proto: str) -> dict[str, str]:
    """A contract and its code by the names of their files; many tests use the same contracts."""
    from micro.rpc import codegen

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{name}.proto").write_text(proto)
        codegen.generate(Path(folder), Path(folder))
        return {file.name: file.read_text() for file in Path(folder).iterdir()}


@dataclass
class World:
    """A server on free ports with a home of its own."""

    home: Path
    api: str
    proxy: str
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.home)

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MICRO_")}
        addresses = {"MICRO_API_ADDRESS": self.api, "MICRO_PROXY_ADDRESS": self.proxy}
        return {**kept, **addresses, "MICRO_HOME": str(self.home), "NO_COLOR": "1", **self.extra}

    def start(self, *arguments: str) -> None:
        """Start the server and wait until it says that it is ready."""
        output = (self.home / "server.out").open("w+")
        self.process = subprocess.Popen(
            [MICRO, "server", *arguments], env=self.env, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        # Without a state file of ours the commands would go to whatever server this machine has.
        up = eventually(lambda: self.layout.state.exists() or self.process.poll() is not None, 40)
        assert up, self.output()
        assert self.process.poll() is None, self.output()
        done = self.cli("health", "--wait", "40", check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self.output()

    def output(self) -> str:
        return (self.home / "server.out").read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
        """End the server; what it left running is a failure of the test."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout)

    def cli(
        self, *words: str, check: bool = True, cwd: Path | None = None, timeout: float = 60, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `micro WORDS`."""
        done = subprocess.run(
            [MICRO, *words],
            env=self.env,
            cwd=cwd or self.home,
            input=stdin,
            text=True,
            capture_output=True,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, f"micro {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def service(self, name: str = "helloworld", source: str = HELLO, proto: str = PROTO) -> Path:
        """Write the source of a service, with its generated code."""
        return written(self.home / "src" / name, name, source, proto)

    def processes(self) -> dict[str, int]:
        """Running processes by unit or process id, as the supervisor recorded them."""
        found = {}
        for record in self.layout.processes.glob("*.json"):
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                content = json.loads(record.read_text())
                found[record.stem] = int(content["pid"])
        return found


@contextlib.contextmanager
def world(home: Path, **extra: str) -> Iterator[World]:
    """A world that is not started yet; whatever is started in it ends with it."""
    home.mkdir(parents=True, exist_ok=True)
    api, proxy = free_addresses(2)
    made = World(home, api, proxy, extra)
    try:
        yield made
    finally:
        if made.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                made.stop()
            if made.process.poll() is None:
                made.process.kill()
                made.process.wait(10)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is only waiting to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(check, within: float = 30.0):
    """The first true value of `check()`, asked again and again; the last one when time is up."""
    end = time.monotonic() + within
    while True:
        value = check()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.02)


@dataclass
class Load:
    """Requests one after another over a few connections; what each came to is counted."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    stopping: bool = False
    pace: float = 0.0
    """Seconds between an answer and the next request of a connection."""

    @property
    def sent(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    async def reached(self, count: int, within: float = 120) -> None:
        """Return when so many requests have been answered or have failed."""
        async with asyncio.timeout(within):
            while self.sent < count:
                await asyncio.sleep(0.01)

    async def connection(self, address: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        host, _, port = address.rpartition(":")
        head = f"POST {path} HTTP/1.1\r\nhost: {address}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        request = head.encode() + body
        reader = writer = None
        while not self.stopping:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(request)
                status, answer, closing = await self._answer(reader)
                if status == 200:
                    self.answers[answer] += 1
                else:
                    self.failures.append(f"{status} {answer}")
                if closing:
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.failures.append(f"{type(error).__name__} {error}")
                if writer is not None:
                    writer.close()
                writer = None
                await asyncio.sleep(0.01)
            if self.pace:
                await asyncio.sleep(self.pace)
        if writer is not None:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, str, bool]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ", 2)[1])
        if "content-length:" in head:
            length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
            body = await reader.readexactly(length)
        else:
            body = b""
            while True:
                size = int((await reader.readuntil(b"\r\n")).strip(), 16)
                body += (await reader.readexactly(size + 2))[:-2]
                if size == 0:
                    break
        return status, body.decode(), "connection: close" in head


@contextlib.asynccontextmanager
async def load(
    address: str,
    path: str = "/helloworld/call",
    name: str = "Ann",
    connections: int = 4,
    headers: Mapping[str, str] | None = None,
    pace: float = 0.0,
) -> AsyncIterator[Load]:
    """Requests flow while the block runs: as many as go, or one each `pace` seconds a connection where a test waits
    for long."""
    made = Load(pace=pace)
    body = json.dumps({"name": name}).encode()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(made.connection(address, path, body, headers or {}))
        try:
            yield made
        finally:
            made.stopping = True
