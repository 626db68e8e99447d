"""The runtime core service: users' code in, running services out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from micro.domain import errors, names, workload
from micro.domain.workload import Key, State, Workload
from micro.ports.runtime import LogRecord, Sources
from micro.rpc.gen.micro.runtime.v1 import runtime_connect, runtime_pb
from micro.rpc.gen.micro.runtime.v1.runtime_pb import (
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    DeleteResponse,
    LogsRequest,
    LogsResponse,
    ReadRequest,
    ReadResponse,
    UpdateRequest,
    UpdateResponse,
    UploadRequest,
    UploadResponse,
)
from micro.services._instance import Instance
from micro.services._workloads import Change, Entry, Workloads
from micro.services.host import Host

MAX_INSTANCES = 64
DEFAULT_LINES = 15
MAX_LINES = 10_000
_LINES_A_TURN = 100

_STATUS = {
    State.PENDING: runtime_pb.Status.PENDING,
    State.BUILDING: runtime_pb.Status.BUILDING,
    State.STARTING: runtime_pb.Status.STARTING,
    State.RUNNING: runtime_pb.Status.RUNNING,
    State.STOPPING: runtime_pb.Status.STOPPING,
    State.STOPPED: runtime_pb.Status.STOPPED,
    State.ERROR: runtime_pb.Status.ERROR,
}


class Runtime(runtime_connect.Runtime):
    """Implements `micro.runtime.v1.Runtime` over one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._workloads = Workloads(host)

    async def start(self, stack: AsyncExitStack) -> None:
        """Take over what runs and start what is missing; services go on running when the stack is closed."""
        await self._workloads.start(stack)

    async def create(self, request: CreateRequest, ctx: Any) -> CreateResponse:
        asked = request.service or runtime_pb.Service()
        namespace, name, version = _key(asked.namespace, asked.name, asked.version, ctx)
        if not request.upload_id:
            raise errors.invalid_argument(f"{name} cannot be created without source: upload it first")
        wanted = Workload(
            namespace=namespace,
            name=name,
            version=version,
            source=asked.source,
            env=workload.environment(request.env),
            instances=_instances(request.instances) or 1,
            metadata=dict(asked.metadata),
        )
        entry = await self._workloads.create(wanted, request.upload_id, wait=request.wait)
        return CreateResponse(service=_service(entry))

    async def read(self, request: ReadRequest, ctx: Any) -> ReadResponse:
        namespace = names.namespace(request.namespace or ctx.namespace)
        entries = self._workloads.select(namespace, request.name, request.version)
        return ReadResponse(services=[_service(entry) for entry in entries])

    async def update(self, request: UpdateRequest, ctx: Any) -> UpdateResponse:
        asked = request.service or runtime_pb.Service()
        key = _key(asked.namespace, asked.name, asked.version, ctx)
        change = Change(
            source=asked.source,
            env=workload.environment(request.env),
            metadata=dict(asked.metadata),
            instances=_instances(request.instances),
        )
        entry = await self._workloads.update(key, change, request.upload_id, wait=request.wait)
        return UpdateResponse(service=_service(entry))

    async def delete(self, request: DeleteRequest, ctx: Any) -> DeleteResponse:
        await self._workloads.delete(_key(request.namespace, request.name, request.version, ctx))
        return DeleteResponse()

    async def logs(self, request: LogsRequest, ctx: Any) -> AsyncIterator[LogsResponse]:
        key = (
            names.namespace(request.namespace or ctx.namespace),
            names.service(request.name),
            names.version(request.version),
        )
        core = key[0] == names.DEFAULT_NAMESPACE and key[1] in names.CORE_SERVICES  # there, though it may be silent
        if not core and not self._host.logs.exists(key) and not self._workloads.known(key):
            raise errors.not_found(f"there is no output of {request.name}: `micro status` lists what runs")
        if request.lines < 0:
            raise errors.invalid_argument("lines cannot be negative")
        lines = min(request.lines or DEFAULT_LINES, MAX_LINES)
        if not request.follow:
            records = await asyncio.to_thread(self._host.logs.read, key, lines)
            for index, record in enumerate(records):
                if index % _LINES_A_TURN == 0:
                    await asyncio.sleep(0)  # others have their turn, also when no write makes this one wait
                yield _line(record)
            return
        async for record in self._host.logs.follow(key, lines):
            yield _line(record)


class Source(runtime_connect.Source):
    """Implements `micro.runtime.v1.Source`."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def upload(self, request: AsyncIterator[UploadRequest], ctx: Any) -> UploadResponse:
        async def pieces() -> AsyncIterator[bytes]:
            first = True
            async for message in request:
                if first:
                    _key(message.namespace, message.name, "", ctx)
                    first = False
                yield message.data

        return UploadResponse(id=await self._sources.receive(pieces()))


def _key(namespace: str, name: str, version: str, ctx: Any) -> Key:
    """Checked, with defaults filled in. Raises INVALID_ARGUMENT for what is no name or belongs to the platform."""
    if name in names.CORE_SERVICES:
        raise errors.invalid_argument(f"{name!r} is a name of the platform's own: choose another")
    return names.namespace(namespace or ctx.namespace), names.service(name), names.version(version)


def _instances(wanted: int) -> int:
    if not 0 <= wanted <= MAX_INSTANCES:
        raise errors.invalid_argument(f"{wanted} instances cannot be run: ask for 1 to {MAX_INSTANCES}")
    return wanted


def _service(entry: Entry) -> runtime_pb.Service:
    wanted = entry.workload
    return runtime_pb.Service(
        name=wanted.name,
        version=wanted.version,
        namespace=wanted.namespace,
        source=wanted.source,
        status=_STATUS[entry.status],
        error=entry.told,
        instances=[_instance(instance) for instance in entry.instances],
        updated=entry.updated,
        metadata=dict(wanted.metadata),
    )


def _instance(instance: Instance) -> runtime_pb.Instance:
    return runtime_pb.Instance(
        id=instance.id,
        address=instance.address,
        status=_STATUS[instance.state],
        pid=instance.pid,
        restarts=instance.restarts.count,
    )


def _line(record: LogRecord) -> LogsResponse:
    return LogsResponse(
        timestamp=record.timestamp, level=record.level, message=record.message, instance=record.instance
    )
