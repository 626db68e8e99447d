"""One instance of a service: a process that is started, watched until it is routed, started again when it ends, and
taken out of the traffic before it is stopped."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from micro.domain import backoff, errors, workload
from micro.domain.errors import Error, Kind
from micro.domain.workload import Restarts, State, Workload
from micro.ports.accounts import ServiceAccount
from micro.ports.background import OwnedTasks
from micro.ports.builder import Build
from micro.ports.launcher import ProcessInfo, ProcessSpec
from micro.ports.pulse import Pulse
from micro.services.host import KIND, PYTHON, SERVICE, Exits, Host

_log = logging.getLogger(__name__)

_PORT_TRIES = 3
_PORT_TAKEN = ("address already in use", "cannot bind")
_LEAVE_TRIES = 3
_HUNG_GRACE = 1.0
"""Seconds that a process which does not answer has to end by itself: most cannot."""
_NOTE = 512
"""Characters of the reason that its log tells with a restart."""
_RECENT = 60.0
"""Seconds for which the reason of a restart is still told after the instance is ready again."""


class Failure(Exception):  # noqa: N818 - not an error of the platform until somebody asked for the start
    """Why an instance did not start or did not stay: one line, the last lines of output, and when by the monotonic
    clock."""

    def __init__(self, reason: str, tail: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tail = tail
        self.at = time.monotonic()


class Instance:
    """Lives from `spawn` or `adopt` until `retire` has returned.

    Args:
        spared: whether enough others are there to do without one more.

    Attributes:
        wanted: the workload as it was when the instance was made.
        id: of the process, also its node id in the registry; a new one for each process.
    """

    def __init__(
        self,
        host: Host,
        exits: Exits,
        tasks: OwnedTasks,
        wanted: Workload,
        changed: Callable[[], None],
        spared: Callable[[], bool],
    ) -> None:
        self.wanted = wanted
        self.id = ""
        self.address = ""
        self.pid = 0
        self.state = State.PENDING
        self.restarts = Restarts()
        self._host = host
        self._exits = exits
        self._tasks = tasks
        self._changed = changed
        self._spared = spared
        self._failure: Failure | None = None
        self._ready_at: float | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._exit: asyncio.Future[ProcessInfo] | None = None
        self._serving = False
        self._placeholder = ""
        self._awaited = False
        self._fresh = False
        self._silence: Failure | None = None
        self._moving: asyncio.Task[None] | None = None

    @property
    def failure(self) -> Failure | None:
        """Why it is not ready, or was started again within the last minute."""
        if self._silence is not None:
            return self._silence
        if self._ready_at is not None and time.monotonic() - self._ready_at > _RECENT:
            return None
        return self._failure

    def keep(self, slot: asyncio.Semaphore) -> None:
        """Start it once there is a slot, and start it again whenever it ends, for ever."""
        self._keeper = self._tasks.spawn(self._keep_first(slot), f"keep {self.wanted}")

    async def prove(self) -> None:
        """Start it and wait until it is routed; from then on keep it.

        Raises:
            Failure: it was not; then nothing of it runs.
        """
        self._awaited = True
        try:
            await self._begin()
        except BaseException as error:
            self._move(State.ERROR)
            await self._end_process()
            if self.id:  # it may have registered
                self._tasks.spawn(self._forget(self.id), f"forget {self.id}")
            if isinstance(error, Exception):
                raise self._failure_of(error) from error
            raise
        finally:
            self._awaited = False
        self._keeper = self._tasks.spawn(self._keep(begun=True), f"keep {self.wanted}")

    def adopt(self, info: ProcessInfo) -> None:
        """Take over a process that another runtime started, and keep it."""
        self.id, self.pid, self.address = info.id, info.pid, info.labels.get("address", "")
        self._exit = self._exits.expect(info.id)
        self._exits.started(info.id)
        self._serving = True
        self._move(State.STARTING)
        self._keeper = self._tasks.spawn(self._keep(adopted=True), f"keep {self.wanted}")

    async def retire(self) -> None:
        """End it without loss: out of the registry, out of the routes, drained, stopped."""
        await self._stop_keeping()
        self._move(State.STOPPING)
        running = self._exit is not None and not self._exit.done()
        if self._serving and running:
            await self._leave()
        await self._end_process()
        self._replace_lost()
        self._move(State.STOPPED)
        if running:
            self._host.tell(self.wanted, "service.stopped", instance=self.id)

    async def _keep_first(self, slot: asyncio.Semaphore) -> None:
        try:
            self._move(State.BUILDING)
            await self._build()  # it may take minutes, and starts nothing
            await slot.acquire()
            with ExitStack() as held:
                held.callback(slot.release)
                late = asyncio.get_running_loop().call_later(self._host.settings.start_slot, held.close)
                held.callback(late.cancel)
                await self._begin()
        except Exception as error:  # noqa: BLE001 - whatever it is, the service is tried again
            await self._failed(self._failure_of(error))
            await asyncio.sleep(self.restarts.delay)
            await self._keep()
        else:
            await self._keep(begun=True)

    async def _keep(self, *, begun: bool = False, adopted: bool = False) -> None:
        while True:
            try:
                if not adopted and not begun:
                    await self._begin()
                raise await self._until_lost(adopted=adopted)
            except Exception as error:  # noqa: BLE001 - whatever it is, the service is tried again
                begun = adopted = False
                await self._failed(self._failure_of(error))
            await asyncio.sleep(self.restarts.delay)

    def _failure_of(self, error: Exception) -> Failure:
        """The failure, or what else went wrong as one: that is logged with its traceback."""
        if isinstance(error, Failure):
            return error
        _log.error("%s (%s): unexpected %s", self.wanted, self.id, type(error).__name__, exc_info=error)
        if isinstance(error, Error):
            return _told(error)
        reason, *tail = str(error).splitlines() or ["no reason given"]
        return Failure(f"unexpected {type(error).__name__}: {reason}", tuple(tail))

    async def _failed(self, failure: Failure) -> None:
        if self.id:
            self._lost(self.id)
        ready_for = None if self._ready_at is None else time.monotonic() - self._ready_at
        self._failure, self._ready_at, self._serving = failure, None, False
        self.restarts = self.restarts.failed(ready_for)
        _log.warning("%s (%s): %s; started again in %.1f s", self.wanted, self.id, failure.reason, self.restarts.delay)
        self._move(State.ERROR)
        self._host.tell(
            self.wanted,
            "service.crashed",
            instance=self.id,
            reason=failure.reason,
            restarts=str(self.restarts.count),
        )
        await self._end_process()

    def _lost(self, dead: str) -> None:
        """Take a dead process out of the registry: at once where others answer, else when its successor does.

        Until then callers hear that no instance answers, which is worth another try, and not that there is no such
        service, which is not.
        """
        if self._serving and self.wanted.instances == 1 and not self._placeholder:
            self._placeholder = dead
        else:
            self._tasks.spawn(self._forget(dead), f"forget {dead}")

    def _replace_lost(self) -> None:
        if self._placeholder:
            self._tasks.spawn(self._forget(self._placeholder), f"forget {self._placeholder}")
            self._placeholder = ""

    async def _begin(self) -> None:
        for attempt in range(1, _PORT_TRIES + 1):
            try:
                await self._start_process()
                async with asyncio.timeout(self._host.settings.ready_timeout):
                    await self._until_routed()
                return
            except TimeoutError:
                info = await self._tail_of_the_unready()
                raise Failure(f"it is not ready after {self._host.settings.ready_timeout:g} s", info) from None
            except Failure as failure:
                taken = any(sign in line.lower() for line in failure.tail for sign in _PORT_TAKEN)
                if not taken or attempt == _PORT_TRIES:
                    raise

    async def _start_process(self) -> None:
        """Start the process. Raises Failure when it cannot be built or executed."""
        await self._end_process()
        wanted, host = self.wanted, self._host
        self.id = f"{wanted.name}-{secrets.token_hex(4)}"
        self.address = host.free_address()
        self._move(State.STARTING)
        self._exit = self._exits.expect(self.id)
        try:
            build = await self._build()
            account = await host.accounts.ensure(*wanted.key)
            command = await asyncio.to_thread(
                host.command, build.python, build.folder, self.address, host.admin_socket(self.id)
            )
            spec = ProcessSpec(
                id=self.id,
                argv=command.argv,
                env={**host.inherited(), **wanted.env, **command.env, **self._environment(account)},
                cwd=build.folder,
                log=host.logs.path(wanted.key),
                labels=self._labels(build),
                note=self._note(),
            )
            info = await host.launcher.start(spec)
        except Error as error:
            raise _told(error) from error
        except OSError as error:
            raise Failure(f"it cannot be started: {error}") from error
        self.pid = info.pid
        self._exits.started(self.id)
        self._fresh = True
        self._host.tell(
            self.wanted, "service.restarted" if self.restarts.count else "service.started", instance=self.id
        )
        self._changed()

    async def _build(self) -> Build:
        """What is there already after the first time. Raises Failure."""
        folder = self._host.sources.folder(self.wanted.key, self.wanted.generation)
        try:
            await self._host.sources.mend(self.wanted.key, self.wanted.generation)
            return await self._host.builder.build(folder, background=not self._awaited)
        except Error as error:
            raise _told(error) from error

    def _note(self) -> str:
        """What its log says of a restart."""
        if self._failure is None:
            return ""
        return f"started again, restart {self.restarts.count}, because of: {self._failure.reason[:_NOTE]}"

    def _environment(self, account: ServiceAccount) -> dict[str, str]:
        return {
            "MICRO_SERVICE_NAME": self.wanted.name,
            "MICRO_SERVICE_VERSION": self.wanted.version,
            "MICRO_SERVICE_ID": self.id,
            "MICRO_SERVICE_ADDRESS": self.address,
            "MICRO_NAMESPACE": self.wanted.namespace,
            "MICRO_AUTH_ID": account.id,
            "MICRO_AUTH_SECRET": account.secret,
            "MICRO_NETWORK": self._host.settings.network,
            "MICRO_LOG_FORMAT": "json",
        }

    def _labels(self, build: Build) -> dict[str, str]:
        return {
            KIND: SERVICE,
            "namespace": self.wanted.namespace,
            "name": self.wanted.name,
            "version": self.wanted.version,
            "generation": str(self.wanted.generation),
            "revision": str(self.wanted.revision),
            "address": self.address,
            PYTHON: str(build.python),
        }

    async def _until_routed(self) -> None:
        """Return when requests reach it. Raises Failure when its process ends before that."""
        assert self._exit is not None
        routed = self._tasks.spawn(self._routed(), f"routed {self.id}")
        awaited: tuple[asyncio.Future[Any], ...] = (routed, self._exit)
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            routed.cancel()
        if self._exit.done():
            raise await self._ended()
        routed.result()
        self._ready_at = time.monotonic()
        self._serving = True
        self._replace_lost()
        self._move(State.STARTING)  # where it was silent meanwhile
        self._move(State.RUNNING)
        if self._fresh:  # not again after a restart of the runtime, which changes nothing for anybody
            self._fresh = False
            self._host.tell(self.wanted, "service.ready", instance=self.id)

    async def _routed(self) -> None:
        wanted = self.wanted
        for delay in backoff.exponential(first=0.1, cap=2.0):
            try:
                revision = await self._host.traffic.registered(wanted.namespace, wanted.name, self.id)
                await self._host.traffic.sync(revision)
                return
            except Error as error:
                _log.warning("%s: cannot tell yet whether it is routed: %s", self.id, error)
            await asyncio.sleep(delay)

    async def _until_lost(self, *, adopted: bool) -> Failure:
        """Look after a process that runs; return why it has ended, or has been because it hung."""
        settings = self._host.settings
        ask = functools.partial(self._host.liveness.answered, self.address)
        pulse = Pulse(ask, settings.probe, settings.silent, settings.hung, self._fell_silent, self._answers_again)
        hangs = asyncio.ensure_future(pulse.lost())  # owned: by this call
        lives = asyncio.ensure_future(self._until_ended(adopted=adopted))  # owned: by this call
        try:
            await asyncio.wait((hangs, lives), return_when=asyncio.FIRST_COMPLETED)
            if lives.done():
                return lives.result()
            hangs.result()
            with suppress(Error):  # it is tried again below
                await self._host.launcher.stop(self.id, _HUNG_GRACE)
            return Failure(f"it did not answer for {settings.hung:g} s")
        finally:
            for task in (hangs, lives):
                task.cancel()
            await asyncio.gather(hangs, lives, return_exceptions=True)
            self._stop_moving()
            self._silence = None

    async def _until_ended(self, *, adopted: bool) -> Failure:
        if adopted:  # waited for while it lives: that it is not registered may be the registry's fault
            await self._until_routed()
        return await self._ended()

    def _fell_silent(self) -> None:
        """Let the others have its requests, where half of them at least are there."""
        patience = self._host.settings.silent
        _log.warning("%s (%s): no answer for %g s", self.wanted, self.id, patience)
        self._silence = Failure(f"it has not answered for more than {patience:g} s")
        self._stop_moving()
        if self.state is State.RUNNING and self._spared():
            self._moving = self._tasks.spawn(self._forget(self.id), f"leave out {self.id}")
        self._move(State.ERROR)

    def _answers_again(self) -> None:
        _log.info("%s (%s): it answers again", self.wanted, self.id)
        self._silence = None
        self._move(State.STARTING)
        self._moving = self._tasks.spawn(self._return(self._moving), f"return of {self.id}")

    async def _return(self, leaving: asyncio.Task[None] | None) -> None:
        """Wait until requests reach it again. One that was taken out registers itself as soon as it notices that it
        stood still."""
        if leaving is not None:
            await asyncio.wait((leaving,))
        await self._routed()
        if self.state is State.STARTING:
            self._move(State.RUNNING)

    def _stop_moving(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None

    async def _ended(self) -> Failure:
        """Wait for the end of the process; return why."""
        assert self._exit is not None
        info = await asyncio.shield(self._exit)
        folder = str(self._host.sources.folder(self.wanted.key, self.wanted.generation))
        served = self._ready_at is not None
        reason = workload.exit_reason(info.exit_status or 0, info.tail, folder, served=served)
        return Failure(reason, workload.outlived(info.tail, served=served))

    async def _tail_of_the_unready(self) -> tuple[str, ...]:
        """Stop a process that never became ready, and return its last lines."""
        assert self._exit is not None
        exit_ = asyncio.shield(self._exit)
        await self._host.launcher.stop(self.id, 1.0)
        try:
            async with asyncio.timeout(5.0):
                return (await exit_).tail
        except TimeoutError:
            return ()

    async def _leave(self) -> None:
        """Move traffic away and let what is in flight finish."""
        admin = self._host.admin(self._host.admin_socket(self.id))
        settings = self._host.settings
        try:
            async with asyncio.timeout(settings.leave_timeout + settings.drain_timeout):
                gone = await self._deregister(self.id)
                await self._synced(gone)
                await admin.drain()
                for _ in range(_LEAVE_TRIES):
                    await asyncio.sleep(settings.settle)
                    await admin.wait_idle(settings.drain_timeout)
                    # A heartbeat on its way may have brought it back: it is gone once leaving changes nothing.
                    again = await self._deregister(self.id)
                    if again == gone:
                        return
                    await self._synced(gone := again)
        except TimeoutError:
            _log.warning("%s: not out of the routes after %g s; it is ended now", self.id, settings.leave_timeout)
        except Error as error:
            _log.warning("%s: cannot be drained: %s", self.id, error)

    async def _deregister(self, node_id: str) -> int:
        wanted = self.wanted
        for delay in backoff.exponential(first=0.1, cap=2.0):
            try:
                return await self._host.traffic.deregister(wanted.namespace, wanted.name, node_id)
            except Error as error:
                if error.kind is not Kind.UNAVAILABLE:
                    raise
            await asyncio.sleep(delay)
        raise AssertionError("the backoff never ends")

    async def _synced(self, revision: int) -> None:
        for delay in backoff.exponential(first=0.1, cap=2.0):
            try:
                await self._host.traffic.sync(revision)
                return
            except Error as error:
                if error.kind is not Kind.UNAVAILABLE:
                    raise
            await asyncio.sleep(delay)

    async def _forget(self, dead: str) -> None:
        """Take a process that is dead, or as good as, out of the registry, so that nobody waits for it; its lease would
        end it late."""
        try:
            async with asyncio.timeout(self._host.settings.leave_timeout):
                await self._deregister(dead)
        except (Error, TimeoutError) as error:
            _log.warning("%s: cannot be deregistered: %s", dead, error)

    async def _end_process(self) -> None:
        if self._exit is None:
            return
        try:
            await self._host.launcher.stop(self.id, self._host.settings.stop_grace)
        except Exception as error:  # noqa: BLE001 - once it is forgotten, the next look at what runs ends it
            _log.warning("%s: cannot be stopped: %s", self.id, error)
        self._exits.forget(self.id)
        socket = self._host.admin_socket(self.id)
        for left in (socket, socket.with_suffix(".json")):  # and the configuration of the server around the code
            with suppress(OSError):
                left.unlink()
        self._exit, self.pid = None, 0

    async def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None

    def _move(self, state: State) -> None:
        self.state = workload.step(self.state, state)
        self._changed()


def _told(error: Error) -> Failure:
    reason, *tail = error.message.splitlines() or [error.kind.code]
    return Failure(reason, tuple(tail))


def unwrap(subject: object, failure: Failure) -> Error:
    """The failure as an answer to whoever asked for the start."""
    return errors.failed_precondition(workload.told(f"{subject} did not start", failure.reason, failure.tail))
