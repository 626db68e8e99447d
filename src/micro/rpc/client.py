"""Calls to other services: one pool of connections a process, errors as the platform's own, deadlines handed on.

Streams, and all that is private, go over `grpc.aio`, which is imported when the first of them begins: nothing pays for
it that has none. Other unary calls go over HTTP/1.1 (`exchanges`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Protocol, TypeVar, cast

from connectrpc.client import ConnectClient
from connectrpc.method import MethodInfo
from protobuf import DescMethod, Message

from micro.domain import errors, names
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.rpc import binary, deadline, outgoing, tls
from micro.rpc import errors as wire
from micro.rpc.context import CURRENT, Context
from micro.rpc.exchanges import Exchanges, NobodyError, OtherWayError, RefusedError, refused
from micro.rpc.guard import ACTOR, AUTHORIZATION, REFUSED
from micro.rpc.outgoing import Call

C = TypeVar("C")
M = TypeVar("M", bound=Message)

Metadata = tuple[tuple[str, str], ...]

DEFAULT_TIMEOUT = 10.0
"""Seconds for a unary call that names no other limit and is made outside of one that has one."""

_OPTIONS = (
    # How long a message may be is for the service to say, which checks both ways.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # The mesh restarts within a second; whoever waits for it should notice at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_AS_JSON = ("micro-codec", "json")
"""Says that the messages in the frames are JSON. gRPC says so by its content-type, which grpcio keeps to itself."""

_REFUSED, _AUTHORIZATION, _ACTOR = REFUSED.decode(), AUTHORIZATION.decode(), ACTOR.decode()

_LATE = "the deadline had passed before the call was made"


class Identity(Protocol):
    """Who makes the calls of a client."""

    def token(self, audience: Audience) -> Coroutine[Any, Any, str]:
        """An access token for the services that are called, which holds for a while; empty to call as nobody. Raises
        Error when none can be had."""
        ...

    def refused(self, token: str) -> bool:
        """A callee did not take a token of ours. Whether there may be a better one now."""
        ...


def address() -> str:
    """Where calls go: the mesh of a service, else the proxy, else the local server's proxy. HOST:PORT, with "https://"
    before it where the connection is to be private."""
    found = os.environ.get("MICRO_NETWORK") or os.environ.get("MICRO_PROXY_ADDRESS") or "127.0.0.1:8081"
    return found.removeprefix("http://").rstrip("/")


@functools.lru_cache(maxsize=4096)
def service_of(contract: str) -> str:
    """The service that implements a contract by convention: "helloworld.Helloworld" is helloworld's,
    "micro.registry.v1.Registry" registry's, "Greeter" greeter's."""
    package, _, name = contract.rpartition(".")
    parts = package.split(".") if package else []
    if len(parts) > 1 and parts[0] == "micro":
        parts = parts[1:]
    if len(parts) > 1 and re.fullmatch(r"v[0-9]+\w*", parts[-1]):
        parts = parts[:-1]
    return (".".join(parts) or names.snake(name)).replace("_", "-").lower()


def named_namespace() -> str:
    """The namespace that the call names which is served now; calls that it makes are about that. Empty for none."""
    current = CURRENT.get()
    given = current.metadata.get("micro-namespace") if current is not None else None
    return given if given not in (None, "-") else ""


class Channel:
    """A connection to one address, in one event loop.

    Attributes:
        hurried: whether streams of both directions are written and read by the event loop itself.
    """

    hurried = False

    def __init__(self, target: str) -> None:
        self.target = target
        self._exchanges = None if target.startswith("https://") else Exchanges(target)
        self._calls: dict[tuple[str, str, Any], Call] = {}
        self._closed = False
        self._opened: Any = None
        if self._exchanges is None:
            self._opened = self._channel  # what is wrong with its certificates is told before anybody is called

    @property
    def _grpc(self) -> Any:
        import grpc.aio

        return grpc

    @property
    def _channel(self) -> Any:
        """What grpc calls a channel. Raises UNAVAILABLE once this is closed."""
        if self._opened is None:
            if self._closed:
                raise self._gone()
            host = self.target.removeprefix("https://")
            if host == self.target:
                self._opened = self._grpc.aio.insecure_channel(host, options=_OPTIONS)
            else:
                own = tls.shown()
                private = self._grpc.ssl_channel_credentials(tls.authorities(), own.key or None, own.chain or None)
                self._opened = self._grpc.aio.secure_channel(host, private, options=_OPTIONS)
        return self._opened

    def _gone(self) -> Error:
        return errors.unavailable(f"the connection to {self.target} is closed")

    async def close(self) -> None:
        self._closed = True
        if self._exchanges is not None:
            self._exchanges.close()
        if self._opened is not None:
            await self._opened.close()

    def make(self, kind: str, path: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> Call:
        """The calls of a path, made once; `kind` as grpc names it: "unary_unary" and so on. Raises INVALID_ARGUMENT."""
        # Bound methods are made anew at each look, so what they are bound to is the key.
        key = (path, kind, getattr(decode, "__self__", decode))
        found = self._calls.get(key)
        if found is None:
            outgoing.check_path(path)
            # Messages are written and read here: grpc would send an empty one in place of one that cannot be written.
            found = self._calls[key] = Call(kind, path, encode, decode)
        return found

    def _begin(self, call: Call, sent: Any, timeout: float | None, metadata: Metadata) -> Any:
        """A call of grpc's. Raises UNAVAILABLE once this is closed."""
        if call.start is None:
            call.start = getattr(self._channel, call.kind)(call.path)
        try:
            return call.start(sent, timeout=timeout, metadata=metadata, wait_for_ready=True)
        except self._grpc.aio.UsageError as error:
            raise self._gone() from error

    async def unary(self, call: Call, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        """Make a call whose answer is one message. Raises Error, and what the iterator of a stream of requests does."""
        sent = call.sent(request)
        if self._exchanges is not None and not call.streams and self._exchanges.room:
            with contextlib.suppress(OtherWayError):
                return call.read(await self._exchanged(self._exchanges, call.path, sent, timeout, metadata))
        try:
            answer = await self._begin(call, sent, timeout, metadata)
        except self._grpc.aio.AioRpcError as error:
            raise self.error(error) from None
        except self._grpc.aio.UsageError as error:
            raise self._gone() from error
        except asyncio.CancelledError:
            if (failure := outgoing.ended_by(sent)) is not None:
                raise failure from None
            raise
        return call.read(answer)

    async def _exchanged(
        self, exchanges: Exchanges, path: str, sent: bytes, timeout: float | None, metadata: Metadata
    ) -> bytes:
        try:
            return await exchanges.call(path, sent, timeout, metadata)
        except NobodyError:
            raise silent(self.target) from None

    async def stream(
        self, call: Call, request: Any, timeout: float | None, metadata: Metadata
    ) -> AsyncGenerator[Any, None]:
        """Make a call whose answer is a stream; leaving the iteration cancels it. Raises as `unary`."""
        sent = call.sent(request)
        await self._reached()
        calling = self._begin(call, sent, timeout, metadata)
        try:
            async for response in calling:
                yield call.read(response)
        except self._grpc.aio.AioRpcError as error:
            raise self.error(error) from None
        except asyncio.CancelledError:
            if (failure := outgoing.ended_by(sent)) is not None:
                raise failure from None
            raise
        finally:
            calling.cancel()

    async def _reached(self) -> None:
        """Wait for the connection: a stream has no deadline that would end the wait. Raises UNAVAILABLE after 10 s."""
        try:
            async with asyncio.timeout(DEFAULT_TIMEOUT):
                await self._channel.channel_ready()
        except TimeoutError:
            raise silent(self.target) from None
        except self._grpc.aio.UsageError as error:
            raise self._gone() from error

    def error(self, error: Any) -> Error:
        found = wire.from_grpc(error)
        ready = self._grpc.ChannelConnectivity.READY
        if found.kind is Kind.DEADLINE_EXCEEDED and self._channel.get_state() is not ready:
            return silent(self.target)
        told = [str(value) for key, value in error.trailing_metadata() or () if key == _REFUSED]
        return refused(found, told[0] if told else None)


def silent(target: str) -> Error:
    """That nothing answers at an address."""
    more = ""
    if target.startswith("https://"):
        more = " Is its certificate's authority in the file that MICRO_CA names?"
        more += "" if os.environ.get("MICRO_CERT") else " If it asks for a certificate: MICRO_CERT and MICRO_KEY."
    return errors.unavailable(f"nothing answers at {target}: is `micro server` running?{more}")


class Pool:
    """The connections of a process: one for each address, in each event loop that makes calls."""

    def __init__(self) -> None:
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, bool], Channel]] = (
            weakref.WeakKeyDictionary()
        )
        self._through: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Channel] = weakref.WeakKeyDictionary()

    @contextlib.contextmanager
    def through(self, channel: Channel) -> Iterator[None]:
        """Have all calls of the running event loop go over one channel, whatever their target, while this lasts."""
        loop = asyncio.get_running_loop()
        before, outer = self._loops.pop(loop, None), self._through.get(loop)
        self._through[loop] = channel
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            del self._through[loop]
            if before is not None:
                self._loops[loop] = before
            if outer is not None:
                self._through[loop] = outer

    def channel(self, target: str, *, bulk: bool = False) -> Channel:
        loop = asyncio.get_running_loop()
        channels = self._loops.get(loop)
        if channels is None:
            channels = self._loops[loop] = {}
        found = channels.get((target, bulk))
        if found is None:
            found = channels[target, bulk] = self._through.get(loop) or self._made(target, bulk)
        return found

    def _made(self, target: str, bulk: bool) -> Channel:
        if not bulk:
            return Channel(target)
        from micro.rpc.bulk import BulkChannel

        return BulkChannel(target)

    async def close(self) -> None:
        """Close the connections of the running event loop; later calls open new ones."""
        for channel in self._loops.pop(asyncio.get_running_loop(), {}).values():
            await channel.close()


class Client:
    """Makes calls.

    Args:
        target: HOST:PORT, or https://HOST:PORT; None to look at the environment at each call, as `address` does.
        pool: where connections are shared; a pool of its own by default.
        timeout: seconds for unary calls by default.
        metadata: headers of every call.
        identity: who calls; nobody by default.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        pool: Pool | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        metadata: Mapping[str, str] | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.pool = pool or Pool()
        self.identity = identity
        self._target = target
        self._timeout = timeout
        self._metadata = dict(metadata or {})
        self._header = _AUTHORIZATION
        self._acting: Audience | None = None

    def as_caller(self, ctx: Context) -> Client:
        """A client whose calls are made for the account that made the call `ctx`: what it may do is decided, and the
        callee sees both, `ctx.account` the account and `ctx.actor` this service.

        For a caller without an account they are made for nobody. A user's service acts for its callers towards users'
        services only: calls of the platform's own are refused here with FAILED_PRECONDITION.
        """
        made = Client(self._target, pool=self.pool, timeout=self._timeout, identity=self.identity)
        made._metadata = {key: value for key, value in self._metadata.items() if key != _AUTHORIZATION}
        made._header = _ACTOR
        made._acting = ctx.audience
        if (given := ctx.metadata.get(_AUTHORIZATION)) is not None:
            made._metadata[_AUTHORIZATION] = given
        return made

    def channel(self, *, bulk: bool = False) -> Channel:
        return self.pool.channel(self._target or address(), bulk=bulk)

    @property
    def hurried(self) -> bool:
        """Whether there is a way on which a message of a stream costs much less than a call."""
        return self.channel(bulk=True).hurried

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        await self.pool.close()

    async def call(
        self,
        service: str,
        endpoint: str,
        request: Message | Mapping[str, Any] | None = None,
        *,
        response: type[M] | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Call `endpoint` ("Helloworld.Call", or "call" for the main handler's) of `service` and return its answer.

        Args:
            request: a message, answered with one; or what JSON can hold, answered with a dict.
            response: class of the answer, where the request's contract does not tell.
            timeout: seconds; by default what is left of the current call's deadline, at most 10.
            metadata: headers of this call.

        Raises:
            Error: what the service answered; UNAVAILABLE when nothing answers; DEADLINE_EXCEEDED; INVALID_ARGUMENT for
                what cannot be sent, and for a dict with a field that the contract has not.
            TypeError: for a message whose answer's class cannot be told.
        """
        sent = self.metadata(service, metadata)
        channel = self.channel()
        path = "/" + "/".join((service, *endpoint.lstrip("/").split(".")))
        if not isinstance(request, Message):
            call = channel.make("unary_unary", path, outgoing.to_json, json.loads)
            return await self.unary(channel, call, request or {}, timeout, (*sent, _AS_JSON))
        if response is None:
            method = _method(request, endpoint)
            response = cast("type[M]", method.output.type)
            path = f"/{method.parent.type_name}/{method.name}"
        call = channel.make("unary_unary", path, binary.encode, response.from_binary)
        return await self.unary(channel, call, request, timeout, sent)

    def stream(
        self,
        service: str,
        endpoint: str,
        request: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Call an endpoint that answers with a stream, and iterate over its answers as dicts.

        Leaving the iteration cancels the call. Without `timeout` only the current call's deadline ends it.
        """
        channel = self.channel()
        path = "/" + "/".join((service, *endpoint.lstrip("/").split(".")))
        sent = (*self.metadata(service, metadata), _AS_JSON)
        call = channel.make("unary_stream", path, outgoing.to_json, json.loads)
        return self.streamed(channel, call, request or {}, _shrunk(timeout), sent)

    def of(self, typed: type[C], service: str | None = None, *, bulk: bool = False) -> C:
        """A generated client class, `HelloworldClient`, over these connections.

        Args:
            service: the service to call; by default the one named like the contract's package.
            bulk: whether its streams carry so much, or are in such a hurry, that each is worth a connection of its own.
        """
        cls = cast("type[Any]", typed)
        if not issubclass(cls, ConnectClient):
            raise TypeError(f"{cls.__name__} is not a generated client: import it from a *_connect module")
        outgoing.check_headers([("micro-service", service or "")])
        return cast("C", _over(cast("Any", typed))(self, service, bulk))

    def left(self, timeout: float | None) -> float | None:
        """Seconds that a unary call may take. Raises DEADLINE_EXCEEDED when none are left."""
        wanted = self._timeout if timeout is None else timeout or None
        return _shrunk(wanted)

    async def unary(
        self, channel: Channel, call: Call, request: Any, timeout: float | None, sent: Metadata, *, again: bool = True
    ) -> Any:
        """Make a call whose answer is one message, as whom this client calls.

        Once more when the callee's guard did not take our token, which came to nothing but that, unless not `again`.
        """
        token = await self._token(sent, self.left(timeout))
        sent_as = (*sent, (self._header, f"Bearer {token}")) if token else sent
        try:
            return await channel.unary(call, request, self.left(timeout), sent_as)
        except RefusedError as refused:
            if not (self._gave_up(token, refused) and again):
                raise
        return await self.unary(channel, call, request, timeout, sent, again=False)

    async def streamed(
        self, channel: Channel, call: Call, request: Any, timeout: float | None, sent: Metadata
    ) -> AsyncIterator[Any]:
        """Make a call whose answer is a stream, as whom this client calls."""
        token = await self._token(sent, timeout or self._timeout)
        if token:
            sent = (*sent, (self._header, f"Bearer {token}"))
        try:
            async with contextlib.aclosing(channel.stream(call, request, timeout, sent)) as responses:
                async for response in responses:
                    yield response
        except RefusedError as refused:
            self._gave_up(token, refused)
            raise

    async def _token(self, sent: Metadata, seconds: float | None) -> str:
        """Our own token for whom is called; empty for nobody's, and where the call names somebody itself."""
        if self.identity is None or any(key == self._header for key, _ in sent):
            return ""
        until = None if seconds is None else time.monotonic() + seconds
        try:
            # Most often it is at hand; a timer for each call would cost more than all else here.
            return await deadline.run(self.identity.token(_audience(sent)), until)
        except Error as error:
            if error.kind is Kind.DEADLINE_EXCEEDED and until is not None and time.monotonic() >= until - 0.001:
                raise errors.deadline_exceeded("the deadline passed before auth had answered") from None
            raise

    def _gave_up(self, token: str, refused: RefusedError) -> bool:
        """Forget a token of ours that a callee did not take. Whether there may be a better one."""
        ours = bool(token) and refused.header == self._header
        return ours and self.identity is not None and self.identity.refused(token)

    def metadata(self, service: str, metadata: Mapping[str, str] | None) -> Metadata:
        """The headers of a call, but for our own token. Raises FAILED_PRECONDITION where the caller's may not go."""
        given = named_namespace()
        namespace = given or os.environ.get("MICRO_NAMESPACE", "")
        sent = {"micro-service": service, **self._metadata}
        if namespace:
            sent["micro-namespace"] = namespace
        if metadata:
            sent.update((key.lower(), value) for key, value in metadata.items())
        if metadata or self._metadata or given:
            outgoing.check_headers(sent.items())
        found = tuple(sent.items())
        if self._acting not in (None, _audience(found)):
            raise _misplaced(self._acting, service)
        return found


def _audience(sent: Metadata) -> Audience:
    """Whom a call's token is to be for: it is routed by this header."""
    return Audience.of(next(value for key, value in sent if key == "micro-service"))


def _misplaced(acting: Audience | None, service: str) -> Error:
    kinds = ("the platform's own", "users'") if acting is Audience.PLATFORM else ("users'", "the platform's own")
    return errors.failed_precondition(
        f"a service acts for its caller towards {kinds[0]} services only, and {service} is one of {kinds[1]}: "
        "call it as the service itself"
    )


def _shrunk(wanted: float | None) -> float | None:
    current = CURRENT.get()
    if current is None or current.deadline is None or current.done:
        return wanted
    left = current.deadline - time.monotonic()
    if left <= 0:
        raise errors.deadline_exceeded(_LATE)
    return left if wanted is None else min(wanted, left)


def _method(request: Message, endpoint: str) -> DescMethod:
    """The method of the request's own contract that an endpoint's name means."""
    desc = request.desc()
    wanted, _, method_name = endpoint.rpartition(".")
    for service in desc.file.services:
        if wanted and names.folded(wanted) not in {names.folded(service.name), names.folded(service.type_name)}:
            continue
        for method in service.methods:
            if names.folded(method.name) == names.folded(method_name) and method.input.type_name == desc.type_name:
                return method
    raise TypeError(f"{desc.file.name} has no {endpoint} that takes {desc.name}: say which answer, response=…")


class _Typed(ConnectClient):
    """What stands under a generated client instead of connectrpc's transport."""

    def __init__(self, client: Client, service: str | None, bulk: bool) -> None:
        self._client = client
        self._service = service
        self._bulk = bulk

    async def close(self) -> None:
        """Nothing to close: the connections are shared."""

    def _call(self, kind: str, method: MethodInfo[Any, Any], headers: Any) -> tuple[Channel, Call, Metadata]:
        channel = self._client.channel(bulk=self._bulk and kind != "unary_unary")
        if kind == "stream_stream" and not channel.hurried:
            channel = self._client.channel()
        path = f"/{method.service_name}/{method.name}"
        call = channel.make(kind, path, binary.encode, method.output.from_binary)
        service = self._service or service_of(method.service_name)
        pairs = dict(headers.items()) if headers else None
        return channel, call, self._client.metadata(service, pairs)

    async def execute_unary(
        self,
        *,
        request: Any,
        method: MethodInfo[Any, Any],
        headers: Any = None,
        timeout_ms: int | None = None,
        use_get: bool = False,
    ) -> Any:
        channel, call, metadata = self._call("unary_unary", method, headers)
        return await self._client.unary(channel, call, request, _seconds(timeout_ms), metadata)

    async def execute_client_stream(
        self, *, request: Any, method: MethodInfo[Any, Any], headers: Any = None, timeout_ms: int | None = None
    ) -> Any:
        channel, call, metadata = self._call("stream_unary", method, headers)
        # Not again: its messages may be half sent.
        return await self._client.unary(channel, call, request, _seconds(timeout_ms) or 0.0, metadata, again=False)

    def execute_server_stream(
        self, *, request: Any, method: MethodInfo[Any, Any], headers: Any = None, timeout_ms: int | None = None
    ) -> AsyncIterator[Any]:
        channel, call, metadata = self._call("unary_stream", method, headers)
        return self._client.streamed(channel, call, request, _shrunk(_seconds(timeout_ms)), metadata)

    def execute_bidi_stream(
        self, *, request: Any, method: MethodInfo[Any, Any], headers: Any = None, timeout_ms: int | None = None
    ) -> AsyncIterator[Any]:
        channel, call, metadata = self._call("stream_stream", method, headers)
        return self._client.streamed(channel, call, request, _shrunk(_seconds(timeout_ms)), metadata)


@functools.cache
def _over(cls: Any) -> Any:
    """A generated client class over `_Typed`; of a class there is one."""
    return type(cls.__name__, (_Typed, cls), {})


def _seconds(timeout_ms: float | None) -> float | None:
    return None if timeout_ms is None else timeout_ms / 1000
