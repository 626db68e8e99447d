"""What `micro server` shows: a line a process while it starts, then where to go and what to type next."""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from micro._version import __version__
from micro.server.settings import Layout, Settings
from micro.server.supervisor import Unit


class Terminal:
    """Lines on a stream, coloured where the stream is a terminal."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out = out
        self._colour = colour
        self._begin = time.monotonic()

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _line(self, text: str = "") -> None:
        # Whoever watched may have left: a closed pipe or a lost terminal is no reason to stop.
        with contextlib.suppress(OSError, ValueError):
            print(text, file=self._out, flush=True)

    def starting(self, settings: Settings) -> None:
        """The first line."""
        self._line(
            f"{self._paint('1', 'micro ' + __version__)}  {self._paint('2', 'starting in ' + str(settings.home))}"
        )
        self._line()

    def ready(self, unit: Unit, seconds: float) -> None:
        self._line(f"  {self._paint('32', '✓')} {unit.name:<10}{unit.detail:<24}{self._paint('2', f'{seconds:.1f} s')}")

    def ended(self, unit: Unit, reason: str) -> None:
        self._line(f"  {self._paint('33', '!')} {unit.name:<10}{reason}; starting it again")

    def back(self, unit: Unit, seconds: float) -> None:
        self._line(f"  {self._paint('32', '✓')} {unit.name:<10}back after {seconds:.1f} s")

    def running(self, settings: Settings, layout: Layout) -> None:
        """Where to go from here."""
        seconds = time.monotonic() - self._begin
        self._line()
        self._line(f"  {self._paint('1;32', 'ready')} in {seconds:.1f} s; Ctrl-C stops it")
        self._line()
        host = settings.proxy_address.rpartition(":")[0].strip("[]")
        if host not in ("127.0.0.1", "::1", "localhost"):
            warning = self._paint("33", "! whoever reaches the proxy may run code here")
            self._line(f"  {warning}: it listens on {settings.proxy_address}")
            self._line()
        self._line(f"  HTTP  {self._paint('36', 'http://' + settings.api_address)}")
        self._line(f"  gRPC  {self._paint('36', settings.proxy_address)}")
        self._line(f"  logs  {layout.logs}")
        self._line()
        self._line(f"  next: {self._paint('1', 'micro new greeter && cd greeter && micro run .')}")

    def stopping(self) -> None:
        """The last line."""
        self._line()
        self._line("  stopped")
