"""The client library's client, with what it lacks: it encrypts where it was told to, signs with our keys, says when a
server of the cluster has gone, and hands over a message at once."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import DEFAULT_BUFFER_SIZE, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from micro.backends.nats._address import NatsAddress


class NoTlsError(nats.errors.Error):
    """The server does not encrypt, and must."""

    def __str__(self) -> str:
        return "it offers no TLS, which tls:// and MICRO_NATS_CA ask for"


class TlsWantedError(nats.errors.Error):
    """The server encrypts, and we were not told to."""

    def __str__(self) -> str:
        return "it asks for TLS: use tls:// in MICRO_NATS_URL"


class KeyFileError(nats.errors.Error):
    """The file with the user's key cannot be read any more."""


class _Transport(TcpTransport):
    """A connection that can be closed when no encryption was agreed on: the library's would wait for ever."""

    _failed = False

    async def connect_tls(self, *args: Any, **options: Any) -> None:
        try:
            await super().connect_tls(*args, **options)
        except BaseException:
            self._failed = True
            if self._bare_io_writer is not None:
                self._bare_io_writer.transport.abort()
            raise

    async def wait_closed(self) -> None:
        if not self._failed:
            await super().wait_closed()  # type: ignore[no-untyped-call]


class NatsClient(Client):
    """A client for one address.

    Args:
        server_gone: called when the cluster tells that one of its servers has gone. Those that were kept by it alone
            do not say so themselves: a consumer falls silent.
    """

    def __init__(self, address: NatsAddress, server_gone: Callable[[], None]) -> None:
        super().__init__()
        self._address = address
        self._server_gone = server_gone
        self._known: frozenset[str] = frozenset()
        self._heard: dict[int, Callable[[Msg], None]] = {}

    @property
    def cluster(self) -> str:
        """Name of the cluster that the server belongs to; empty for one that stands alone."""
        return str(self._server_info.get("cluster") or "")

    @property
    def jetstream_there(self) -> bool:
        """Whether the server has JetStream, or its cluster may have it."""
        return bool(self._server_info.get("jetstream") or self.cluster)

    async def listen(self, subject: str, heard: Callable[[Msg], None], queue: str = "") -> Subscription:
        """Subscribe, and have each message handed over as it is read. The library's own callbacks wait in a queue for a
        task of their own: two more turns of the event loop."""
        number = self._sid + 1  # what comes while this subscribes is heard as well
        self._heard[number] = heard
        try:
            return await self.subscribe(subject, queue)
        except BaseException:
            self._heard.pop(number, None)
            raise

    def push(self) -> None:
        """Write what was published now, and not when the library comes to it."""
        if self._pending_data_size and self.is_connected and self._transport is not None:
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(pending)

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        """The library writes its question before what waits to be written, so that the answer says nothing of that: a
        subscription would count as known to the server before the server had heard of it."""
        self.push()
        await super()._send_ping(future)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Asked for by the library for each connection."""
        if not self._address.tls:
            raise TlsWantedError
        return self._address.ssl_context()

    def sign(self, nonce: str) -> bytes:
        """What the library asks for when it connects with a key."""
        try:
            jwt, key = self._address.user_key()
        except (OSError, ValueError) as error:
            raise KeyFileError(f"the file with the user's key: {error}") from error
        self._public_nkey = key.public
        self._user_jwt_cb = jwt.encode if jwt else None
        return key.sign(nonce)

    async def _connect_to_server(self, s: Any) -> None:
        s.last_attempt = time.monotonic()
        self._transport = _Transport()  # type: ignore[no-untyped-call]
        await self._transport.connect(s.uri, DEFAULT_BUFFER_SIZE, self.options["connect_timeout"])

    def _connect_command(self) -> bytes:
        if self._address.tls and not self._server_info.get("tls_required"):
            # It holds the password, and would go out in clear.
            raise NoTlsError
        command: bytes = super()._connect_command()
        return command

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        known, self._known = self._known, frozenset(info.get("connect_urls") or ())
        await super()._process_info(info, initial_connection)
        if not initial_connection and known - self._known:
            self._server_gone()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        heard, subscription = self._heard.get(sid), self._subs.get(sid)
        if heard is None or subscription is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        subscription._received += 1
        told = self._build_message(sid, subject, reply, data, await self._process_headers(headers))
        try:
            heard(told)
        except Exception as error:  # noqa: BLE001 - as the library does with its callbacks
            await self._error_cb(error)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """As the library, without looking at each character of the names: a third of what reading an event takes."""
        found = {}
        for line in raw.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if colon:
                found[name.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
        return found

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._heard.pop(sid, None)
