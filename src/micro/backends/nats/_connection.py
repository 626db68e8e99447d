"""One connection to NATS a process, and the one place where NATS's errors become the platform's."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Server
from nats.js import JetStreamContext

from micro.backends.nats._address import NatsAddress as NatsAddress
from micro.backends.nats._client import KeyFileError, NatsClient, NoTlsError, TlsWantedError
from micro.domain import errors
from micro.domain.record import Durability

log = logging.getLogger("micro.nats")

CONNECT_SECONDS = 10.0
"""How long `start` tries: what the ports promise."""

REQUEST_SECONDS = 3.0
"""How long one request may take; an fsync on a busy disk is the slowest part of it."""

_NO_SPACE = frozenset({10023, 10028, 10047, 10054, 10077})
"""JetStream's codes for storage that is full or a message that is too large."""

_TOO_FEW_SERVERS = frozenset({10005, 10074})
"""JetStream's codes for more replicas than the cluster has servers, down ones counted, or where there is none."""

_NO_JETSTREAM = frozenset({10039, 10076})

_REFUSALS = 3
"""How often every server may refuse us before `start` gives up: one that starts may not know its users yet."""

_TAILS_A_SECOND = 2000.0
"""How many tails begin anew in a second after a server of the cluster has gone."""

_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})


class Connection:
    """A connection that comes back by itself for as long as it is open.

    Args:
        address: whom to connect to.
        name: what NATS calls this client in its own logs.
        connect_seconds: how long `start` tries.

    Attributes:
        version: the release of the server that we are connected to, or were last; zeros before `start`.
    """

    def __init__(self, address: NatsAddress, name: str = "micro", connect_seconds: float = CONNECT_SECONDS) -> None:
        self._address = address
        self._name = name
        self._connect_seconds = connect_seconds
        self.version = (0, 0, 0)
        self._client = NatsClient(address, self._server_gone)
        self._up = asyncio.Event()
        self._on_reconnect: set[Callable[[], None]] = set()
        self._unbroken: set[asyncio.Timeout] = set()
        self._cause: Exception | None = None
        self._refusal = ""
        self._refusals = 0
        self._refused = asyncio.Event()

    @property
    def address(self) -> NatsAddress:
        return self._address

    @property
    def client(self) -> NatsClient:
        return self._client

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def jetstream(self) -> JetStreamContext:
        return self._client.jetstream(timeout=REQUEST_SECONDS)

    def durability(self, replicas: int) -> Durability:
        """What an acknowledged message outlives that so many servers keep."""
        return self._address.durability(replicas)

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect, and close when the stack unwinds.

        Raises:
            Error: UNAVAILABLE when there is no answer in time, FAILED_PRECONDITION when the servers do not let us in,
                or we do not trust them.
        """
        stack.push_async_callback(self._close)
        connecting = asyncio.create_task(self._connect())  # owned: by this call
        refused = asyncio.create_task(self._refused.wait())  # owned: by this call
        try:
            await asyncio.wait(
                [connecting, refused], timeout=self._connect_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not connecting.done():
                raise TimeoutError
            connecting.result()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            if self._refusal:
                raise errors.failed_precondition(f"NATS at {self._address.url}: {self._refusal}") from error
            raise errors.unavailable(
                f"NATS at {self._address.url} cannot be reached: {_text(self._cause or error)}: is it running?"
            ) from error
        finally:
            # Again and again: `asyncio.wait_for` before Python 3.12, in there, may swallow a cancellation.
            while not (connecting.done() and refused.done()):
                connecting.cancel()
                refused.cancel()
                await asyncio.wait([connecting, refused], timeout=0.1)
        self._connected()

    async def _connect(self) -> None:
        address = self._address
        with_key = address.credentials is not None or address.nkey is not None
        await self._client.connect(
            servers=address.servers,
            user=address.user or None,
            password=(address.password or None) if address.user else None,
            token=(address.password or None) if not address.user else None,
            signature_cb=self._client.sign if with_key else None,
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
        """Have `notify` called while the context lasts, after each time that the connection came back, or that a server
        of the cluster went: what was subscribed to may have been lost."""
        self._on_reconnect.add(notify)
        try:
            yield
        finally:
            self._on_reconnect.discard(notify)

    def _connected(self) -> None:
        told = self._client.connected_server_version
        self.version = (told.major, told.minor, told.patch)
        self._up.set()

    async def _close(self) -> None:
        self._up.clear()
        await self._client.close()

    async def _failed(self, error: Exception) -> None:
        self._cause = error
        if told := _refusal(error):
            self._refusal = told
            self._refusals += 1
            if self._refusals >= _REFUSALS * len(self._address.servers):
                self._refused.set()
        log.debug("NATS at %s: %s", self._address.url, told or _text(error))

    async def _disconnected(self) -> None:
        if not self._client.is_closed and self._up.is_set():
            log.warning("NATS at %s: connection lost, connecting again", self._address.url)
        self._up.clear()
        for scope in tuple(self._unbroken):
            scope.reschedule(asyncio.get_running_loop().time())

    async def _reconnected(self) -> None:
        log.info("NATS at %s: connected again", self._address.url)
        self._connected()
        for notify in tuple(self._on_reconnect):
            notify()

    def _server_gone(self) -> None:
        log.info("NATS at %s: a server of the cluster has gone", self._address.url)
        loop = asyncio.get_running_loop()
        for count, notify in enumerate(tuple(self._on_reconnect)):
            # Not all at once: each asks the servers that are left for a consumer.
            loop.call_later(count / _TAILS_A_SECOND, self._notify, notify)

    def _notify(self, notify: Callable[[], None]) -> None:
        if notify in self._on_reconnect:
            notify()


def _refusal(error: BaseException | None) -> str:
    """What to do where trying again does not help: one side does not trust the other; empty for everything else."""
    if isinstance(error, (NoTlsError, TlsWantedError, KeyFileError)):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}): give the authority's with MICRO_NATS_CA, and a "
            "host name that the certificate is for"
        )
    if isinstance(error, ssl.SSLError) and "CERTIFICATE" in (error.reason or ""):
        return "it wants a certificate of ours that it trusts: give MICRO_NATS_CERT and MICRO_NATS_KEY"
    if isinstance(error, nats.errors.AuthorizationError) or "authorization violation" in str(error).lower():
        return (
            "it refuses the credentials: check user and password in MICRO_NATS_URL, MICRO_NATS_CREDENTIALS or "
            "MICRO_NATS_NKEY"
        )
    return ""


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
    if err_code in _TOO_FEW_SERVERS:
        return errors.failed_precondition(
            f"{text}: NATS has too few servers for MICRO_NATS_REPLICAS: run as many, or set it to 1"
        )
    if err_code in _NO_JETSTREAM:
        return errors.failed_precondition(f"{text}: start NATS with JetStream, and enable it for this user's account")
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
