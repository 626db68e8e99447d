"""What a service does with events and messages: declared on functions, run from its start to its stop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from micro.domain import backoff
from micro.domain import topic as topics
from micro.domain.errors import Error
from micro.ports import background
from micro.rpc.health import Readiness

if TYPE_CHECKING:
    from micro.framework import events
    from micro.framework.deliveries import Deliveries, Delivery, Wanted

__all__ = ["Consumers", "Handling"]

log = logging.getLogger(__name__)

CONCURRENCY = 16

ASPECT = "consumers"
"""By which the health of a service tells of them."""

DRAIN = 3.0
"""Seconds that handlers are given when the service stops: a server that stops one kills it after five."""

LONG = 30.0
"""Seconds without events after which that is told."""

JOINING = 5.0
"""Seconds that a new instance waits to be connected before it registers."""

_SLOW = 30.0
"""Seconds between tries when it is not to be expected that the next one succeeds."""

_MOST_CONCURRENT = 1024

_SOONER = 0.95
"""Part of `ack_wait` after which a handler is cancelled: before events gives up hope itself."""

Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Handling:
    """What is known while an event or a message is handled; handlers that take a second parameter get it.

    Attributes:
        service: whose handler it is.
        topic: where it was published.
        group: of consumers, or the queue of subscribers.
        attempt: which try this is, 1 for the first; 0 for a message, which is tried once.
        deadline: seconds of `time.monotonic` by which an event has to be handled, or else it is delivered again; None
            for a message.
    """

    service: str
    topic: str
    group: str
    attempt: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a function takes.

    Attributes:
        whole: the event or the message, not the value in it alone.
        as_type: what that value is.
        handling: whether it takes a Handling too.
    """

    whole: bool
    as_type: Any
    handling: bool


@dataclass(frozen=True, slots=True)
class _Declared:
    """One function, and what it is given.

    Attributes:
        kind: "consume" or "subscribe".
        topic: a topic, or a pattern of topics.
        group: of consumers, or the queue of subscribers; empty for none.
        taken: what the function takes.
        wanted: what is asked of events.
    """

    kind: str
    topic: str
    group: str
    function: Handler
    taken: _Taken
    concurrency: int
    wanted: Wanted | None = None

    def __str__(self) -> str:
        return f"{self.topic}/{self.group}" if self.group else self.topic


class Consumers:
    """The consumers and subscribers of one service.

    Args:
        service: its name, which is the name of their groups and queues too.
        drain: seconds that handlers are given when it stops.
    """

    def __init__(self, service: str, drain: float = DRAIN) -> None:
        self._service = service
        self.drain = drain
        self._declared: list[_Declared] = []
        self._running: list[_Consumer | _Subscriber] = []

    def consume(
        self, topic: str, group: str | None, function: Handler, as_type: Any, concurrency: int, **terms: Any
    ) -> None:
        """Take in a function for events; `terms` are those of `events.consume`. Raises TypeError."""
        from micro.framework import events

        what = f"@service.consume({topic!r})"
        name = self._service if group is None else group
        _check(what, topics.topic, topic)
        _check(what, topics.group, name)
        if any((one.kind, one.topic, one.group) == ("consume", topic, name) for one in self._declared):
            raise TypeError(f"{what}: group {name!r} has a function for it already: give this one another group")
        taken = _taken(what, function, as_type, events.Event)
        in_flight = terms.pop("max_in_flight") or max(events.IN_FLIGHT, min(2 * concurrency, _MOST_CONCURRENT))
        try:
            wanted = events.wanted(topic, group=name, max_in_flight=in_flight, **terms)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{what}: {error}") from None
        _check_concurrency(what, concurrency)
        self._declared.append(_Declared("consume", topic, name, function, taken, concurrency, wanted))

    def subscribe(self, pattern: str, queue: str | None, function: Handler, as_type: Any, concurrency: int) -> None:
        """Take in a function for messages. Raises TypeError for what cannot work."""
        from micro.framework import broker

        what = f"@service.subscribe({pattern!r})"
        name = self._service if queue is None else queue
        _check(what, topics.pattern, pattern)
        if name:
            _check(what, topics.group, name)
        taken = _taken(what, function, as_type, broker.Message)
        _check_concurrency(what, concurrency)
        self._declared.append(_Declared("subscribe", pattern, name, function, taken, concurrency))

    def __bool__(self) -> bool:
        return bool(self._declared)

    @property
    def metadata(self) -> dict[str, str]:
        """What the registry is told of them: "orders/billing payments/billing" under "consumes", "subscribes"."""
        found = {
            label: " ".join(str(one) for one in self._declared if one.kind == kind)
            for label, kind in (("consumes", "consume"), ("subscribes", "subscribe"))
        }
        return {label: told for label, told in found.items() if told}

    @property
    def reasons(self) -> dict[str, str]:
        """Those that have not been connected for long, and why: "orders/billing" -> "cannot reach events …"."""
        return {str(one.declared): told for one in self._running if (told := one.reason)}

    def health(self) -> dict[str, Readiness]:
        """What the service's health tells of them, apart from whether it takes calls: all of them under "consumers",
        each under "consumers/orders/billing"."""
        if not self._declared:
            return {}
        found = {ASPECT: Readiness()}
        found[ASPECT].add(ASPECT, lambda: "; ".join(self.reasons.values()))
        for name in {str(one) for one in self._declared}:
            found[f"{ASPECT}/{name}"] = Readiness()
            found[f"{ASPECT}/{name}"].add(name, partial(self._reason, name))
        return found

    def _reason(self, name: str) -> str:
        return self.reasons.get(name, "")

    async def start(self, stack: AsyncExitStack) -> None:
        """Begin; the stack ends them: nothing new is taken, what is in hand is finished in time or given back."""
        if not self._declared:
            return
        tasks = background.OwnedTasks()
        await tasks.start(stack)
        for declared in self._declared:
            made: _Consumer | _Subscriber
            made = (_Consumer if declared.kind == "consume" else _Subscriber)(self._service, declared, tasks)
            self._running.append(made)
        stack.push_async_callback(self._end)
        for one in self._running:
            one.start()

    async def _end(self) -> None:
        running, self._running = self._running, []
        await asyncio.gather(*(one.end(self.drain) for one in running))

    async def joined(self, seconds: float | None = None) -> None:
        """Return once all are connected, or tried in vain, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for one in self._running:
                    await one.tried.wait()


class _Runner:
    """Runs the handlers of one declaration, as many at a time as it allows."""

    def __init__(self, service: str, declared: _Declared, tasks: background.OwnedTasks) -> None:
        self.declared = declared
        self.tried = asyncio.Event()
        self._service = service
        self._tasks = tasks
        self._slots = asyncio.Semaphore(declared.concurrency)
        self._handling: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._away: tuple[float, str] | None = None
        self._told = False

    @property
    def reason(self) -> str:
        """Why it has not been connected for long; empty while all is well."""
        if self._away is None or time.monotonic() - self._away[0] < LONG:
            return ""
        return f"not connected for {time.monotonic() - self._away[0]:.0f} s: {self._away[1]}"

    def start(self) -> None:
        self._loop = self._tasks.spawn(self._run(), f"{self.declared.kind} {self.declared}")

    async def _run(self) -> None:
        raise NotImplementedError

    def _heard(self, failure: Error | None) -> None:
        """Keep in mind since when it is away, and log what lasts."""
        if failure is None:
            if self._told:
                log.info("%s of %s: connected again", self.declared.kind, self.declared)
            self._away, self._told = None, False
            return
        since = self._away[0] if self._away else time.monotonic()
        self._away = since, str(failure)
        if not self._told and self.reason:
            self._told = True
            log.warning("%s of %s: %s: trying again", self.declared.kind, self.declared, self.reason)

    def _spawn(self, work: Any) -> None:
        task = self._tasks.spawn(work, f"{self.declared.kind} {self.declared}")
        self._handling.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        self._slots.release()

    async def _call(self, given: Any, handling: Handling) -> None:
        function, taken = self.declared.function, self.declared.taken
        first = given if taken.whole else given.value
        arguments = (first, handling) if taken.handling else (first,)
        if inspect.iscoroutinefunction(function):
            await function(*arguments)
            return
        found = await asyncio.to_thread(function, *arguments)
        if inspect.isawaitable(found):
            await found

    async def _finish(self, seconds: float) -> None:
        """Wait for the handlers; cancel those that take too long."""
        if self._handling:
            await asyncio.wait(self._handling, timeout=seconds)
        left = list(self._handling)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)


class _Consumer(_Runner):
    """Hands the events of a group to a function."""

    _deliveries: Deliveries | None = None
    _ending = False

    async def _run(self) -> None:
        for delay in _slower():
            try:
                await self._consume()
                return
            except Error as error:
                self.tried.set()
                log.error("cannot consume %s: %s: trying again in %.0f s", self.declared, error, delay)
                self._away = self._away or (time.monotonic() - LONG, "")
                self._away, self._told = (self._away[0], str(error)), True
                await asyncio.sleep(delay)

    async def _consume(self) -> None:
        from micro.framework.deliveries import Deliveries

        assert self.declared.wanted is not None
        deliveries = self._deliveries = Deliveries(self.declared.wanted, patience=None, heard=self._tell)
        deliveries.start()
        try:
            while not self._ending:
                await self._slots.acquire()
                try:
                    taken = await deliveries.take()
                except BaseException:
                    self._slots.release()
                    raise
                if taken is None:
                    return
                self._spawn(self._handle(taken))
        except Error:
            await deliveries.close()
            raise

    def _tell(self, failure: Error | None) -> None:
        self.tried.set()
        self._heard(failure)

    async def _handle(self, taken: Delivery) -> None:
        from micro.framework import events
        from micro.framework.deliveries import ACK_WAIT

        event = events.decoded(taken, self.declared.taken.as_type)
        if event is None:
            return
        wait = (self.declared.wanted and self.declared.wanted.ack_wait) or ACK_WAIT
        cancelled = inspect.iscoroutinefunction(self.declared.function)
        begun, scope = time.monotonic(), asyncio.timeout(wait * _SOONER if cancelled else None)
        try:
            async with scope:
                await self._call(event, self._handling_of(event))
        except asyncio.CancelledError:
            taken.release()  # the service stops: nobody's failure
            raise
        except Exception as error:
            told = f"it took longer than ack_wait, {wait:g} s" if scope.expired() else events.reason(error)
            # How it came about is told once.
            why = error if event.attempt == 1 and not scope.expired() else None
            log.error(
                "%s failed at event %d, try %d: %s", self.declared, event.offset, event.attempt, told, exc_info=why
            )
            taken.nack(told)
        else:
            if time.monotonic() - begun > wait:
                log.warning("%s blocked at event %d for longer than ack_wait, %g s", self.declared, event.offset, wait)
            taken.ack()

    def _handling_of(self, event: events.Event[Any]) -> Handling:
        declared = self.declared
        wait = (declared.wanted and declared.wanted.ack_wait) or 30.0
        return Handling(self._service, event.topic, declared.group, event.attempt, time.monotonic() + wait)

    async def end(self, seconds: float) -> None:
        """Take nothing new, let the handlers finish, give back the rest."""
        self._ending = True
        if self._deliveries is not None:
            self._deliveries.drain()
        await self._finish(seconds)
        if self._deliveries is not None:
            await self._deliveries.close(1.0)
        if self._loop is not None:
            self._loop.cancel()


class _Subscriber(_Runner):
    """Hands the messages of a pattern to a function."""

    async def _run(self) -> None:
        for delay in _slower():
            try:
                await self._subscribe()
            except Error as error:
                self._heard(error)
                log.error("cannot subscribe to %s: %s: trying again in %.0f s", self.declared, error, delay)
                self.tried.set()
            await asyncio.sleep(delay)

    async def _subscribe(self) -> None:
        from micro.framework import broker

        declared = self.declared
        async with contextlib.AsyncExitStack() as stack:
            messages = await stack.enter_async_context(
                broker.subscribe(declared.topic, queue=declared.group, as_type=declared.taken.as_type)
            )
            self.tried.set()
            self._heard(None)
            while True:
                await self._slots.acquire()
                try:
                    message = await anext(messages)
                except BaseException:
                    self._slots.release()
                    raise
                self._spawn(self._handle(message))

    async def _handle(self, message: Any) -> None:
        try:
            await self._call(message, Handling(self._service, message.topic, self.declared.group))
        except Exception:
            log.exception("%s failed at a message of %s, which is not tried again", self.declared, message.topic)

    async def end(self, seconds: float) -> None:
        """Take nothing new, and let the handlers finish."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        await self._finish(seconds)


def _slower() -> Iterator[float]:
    return backoff.exponential(first=1.0, cap=_SLOW)


def _check(what: str, rule: Callable[[str], str], name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f'{what.partition("(")[0]} needs the name of a topic: {what.partition("(")[0]}("orders")')
    try:
        rule(name)
    except Error as error:
        raise TypeError(f"{what}: {error.message}") from None


def _check_concurrency(what: str, concurrency: object) -> None:
    if not isinstance(concurrency, int) or not 1 <= concurrency <= _MOST_CONCURRENT:
        raise TypeError(f"{what}: concurrency={concurrency!r}: use 1 to {_MOST_CONCURRENT:,}")


def _taken(what: str, function: Handler, as_type: Any, carrier: type[Any]) -> _Taken:
    """What a function takes, as its parameters say: a carrier, or `carrier[Order]`, is given whole; with another type
    the function is given the value alone, as that type."""
    if not callable(function):
        raise TypeError(f"{what}: {function!r} is no function")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{what}: {function.__name__} yields: it is to return when all is done")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    every = inspect.signature(function).parameters.values()
    parameters = [one for one in every if one.kind in kinds and one.default is inspect.Parameter.empty]
    keywords = [one for one in every if one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is one.empty]
    if keywords or not 1 <= len(parameters) <= 2:
        name = getattr(function, "__name__", repr(function))
        raise TypeError(f"{what}: {name} takes one parameter, what came, and a second one if it wants its Handling")
    annotation = _annotation(what, function, parameters[0])
    whole = annotation in (inspect.Parameter.empty, Any, carrier) or typing.get_origin(annotation) is carrier
    inner = typing.get_args(annotation)[0] if typing.get_origin(annotation) is carrier else None
    found = as_type or inner or (bytes if whole else annotation)
    if isinstance(found, str) or not (isinstance(found, type) or typing.get_origin(found) or found is Any):
        raise TypeError(f"{what}: as_type={found!r} is no type")
    return _Taken(whole, found, len(parameters) == 2)


def _annotation(what: str, function: Handler, parameter: inspect.Parameter) -> Any:
    """The type of a parameter."""
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    try:
        plain = function if inspect.isroutine(function) else type(function).__call__
        return typing.get_type_hints(plain)[parameter.name]
    except NameError as error:
        raise TypeError(f"{what}: {error}: define what {parameter.name} is before the function") from None
