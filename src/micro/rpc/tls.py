"""TLS of calls from outside of the platform: whom to trust, and what to show where a certificate is asked for."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import NamedTuple

from micro.domain import errors


class Pair(NamedTuple):
    """A certificate, with what leads to its authority, and its private key, PEM; empty for none."""

    chain: bytes = b""
    key: bytes = b""


def authorities() -> bytes | None:
    """Certificates of whom to trust: the file MICRO_CA, else the system's; None for those that grpc comes with.

    Raises FAILED_PRECONDITION when MICRO_CA cannot be read.
    """
    if os.environ.get("MICRO_CA"):
        return _content("MICRO_CA")
    found = ssl.get_default_verify_paths().cafile
    try:
        return Path(found).read_bytes() if found else None
    except OSError:
        return None


def shown() -> Pair:
    """What a server that asks for a certificate is shown: the files MICRO_CERT and MICRO_KEY; nothing without them.

    Raises FAILED_PRECONDITION when one of them is missing, cannot be read, or does not fit the other.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def context() -> ssl.SSLContext:
    """How a connection over HTTP/1.1 is checked. Raises FAILED_PRECONDITION as the others do, and where MICRO_CA has no
    certificates."""
    found = authorities()
    # What stands between them may be in any language. No text at all would mean the system's authorities.
    text = None if found is None else found.decode("ascii", "ignore") or "\n"
    try:
        made = ssl.create_default_context(cadata=text)
    except ssl.SSLError as error:
        why = f": {error.reason}" if error.reason else ""
        raise errors.failed_precondition(f"MICRO_CA names a file without certificates{why}") from None
    _loaded(made)
    made.set_alpn_protocols(["http/1.1"])
    return made


def _loaded(made: ssl.SSLContext) -> Pair:
    """What is to be shown, once a context has taken it, which tells what is wrong with it."""
    cert, key = os.environ.get("MICRO_CERT"), os.environ.get("MICRO_KEY")
    if not (cert and key):
        if cert or key:
            raise errors.failed_precondition("MICRO_CERT and MICRO_KEY belong together: give both, or none")
        return Pair()
    found = Pair(_content("MICRO_CERT"), _content("MICRO_KEY"))
    try:
        made.load_cert_chain(cert, key, password=lambda: b"")  # else a passphrase is asked for on the terminal
    except ssl.SSLError:
        raise errors.failed_precondition(
            "MICRO_CERT and MICRO_KEY: give a certificate in PEM and its own key, without a passphrase"
        ) from None
    return found


def _content(name: str) -> bytes:
    path = os.environ[name]
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.failed_precondition(f"cannot read {name}={path}: {error.strerror}") from None
