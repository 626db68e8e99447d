"""Addresses to listen on that nothing else takes."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import ExitStack
from pathlib import Path

from micro.domain import address

_FIRST, _LAST = 20_000, 32_767
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL = (49_152, 65_535)


def free_address(host: str = "127.0.0.1") -> str:
    """One address, as `free_addresses` finds them."""
    return free_addresses(1, host)[0]


def free_addresses(count: int, host: str = "127.0.0.1", ephemeral: tuple[int, int] | None = None) -> list[str]:
    """HOST:PORT that nothing listens on now, all different.

    They lie outside of the range that the kernel gives to outgoing connections, as long as there is room: a port from
    within could be some connection's before it is listened on, or while who listened there is started again.

    Args:
        host: an address of this host; an IPv6 one may have its brackets.
        ephemeral: first and last port of that range; the kernel's own by default.

    Raises:
        OSError: the host cannot be listened on.
    """
    bare = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    low, high = ephemeral or _ephemeral_range()
    outside = [port for port in range(_FIRST, _LAST + 1) if not low <= port <= high]
    start = random.randrange(len(outside)) if outside else 0  # noqa: S311 - not a secret, only unlike other callers'
    found: list[int] = []
    with ExitStack() as held:
        for port in (*outside[start:], *outside[:start], *[0] * count):  # 0: the kernel chooses
            if len(found) == count:
                break
            taken = held.enter_context(socket.socket(family))
            try:
                taken.bind((bare, port))
            except OSError as error:
                taken.close()
                if port == 0 or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
            else:
                found.append(taken.getsockname()[1])
    return [address.join(bare, port) for port in found]


def _ephemeral_range() -> tuple[int, int]:
    try:
        low, high = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):  # not Linux
        return _USUAL
    return low, high
