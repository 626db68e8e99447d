"""The table of what a service can be asked for, made from its handlers' descriptors."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from protobuf import DescMethod, DescService, Message

from micro.domain import names
from micro.domain.route import LONGEST_TIMEOUT
from micro.domain.service import StreamKind
from micro.rpc import comments, deadline
from micro.rpc.context import CURRENT, Context
from micro.rpc.interceptor import Interceptor, around_stream, around_unary
from micro.rpc.receive import Receive

F = TypeVar("F", bound=Callable[..., Any])

_TIMEOUT = "__micro_timeout__"
_KINDS = {
    "unary": (StreamKind.UNARY, StreamType.UNARY),
    "server_streaming": (StreamKind.SERVER, StreamType.SERVER_STREAM),
    "client_streaming": (StreamKind.CLIENT, StreamType.CLIENT_STREAM),
    "bidi_streaming": (StreamKind.BIDI, StreamType.BIDI_STREAM),
}
_IDEMPOTENCY = {1: IdempotencyLevel.NO_SIDE_EFFECTS, 2: IdempotencyLevel.IDEMPOTENT}


def method(*, timeout: float | None = None) -> Callable[[F], F]:
    """Say how a handler's method is to be run.

    Args:
        timeout: seconds that a call may take when its caller names no deadline, 30 days at most; None, 0 or infinity
            for no limit. Without this decorator it is the service's own, and none for streams.

    Raises ValueError for what is no time.
    """
    seconds = _seconds(timeout)

    def mark(function: F) -> F:
        setattr(function, _TIMEOUT, seconds)
        return function

    return mark


def _seconds(timeout: float | None) -> float:
    if timeout is None or timeout == math.inf:
        return 0.0
    if not 0 <= timeout <= LONGEST_TIMEOUT:  # which not-a-number is not either
        raise ValueError(f"timeout is {timeout:g} s: use 0 to {LONGEST_TIMEOUT:.0f}, or 0 for no limit")
    return float(timeout)


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method of one handler.

    Attributes:
        path: of gRPC: "/helloworld.Helloworld/Call".
        name: "Helloworld.Call".
        function: for UNARY `async (request, ctx) -> response`; for the others `(requests or request, ctx)`, an
            async iterator where the answer is a stream, a coroutine where it is not.
        timeout: seconds; None for none.
        info: what connectrpc wants to know.
        description: what the contract's comment says.
    """

    desc: DescMethod
    path: str
    name: str
    kind: StreamKind
    input: type[Message]
    output: type[Message]
    function: Callable[[Any, Context], Any]
    timeout: float | None
    info: MethodInfo[Any, Any]
    description: str = ""

    async def invoke(self, request: Any, ctx: Context, receive: Receive | None) -> Any:
        """Call a function that answers with one message, under the call's deadline.

        Raises what the function raises, and what `deadline.Suspended` does.
        """
        token = CURRENT.set(ctx)
        try:
            coroutine = self.function(request, ctx)
            try:
                yielded = coroutine.send(None)
            except StopIteration as done:
                response = done.value
            else:
                response = await deadline.Suspended(coroutine, yielded, ctx.deadline, receive)
        finally:
            ctx.done = True
            CURRENT.reset(token)
        if response.__class__ is not self.output:
            raise self.wrong(response)
        return response

    def wrong(self, response: object) -> TypeError:
        return TypeError(f"{self.name} answered with {type(response).__name__}, not {self.output.__name__}")


def service_of(handler: object) -> DescService:
    """The contract that a handler implements. Raises TypeError that says what to do for anything else."""
    desc = getattr(handler, "desc", None)
    found = desc() if callable(desc) and not isinstance(handler, type) else None
    if not isinstance(found, DescService):
        what = f"the class {handler.__name__}" if isinstance(handler, type) else f"a {type(handler).__name__}"
        fix = f"pass {handler.__name__}()" if isinstance(handler, type) else "derive its class from the generated one"
        raise TypeError(f"{what} is not a handler: {fix}, as in `class Handler(Helloworld): …` and `Handler()`")
    return found


def table(handlers: Sequence[object], timeout: float | None, interceptors: Sequence[Interceptor] = ()) -> list[Method]:
    """Every method of every handler, in the order given. Raises TypeError for what is no handler, or is given twice.

    Raises ValueError for a timeout that is no time.
    """
    timeout = _seconds(timeout)
    methods: list[Method] = []
    seen: set[str] = set()
    for handler in handlers:
        service = service_of(handler)
        if service.type_name in seen:
            raise TypeError(f"two handlers implement {service.type_name}: a service takes one of each")
        seen.add(service.type_name)
        methods.extend(_method(handler, service, desc, timeout, interceptors) for desc in service.methods)
    return methods


def _method(
    handler: object, service: DescService, desc: DescMethod, default: float | None, interceptors: Sequence[Interceptor]
) -> Method:
    kind, stream = _KINDS[desc.method_kind]
    written = _find(handler, desc)
    _takes_two(handler, written)
    given = getattr(written, _TIMEOUT, None)
    if given is None:
        given = default if kind is StreamKind.UNARY else None
    function = _ADAPTERS[kind](written)
    if interceptors:
        wrap = around_unary if kind is StreamKind.UNARY else around_stream
        function = wrap(function, kind, interceptors)
    input_type, output_type = desc.input.type, desc.output.type
    info = MethodInfo(
        name=desc.name,
        service_name=service.type_name,
        input=input_type,
        output=output_type,
        idempotency_level=_IDEMPOTENCY.get(int(desc.idempotency), IdempotencyLevel.UNKNOWN),
        stream_type=stream,
    )
    return Method(
        desc=desc,
        path=f"/{service.type_name}/{desc.name}",
        name=f"{service.name}.{desc.name}",
        kind=kind,
        input=input_type,
        output=output_type,
        function=function,
        timeout=given or None,
        info=info,
        description=comments.of_method(handler, written.__name__),
    )


def _takes_two(handler: object, function: Callable[..., Any]) -> None:
    """Raises TypeError for a function that every call would fail on."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        name = f"{type(handler).__name__}.{function.__name__}"
        raise TypeError(
            f"{name} must take a request and a context: def {function.__name__}(self, request, ctx)"
        ) from None


def _find(handler: object, desc: DescMethod) -> Callable[..., Any]:
    # The generator adds an underscore to names that Python, or its own classes, need for themselves.
    local = names.snake(desc.name)
    found = getattr(handler, local + "_", None) or getattr(handler, local, None)
    if not callable(found):
        raise TypeError(f"{type(handler).__name__} has no method {local} for {desc.parent.name}.{desc.name}")
    return found  # type: ignore[no-any-return]


async def _threaded(function: Callable[..., Any], *args: Any) -> Any:
    """Run in the loop's thread pool, with this context's variables."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, functools.partial(contextvars.copy_context().run, function, *args))


def _one(function: Callable[..., Any]) -> Callable[..., Any]:
    """An async function of whatever answers with one message."""
    if inspect.iscoroutinefunction(function):
        return function

    async def threaded(request: Any, ctx: Context) -> Any:
        answer = await _threaded(function, request, ctx)
        return await answer if inspect.isawaitable(answer) else answer

    return threaded


def _one_of_many(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):
        return function

    async def threaded(requests: AsyncIterator[Any], ctx: Context) -> Any:
        loop = asyncio.get_running_loop()
        answer = await _threaded(function, _Blocking(requests, loop), ctx)
        return await answer if inspect.isawaitable(answer) else answer

    return threaded


def _many(function: Callable[..., Any]) -> Callable[..., Any]:
    """An async iterator of whatever answers with many messages."""
    if inspect.isasyncgenfunction(function):
        return function

    async def iterate(request: Any, ctx: Context) -> AsyncIterator[Any]:
        if inspect.isgeneratorfunction(function) and hasattr(request, "__aiter__"):
            request = _Blocking(request, asyncio.get_running_loop())
        answer = function(request, ctx)
        if inspect.isawaitable(answer):
            answer = await answer
        if hasattr(answer, "__aiter__"):
            async for item in answer:
                yield item
            return
        iterator = iter(answer)
        while (item := await _threaded(next, iterator, _END)) is not _END:
            yield item

    return iterate


class _Blocking(Iterator[Any]):
    """A stream of requests for a plain function, which runs in a thread."""

    def __init__(self, requests: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._requests = requests
        self._loop = loop

    async def _next(self) -> Any:
        return await anext(self._requests, _END)

    def __next__(self) -> Any:
        item = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if item is _END:
            raise StopIteration
        return item


_END = object()

_ADAPTERS: dict[StreamKind, Callable[[Callable[..., Awaitable[Any] | AsyncIterator[Any]]], Callable[..., Any]]] = {
    StreamKind.UNARY: _one,
    StreamKind.CLIENT: _one_of_many,
    StreamKind.SERVER: _many,
    StreamKind.BIDI: _many,
}
