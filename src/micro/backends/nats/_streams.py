"""JetStream's streams, asked in JSON: made, re-configured, listed, read and removed.

Straight through the server's own API and not through the client library's classes, which lose what they do not know.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from micro.backends.nats._connection import REQUEST_SECONDS, Connection, translated
from micro.domain import backoff, errors

T = TypeVar("T")
Info = dict[str, Any]
"""Configuration and state of a stream, as the server tells them."""

FORMAT = 1
FORMAT_NAME = "micro.format"
ID_NAME = "micro.id"
"""Of a stream, in its metadata: in which form we keep things there, and what tells it from an earlier one."""

_EXISTS = 10058
_PAGE_STREAMS = 256


class Streams:
    """Asks for as long as `patience` seconds while NATS is away; raises the platform's errors.

    Every request may be made twice: when an answer was lost.
    """

    def __init__(self, connection: Connection, subject: str, patience: float) -> None:
        self._connection = connection
        self._subject = subject
        self._patience = patience

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, or time is up, or trying again would not help."""
        delays = backoff.exponential(first=0.02, cap=0.5)
        until = time.monotonic() + self._patience
        while True:
            try:
                await self._connection.wait_connected(until - time.monotonic())
                async with self._connection.unbroken():
                    return await attempt()
            except (nats.errors.Error, OSError, TimeoutError, errors.Error) as error:
                translation = translated(error, self._subject)
                delay = next(delays)
                if translation.kind is not errors.Kind.UNAVAILABLE or time.monotonic() + delay > until:
                    raise translation from error
            await asyncio.sleep(delay)

    async def call(self, name: str, body: Mapping[str, Any] | None = None) -> Info:
        """One request of JetStream's API: "STREAM.INFO.x"."""
        data = json.dumps(body).encode() if body is not None else b""

        async def attempt() -> Info:
            answer = await self._connection.client.request(f"$JS.API.{name}", data, timeout=REQUEST_SECONDS)
            told: Info = json.loads(answer.data)
            if "error" in told:
                raise nats.js.errors.APIError.from_error(told["error"])
            if told.get("missing"):
                raise errors.unavailable(f"{self._subject}: {len(told['missing'])} streams have no leader")
            return told

        return await self.patiently(attempt)

    async def info(self, stream: str, body: Mapping[str, Any] | None = None) -> Info | None:
        """None when there is no such stream."""
        try:
            return await self.call(f"STREAM.INFO.{stream}", body)
        except errors.Error as error:
            if error.kind is errors.Kind.NOT_FOUND:
                return None
            raise

    async def ensure(self, config: Mapping[str, Any]) -> Info:
        """Make a stream, or have it as `config` says; what `config` does not name stays, its id too.

        Raises FAILED_PRECONDITION for one of a newer release.
        """
        info = await self.info(config["name"])
        if info is None:
            try:
                return await self.call(f"STREAM.CREATE.{config['name']}", config)
            except errors.Error as error:
                # Somebody was faster.
                if getattr(error.__cause__, "err_code", None) != _EXISTS:
                    raise
                info = await self.info(config["name"])
                if info is None:
                    raise
        check_format(info)
        current = info["config"]
        kept = _metadata(info)
        wanted = {**config, "metadata": {**kept, **config["metadata"], **_only(ID_NAME, kept)}}
        same = all(
            (current.get(name) or None) == (value or None) for name, value in wanted.items() if name != "metadata"
        )
        if same and kept == wanted["metadata"]:
            return info
        return await self.call(f"STREAM.UPDATE.{config['name']}", {**current, **wanted})

    async def change(self, stream: str, **settings: object) -> bool:
        """Give a stream other settings, and leave all else; whether there is one.

        Raises FAILED_PRECONDITION for one of a newer release.
        """
        info = await self.info(stream)
        if info is None:
            return False
        check_format(info)
        wanted = {**info["config"], "metadata": _metadata(info), **settings}
        try:
            await self.call(f"STREAM.UPDATE.{stream}", wanted)
        except errors.Error as error:
            if error.kind is not errors.Kind.NOT_FOUND:
                raise
            return False
        return True

    async def remove(self, stream: str) -> bool:
        """Whether there was one."""
        asked = 0

        async def attempt() -> None:
            nonlocal asked
            asked += 1
            await self._connection.jetstream.delete_stream(stream)

        try:
            await self.patiently(attempt)
        except errors.Error as error:
            if error.kind is not errors.Kind.NOT_FOUND:
                raise
            # It was there when an answer was lost.
            return asked > 1
        return True

    async def purge(self, stream: str, subject: str) -> int:
        """Remove the messages of a subject or pattern; how many there were."""
        told = await self.call(f"STREAM.PURGE.{stream}", {"filter": subject})
        return int(told["purged"])

    async def having(self, subject: str) -> list[Info]:
        """All streams whose subjects a pattern covers: one request for each 256."""
        found: dict[str, Info] = {}
        offset = 0
        while True:
            told = await self.call("STREAM.LIST", {"subject": subject, "offset": offset})
            page: list[Info] = told.get("streams") or []
            found.update((info["config"]["name"], info) for info in page)
            offset += len(page)
            if not page or offset >= told["total"]:
                return list(found.values())

    async def subjects(self, stream: str, pattern: str) -> list[str]:
        """Those of a pattern that have messages."""
        found: list[str] = []
        while True:
            told = await self.call(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": len(found)})
            page = told["state"].get("subjects") or {}
            found += page
            if not page or len(found) >= int(told.get("total", 0)):
                return found

    async def direct(self, stream: str, query: Mapping[str, Any]) -> tuple[list[Msg], int]:
        """Messages by a direct get of several, which any server that has a copy answers, and how many follow them.

        Raises NOT_FOUND when there is no such stream.
        """
        data = json.dumps(query).encode()

        async def attempt() -> tuple[list[Msg], int]:
            client = self._connection.client
            queue: asyncio.Queue[Msg] = asyncio.Queue()
            inbox = client.new_inbox()
            subscription = await client.listen(inbox, queue.put_nowait)
            try:
                await client.publish(f"$JS.API.DIRECT.GET.{stream}", data, reply=inbox)
                return await _collect(queue)
            finally:
                with suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()

        async def of_a_stream() -> tuple[list[Msg], int]:
            try:
                return await attempt()
            except nats.errors.NoRespondersError:
                # No stream, or none that is up.
                await self._connection.jetstream.stream_info(stream)
                raise

        return await self.patiently(of_a_stream)

    async def message(self, stream: str, sequence: int = 0, subject: str = "") -> tuple[dict[str, str], bytes] | None:
        """Headers and data of a message, by its sequence or as the last of its subject, as the stream's leader knows
        it; None when it is gone."""

        query = {"seq": sequence} if sequence else {"last_by_subj": subject}
        try:
            found = (await self.call(f"STREAM.MSG.GET.{stream}", query))["message"]
        except errors.Error as error:
            if error.kind is errors.Kind.NOT_FOUND:
                return None
            raise
        return _headers(base64.b64decode(found.get("hdrs") or "")), base64.b64decode(found.get("data") or "")


def _headers(raw: bytes) -> dict[str, str]:
    """Of a message as it lies in a stream; in UTF-8, which the client library takes them for in some places only."""
    lines = (line.partition(b":") for line in raw.split(b"\r\n")[1:] if line)
    return {name.decode(errors="replace"): value.strip().decode(errors="replace") for name, _, value in lines}


async def _collect(queue: asyncio.Queue[Msg]) -> tuple[list[Msg], int]:
    found: list[Msg] = []
    while True:
        async with asyncio.timeout(REQUEST_SECONDS):
            message = await queue.get()
        headers = message.headers or {}
        status = headers.get("Status")
        if status is None:
            found.append(message)
        elif status == "503":
            raise nats.errors.NoRespondersError
        elif status == "204":
            return found, int(headers.get("Nats-Num-Pending", 0))
        elif status == "404":
            return found, 0
        else:
            raise errors.unavailable(f"NATS answers a read with status {status}")


def _metadata(info: Info) -> dict[str, str]:
    """What we have said about a stream; NATS says things there, too."""
    told: Mapping[str, str] = info["config"].get("metadata", {})
    return {name: value for name, value in told.items() if not name.startswith("_nats.")}


def check_format(info: Info) -> None:
    """Raises FAILED_PRECONDITION for a stream of a newer release."""
    written = info["config"].get("metadata", {}).get(FORMAT_NAME, "1")
    if not written.isdigit() or int(written) > FORMAT:
        raise errors.failed_precondition(
            f"the stream {info['config']['name']} is in format {written}, this release reads {FORMAT}: use a newer one"
        )


def _only(name: str, pairs: Mapping[str, str]) -> dict[str, str]:
    return {name: pairs[name]} if name in pairs else {}
