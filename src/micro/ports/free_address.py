"""Addresses to listen on that nothing else takes."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import random
import socket
import tempfile
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path

from micro.domain import address

_FIRST, _LAST = 20_000, 32_767
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL = (49_152, 65_535)
_CLAIMS = 512  # the ports that a process chose last stay its own


def free_address(host: str = "127.0.0.1") -> str:
    """One address, as `free_addresses` finds them."""
    return free_addresses(1, host)[0]


def free_addresses(count: int, host: str = "127.0.0.1", ephemeral: tuple[int, int] | None = None) -> list[str]:
    """HOST:PORT that nothing listens on now, all different.

    Until this process ends, or has chosen 512 others, nobody else of this user and machine is given them: servers that
    start side by side begin to listen some time after the choice. They lie outside of the range that the kernel gives
    to outgoing connections, as long as there is room: a port from within could be some connection's before it is
    listened on, or while who listened there is started again.

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
                if port == 0 or _claim(port):
                    found.append(taken.getsockname()[1])
    return [address.join(bare, port) for port in found]


_claimed: deque[int] = deque()


def _claim(port: int) -> bool:
    """Whether nobody else has it; the kernel ends the claims of a process with the process."""
    if port in _claimed:
        return False
    if (file := _claims()) is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # a byte for each port
    except OSError:
        return False
    _claimed.append(port)
    if len(_claimed) > _CLAIMS:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, _claimed.popleft())
    return True


@functools.cache
def _claims() -> int | None:
    """The file whose bytes are locked; None where somebody else made it, or nothing can be written.

    Never closed: to close any descriptor of the file would end all locks of the process (POSIX, fcntl).
    """
    path = Path(tempfile.gettempdir()) / f"micro-{os.getuid()}-ports"
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.fstat(file).st_uid == os.getuid():
            return file
        os.close(file)
    return None


def _ephemeral_range() -> tuple[int, int]:
    try:
        low, high = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):  # not Linux
        return _USUAL
    return low, high
