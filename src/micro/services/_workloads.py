"""The workloads of this host: kept on disk, kept running, changed one operation at a time each."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from micro.domain import errors, workload
from micro.domain.errors import Error, Kind
from micro.domain.workload import Key, State, Workload
from micro.ports import identity
from micro.ports.background import OwnedTasks
from micro.ports.launcher import ProcessInfo
from micro.services._instance import Failure, Instance, unwrap
from micro.services._upkeep import Upkeep
from micro.services.host import KIND, SERVICE, Exits, Host, Lasting, Quotas

_log = logging.getLogger(__name__)

_AT_ONCE = 4
"""How many processes are started at the same time after a restart of the server: all at once would make each of them
late."""

_INTERRUPTED = "its start was interrupted: run it again"
_UPDATE_INTERRUPTED = "an update was interrupted: run it again"
_UNREADABLE = (
    "what is kept of it cannot be read, see `micro logs runtime`: its code and its processes are left as they are; "
    "restore a backup of the runtime's state, or kill it and run it again"
)


Work = Coroutine[Any, Any, None]


@dataclass(eq=False)
class Entry:
    """A workload and all that is known of it now.

    Attributes:
        phase: the state of the operation it is in, where that is its state; None when its instances tell.
        error: why the last operation failed; empty after one that did not. Set by `blame` when it happens.
        blamed: when that was, by the monotonic clock; 0 for what was kept by another runtime.
        lock: held by the operation that changes it.
        changes: running and waiting operations that a Delete cuts short.
        asked: instances that running and waiting updates will have.
        kept: what the store holds.
        saving: held by whoever changes that.
        gone: whether it was deleted.
        unreadable: whether the store holds something of it that cannot be read. It can be deleted, and nothing else.
    """

    workload: Workload
    instances: list[Instance] = field(default_factory=list)
    phase: State | None = None
    error: str = ""
    blamed: float = 0.0
    updated: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changes: set[asyncio.Task[Any]] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)
    kept: Workload | None = None
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    gone: bool = False
    unreadable: bool = False

    @property
    def status(self) -> State:
        return workload.overall(self.phase, [instance.state for instance in self.instances])

    @property
    def told(self) -> str:
        """Why it is not well: what the last operation said, or why an instance ended; what happened last."""
        failures = [found for instance in self.instances if (found := instance.failure) is not None]
        failure = max(failures, key=lambda found: found.at, default=None)
        if failure is None or (self.error and failure.at < self.blamed):
            return self.error
        return workload.told(str(self.workload), failure.reason, failure.tail)

    def spares(self) -> bool:
        """Whether one more instance can be left out, half of them at least being there: where all are slow, there is
        nobody else to take their requests."""
        away = sum(instance.state is not State.RUNNING for instance in self.instances)
        return away < len(self.instances) // 2

    def blame(self, error: str) -> None:
        """Keep why an operation failed just now."""
        self.error, self.blamed = error, time.monotonic()

    @property
    def failed(self) -> bool:
        """Whether it never ran, so that Create may take its place."""
        return self.workload.generation == 0 and self.phase is None and not self.unreadable

    @property
    def reserved(self) -> int:
        """How many instances it has or may soon have, as quotas count them: not those that an update replaces."""
        return 0 if self.failed else max(self.workload.instances, *self.asked, 0)

    def touch(self) -> None:
        self.updated = now()


def now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Workloads:
    """Created, read, updated and deleted. Everything asked for goes on when the caller goes away."""

    def __init__(self, host: Host, quotas: Quotas) -> None:
        self._purged: list[str] = []
        self._host = host = replace(host, announcements=Lasting(host.announcements, self._purged))
        self._quotas = quotas
        self._exits = Exits(host)
        self._tasks = OwnedTasks()
        self._entries: dict[Key, Entry] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._upkeep = Upkeep(host, self._folders, self.known)

    async def start(self, stack: AsyncExitStack) -> None:
        """Take over what runs, start what is missing, end what nobody wants."""
        await self._tasks.start(stack)
        self._tasks.spawn(self._exits.watch(), "process exits")
        kept = await self._host.store.list()
        lost = set(await self._host.store.keys()) - {wanted.key for wanted in kept}
        # Before anything starts: code that was lost is unpacked again then, beside what this removes.
        await self._sweep(kept, lost)
        running = [info for info in await self._host.launcher.list() if info.labels.get(KIND) == SERVICE]
        for wanted in kept:
            entry = Entry(wanted, error=wanted.error, updated=wanted.updated or now(), kept=wanted)
            self._entries[wanted.key] = entry
            if wanted.generation:
                self._resume(entry, [info for info in running if _belongs(info, wanted)])
        for key in lost:
            self._entries[key] = Entry(Workload(*key), error=_UNREADABLE, updated=now(), unreadable=True)
        for info in running:
            if not self._exits.expects(info.id) and _key_of(info) not in lost:
                self._tasks.spawn(self._host.launcher.stop(info.id), f"end {info.id}")
        self._tasks.spawn(self._exits.reconcile(), "reconcile")
        self._tasks.spawn(self._upkeep.keep(), "upkeep")

    async def _sweep(self, kept: list[Workload], lost: set[Key]) -> None:
        """Remove code that nobody wants; nothing of what cannot be read, nor of a store that knows of no service."""
        wanted: dict[Key, int | None] = {one.key: one.generation for one in kept if one.generation}
        wanted |= dict.fromkeys(lost)
        if not kept and not lost and (unknown := await self._host.sources.keys()):
            _log.error(
                "there is code of %d services, and the runtime's state, which is empty, knows none of them: the code "
                "is left alone; if the state was moved or lost, restore it, else remove it or run them again",
                len(unknown),
            )
            wanted |= dict.fromkeys(unknown)
        await self._host.sources.sweep(wanted)

    def select(self, namespace: str, name: str = "", version: str = "") -> list[Entry]:
        """Those of a namespace, sorted by name and version."""
        found = [self._entries[key] for key in sorted(self._entries) if key[0] == namespace]
        return [
            entry
            for entry in found
            if (not name or entry.workload.name == name) and (not version or entry.workload.version == version)
        ]

    def known(self, key: Key) -> bool:
        return key in self._entries

    async def create(self, wanted: Workload, upload_id: str, *, wait: bool) -> Entry:
        """Unpack, build, start. Raises ALREADY_EXISTS while there is one that ever ran or is being made, NOT_FOUND for
        a namespace that there is none of, RESOURCE_EXHAUSTED beyond its quota, and what `ServiceAccounts.ensure`
        raises; with `wait` FAILED_PRECONDITION when it does not become ready, and what `Sources.unpack` raises."""
        entry = self._entries.get(wanted.key)
        if entry is not None and not entry.failed:
            raise errors.already_exists(f"{wanted} is there already: update it or kill it first")
        # Nothing is awaited between this and the entry that counts: two at once do not slip past.
        self._check_quota(wanted.key, wanted.instances)
        fresh = entry is None
        if entry is None:
            entry = self._entries[wanted.key] = Entry(wanted)
        entry.workload = replace(wanted, revision=entry.workload.revision, error=_INTERRUPTED)
        entry.phase, entry.error = State.PENDING, ""
        entry.touch()
        begin, work = self._begin_create(entry, fresh=fresh), self._create(entry, upload_id, fresh=fresh)
        await self._perform(entry, begin, work, wait=wait)
        return entry

    async def update(self, key: Key, change: Change, upload_id: str, account: str, *, wait: bool) -> Entry:
        """Start the new beside the old and let it take over. `account` is whose the upload has to be. Raises NOT_FOUND,
        RESOURCE_EXHAUSTED beyond the namespace's quota; with `wait` FAILED_PRECONDITION when the new does not become
        ready, and what `Sources.unpack` raises: then the old goes on."""
        entry = self.find(key)
        if entry.unreadable:
            raise errors.failed_precondition(f"{entry.workload} cannot be updated: {_UNREADABLE}")
        wanted = change.instances or entry.workload.instances
        if wanted > entry.reserved:
            self._check_quota(key, wanted)
        entry.asked.append(wanted)
        if entry.failed and upload_id:
            entry.phase = State.PENDING  # from now on Create may not take its place
        begin, work = self._begin_update(entry), self._update(entry, change, upload_id, account)
        await self._perform(entry, begin, work, wait=wait, asked=wanted)
        return entry

    async def delete(self, key: Key, account: str = "") -> None:
        """End it, whatever it is in the middle of. `account` is who wants that. Raises NOT_FOUND."""
        entry = self.find(key)
        for operation in entry.changes:
            operation.cancel("it was killed")
        await self._perform(entry, None, self._delete(entry, account), wait=True)

    async def purge(self, namespace: str) -> None:
        """End and remove all of a namespace; until then nothing new begins there. Raises UNAVAILABLE when something
        stays."""
        self._purged.append(namespace)
        try:
            ends = (self.delete(entry.workload.key) for entry in self.select(namespace))
            for end in await asyncio.gather(*ends, return_exceptions=True):
                if isinstance(end, BaseException) and not (isinstance(end, Error) and end.kind is Kind.NOT_FOUND):
                    raise end
            await self._host.store.purge(namespace)
            await self._host.sources.purge(namespace)
        finally:
            self._purged.remove(namespace)

    def _check_quota(self, key: Key, instances: int) -> None:
        """Whether the namespace may have that service, with so many instances. Raises RESOURCE_EXHAUSTED, and NOT_FOUND
        when there is no such namespace."""
        namespace = key[0]
        quota = self._quotas(namespace)
        if quota is None:
            raise identity.no_namespace(namespace)
        if namespace in self._purged:
            raise errors.aborted(f"everything of namespace {namespace} is being removed: try again later")
        others = [entry for entry in self.select(namespace) if entry.workload.key != key]
        if quota.services and len(others) >= quota.services:
            raise _beyond("services", quota.services, len(others) + 1, key)
        wanted = instances + sum(entry.reserved for entry in others)
        if quota.instances and wanted > quota.instances:
            raise _beyond("instances", quota.instances, wanted, key)

    def find(self, key: Key) -> Entry:
        """Raises NOT_FOUND."""
        entry = self._entries.get(key)
        if entry is None:
            raise errors.not_found(f"{_shown(key)} is not there: `micro status` lists what is")
        return entry

    async def _perform(self, entry: Entry, begin: Work | None, work: Work, *, wait: bool, asked: int = 0) -> None:
        """Run one operation after those that came before it. It goes on when the caller gives up.

        Args:
            begin: stores that there is a change, so that word of it survives everything; None for a Delete, which
                waits for its end anyway. Without `wait` its error is all that the caller hears.
            asked: what the entry has in `asked` for it.
        """
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()
        done: asyncio.Future[None] = loop.create_future()
        operation = self._tasks.spawn(self._operate(entry, begin, work, begun), f"operate {entry.workload}")
        if begin is not None:
            entry.changes.add(operation)

        def settle(operation: asyncio.Task[Error | None]) -> None:
            # Not in the coroutine: one that is cancelled before its first step never runs any of it.
            entry.changes.discard(operation)
            if asked:
                entry.asked.remove(asked)
            for part in (begin, work):
                if part is not None:
                    part.close()
            error = _answer(entry, operation)
            if entry.phase is State.PENDING and not entry.changes:
                entry.phase = None
                if error and not entry.error:
                    entry.blame(error.message)
            entry.touch()
            for told in (begun, done):
                if not told.done():
                    told.set_result(None) if error is None else told.set_exception(error)
                    told.exception()  # nobody may be waiting for it

        operation.add_done_callback(settle)
        await asyncio.shield(done if wait else begun)

    async def _operate(self, entry: Entry, begin: Work | None, work: Work, begun: asyncio.Future[None]) -> Error | None:
        """Return why it failed, if it did in a way that is not a fault of ours."""
        try:
            if begin is not None:
                await begin
                begun.set_result(None)
            async with entry.lock:
                if self._entries.get(entry.workload.key) is not entry:
                    raise errors.not_found(f"{entry.workload} has been killed meanwhile")
                await work
        except Error as error:
            return error
        except Exception as error:  # noqa: BLE001 - told to the caller as internal, its traceback to the log
            _log.exception("%s: the operation ended unexpectedly", entry.workload)
            return errors.internal(f"{entry.workload}: unexpected {type(error).__name__}; see `micro logs runtime`")
        return None

    async def _put(self, entry: Entry, kept: Workload | None) -> None:
        """Store it; None: what is stored already, as one that an update was announced for.

        What is stored says that an update was interrupted for as long as any other change is under way. Raises
        UNAVAILABLE, and NOT_FOUND after a Delete.
        """
        current = asyncio.current_task()

        async def write() -> Error | None:
            async with entry.saving:
                wanted = kept or entry.kept or entry.workload
                if entry.gone:
                    return errors.not_found(f"{entry.workload} has been killed meanwhile")
                others = any(change is not current and not change.done() for change in entry.changes)
                if kept is None or others:
                    wanted = replace(wanted, error=_UPDATE_INTERRUPTED)
                try:
                    await self._host.store.put(wanted)
                except Error as error:
                    return error
                entry.kept = wanted
                return None

        # Brought to its end whatever becomes of the operation: a write that nobody waits for could undo a later one.
        if (error := await asyncio.shield(self._tasks.spawn(write(), f"store {entry.workload}"))) is not None:
            raise error

    async def _begin_create(self, entry: Entry, *, fresh: bool) -> None:
        try:
            await self._host.accounts.ensure(*entry.workload.key)
            await self._put(entry, entry.workload)
        except Error as error:
            await self._undo(entry, error, forget=fresh)
            raise
        self._host.tell(entry.workload, "service.created", by=entry.workload.owner)

    async def _begin_update(self, entry: Entry) -> None:
        await self._host.accounts.ensure(*entry.workload.key)
        await self._put(entry, None)

    async def _create(self, entry: Entry, upload_id: str, *, fresh: bool) -> None:
        wanted = replace(entry.workload, generation=1, revision=entry.workload.revision + 1, error="")
        try:
            await self._host.sources.unpack(upload_id, wanted.key, wanted.generation, wanted.owner)
        except Error as error:
            self._host.tell(wanted, "service.failed", reason=_first_line(error), by=wanted.owner)
            await self._undo(entry, error, forget=fresh)
            raise
        except BaseException:
            await self._undo(entry, errors.aborted(_INTERRUPTED), forget=False)
            raise
        try:
            self._host.logs.remove(wanted.key)
            await self._roll_out(entry, wanted, shown=True)
        except Error as error:
            self._host.tell(wanted, "service.failed", reason=_first_line(error), by=wanted.owner)
            await self._undo(entry, error, forget=False)
            raise
        except BaseException:
            await self._undo(entry, errors.aborted(_INTERRUPTED), forget=False)
            raise

    async def _undo(self, entry: Entry, error: Error, *, forget: bool) -> None:
        """After a Create that failed: no code stays, only word of why."""
        entry.phase = None
        entry.blame(error.message)
        await self._host.sources.remove(entry.workload.key)
        if forget:
            self._entries.pop(entry.workload.key, None)
            await self._forget(entry)
            self._upkeep.due()
            return
        entry.workload = replace(entry.workload, generation=0, error=error.message, updated=now())
        await self._put(entry, entry.workload)

    async def _forget(self, entry: Entry) -> None:
        """Let the store forget it. Raises UNAVAILABLE; then it is still there."""
        async with entry.saving:
            await self._host.store.delete(entry.workload.key)
            entry.gone = True

    async def _update(self, entry: Entry, change: Change, upload_id: str, account: str) -> None:
        old = entry.workload
        wanted = change.apply(old, new_code=bool(upload_id))
        try:
            if not wanted.generation:
                raise errors.failed_precondition(f"{old} has no code that runs: update it with its source")
            if upload_id:
                await self._host.sources.unpack(upload_id, wanted.key, wanted.generation, account)
            await self._roll_out(entry, wanted, shown=not old.generation)
        except BaseException as error:
            entry.phase = None
            if wanted.generation != old.generation:
                await self._host.sources.remove(wanted.key, wanted.generation)
            if isinstance(error, Exception):
                await self._tell_failed_update(entry, old, error, account)
            raise
        self._host.tell(wanted, "service.updated", by=account)
        if old.generation and old.generation != wanted.generation:
            await self._host.sources.remove(old.key, old.generation)
            self._upkeep.due()

    async def _tell_failed_update(self, entry: Entry, old: Workload, error: Exception, account: str) -> None:
        if isinstance(error, Error):
            entry.blame(error.message)
        else:
            entry.blame(f"unexpected {type(error).__name__}; see `micro logs runtime`")
        self._host.tell(old, "update.failed", reason=entry.error.partition("\n")[0], by=account)
        try:
            await self._put(entry, replace(old, error=entry.error))
        except Error as unkept:  # the update's own failure matters more to whoever asked for it
            _log.warning("%s: why its update failed is not kept: %s", old, unkept)

    async def _roll_out(self, entry: Entry, wanted: Workload, *, shown: bool) -> None:
        """Build, start, wait until all are routed, make it the wanted state, end what ran before.

        With `shown` the steps are the workload's state; else the old instances are.
        """

        def phase(state: State) -> None:
            entry.phase = state if shown else None
            entry.touch()

        phase(State.BUILDING)
        try:
            await self._host.builder.build(self._host.sources.folder(wanted.key, wanted.generation))
        except Error as error:
            self._host.tell(wanted, "build.failed", reason=_first_line(error))
            raise
        phase(State.STARTING)
        fresh = [self._instance(entry, wanted) for _ in range(wanted.instances)]
        try:
            await self._prove(fresh)
            await self._put(entry, replace(wanted, updated=now()))
        except BaseException:
            await self._retire(fresh)
            raise
        old, entry.instances, entry.workload = entry.instances, fresh, wanted
        entry.phase, entry.error = None, ""
        entry.touch()
        await self._retire(old)

    async def _prove(self, fresh: list[Instance]) -> None:
        """Start all at the same time. Raises FAILED_PRECONDITION as soon as one fails."""
        proofs = [self._tasks.spawn(_outcome(instance), f"prove {instance.wanted}") for instance in fresh]
        try:
            for proof in asyncio.as_completed(proofs):
                failure = await proof
                if failure is not None:
                    raise unwrap(fresh[0].wanted, failure)
        finally:
            for task in proofs:
                task.cancel()
            await asyncio.wait(proofs)

    async def _retire(self, old: list[Instance]) -> None:
        """End instances; once begun it is brought to its end, whatever becomes of the operation."""
        ends = [self._tasks.spawn(instance.retire(), f"retire {instance.id}") for instance in old]
        if ends:
            await asyncio.shield(asyncio.gather(*ends))

    async def _delete(self, entry: Entry, account: str) -> None:
        before, entry.phase = entry.phase, State.STOPPING
        entry.touch()
        try:
            await self._forget(entry)
        except BaseException:
            entry.phase = before
            raise
        if entry.unreadable:
            await self._end_all(entry.workload.key)
        await self._retire(entry.instances)
        await self._host.sources.remove(entry.workload.key)
        try:
            await self._host.accounts.remove(*entry.workload.key)
        except Error as error:  # the next look for what is left over removes it
            _log.warning("%s: its account is left over: %s", entry.workload, error)
        self._entries.pop(entry.workload.key, None)
        self._host.tell(entry.workload, "service.killed", by=account)
        self._upkeep.due()

    async def _end_all(self, key: Key) -> None:
        """End the processes of something that none are kept of."""
        for info in await self._host.launcher.list():
            if info.labels.get(KIND) == SERVICE and _key_of(info) == key:
                await self._host.launcher.stop(info.id)

    def _folders(self) -> list[Path]:
        """Where the code lies that runs, or that an update under way is about to run."""
        wanted = [entry.workload for entry in self._entries.values()]
        return [self._host.sources.folder(one.key, one.generation + more) for one in wanted for more in (0, 1)]

    def _resume(self, entry: Entry, running: list[ProcessInfo]) -> None:
        """After a restart of the runtime: keep the processes that are there, start those that are not."""
        for index in range(entry.workload.instances):
            instance = self._instance(entry, entry.workload)
            entry.instances.append(instance)
            if index < len(running):
                instance.adopt(running[index])
            else:
                instance.keep(self._slots)

    def _instance(self, entry: Entry, wanted: Workload) -> Instance:
        return Instance(self._host, self._exits, self._tasks, wanted, entry.touch, entry.spares)


@dataclass(frozen=True, slots=True)
class Change:
    """What an update asks for; what is empty stays as it is."""

    source: str = ""
    env: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    instances: int = 0

    def apply(self, old: Workload, *, new_code: bool) -> Workload:
        return replace(
            old,
            source=self.source or old.source,
            env=self.env or old.env,
            metadata=self.metadata or old.metadata,
            instances=self.instances or old.instances,
            generation=old.generation + new_code,
            revision=old.revision + 1,
            error="",
        )


def _answer(entry: Entry, operation: asyncio.Task[Error | None]) -> Error | None:
    """What whoever asked for the operation is told, once it has ended."""
    try:
        return operation.result()
    except asyncio.CancelledError as cancelled:
        why = cancelled.args[0] if cancelled.args else "the runtime was stopped"
        return errors.aborted(f"{entry.workload} is not ready: {why} meanwhile")


def _first_line(error: Error) -> str:
    """Why, without the output that follows."""
    return error.message.partition("\n")[0]


async def _outcome(instance: Instance) -> Failure | None:
    try:
        await instance.prove()
    except Failure as failure:
        return failure
    return None


def _key_of(info: ProcessInfo) -> Key:
    labels = info.labels
    return labels.get("namespace", ""), labels.get("name", ""), labels.get("version", "")


def _belongs(info: ProcessInfo, wanted: Workload) -> bool:
    labels = info.labels
    return (
        _key_of(info) == wanted.key
        and labels.get("generation") == str(wanted.generation)
        and labels.get("revision") == str(wanted.revision)
    )


def _beyond(what: str, most: int, wanted: int, key: Key) -> Error:
    return errors.resource_exhausted(
        f"{_shown(key)} would make it {wanted} {what}, and quota {what} of namespace {key[0]} is {most}: remove some, "
        f"or see `micro namespace quota {key[0]}`"
    )


def _shown(key: Key) -> str:
    namespace, name, version = key
    return str(Workload(namespace, name, version))
