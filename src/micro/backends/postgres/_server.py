"""A PostgreSQL server as one url names it: a pool of connections that come back by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg

from micro.backends.postgres._errors import FAILURES, LOST, is_final, is_passing, translated
from micro.domain import errors

log = logging.getLogger("micro.postgres")

T = TypeVar("T")
Connection: TypeAlias = Any
"""asyncpg's, or the pool's proxy of one: it declares no types."""

CONNECT_SECONDS = 10.0
"""How long `start` tries, unless the server says no."""

ATTEMPT_SECONDS = 10.0
"""How long one connection may take, or one that listens to say that it is there: machines are busy at times."""

CLOSE_SECONDS = 3.0
COMMAND_SECONDS = 30.0
MOST_CONNECTIONS = 8
"""Of one store, beside the one that listens and one a dump or load that is under way."""

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")

_SETTINGS = {
    "application_name": "micro",
    "jit": "off",
    # Every statement here has its index; plans made while the tables were small must not read them whole later.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "client_min_messages": "error",
    # A client that vanished without a word must not hold a database's lock for hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

_PAUSED_MILLISECONDS = "15000"
"""How long a transaction of the pool may stand still, as when its process is stopped, before the server ends it."""


class Server:
    """The pool and what is known of the server's health.

    Attributes:
        place: HOST:PORT/DATABASE, to be shown.
        schema: where the tables are; a name that needs no quotes.
    """

    def __init__(self, url: str, schema: str) -> None:
        """Raises INVALID_ARGUMENT for a url or a schema that cannot be one; never shows the password."""
        self.place = _place(url)
        if not _SCHEMA.fullmatch(schema):
            raise errors.invalid_argument(
                f"{schema[:60]!r} is not a schema: use up to 48 small letters, digits and underscores"
            )
        self.schema = schema
        self.reachable = False
        self._url = url
        self._settings = {**_SETTINGS, "search_path": schema}
        self._pool: Any = None

    async def start(
        self, stack: AsyncExitStack, connect_seconds: float, prepare: Callable[[Connection], Awaitable[None]]
    ) -> None:
        """Connect, and `prepare` on that first connection.

        Raises UNAVAILABLE when that takes longer than `connect_seconds`, or the server says no, and as `prepare` does.
        """
        connection = await self._reached(connect_seconds)
        try:
            with self.told():
                await prepare(connection)
        finally:
            await ended(connection)
        self._pool = asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=MOST_CONNECTIONS,
            max_queries=1 << 62,
            max_inactive_connection_lifetime=60.0,
            timeout=ATTEMPT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            max_cached_statement_lifetime=0,
            server_settings={**self._settings, "idle_in_transaction_session_timeout": _PAUSED_MILLISECONDS},
            reset=_untouched,
        )
        stack.push_async_callback(self._stop)
        await self._pool
        self.reachable = True

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, again: Callable[[], bool] = lambda: True) -> T:
        """What `work` returns, on a connection of the pool; on another one, if it may be done `again`, when the first
        is lost.

        Raises UNAVAILABLE, DATA_LOSS, RESOURCE_EXHAUSTED and so on, and what `work` raises of the platform's errors.
        """
        try:
            return await self._once(work)
        except FAILURES as error:
            if not (is_passing(error) and again()):
                raise self.failed(error) from error
        try:
            return await self._once(work)
        except FAILURES as error:
            raise self.failed(error) from error

    async def _once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        if self._pool is None:
            raise errors.unavailable(f"the store on PostgreSQL at {self.place} is closed")
        async with self._pool.acquire(timeout=COMMAND_SECONDS) as connection:
            found = await work(connection)
        self.reachable = True
        return found

    def failed(self, error: Exception) -> errors.Error:
        """The platform's error for one of asyncpg's, taken note of."""
        told = translated(error, self.place)
        if told.kind is errors.Kind.UNAVAILABLE and isinstance(error, LOST) and not isinstance(error, TimeoutError):
            self.reachable = False
        if getattr(error, "sqlstate", None) == "25006" and self._pool is not None:
            self._pool.expire_connections()  # it is a replica now: others may lead to the new one
        return told

    async def connect(self) -> Connection:
        """A connection beside the pool; the caller closes it. Raises asyncpg's errors."""
        return await asyncpg.connect(
            self._url, timeout=ATTEMPT_SECONDS, server_settings=self._settings, max_cached_statement_lifetime=0
        )

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Connection]:
        """A connection beside the pool, for what takes long. What is done on it raises asyncpg's errors."""
        with self.told():
            connection = await self.connect()
        try:
            yield connection
        finally:
            await ended(connection)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Make asyncpg's errors the platform's."""
        try:
            yield
        except FAILURES as error:
            raise self.failed(error) from error

    @property
    def closed(self) -> bool:
        """Whether it was started, and stopped."""
        return self._pool is None

    async def _reached(self, connect_seconds: float) -> Connection:
        """A connection, as soon as the server takes one."""
        end = asyncio.get_running_loop().time() + connect_seconds
        while True:
            try:
                return await self.connect()
            except FAILURES as error:
                if is_final(error) or asyncio.get_running_loop().time() > end:
                    raise self.failed(error) from None
            await asyncio.sleep(0.1)

    async def _stop(self) -> None:
        pool, self._pool = self._pool, None
        self.reachable = False
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        except (*FAILURES, TimeoutError):
            pool.terminate()


async def ended(connection: Connection) -> None:
    """Close it, with a word to the server if that is there."""
    with contextlib.suppress(*FAILURES):
        await connection.close(timeout=CLOSE_SECONDS)


async def _untouched(connection: Connection) -> None:
    """Nothing here changes a session, so there is nothing to reset when it goes back: no round trip."""


def _place(url: str) -> str:
    """HOST:PORT/DATABASE of a url, which may hold a password anywhere: nothing of it is shown before it is parsed."""
    refused = "the url of PostgreSQL {}: it is postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %-escapes"
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        ports = [one.rpartition(":")[2] for one in hosts.split(",") if re.search(r":[^\]]*$", one)]
    except ValueError:
        raise errors.invalid_argument(refused.format("cannot be read")) from None
    if parts.scheme not in ("postgres", "postgresql") or "://" not in url:
        raise errors.invalid_argument(refused.format("does not begin with postgresql://"))
    if any(not (port.isdecimal() and 0 < int(port) < 65536) for port in ports):
        raise errors.invalid_argument(refused.format("has a port that is no number"))
    if parts.fragment:
        raise errors.invalid_argument(refused.format("has a # in it"))
    if "@" in parts.path or ("@" in parts.query and "@" not in parts.netloc):
        raise errors.invalid_argument(refused.format("has a / or ? in user or password"))
    return f"{hosts or 'localhost'}{unquote(parts.path)}"
