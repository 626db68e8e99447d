"""A runtime over processes that are not there: each is what its main.py says, in one word."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from callers import calling

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.files.sources import FileSources
from micro.backends.memory.accounts import MemoryAccounts
from micro.backends.memory.announcements import MemoryAnnouncements
from micro.backends.memory.builder import MemoryBuilder
from micro.backends.memory.launcher import MemoryLauncher
from micro.backends.memory.store import MemoryStore
from micro.backends.process.logs import LogFolder
from micro.backends.stored.workloads import RuntimeRecords, StoredWorkloads
from micro.domain import errors
from micro.domain.namespace import Quota
from micro.ports.launcher import ProcessSpec
from micro.rpc.asgi_server import Command
from micro.rpc.gen.micro.runtime.v1.runtime_pb import (
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    ReadRequest,
    Service,
    UpdateRequest,
    UpdateResponse,
    UploadRequest,
)
from micro.services.host import Host, RuntimeSettings
from micro.services.runtime import Runtime, Source

CALLER = calling()
KEY = base64.b64encode(bytes(32)).decode()
TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "<frozen runpy>", line 198, in _run_module_as_main',
    '  File "{folder}/main.py", line 3, in <module>',
    "    import nope",
    "ModuleNotFoundError: No module named 'nope'",
)


class FakeTraffic:
    """A registry and a network in one: what happened to whom, in order."""

    def __init__(self) -> None:
        self.nodes: dict[str, int] = {}
        self.events: list[str] = []
        self.revision = 0
        self.changed = asyncio.Event()
        self.broken = False
        self.by_hand: set[tuple[str, str]] = set()

    def register(self, node_id: str) -> None:
        self.revision += 1
        self.nodes[node_id] = self.revision
        self.events.append(f"registered {node_id}")
        self.tell()

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        """Return once that is so."""
        async with asyncio.timeout(10):
            while not true():
                await self.changed.wait()

    async def registered(self, namespace: str, name: str, node_id: str) -> int:
        while node_id not in self.nodes:
            await self.changed.wait()
        return self.nodes[node_id]

    async def services(self, namespace: str) -> set[str]:
        return {name for where, name in self.by_hand if where == namespace}

    async def deregister(self, namespace: str, name: str, node_id: str) -> int:
        if self.nodes.pop(node_id, None) is not None:
            self.revision += 1
            self.events.append(f"deregistered {node_id}")
            self.tell()
        return self.revision

    async def sync(self, revision: int) -> None:
        if self.broken:
            raise errors.unavailable("no control plane")
        self.events.append(f"synced {revision}")


class FakeAdmin:
    """Drains whatever it is told to."""

    def __init__(self, traffic: FakeTraffic, socket: Path) -> None:
        self._traffic = traffic
        self._id = socket.name

    async def drain(self) -> None:
        self._traffic.events.append(f"drained {self._id}")

    async def wait_idle(self, timeout: float) -> bool:
        self._traffic.events.append(f"idle {self._id}")
        return True


class FakeLiveness:
    """Every instance answers, but those at the addresses that are silent."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.asked: set[str] = set()
        self.changed = asyncio.Event()

    def hush(self, *addresses: str) -> None:
        """From now on these do not answer, and all others do."""
        self.silent = set(addresses)
        self.changed.set()
        self.changed = asyncio.Event()

    async def answered(self, address: str) -> None:
        self.asked.add(address)
        while address in self.silent:
            await self.changed.wait()


@dataclass
class World:
    """A host whose processes are fakes, and the runtime on it."""

    home: Path
    traffic: FakeTraffic = field(default_factory=FakeTraffic)
    liveness: FakeLiveness = field(default_factory=FakeLiveness)
    builder: MemoryBuilder = field(default_factory=MemoryBuilder)
    accounts: MemoryAccounts = field(default_factory=MemoryAccounts)
    quotas: dict[str, Quota] = field(default_factory=lambda: {"micro": Quota(), "shop": Quota()})
    settings: RuntimeSettings = field(
        default_factory=lambda: RuntimeSettings("127.0.0.1:9", ready_timeout=5, settle=0, reconcile=0.02)
    )
    state: MemoryStore = field(default_factory=MemoryStore)
    announcements: MemoryAnnouncements = field(default_factory=MemoryAnnouncements)
    launcher: MemoryLauncher = field(init=False)
    records: RuntimeRecords = field(init=False)
    runtime: Runtime = field(init=False)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self.launcher = MemoryLauncher(self.begin)
        self.records = RuntimeRecords(self.state, AesGcmSealing(Keyring(KEY, Path(os.devnull))))

    @property
    def workloads(self) -> StoredWorkloads:
        """What is kept, for this runtime and the next."""
        return StoredWorkloads(self.records)

    @property
    def host(self) -> Host:
        return Host(
            launcher=self.launcher,
            builder=self.builder,
            store=self.workloads,
            sources=FileSources(self.home),
            logs=LogFolder(self.home / "core", self.home),
            traffic=self.traffic,
            accounts=self.accounts,
            command=lambda python, folder, address, admin: Command(
                (str(python), "main:app", address), {"PYTHONPATH": str(folder)}
            ),
            admin_socket=lambda process_id: self.home / "run" / process_id,
            admin=lambda socket: FakeAdmin(self.traffic, socket),
            liveness=self.liveness,
            settings=self.settings,
            environ={"PATH": "/bin", "LD_PRELOAD": "libpython.so", "MICRO_HOME": "/nowhere"},
            announcements=self.announcements,
        )

    def begin(self, spec: ProcessSpec) -> None:
        """Do what main.py says."""
        soon = asyncio.get_running_loop().call_soon
        match (spec.cwd / "main.py").read_text():
            case "ok" | "better":
                soon(self.traffic.register, spec.id)
            case "crash":
                soon(lambda: self.launcher.end(spec.id, 1, *(line.format(folder=spec.cwd) for line in TRACEBACK)))
            case "port" if not self.launcher.started:
                soon(lambda: self.launcher.end(spec.id, 1, "cannot bind '127.0.0.1:1': Address already in use"))
            case "port":
                soon(self.traffic.register, spec.id)
            case "hang":
                pass
            case unknown:
                raise errors.failed_precondition(f"what is {unknown!r}?")

    async def start(self) -> None:
        self.runtime = Runtime(self.host, self.quotas.get)
        self.stack = AsyncExitStack()
        await self.records.start(self.stack)
        await self.runtime.start(self.stack)

    async def restart(self) -> None:
        await self.stack.aclose()
        await self.start()

    async def upload(self, main: str = "ok") -> str:
        return (await Source(self.host.sources, self.quotas.get).upload(messages(archive(main)), CALLER)).id

    async def create(self, main: str = "ok", name: str = "hello", wait: bool = True, **asked: object) -> CreateResponse:
        request = CreateRequest(service=Service(name=name), upload_id=await self.upload(main), wait=wait, **asked)  # type: ignore[arg-type]
        return await self.runtime.create(request, CALLER)

    async def update(
        self, main: str | None = None, name: str = "hello", wait: bool = True, **asked: object
    ) -> UpdateResponse:
        upload_id = await self.upload(main) if main else ""
        request = UpdateRequest(service=Service(name=name), upload_id=upload_id, wait=wait, **asked)  # type: ignore[arg-type]
        return await self.runtime.update(request, CALLER)

    async def read(self, name: str = "") -> list[Service]:
        return list((await self.runtime.read(ReadRequest(name=name), CALLER)).services)

    async def one(self, name: str = "hello") -> Service:
        [found] = await self.read(name)
        return found

    async def delete(self, name: str = "hello") -> None:
        await self.runtime.delete(DeleteRequest(name=name), CALLER)

    async def until(self, true: Callable[[Service], bool], name: str = "hello") -> Service:
        """The service as soon as that is true of it."""
        async with asyncio.timeout(10):
            while True:
                found = await self.one(name)
                if true(found):
                    return found
                await asyncio.sleep(0.005)

    def mains(self) -> list[str]:
        """What the running processes run."""
        return sorted((spec.cwd / "main.py").read_text() for spec in self.launcher.running.values())

    def left(self, folder: str) -> list[str]:
        """Files below a folder of the home."""
        base = self.home / folder
        return sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())


def archive(main: str) -> bytes:
    if main == "bad":
        return b"this is no archive"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("main.py")
        info.size = len(main)
        tar.addfile(info, io.BytesIO(main.encode()))
    return buffer.getvalue()


async def messages(data: bytes) -> AsyncIterator[UploadRequest]:
    yield UploadRequest(name="hello", data=data[:10])
    yield UploadRequest(data=data[10:])


@asynccontextmanager
async def running(world: World) -> AsyncGenerator[World]:
    """The world, started, for as long as the block lasts."""
    await world.start()
    yield world
    await world.stack.aclose()
