"""What stands around every handler: identity, rules, tracing, metrics. Nothing is paid where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from micro.domain.service import StreamKind
from micro.rpc.context import Context

Proceed = Callable[[Context, Any], Awaitable[Any]]
ProceedStream = Callable[[Context, AsyncIterator[Any]], AsyncIterator[Any]]


class Interceptor(Protocol):
    """Sees each call before and after its handler does."""

    async def __call__(self, ctx: Context, request: Any, proceed: Proceed) -> Any:
        """Answer a unary call: `return await proceed(ctx, request)`, with anything before and after, or an error."""
        ...

    def stream(self, ctx: Context, requests: AsyncIterator[Any], proceed: ProceedStream) -> AsyncIterator[Any]:
        """Answer a call with a stream on either side: an async generator over `proceed(ctx, requests)`.

        The side that is no stream is one of exactly one message.
        """
        ...


def around_unary(
    function: Callable[..., Any], kind: StreamKind, interceptors: Sequence[Interceptor]
) -> Callable[..., Any]:
    """The function with the interceptors around it, the first outermost."""

    async def innermost(ctx: Context, request: Any) -> Any:
        return await function(request, ctx)

    def layer(interceptor: Interceptor, inner: Proceed) -> Proceed:
        async def proceed(ctx: Context, request: Any) -> Any:
            return await interceptor(ctx, request, inner)

        return proceed

    chain: Proceed = innermost
    for interceptor in reversed(interceptors):
        chain = layer(interceptor, chain)

    async def outermost(request: Any, ctx: Context) -> Any:
        return await chain(ctx, request)

    return outermost


def around_stream(
    function: Callable[..., Any], kind: StreamKind, interceptors: Sequence[Interceptor]
) -> Callable[..., Any]:
    """The same for a function of streams, whichever side is one."""
    requests_stream = kind in {StreamKind.CLIENT, StreamKind.BIDI}
    responses_stream = kind in {StreamKind.SERVER, StreamKind.BIDI}

    async def innermost(ctx: Context, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        request = requests if requests_stream else await anext(requests)
        if not responses_stream:
            yield await function(request, ctx)
            return
        async for response in function(request, ctx):
            yield response

    def layer(interceptor: Interceptor, inner: ProceedStream) -> ProceedStream:
        return lambda ctx, requests: interceptor.stream(ctx, requests, inner)

    chain: ProceedStream = innermost
    for interceptor in reversed(interceptors):
        chain = layer(interceptor, chain)

    def many(request: Any, ctx: Context) -> AsyncIterator[Any]:
        return chain(ctx, request if requests_stream else _single(request))

    async def one(request: Any, ctx: Context) -> Any:
        return await anext(many(request, ctx))

    return many if responses_stream else one


async def _single(item: Any) -> AsyncIterator[Any]:
    yield item
