"""JSON calls to the server: unary as plain POST, streams in Connect's envelopes."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from micro.cli import failures
from micro.cli.http1 import BadAnswerError, Connection
from micro.domain.errors import Kind

_END_OF_STREAM = 0x02
_MAX_MESSAGE = 64 * 1024 * 1024
_KIND_OF_STATUS = {
    400: Kind.INTERNAL,
    401: Kind.UNAUTHENTICATED,
    403: Kind.PERMISSION_DENIED,
    404: Kind.UNIMPLEMENTED,
    429: Kind.UNAVAILABLE,
    502: Kind.UNAVAILABLE,
    503: Kind.UNAVAILABLE,
    504: Kind.DEADLINE_EXCEEDED,
}


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https://' if self.secure else ''}{host}:{self.port}"


class Transport:
    """Calls to one address in one namespace.

    Args:
        address: of the server's proxy, or of one service.
        namespace: sent with every call.
        hint: what to type when nobody listens there.
    """

    def __init__(self, address: Address, namespace: str, hint: str = "") -> None:
        self.address = address
        self._namespace = namespace
        self._hint = hint

    def unary(
        self,
        service: str,
        path: str,
        body: bytes,
        *,
        timeout: float | None = None,
        patience: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Call and return the answer's JSON.

        Args:
            service: name of the service, which routes the call.
            path: of the method.
            body: the request as JSON.
            timeout: deadline in seconds that travels with the call; None leaves it to the service.
            patience: seconds to wait for the answer; None waits for the deadline, or for ever without one.
            metadata: further headers.

        Raises:
            UnreachableError: nobody listens, or the connection broke before an answer.
            AnsweredError: the answer is an error.
        """
        wait = patience if patience is not None else (timeout + 2 if timeout else None)
        headers = self._headers(service, "application/json", timeout, metadata) | {"content-length": str(len(body))}
        with self._connected(wait) as connection:
            with contextlib.suppress(ConnectionError):  # a server that refuses early has answered by then
                connection.send_head(path, headers, body)
            status, answered = connection.receive_head()
            answer = connection.body(answered)(-1)
        if status != 200:
            raise _error(status, answer)
        return answer

    def stream(
        self,
        service: str,
        path: str,
        messages: Iterable[bytes],
        *,
        timeout: float | None = None,
        patience: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[bytes]:
        """Send messages and yield the answers as they come; both go on at once. Arguments and errors as in `unary`."""
        headers = self._headers(service, "application/connect+json", timeout, metadata, "connect-timeout-ms")
        wait = patience if patience is not None else (timeout + 2 if timeout else None)
        with self._connected(wait) as connection:
            connection.send_head(path, headers | {"transfer-encoding": "chunked"})
            sender = _Sender(connection, messages)
            sender.start()
            try:
                yield from _receive(connection)
            except (OSError, BadAnswerError):
                sender.raise_failure()
                raise
            finally:
                connection.stop_sending()

    def _headers(
        self,
        service: str,
        content_type: str,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        *timeout_headers: str,
    ) -> dict[str, str]:
        headers = {
            "content-type": content_type,
            "connect-protocol-version": "1",
            "micro-service": service,
            "micro-namespace": self._namespace,
            "accept": "application/json",
            "accept-encoding": "identity",
            "connection": "close",
        }
        if content_type != "application/json":
            headers["connect-accept-encoding"] = "identity"
            headers["accept"] = content_type
        if timeout:
            headers["connect-timeout-ms"] = str(max(1, int(timeout * 1000)))
            headers["grpc-timeout"] = f"{max(1, int(timeout * 1000))}m"
        return headers | {name.lower(): value for name, value in (metadata or {}).items()}

    @contextlib.contextmanager
    def _connected(self, wait: float | None) -> Iterator[Connection]:
        try:
            connection = Connection(self.address.host, self.address.port, secure=self.address.secure, timeout=wait)
        except OSError as error:
            reason = error.strerror or str(error)
            why = "" if isinstance(error, ConnectionRefusedError) else f" ({reason})"
            raise failures.UnreachableError(f"no server at {self.address}{why}{self._hint}") from None
        try:
            yield connection
        except TimeoutError:
            raise failures.AnsweredError(
                Kind.DEADLINE_EXCEEDED, f"no answer from {self.address} in {wait:g} s"
            ) from None
        except (OSError, BadAnswerError) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise failures.UnreachableError(f"{self.address} broke off: {cause}") from None
        finally:
            connection.close()


class _Sender(threading.Thread):
    """Sends the messages of a stream while its answers are received.

    It may sit in a read of the terminal when the stream ends, so nobody waits for it.
    """

    def __init__(self, connection: Connection, messages: Iterable[bytes]) -> None:
        super().__init__(name="micro-send", daemon=True)
        self._connection = connection
        self._messages = messages
        self._failure: Exception | None = None

    def run(self) -> None:
        try:
            for message in self._messages:
                self._connection.send_chunk(envelope(message))
            self._connection.send_chunk(b"")
        except OSError:
            return  # the server ended the stream first; what it said is being received
        except Exception as error:  # noqa: BLE001 - it belongs to the thread that receives
            self._failure = error
            self._connection.stop_sending()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def envelope(message: bytes, flags: int = 0) -> bytes:
    """One message of a stream as it travels: flags, length, content."""
    return bytes([flags]) + len(message).to_bytes(4, "big") + message


def _receive(connection: Connection) -> Iterator[bytes]:
    status, headers = connection.receive_head()
    read = connection.body(headers)
    if status != 200 or not headers.get("content-type", "").startswith("application/connect+json"):
        raise _error(status, read(-1))
    while head := read(5):
        size = int.from_bytes(head[1:5], "big")
        if len(head) < 5 or size > _MAX_MESSAGE:
            raise BadAnswerError("a message of the stream is malformed")
        message = read(size)
        if len(message) < size:
            raise BadAnswerError("the stream ended in the middle of a message")
        if head[0] & _END_OF_STREAM:
            end = _parsed(message).get("error")
            if isinstance(end, dict):
                raise _answered(end, Kind.UNKNOWN, message)
            return
        yield message
    raise BadAnswerError("the stream ended without its last message")


def _error(status: int, body: bytes) -> failures.AnsweredError:
    fallback = _KIND_OF_STATUS.get(status, Kind.UNKNOWN)
    parsed = _parsed(body)
    if "code" in parsed:
        return _answered(parsed, fallback, body)
    text = body[:200].decode("utf-8", "replace").strip()
    return failures.AnsweredError(fallback, f"HTTP {status}{': ' + text if text else ''}", body)


def _answered(error: dict[str, Any], fallback: Kind, body: bytes) -> failures.AnsweredError:
    code = error.get("code")
    kind = Kind.of_code(code) if isinstance(code, str) else fallback
    return failures.AnsweredError(kind, str(error.get("message", "")), body)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body or b"{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
