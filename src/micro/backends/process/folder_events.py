"""Wakes a reader when something in a folder changes: inotify on Linux, a slow tick elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class Events(Protocol):
    """Changes of one folder since the watch began."""

    async def changed(self) -> None:
        """Return once something changed after the last return; at once when it did already."""
        ...


class _Inotify:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._event = asyncio.Event()

    def ready(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, 64 * 1024):
                self._event.set()

    async def changed(self) -> None:
        await self._event.wait()
        self._event.clear()


class _Tick:
    """Where the kernel offers nothing through the standard library."""

    async def changed(self) -> None:
        await asyncio.sleep(0.25)


@contextlib.contextmanager
def watch(folder: Path) -> Iterator[Events]:
    """Watch files directly in the folder, which must exist. Needs a running loop."""
    if not sys.platform.startswith("linux"):
        yield _Tick()
        return
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(_FLAGS)
    if descriptor < 0:  # this user has as many as fs.inotify.max_user_instances allows
        yield _Tick()
        return
    loop = asyncio.get_running_loop()
    try:
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
        events = _Inotify(descriptor)
        loop.add_reader(descriptor, events.ready)
        try:
            yield events
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
