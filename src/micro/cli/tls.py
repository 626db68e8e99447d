"""TLS as the command line speaks it: always verified, and one line that says what to do when it fails.

Imported only where a connection is secure: `ssl` costs as much as a whole command.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from micro.cli import failures
from micro.cli.http1 import LOOK_SECONDS

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from micro.cli.http1 import Tls


def context(tls: Tls) -> ssl.SSLContext:
    """What a connection is checked against: the authorities of `tls`, else the machine's.

    Raises:
        UsageError: one of the files is not what it should be.
    """
    made = ssl.create_default_context()
    if tls.ca:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        _loaded(tls.ca, "certificates in PEM", lambda: made.load_verify_locations(cafile=tls.ca))
    if tls.pinned:
        # The server of the same home: the certificate itself is known, whatever names are in it.
        made.check_hostname = False
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _loaded(tls.pinned, "a certificate in PEM", lambda: made.load_verify_locations(cafile=tls.pinned))
    if tls.cert:
        _loaded(
            tls.cert if tls.cert == tls.key else f"{tls.cert} and {tls.key}",
            "a certificate in PEM and its key without a passphrase",
            lambda: made.load_cert_chain(tls.cert, tls.key, password=lambda: b""),
        )
    return made


def _loaded(shown: str, wanted: str, load: Callable[[], None]) -> None:
    try:
        load()
    except FileNotFoundError:
        raise failures.UsageError(f"cannot read {shown}: no such file") from None
    except ssl.SSLError:
        raise failures.UsageError(f"{shown}: give {wanted}") from None
    except OSError as error:
        raise failures.UsageError(f"cannot read {shown}: {error.strerror or error}") from None


def wrapped(connected: socket.socket, host: str, tls: Tls, timeout: float | None) -> Channel:
    """The secure channel over a connection, after the handshake. Raises OSError, `ssl.SSLError` among them."""
    try:
        secure = context(tls).wrap_socket(connected, server_hostname=host)
        if tls.pinned and secure.getpeercert(binary_form=True) != _first(tls.pinned):
            secure.close()
            raise ssl.SSLCertVerificationError("the certificate is another than this home's server has")
    except BaseException:
        connected.close()
        raise
    return Channel(secure, timeout)


def _first(path: str) -> bytes:
    head, mark, _ = Path(path).read_text("ascii", "replace").partition("-----END CERTIFICATE-----")
    start = head.find("-----BEGIN CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(head[start:] + mark)


class Channel(io.RawIOBase):
    """Bytes over TLS for two threads: one that sends and one that receives.

    OpenSSL bears one caller at a time, so each step is taken under a lock and never waits in it.

    Args:
        secure: after its handshake.
        timeout: seconds that any single wait for the peer may take; None means for ever.
    """

    def __init__(self, secure: ssl.SSLSocket, timeout: float | None) -> None:
        super().__init__()
        secure.setblocking(False)
        self._secure = secure
        self._timeout = timeout
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._stepped(lambda: self._secure.recv_into(buffer))

    def sendall(self, data: ReadableBuffer) -> None:
        rest = memoryview(data)

        def send() -> int:
            try:
                return self._secure.send(rest)
            except ssl.SSLEOFError:
                raise ConnectionResetError("the peer is gone") from None  # why, it may have said before

        while rest:
            rest = rest[self._stepped(send) :]

    def shutdown(self, how: int) -> None:
        # Not SSLSocket's, which takes the TLS away from under a thread that reads.
        socket.socket.shutdown(self._secure, how)

    def close(self) -> None:
        if not self.closed:
            self._secure.close()
        super().close()

    def _stepped(self, step: Callable[[], int]) -> int:
        patience = LOOK_SECONDS if self._timeout is None else self._timeout
        while True:
            try:
                with self._lock:
                    return step()
            except ssl.SSLWantReadError:
                ready = select.select([self._secure], [], [], patience)[0]
            except ssl.SSLWantWriteError:
                ready = select.select([], [self._secure], [], patience)[1]
            if not ready and self._timeout is not None:
                raise TimeoutError("timed out")


def explained(error: ssl.SSLError, host: str, address: str, setup: str) -> str:
    """What failed, and what to do about it.

    Args:
        error: as the connection raised it.
        host: which was to be reached.
        address: HOST:PORT, as it is typed.
        setup: what is typed to set up the environment, without its address: "micro env add prod"; empty for none.
    """

    def advice(text: str, command: str) -> str:
        return f"{text}: {command}" if setup else text

    certified = f"{setup or 'micro env add NAME'} {address} --cert FILE --key FILE"
    reason = (error.reason or "").upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        why = str(getattr(error, "verify_message", "") or error.args[-1]).rstrip(".")
        lowered = why.lower()
        if "mismatch" in lowered or "not valid for" in lowered:
            return f"its certificate is not for {host}: use a name that the certificate has"
        if "expired" in lowered or "not yet valid" in lowered:
            return f"{why}: renew the certificate there, or set this machine's clock"
        if any(word in lowered for word in ("self-signed", "self signed", "issuer")):
            known = f"its certificate comes from nobody known here ({why})"
            return advice(f"{known}; give its authority's", f"{setup} {address} --ca FILE")
        return f"its certificate is refused: {why}"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return advice("it does not speak TLS; where that is meant", f"{setup} http://{address}")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"it asks for a certificate of yours: {certified}"
    if "ALERT" in reason and ("UNKNOWN_CA" in reason or "CERTIFICATE" in reason):
        return f"it refuses your certificate; give one that its authority made: {certified}"
    if isinstance(error, ssl.SSLEOFError):
        return f"it closed the connection; where it asks for a certificate: {certified}"
    return f"TLS failed: {reason.replace('_', ' ').lower() or error}"
