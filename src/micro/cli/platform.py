"""The core services as the commands see them: JSON in, JSON out, errors in the platform's own words."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

from micro.cli import failures
from micro.cli.transport import Transport
from micro.domain.errors import Error, Kind

PIECE = 256 * 1024
"""Bytes of an archive in one message: small beside every limit, large beside the cost of a message."""

QUICK = 10.0
"""Seconds that an answer may take which needs no work."""

WAIT = 960.0
"""Seconds that building and starting a service may take: more than the runtime's own 900, so that its word arrives."""


_COMING = frozenset(f"STATUS_{state}" for state in ("PENDING", "BUILDING", "STARTING", "RUNNING"))


class Platform:
    """Calls to the core services in one namespace.

    Args:
        transport: the way there as whoever is logged in.
        namespace: which the calls are about.
        anonymous: the way there for what needs no account.
    """

    def __init__(self, transport: Transport, namespace: str, anonymous: Transport) -> None:
        self._transport = transport
        self._namespace = namespace
        self._anonymous = anonymous

    def list_services(self, timeout: float = QUICK) -> list[dict[str, Any]]:
        """The registry's services, without descriptors, sorted by name and version."""
        found = self._call("registry", "micro.registry.v1.Registry/ListServices", self._scoped(), timeout)
        return list(found.get("services", []))

    def get_service(self, name: str, timeout: float = QUICK) -> list[dict[str, Any]]:
        """Every version of one service; the platform's own are found from every namespace.

        Raises:
            NoServiceError: there is none of that name; StartingError, which is one, when the runtime is starting it.
        """
        with contextlib.suppress(failures.NoServiceError):
            found = self._call("registry", "micro.registry.v1.Registry/GetService", self._scoped(name=name), timeout)
            if services := found.get("services"):
                return list(services)
        if self._starts(name, timeout):
            raise failures.StartingError(f"{name} is starting: try again in a moment, or see: micro status")
        raise failures.NoServiceError(
            f"service {name!r} not found in namespace {self._namespace!r}: see micro services"
        )

    def _starts(self, name: str, timeout: float) -> bool:
        """Whether the runtime is about to make a service callable; one that runs has only to be registered."""
        with contextlib.suppress(Error):
            return any(one.get("status") in _COMING for one in self.read(name, timeout=timeout))
        return False

    def create(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._service(self._call("runtime", "micro.runtime.v1.Runtime/Create", request, WAIT))

    def update(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._service(self._call("runtime", "micro.runtime.v1.Runtime/Update", request, WAIT))

    def read(self, name: str = "", version: str = "", timeout: float = QUICK) -> list[dict[str, Any]]:
        """The runtime's services, sorted by name and version."""
        request = self._scoped(name=name, version=version)
        found = self._call("runtime", "micro.runtime.v1.Runtime/Read", request, timeout)
        return list(found.get("services", []))

    def nearest(self, name: str, more: Iterable[str] = ()) -> str:
        """The service that was probably meant by a name which none has, empty for none; `more` are known besides."""
        known = set(more)
        with contextlib.suppress(Error):
            known.update(str(one.get("name", "")) for one in self.read())
        return failures.closest(name, sorted(known - {"", name}))

    def delete(self, name: str, version: str) -> None:
        self._call("runtime", "micro.runtime.v1.Runtime/Delete", self._scoped(name=name, version=version), WAIT)

    def upload(self, name: str, archive: bytes) -> str:
        """Hand over an archive and return its id."""
        pieces = _Pieces(self._scoped(name=name), archive)
        with _translated("runtime"):
            answers = list(self._transport.stream("runtime", "/micro.runtime.v1.Source/Upload", pieces, patience=WAIT))
        found = json.loads(answers[-1]) if answers else {}
        return str(found.get("id", ""))

    def logs(self, name: str, version: str, lines: int, follow: bool) -> Iterator[dict[str, Any]]:
        """The last lines of a service's output, and with `follow` what comes after them."""
        request: dict[str, Any] = self._scoped(name=name, version=version)
        request |= {"lines": lines, "follow": follow}
        body = json.dumps(request).encode("utf-8")
        patience = None if follow else QUICK
        with _translated("runtime"):
            for line in self._transport.stream("runtime", "/micro.runtime.v1.Runtime/Logs", [body], patience=patience):
                yield json.loads(line)

    def check(self, service: str, timeout: float = 3.0) -> str:
        """What a core service says of its own health: "SERVING" when it is ready."""
        with _translated(service):
            answer = self._anonymous.unary(service, "/grpc.health.v1.Health/Check", b"{}", patience=timeout)
            return str(json.loads(answer or b"{}").get("status", "UNKNOWN"))

    def aspect(self, service: str, name: str, timeout: float = 3.0) -> bool | None:
        """Whether one side of a service is well, as the health of an instance tells it; None where it does not tell."""
        body = json.dumps({"service": name}).encode("utf-8")
        with contextlib.suppress(Error), _translated(service):
            answer = self._transport.unary(service, "/grpc.health.v1.Health/Check", body, patience=timeout)
            return {"SERVING": True, "NOT_SERVING": False}.get(str(json.loads(answer or b"{}").get("status", "")))
        return None

    def damaged(self, service: str, timeout: float = 3.0) -> bool:
        """Whether a core service that keeps a database a namespace says that one of them is damaged."""
        with contextlib.suppress(Error), _translated(service):
            body = b'{"service": "databases"}'
            answer = self._anonymous.unary(service, "/grpc.health.v1.Health/Check", body, patience=timeout)
            return bool(json.loads(answer or b"{}").get("status") == "NOT_SERVING")
        return False

    def is_damaged(self, service: str, namespace: str, timeout: float = 3.0) -> bool:
        """Whether it is the one of this namespace, for who may read there."""
        try:
            if service == "config":
                self._call("config", "micro.config.v1.Config/List", {"namespace": namespace}, timeout)
            else:
                self._call("store", "micro.store.v1.Store/Tables", {"database": namespace}, timeout)
        except Error as error:
            return error.kind is Kind.DATA_LOSS
        return False

    def registered(self, service: str, timeout: float = 3.0) -> list[dict[str, Any]]:
        """Every version of a service in the registry; none for who may not see it, and while nobody can say."""
        with contextlib.suppress(Error):
            found = self._call("registry", "micro.registry.v1.Registry/GetService", self._scoped(name=service), timeout)
            return list(found.get("services", []))
        return []

    def metadata(self, service: str, timeout: float = 3.0) -> dict[str, str]:
        """What a core service has the registry show of it."""
        return next((dict(one.get("metadata", {})) for one in self.registered(service, timeout)), {})

    def proxies(self, timeout: float = 3.0) -> list[dict[str, Any]]:
        """The data planes that the control plane feeds."""
        found = self._call("network", "micro.network.v1.Network/Proxies", {}, timeout)
        return list(found.get("proxies", []))

    def auth(self, endpoint: str, request: Mapping[str, Any], timeout: float = QUICK) -> dict[str, Any]:
        """Call an endpoint of auth, for example "Accounts/List"."""
        try:
            return self._call("auth", f"micro.auth.v1.{endpoint}", request, timeout)
        except failures.NoServiceError as error:
            raise Error(error.kind, error.message) from None

    def store(self, endpoint: str, request: Mapping[str, Any], timeout: float = QUICK) -> dict[str, Any]:
        """Call an endpoint of the store, for example "Store/Read"; what is absent is an error like any other."""
        try:
            return self._call("store", f"micro.store.v1.{endpoint}", request, timeout)
        except failures.NoServiceError as error:
            raise Error(error.kind, error.message) from None

    def store_stream(
        self, endpoint: str, messages: Iterable[Mapping[str, Any]], patience: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Send messages to an endpoint of the store that takes or gives a stream, and yield its answers.

        Args:
            patience: seconds that any wait for an answer may take; None for as long as it takes.
        """
        encoded = (json.dumps(message).encode("utf-8") for message in messages)
        bodies = encoded if isinstance(messages, Iterator) else list(encoded)
        try:
            with _translated("store"):
                for line in self._transport.stream("store", f"/micro.store.v1.{endpoint}", bodies, patience=patience):
                    yield json.loads(line)
        except failures.NoServiceError as error:
            raise Error(error.kind, error.message) from None

    def config(self, endpoint: str, request: Mapping[str, Any], timeout: float = QUICK) -> dict[str, Any]:
        """Call an endpoint of config, for example "Get"; what is not set is an error like any other."""
        try:
            return self._call("config", f"micro.config.v1.Config/{endpoint}", request, timeout)
        except failures.NoServiceError as error:
            raise Error(error.kind, error.message) from None

    def config_watch(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A value, and again after each change of it."""
        body = json.dumps(request).encode("utf-8")
        with _translated("config"):
            for line in self._transport.stream("config", "/micro.config.v1.Config/Watch", [body]):
                yield json.loads(line)

    def events(self, endpoint: str, request: Mapping[str, Any], timeout: float = QUICK) -> dict[str, Any]:
        """Call an endpoint of events, for example "Topics/List"; what is absent is an error like any other."""
        try:
            return self._call("events", f"micro.events.v1.{endpoint}", {**self._scoped(), **request}, timeout)
        except failures.NoServiceError as error:
            raise Error(error.kind, error.message) from None

    def events_stream(
        self, endpoint: str, messages: Iterable[Mapping[str, Any]]
    ) -> Generator[dict[str, Any], None, None]:
        """Send messages to a stream of events while its answers are yielded; they may be gone through twice."""
        yield from self._stream("events", f"micro.events.v1.{endpoint}", _Encoded(self._namespace, messages))

    def broker(self, endpoint: str, request: Mapping[str, Any], timeout: float = QUICK) -> None:
        """Call an endpoint of the broker, for example "Publish"."""
        self._call("broker", f"micro.broker.v1.Broker/{endpoint}", {**self._scoped(), **request}, timeout)

    def broker_stream(self, endpoint: str, messages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """As `events_stream`."""
        return self._stream("broker", f"micro.broker.v1.Broker/{endpoint}", _Encoded(self._namespace, messages))

    def _stream(self, service: str, path: str, bodies: Iterable[bytes]) -> Generator[dict[str, Any], None, None]:
        try:
            with _translated(service):
                for line in self._transport.stream(service, f"/{path}", bodies):
                    yield json.loads(line)
        except failures.NoServiceError as error:
            raise Error(error.kind, error.message) from None

    def blob_stream(self, endpoint: str, messages: Iterable[bytes], patience: float) -> Iterator[bytes]:
        """As `store_stream`, with protobuf's own messages: bytes as they are."""
        try:
            with _translated("store"):
                yield from self._transport.stream(
                    "store", f"/micro.store.v1.BlobStore/{endpoint}", messages, patience=patience, codec="proto"
                )
        except failures.NoServiceError as error:
            raise Error(error.kind, error.message) from None

    def _scoped(self, **fields: str) -> dict[str, str]:
        return {name: value for name, value in fields.items() if value} | {"namespace": self._namespace}

    def _service(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        return dict(answer.get("service", {}))

    def _call(self, service: str, path: str, request: Mapping[str, Any], patience: float) -> dict[str, Any]:
        with _translated(service):
            body = json.dumps(request).encode("utf-8")
            answer = self._transport.unary(service, f"/{path}", body, patience=patience)
            found = json.loads(answer or b"{}")
        return found if isinstance(found, dict) else {}


class _Encoded:
    """Messages as JSON, encoded while they are gone through; the first one says the namespace."""

    def __init__(self, namespace: str, messages: Iterable[Mapping[str, Any]]) -> None:
        self._namespace = namespace
        self._messages = messages

    def __iter__(self) -> Iterator[bytes]:
        for number, message in enumerate(self._messages):
            scope = {} if number else {"namespace": self._namespace}
            yield json.dumps({**scope, **message}).encode("utf-8")


class _Pieces:
    """The messages of an upload, made anew each time that they are gone through."""

    def __init__(self, head: Mapping[str, str], archive: bytes) -> None:
        self._head = head
        self._archive = archive

    def __iter__(self) -> Iterator[bytes]:
        import base64

        head = dict(self._head)
        for start in range(0, max(len(self._archive), 1), PIECE):
            data = base64.b64encode(self._archive[start : start + PIECE]).decode("ascii")
            yield json.dumps(head | {"data": data}).encode("utf-8")
            head = {}


class _translated:  # noqa: N801 - reads as a sentence at the `with`
    """Turns a core service's error into the platform's: no kind before the message, exit codes by what it means."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise Error(Kind.INTERNAL, f"{self._service} answered with something that is not JSON") from None
        if not isinstance(error, failures.AnsweredError):
            return
        unrouted = error.message.startswith(f"service {self._service} not found")  # as the data plane says it
        if error.kind is Kind.NOT_FOUND and not unrouted:
            raise failures.NoServiceError(error.message) from None
        if error.kind is Kind.UNAVAILABLE or unrouted:
            why = "" if unrouted else error.message.removesuffix("; see: micro status")
            why = f": {why}" if why else ""
            raise failures.UnreachableError(f"{self._service} is not available{why}; see: micro health") from None
        if error.kind is Kind.UNIMPLEMENTED:
            raise failures.UnreachableError(
                f"what answers there has no {self._service}: is it a micro server?"
            ) from None
        raise Error(error.kind, error.message or error.kind.code) from None
