"""Addresses as people write them: HOST:PORT, an IPv6 host in brackets."""

from __future__ import annotations

import re

from micro.domain import errors


def split(text: str) -> tuple[str, int]:
    """Host, without brackets, and port (0 to 65535) of HOST:PORT; the host is empty in ":8080".

    Raises:
        Error: INVALID_ARGUMENT that names the text.
    """
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if (
        not separator
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535)
        or bracketed != (":" in bare)
        or any(char in "[]/@" or char.isspace() for char in bare)
    ):
        raise errors.invalid_argument(f"{text!r} is not HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080")
    return bare, int(port)


def join(host: str, port: int) -> str:
    """HOST:PORT, with the brackets that an IPv6 host needs; `host` may have them already."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def near(text: str) -> str:
    """HOST:PORT as this machine reaches it: a listener on every address is at 127.0.0.1, or at localhost with IPv6."""
    host, port = split(text)
    return join({"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(host, host), port)  # noqa: S104 - looked for, not bound


def is_loopback(host: str) -> bool:
    """Whether only programs on the same machine reach the host; `host` without brackets, a name or an IP address."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", host) is not None
