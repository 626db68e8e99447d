"""JSON calls to the server: unary as plain POST, streams in Connect's envelopes."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from micro.cli import failures
from micro.cli.http1 import BadAnswerError, Connection, Tls
from micro.domain import address as addresses
from micro.domain.audience import Audience
from micro.domain.errors import Kind

if TYPE_CHECKING:
    from micro.cli.identity import Identity

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
        scheme = "https://" if self.secure else "" if self.loopback else "http://"
        return f"{scheme}{self.plain}"

    @property
    def plain(self) -> str:
        """HOST:PORT."""
        return addresses.join(self.host, self.port)

    @property
    def loopback(self) -> bool:
        """Whether it is this machine, as far as its name tells."""
        return self.host in ("localhost", "::1", "0.0.0.0", "::") or self.host.startswith("127.")  # noqa: S104


class Transport:
    """Calls to one address in one namespace.

    Args:
        address: of the server's proxy, or of one service.
        namespace: sent with every call.
        hint: what to type when nobody listens there.
        tls: how a secure connection is checked.
        setup: what is typed to set up the way there, for failures of TLS: "micro env add prod".
        identity: whose calls these are; None means nobody's.
        direct: whether a service listens there that may be anybody's, whatever it is called.
    """

    def __init__(
        self,
        address: Address,
        namespace: str,
        hint: str = "",
        *,
        tls: Tls | None = None,
        setup: str = "",
        identity: Identity | None = None,
        direct: bool = False,
    ) -> None:
        self.address = address
        self._namespace = namespace
        self._hint = hint
        self._tls = (tls or Tls()) if address.secure else None
        self._setup = setup
        self._identity = identity
        self._direct = direct

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
        token = self._authorise(headers)
        try:
            return self._unary(path, headers, body, wait)
        except failures.AnsweredError as error:
            if not self._authorise_anew(headers, token, error):
                raise
            return self._unary(path, headers, body, wait)

    def _unary(self, path: str, headers: Mapping[str, str], body: bytes, wait: float | None) -> bytes:
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
        codec: str = "json",
    ) -> Iterator[bytes]:
        """Send messages and yield the answers as they come; both go on at once. Arguments and errors as in `unary`.

        With codec "proto", messages and answers are not JSON but protobuf's own.

        Messages that can be gone through again, as those of a list, are sent again when the account's token has been
        refused and renewed.
        """
        headers = self._headers(service, f"application/connect+{codec}", timeout, metadata, "connect-timeout-ms")
        wait = patience if patience is not None else (timeout + 2 if timeout else None)
        token = self._authorise(headers)
        answers = self._stream(path, headers, messages, wait)
        try:
            try:
                first = next(answers, None)
            except failures.AnsweredError as error:
                if iter(messages) is messages or not self._authorise_anew(headers, token, error):
                    raise
                answers = self._stream(path, headers, messages, wait)
                first = next(answers, None)
            if first is not None:
                yield first
                yield from answers
        finally:
            answers.close()

    def _stream(
        self, path: str, headers: Mapping[str, str], messages: Iterable[bytes], wait: float | None
    ) -> Generator[bytes, None, None]:
        with self._connected(wait) as connection:
            with contextlib.suppress(ConnectionError):  # as in `_unary`
                connection.send_head(path, {**headers, "transfer-encoding": "chunked"})
            sender = _Sender(connection, messages)
            sender.start()
            try:
                yield from _receive(connection, headers["content-type"])
            except (OSError, BadAnswerError):
                sender.raise_failure()
                raise
            finally:
                connection.stop_sending()

    def _authorise(self, headers: dict[str, str]) -> str:
        """Put the account's token into the headers, unless they name one; returns it, empty for none."""
        if self._identity is None or "authorization" in headers:
            return ""
        token = self._identity.token(self._audience(headers))
        if token:
            headers["authorization"] = f"Bearer {token}"
        return token

    def _authorise_anew(self, headers: dict[str, str], refused: str, error: failures.AnsweredError) -> bool:
        """Put a new token in place of a refused one; False when the token was not the reason of the error."""
        if not (self._identity and refused and error.kind is Kind.UNAUTHENTICATED):
            return False
        token = self._identity.renewed(refused, self._audience(headers))
        headers["authorization"] = f"Bearer {token}"
        return bool(token)

    def _audience(self, headers: Mapping[str, str]) -> Audience:
        """Whom the token is to be for: the call is routed by this header."""
        return Audience.SERVICES if self._direct else Audience.of(headers["micro-service"])

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
            connection = Connection(self.address.host, self.address.port, tls=self._tls, timeout=wait)
        except OSError as error:
            if said := self._of_tls(error):
                raise failures.UnreachableError(said) from None
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
            said = self._of_tls(error) or f"{self.address} broke off: {cause}"
            raise failures.UnreachableError(said) from None
        finally:
            connection.close()

    def _of_tls(self, error: Exception) -> str:
        """What to say of a failure of TLS; empty for others."""
        if self._tls is None:
            hint = f"; where it speaks TLS: {self._setup} https://{self.address.plain}" if self._setup else ""
            closed = isinstance(error, BadAnswerError | ConnectionResetError) and hint
            return f"{self.address} broke off: {getattr(error, 'strerror', None) or error}{hint}" if closed else ""
        import ssl

        from micro.cli import tls

        if not isinstance(error, ssl.SSLError):
            return ""
        said = tls.explained(error, self.address.host, self.address.plain, self._setup)
        return f"no secure connection to {self.address.plain}: {said}"


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


def _receive(connection: Connection, wanted: str) -> Iterator[bytes]:
    status, headers = connection.receive_head()
    read = connection.body(headers)
    if status != 200 or not headers.get("content-type", "").startswith(wanted):
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
