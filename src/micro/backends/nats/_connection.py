"""One connection to NATS a process, and the one place where NATS's errors become the platform's."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import nats.errors
import nats.js.errors
from nats.aio.client import Client, Server
from nats.js import JetStreamContext

from micro.domain import errors

log = logging.getLogger("micro.nats")

CONNECT_SECONDS = 10.0
"""How long `start` tries: what the ports promise."""

REQUEST_SECONDS = 3.0
"""How long one request may take; an fsync on a busy disk is the slowest part of it."""

_NO_SPACE = frozenset({10023, 10028, 10047, 10054, 10077})
"""JetStream's codes for storage that is full or a message that is too large."""

_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where NATS is and how to be let in.

    Attributes:
        url: "nats://HOST:PORT", or several, separated by commas.
        user: empty where the server asks for nothing.
        password: never printed.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> NatsAddress:
        """Take user and password out of "nats://USER:PASSWORD@HOST:PORT", so that the rest can be shown."""
        places: list[str] = []
        user = password = ""
        for one in url.split(","):
            scheme, _, rest = one.strip().rpartition("//")
            userinfo, _, place = rest.rpartition("@")
            places.append(f"{scheme or 'nats:'}//{place}")
            if userinfo:
                user, _, password = userinfo.partition(":")
        return cls(",".join(places), unquote(user), unquote(password))


class Connection:
    """A connection that comes back by itself for as long as it is open.

    Args:
        address: whom to connect to.
        name: what NATS calls this client in its own logs.
        connect_seconds: how long `start` tries.
    """

    def __init__(self, address: NatsAddress, name: str = "micro", connect_seconds: float = CONNECT_SECONDS) -> None:
        self._address = address
        self._name = name
        self._connect_seconds = connect_seconds
        self._client = Client()
        self._up = asyncio.Event()
        self._on_reconnect: set[Callable[[], None]] = set()
        self._unbroken: set[asyncio.Timeout] = set()
        self._cause: Exception | None = None

    @property
    def client(self) -> Client:
        return self._client

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def jetstream(self) -> JetStreamContext:
        return self._client.jetstream(timeout=REQUEST_SECONDS)

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect, and close when the stack unwinds. Raises UNAVAILABLE when there is no answer in time."""
        stack.push_async_callback(self._close)
        connecting = asyncio.create_task(self._connect())  # owned: by this call
        try:
            await asyncio.wait([connecting], timeout=self._connect_seconds)
            if not connecting.done():
                raise TimeoutError
            connecting.result()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            raise errors.unavailable(
                f"NATS at {self._address.url} cannot be reached: {_text(self._cause or error)}: is it running?"
            ) from error
        finally:
            # Again and again: `asyncio.wait_for` before Python 3.12, in there, may swallow a cancellation.
            while not connecting.done():
                connecting.cancel()
                await asyncio.wait([connecting], timeout=0.1)
        self._up.set()

    async def _connect(self) -> None:
        await self._client.connect(
            servers=self._address.url.split(","),
            user=self._address.user or None,
            password=self._address.password or None,
            name=self._name,
            connect_timeout=2,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]
            reconnect_to_server_handler=_next_server,
            ping_interval=10,
            max_outstanding_pings=2,
            error_cb=self._failed,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
        )

    async def wait_connected(self, seconds: float) -> None:
        """Return at once when connected. Raises UNAVAILABLE when that takes longer than `seconds`."""
        if self._client.is_connected:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError as error:
            raise errors.unavailable(f"NATS at {self._address.url} is not connected: {_text(self._cause)}") from error

    @asynccontextmanager
    async def unbroken(self) -> AsyncIterator[None]:
        """Around every request: raises UNAVAILABLE as soon as the connection is lost, as no answer will come then.

        Nor does a cancellation get lost in here, which `asyncio.wait_for` before Python 3.12 (the client library uses
        it) swallows when the answer comes in the same moment.
        """
        task = asyncio.current_task()
        cancelling = task.cancelling() if task is not None else 0
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._unbroken.add(scope)
                try:
                    yield
                finally:
                    self._unbroken.discard(scope)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise errors.unavailable(f"NATS at {self._address.url}: the connection was lost") from error
        if task is not None and task.cancelling() > cancelling:
            raise asyncio.CancelledError

    @asynccontextmanager
    async def reconnects(self, notify: Callable[[], None]) -> AsyncIterator[None]:
        """Have `notify` called after each time that the connection came back, while the context lasts."""
        self._on_reconnect.add(notify)
        try:
            yield
        finally:
            self._on_reconnect.discard(notify)

    async def _close(self) -> None:
        self._up.clear()
        await self._client.close()

    async def _failed(self, error: Exception) -> None:
        self._cause = error
        log.debug("NATS at %s: %s", self._address.url, _text(error))

    async def _disconnected(self) -> None:
        if not self._client.is_closed and self._up.is_set():
            log.warning("NATS at %s: connection lost, connecting again", self._address.url)
        self._up.clear()
        for scope in tuple(self._unbroken):
            scope.reschedule(asyncio.get_running_loop().time())

    async def _reconnected(self) -> None:
        log.info("NATS at %s: connected again", self._address.url)
        self._up.set()
        for notify in tuple(self._on_reconnect):
            notify()


def _next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
    """The server that failed least often, and the seconds to wait before it is tried: none at first, 2 at most."""
    server = min(servers, key=lambda each: each.reconnects)
    if server.reconnects == 0:
        return server, 0.0
    return server, min(0.05 * 2.0 ** min(server.reconnects, 10), 2.0) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load


def translated(error: Exception, subject: str) -> errors.Error:
    """The platform's error for one of NATS's (or of the socket's); total over `nats.errors.Error` and OSError."""
    if isinstance(error, errors.Error):
        return error
    text = f"{subject}: {_text(error)}"
    if isinstance(error, nats.js.errors.APIError):
        return _translated_api(error, text)
    if isinstance(error, nats.errors.MaxPayloadError):
        return errors.resource_exhausted(f"{subject}: larger than NATS takes in one message")
    if isinstance(error, nats.errors.AuthorizationError):
        return errors.unavailable(f"{subject}: NATS refuses the credentials")
    if isinstance(error, (nats.errors.BadSubjectError, nats.errors.BadHeaderError, nats.js.errors.InvalidKeyError)):
        return errors.internal(text)
    return errors.unavailable(text)


def _translated_api(error: nats.js.errors.APIError, text: str) -> errors.Error:
    code, err_code = getattr(error, "code", None) or 500, getattr(error, "err_code", None) or 0
    if err_code in _WRONG_LAST_SEQUENCE:
        return errors.aborted(text)
    if err_code in _NO_SPACE:
        return errors.resource_exhausted(text)
    if code == 404:
        return errors.not_found(text)
    if code >= 500 or code in (408, 409):
        return errors.unavailable(text)
    return errors.internal(text)


def _text(error: Exception | None) -> str:
    if error is None:
        return "no answer"
    if isinstance(error, nats.js.errors.APIError):
        # Not all of them have been given one.
        description = getattr(error, "description", None)
        return " ".join((description or f"JetStream error: {type(error).__name__}").split())
    if isinstance(error, (nats.errors.TimeoutError, TimeoutError)):
        return "no answer in time"
    return " ".join(str(error).split()) or type(error).__name__
