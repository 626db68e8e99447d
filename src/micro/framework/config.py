"""Settings and secrets of the namespace: `from micro import config`, then `await config.get("db.host", "localhost")`.

Works at once, in a service as well as in a script that has `MICRO_*` set. The first look fetches the namespace's whole
document and follows it from then on, so that every later one is answered from memory, by a value that is at most as old
as its change takes to arrive. While config is away the last known values hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import datetime as dt
import enum
import json
import logging
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any, TypeVar, overload
from weakref import WeakKeyDictionary

from micro.domain import backoff, errors
from micro.domain import config as rules
from micro.domain.errors import Error, Kind
from micro.framework import client, values
from micro.rpc.gen.micro.config.v1 import config_pb as pb
from micro.rpc.gen.micro.config.v1.config_connect import ConfigClient

__all__ = ["Config", "close", "delete", "get", "set", "watch"]

log = logging.getLogger(__name__)

FIRST_SECONDS = 5.0
"""How long the first look waits for config to answer."""

SEEN_SECONDS = 1.0
"""How long a change of our own waits until it is seen here too."""

_CONVERTED = 10_000
"""Values that are kept as they were asked for."""

_CLOSED = (Kind.FAILED_PRECONDITION, Kind.DATA_LOSS)
"""How config says that secrets cannot be opened."""

_PASSING = (Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.CANCELED, Kind.RESOURCE_EXHAUSTED, *_CLOSED)
"""What may be over at the next try."""

D = TypeVar("D")
T = TypeVar("T")

_ABSENT: Any = object()

_ATOMS = (bool, int, float, str, bytes, enum.Enum, dt.date, uuid.UUID, type(None))
"""Nothing of one of these can be changed."""


class _View:
    """The document as it was told last.

    Args:
        closed: why its secrets could not be opened, where they could not.
    """

    def __init__(self, answer: pb.WatchResponse, closed: Error | None) -> None:
        self.revision = answer.revision
        self._document = json.loads(answer.value.data) if answer.value is not None and answer.value.data else {}
        self._closed = closed
        self.values: dict[Any, Any] = {}
        """What was looked for before, by path, or path and type; _ABSENT for what is not there. Nothing in it can be
        changed by who is given it."""

    def look(self, path: str, as_type: Any) -> Any:
        """The value at a path as that type, or _ABSENT. Raises FAILED_PRECONDITION when it is no such type, and why
        secrets could not be opened when there are some in it."""
        raw = self.raw(path)
        found = raw if raw is _ABSENT or as_type is None else values.convert(raw, as_type, f"config {path!r}")
        if _immutable(found):
            if len(self.values) >= _CONVERTED:
                self.values.clear()
            self.values[path if as_type is None else (path, as_type)] = found
            return found
        return copy.deepcopy(found) if found is raw else found

    def raw(self, path: str) -> Any:
        """As `look`, as JSON is in Python; not to be changed."""
        found = self._document
        for name in rules.path(path):
            if not isinstance(found, dict) or name not in found:
                return _ABSENT
            found = found[name]
        if self._closed is not None and _masked(found):
            raise Error(self._closed.kind, self._closed.message)
        return found


class _Followed:
    """The document as one event loop follows it.

    Args:
        secret: whether secrets are wanted; None for those that one may have.
    """

    def __init__(self, client: ConfigClient, secret: bool | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.asked = secret
        self.view: _View | None = None
        self._client = client
        self._secret = secret if secret is not None else bool(os.environ.get("MICRO_SERVICE_NAME"))
        self._failure: Error | None = None
        self._turn = asyncio.Event()
        # In a context of its own: the deadline of the call that happens to need it first is not its own.
        # owned: by this object; `close` ends it, and at the latest the loop's own end
        self._task = self.loop.create_task(self._follow(), name="config", context=contextvars.Context())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def known(self) -> _View:
        """The document once it has been told. Raises what keeps it from being told."""
        if self.view is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SECONDS):
                    while self.view is None and (self._failure is None or self._failure.kind in _PASSING):
                        await self._turn.wait()
        if self.view is None:
            failure = self._failure or errors.unavailable("config does not answer: see micro health")
            raise Error(failure.kind, failure.message)
        return self.view

    async def changed(self, view: _View) -> _View:
        """Another view than this one, as soon as there is one."""
        while self.view is view or self.view is None:
            await self._turn.wait()
        return self.view

    async def reached(self, revision: int) -> None:
        """Return when a revision is seen here, or after a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEEN_SECONDS):
                while self.view is None or self.view.revision < revision:
                    await self._turn.wait()

    async def _follow(self) -> None:
        delays, closed = backoff.exponential(first=0.05, cap=0.5), None
        while True:
            before = self.view
            try:
                closed = await self._listen(closed)
                continue
            except Error as error:
                if self._secret and closed is None and error.kind in _CLOSED:
                    log.error("secrets cannot be read: %s", error)
                    closed = error
                    continue
                if self.asked is None and self._secret and error.kind is Kind.PERMISSION_DENIED:
                    self._secret = False
                    continue
                self._fail(error)
                closed = None
            if self.view is not before:
                delays = backoff.exponential(first=0.05, cap=0.5)
            await asyncio.sleep(next(delays))

    async def _listen(self, closed: Error | None) -> Error | None:
        """Take in what config tells, without secrets where those are closed, until they may be open again. Raises why
        it ended."""
        options = pb.Options(secret=self._secret and closed is None)
        answers = self._client.watch(pb.WatchRequest(options=options))
        async with contextlib.aclosing(answers):  # type: ignore[type-var]
            first = True
            async for answer in answers:
                self._take(_View(answer, closed))
                if closed is not None and not first:
                    return None
                first = False
        raise errors.unavailable("config has ended it")

    def _take(self, view: _View) -> None:
        if self._failure is not None and self.view is not None:
            log.info("config is heard of again")
        self.view, self._failure = view, None
        self._wake()

    def _fail(self, error: Error) -> None:
        if self._failure is None and self.view is not None:
            log.warning("config is not heard of any more: %s: the last known values hold, trying again", error)
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        self._turn.set()
        self._turn = asyncio.Event()


class Config:
    """Reads and changes the config of the namespace that calls are made in.

    Args:
        client: makes the calls.
    """

    def __init__(self, client: ConfigClient) -> None:
        self._client = client
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool | None, _Followed]] = WeakKeyDictionary()
        self._last: _Followed | None = None

    @overload
    async def get(
        self, path: str, default: None = None, *, as_type: type[T], secret: bool | None = None
    ) -> T | None: ...
    @overload
    async def get(self, path: str, default: D, *, as_type: type[T], secret: bool | None = None) -> T | D: ...
    @overload
    async def get(self, path: str, default: Any = None, *, secret: bool | None = None) -> Any: ...
    async def get(self, path: str, default: Any = None, *, as_type: Any = None, secret: bool | None = None) -> Any:
        r"""The value at a path, as JSON is in Python or as a type; the default when nothing is there.

        Args:
            path: names with dots between; a dot in a name is written `\.`. Empty for everything.
            as_type: int, str, `list[str]`, `dict[str, int]`, a dataclass with dataclasses in it, and so on.
            secret: whether to be told secrets, and not "[secret]". By default a service is, and a script is not.

        Raises:
            Error: FAILED_PRECONDITION when the value is no such type, or secrets cannot be opened; PERMISSION_DENIED
                for secrets of others; UNAVAILABLE when config was never heard.
        """
        followed = self._last
        if followed is None or followed.asked is not secret or followed.loop is not asyncio.get_running_loop():
            followed = self._following(secret)
        view = followed.view or await followed.known()
        found = view.values.get(path if as_type is None else (path, as_type), view)
        if found is view:
            found = view.look(path, as_type)
        return default if found is _ABSENT else found

    async def set(self, path: str, value: object, *, secret: bool = False) -> int:
        """Keep a value at a path, and return the document's new revision. An object is merged into what is there,
        deeply; anything else takes its place.

        Args:
            value: what JSON can hold, and dataclasses.
            secret: whether every value in it is a secret. What takes the place of a secret is one anyway.

        Raises:
            Error: PERMISSION_DENIED, INVALID_ARGUMENT and what else config answers.
            TypeError: for what has no place in JSON.
        """
        data = _json(value, f"the value of {path!r}")
        request = pb.SetRequest(path=path, value=pb.Value(data=data), options=pb.Options(secret=secret))
        revision = (await self._client.set(request)).revision
        await self._seen(revision)
        return revision

    async def delete(self, path: str) -> int:
        """Remove what is at a path, and return the document's new revision. Raises NOT_FOUND when nothing is."""
        revision = (await self._client.delete(pb.DeleteRequest(path=path))).revision
        await self._seen(revision)
        return revision

    async def watch(
        self, path: str = "", default: Any = None, *, as_type: Any = None, secret: bool | None = None
    ) -> AsyncIterator[Any]:
        """The value at a path, at once and after each change of it, for ever; the default while nothing is there.

        Of changes in a row the last one may stand for all. Arguments and errors as in `get`; but a later value that is
        no such type is told in the log, and passed over.
        """
        followed = self._following(secret)
        view = await followed.known()
        told = ""
        while True:
            text = _told(view, path)
            if text != told:
                try:
                    found = view.look(path, as_type)
                except Error as error:
                    if not told:
                        raise
                    log.warning("a change is passed over: %s", error)
                else:
                    yield default if found is _ABSENT else found
                told = text
            view = await followed.changed(view)

    async def close(self) -> None:
        """Stop to follow in the running event loop; the next look begins anew."""
        self._last = None
        for followed in self._loops.pop(asyncio.get_running_loop(), {}).values():
            await followed.close()

    def _following(self, secret: bool | None) -> _Followed:
        loop = asyncio.get_running_loop()
        kinds = self._loops.get(loop)
        if kinds is None:
            kinds = self._loops[loop] = {}
        if secret not in kinds:
            kinds[secret] = _Followed(self._client, secret)
        self._last = kinds[secret]
        return self._last

    async def _seen(self, revision: int) -> None:
        for followed in self._loops.get(asyncio.get_running_loop(), {}).values():
            await followed.reached(revision)


def _told(view: _View, path: str) -> str:
    """What tells one value from another, types too; never empty."""
    try:
        found = view.raw(path)
    except Error as error:
        return f"error {error}"
    return "absent" if found is _ABSENT else json.dumps(found)


def _json(value: object, subject: str) -> str:
    try:
        return json.dumps(values.plain(value, subject), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise TypeError(f"{subject} has no place in JSON: it holds NaN or an infinity") from None
    except RecursionError:
        most = f"{rules.VALUE_DEPTH} lists and objects are the most"
        raise errors.invalid_argument(f"{subject} is nested too deeply, or in itself: {most}") from None


def _masked(found: Any) -> bool:
    if isinstance(found, dict):
        return any(map(_masked, found.values()))
    return bool(found == rules.MASK)


def _immutable(found: Any) -> bool:
    """Whether nothing of it can be changed."""
    if isinstance(found, tuple | frozenset):
        return all(map(_immutable, found))
    if dataclasses.is_dataclass(found) and getattr(type(found), "__dataclass_params__").frozen:  # noqa: B009
        return all(_immutable(getattr(found, field.name)) for field in dataclasses.fields(found))
    return found is _ABSENT or isinstance(found, _ATOMS)


_config = Config(client.of(ConfigClient))

get = _config.get
set = _config.set  # noqa: A001 - what it does
delete = _config.delete
watch = _config.watch
close = _config.close
