"""The runtime core service: users' code in, running services out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from micro.domain import errors, names, workload
from micro.domain.account import Account
from micro.domain.workload import Key, State, Workload
from micro.ports import identity
from micro.ports.runtime import LogRecord, Sources
from micro.rpc.gen.micro.runtime.v1 import runtime_connect, runtime_pb
from micro.rpc.gen.micro.runtime.v1.runtime_pb import (
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    DeleteResponse,
    LogsRequest,
    LogsResponse,
    PurgeRequest,
    PurgeResponse,
    ReadRequest,
    ReadResponse,
    UpdateRequest,
    UpdateResponse,
    UploadRequest,
    UploadResponse,
)
from micro.services import _caller as caller
from micro.services._instance import Instance
from micro.services._workloads import Change, Entry, Workloads
from micro.services.host import Host, Quotas

DEFAULT_LINES = 15
MAX_LINES = 10_000
_LINES_A_TURN = 100
_SOURCE_CHARACTERS = 4096
_PAIRS = 1024
_PAIR_CHARACTERS = 256 * 1024

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
    """Implements `micro.runtime.v1.Runtime` over one host.

    Args:
        quotas: the limits of each namespace, as they are now.
    """

    def __init__(self, host: Host, quotas: Quotas) -> None:
        self._host = host
        self._quotas = quotas
        self._workloads = Workloads(host, quotas)

    async def start(self, stack: AsyncExitStack) -> None:
        """Take over what runs and start what is missing; services go on running when the stack is closed."""
        await self._workloads.start(stack)

    async def create(self, request: CreateRequest, ctx: Any) -> CreateResponse:
        asked = request.service or runtime_pb.Service()
        account = caller.account(ctx)
        namespace, name, version = _key(asked.namespace, asked.name, asked.version, ctx)
        if not request.upload_id:
            raise errors.invalid_argument(f"{name} cannot be created without source: upload it first")
        _check_size(asked, request.env)
        await self._check_name(account, namespace, name)
        wanted = Workload(
            namespace=namespace,
            name=name,
            version=version,
            source=asked.source,
            env=workload.environment(request.env),
            instances=_instances(request.instances) or 1,
            metadata=dict(asked.metadata),
            owner=str(account),
            owner_since=account.created,
        )
        entry = await self._workloads.create(wanted, request.upload_id, wait=request.wait)
        return CreateResponse(service=_service(entry))

    async def _check_name(self, account: Account, namespace: str, name: str) -> None:
        """Whether the account may have a service of that name there: no calls of anybody else's would find it.

        Raises PERMISSION_DENIED, and INVALID_ARGUMENT for a name of the platform's own."""
        if names.platforms(name):
            raise errors.invalid_argument(f"{name!r} begins with a name of the platform's own: choose another")
        if account.administers(namespace):
            return
        by_hand = await self._host.traffic.services(namespace)
        # Nothing is awaited from here on until the workload is there: two at once do not slip past.
        for other in self._workloads.select(namespace):
            by_hand.discard(other.workload.name)
            # All versions share the name's calls: a new one is for whoever has the others.
            if other.workload.name == name:
                _check_may_change(account, other.workload)
            elif names.nested(name, other.workload.name) and not other.workload.owned_by(account):
                raise _nested(name, other.workload.name, namespace)
        if name in by_hand:
            raise errors.permission_denied(
                f"{name!r} is registered already by a process that was started by hand: of such names, only admins of "
                f"namespace {namespace} may start another instance"
            )
        for registered in sorted(by_hand):
            if names.nested(name, registered):
                raise _nested(name, registered, namespace)

    async def read(self, request: ReadRequest, ctx: Any) -> ReadResponse:
        namespace = caller.namespace(ctx, request.namespace)
        entries = self._workloads.select(namespace, request.name, request.version)
        if not entries and self._quotas(namespace) is None:
            raise identity.no_namespace(namespace)
        return ReadResponse(services=[_service(entry) for entry in entries])

    async def update(self, request: UpdateRequest, ctx: Any) -> UpdateResponse:
        asked = request.service or runtime_pb.Service()
        account = caller.account(ctx)
        key = _key(asked.namespace, asked.name, asked.version, ctx)
        _check_may_change(account, self._workloads.find(key).workload)
        _check_size(asked, request.env)
        change = Change(
            source=asked.source,
            env=workload.environment(request.env),
            metadata=dict(asked.metadata),
            instances=_instances(request.instances),
        )
        entry = await self._workloads.update(key, change, request.upload_id, str(account), wait=request.wait)
        return UpdateResponse(service=_service(entry))

    async def delete(self, request: DeleteRequest, ctx: Any) -> DeleteResponse:
        key = _key(request.namespace, request.name, request.version, ctx)
        account = caller.account(ctx)
        _check_may_change(account, self._workloads.find(key).workload)
        await self._workloads.delete(key, str(account))
        return DeleteResponse()

    async def purge(self, request: PurgeRequest, ctx: Any) -> PurgeResponse:
        if not request.namespace:
            raise errors.invalid_argument("namespace is missing: say which one to purge")
        namespace = caller.namespace(ctx, request.namespace)
        if not caller.account(ctx).platform:
            raise errors.permission_denied("a namespace is purged by admins of namespace micro only")
        await self._workloads.purge(namespace)
        return PurgeResponse()

    async def logs(self, request: LogsRequest, ctx: Any) -> AsyncIterator[LogsResponse]:
        key = self._output(request, ctx)
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

    def _output(self, request: LogsRequest, ctx: Any) -> Key:
        """Whose output is asked for. Raises NOT_FOUND and PERMISSION_DENIED."""
        namespace = caller.namespace(ctx, request.namespace)
        name, version = names.service(request.name), names.version(request.version)
        if name in names.CORE_SERVICES:  # there, though it may be silent
            if not caller.account(ctx).platform:
                raise errors.permission_denied(f"the output of {name} is for admins of namespace micro only")
            return names.DEFAULT_NAMESPACE, name, version
        key = (namespace, name, version)
        if not self._host.logs.exists(key) and not self._workloads.known(key):
            raise errors.not_found(f"there is no output of {request.name}: `micro status` lists what runs")
        return key


class Source(runtime_connect.Source):
    """Implements `micro.runtime.v1.Source`."""

    def __init__(self, sources: Sources, quotas: Quotas) -> None:
        self._sources = sources
        self._quotas = quotas

    async def upload(self, request: AsyncIterator[UploadRequest], ctx: Any) -> UploadResponse:
        messages = aiter(request)
        first = await anext(messages, None)
        if first is None:
            raise errors.invalid_argument("the upload is empty: the first message names the service")
        namespace, _, _ = _key(first.namespace, first.name, "", ctx)
        quota = self._quotas(namespace)
        if quota is None:
            raise identity.no_namespace(namespace)

        async def pieces() -> AsyncIterator[bytes]:
            yield first.data
            async for message in messages:
                yield message.data

        account = caller.account(ctx)
        return UploadResponse(id=await self._sources.receive(pieces(), namespace, str(account), quota.upload))


def _key(namespace: str, name: str, version: str, ctx: Any) -> Key:
    """Checked, with defaults filled in. Raises PERMISSION_DENIED when the caller is not of that namespace, and
    INVALID_ARGUMENT for what is no name or belongs to the platform."""
    namespace = caller.namespace(ctx, namespace)
    if name in names.CORE_SERVICES:
        raise errors.invalid_argument(f"{name!r} is a name of the platform's own: choose another")
    return namespace, names.service(name), names.version(version)


def _check_may_change(account: Account, found: Workload) -> None:
    """Raises PERMISSION_DENIED unless the service is the account's, or the account administers the namespace."""
    if not found.owned_by(account) and not account.administers(found.namespace):
        earlier = "an earlier account " if found.owner == str(account) else ""
        whose = f"belongs to {earlier}{found.owner}" if found.owner else "has no owner"
        raise errors.permission_denied(
            f"{found} {whose}: of others, only admins of namespace {found.namespace} may change it"
        )


def _nested(name: str, other: str, namespace: str) -> errors.Error:
    return errors.permission_denied(
        f"{name!r} and {other!r}, which is somebody else's, would share paths: choose another name, or ask an admin of "
        f"namespace {namespace}"
    )


def _check_size(asked: runtime_pb.Service, env: Mapping[str, str]) -> None:
    """Raises INVALID_ARGUMENT when more is to be kept of a service than it can need."""
    if len(asked.source) > _SOURCE_CHARACTERS:
        raise errors.invalid_argument(f"source is too long: {_SOURCE_CHARACTERS} characters are the most")
    for what, pairs in (("environment", env), ("metadata", asked.metadata)):
        if len(pairs) > _PAIRS or sum(len(key) + len(value) for key, value in pairs.items()) > _PAIR_CHARACTERS:
            raise errors.invalid_argument(
                f"the {what} of a service is too large: {_PAIRS} pairs, {_PAIR_CHARACTERS} characters are the most"
            )


def _instances(wanted: int) -> int:
    if not 0 <= wanted <= workload.MOST_INSTANCES:
        raise errors.invalid_argument(f"{wanted} instances cannot be run: ask for 1 to {workload.MOST_INSTANCES}")
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
        owner=wanted.owner,
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
