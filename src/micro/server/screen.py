"""What `micro server` shows: a line a process while it starts, then where to go and what to type next."""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from micro._version import __version__
from micro.domain import errors
from micro.domain.address import near
from micro.ports.sessions import Sessions
from micro.server.first_start import LOCAL, FirstAdmin
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

    def note(self, text: str) -> None:
        self._line(f"  {self._paint('33', '!')} {text}")

    def running(self, settings: Settings, layout: Layout, first: FirstAdmin | None) -> None:
        """Who may call, where, and where to go from here; the first admin's secret, this once."""
        seconds = time.monotonic() - self._begin
        self._line()
        self._line(f"  {self._paint('1;32', 'ready')} in {seconds:.1f} s; Ctrl-C stops it")
        self._line()
        secure = "s" if settings.tls_cert else ""
        self._line(
            f"  HTTP  {self._paint('36', f'http{secure}://{near(settings.api_address)}')}{self._more(settings.api_address)}"
        )
        self._line(f"  gRPC  {self._paint('36', near(settings.proxy_address))}{self._more(settings.proxy_address)}")
        self._line(f"  logs  {layout.logs}")
        self._line()
        self._line(f"  calls {_who_may(settings)}")
        self._line(f"  TLS   {_how_private(settings)}")
        self._line()
        if first is not None:
            self._first(first, layout)
        self._line(f"  next: {self._paint('1', _next(settings, first))}")

    def _more(self, address: str) -> str:
        return "" if near(address) == address else self._paint("2", "  on every address")

    def _first(self, first: FirstAdmin, layout: Layout) -> None:
        self._line(f"  admin {self._paint('1', first.id)}, with the secret {self._paint('1', first.secret)}")
        self._line("        Keep it: it is not shown again. It is for `micro login --username admin` elsewhere;")
        self._line("        if it is lost, `micro server --reset-admin` makes another one;")
        if first.session:
            self._line("        the command line of this home is logged in already.")
        else:
            self._line("        nobody is logged in yet.")
        self._line()

    def stopping(self) -> None:
        """The last line."""
        self._line()
        self._line("  stopped")


def _next(settings: Settings, first: FirstAdmin | None) -> str:
    if first is None:
        with contextlib.suppress(errors.Error):  # what is wrong with the file, the next command says
            if Sessions(settings.home).read(LOCAL).session is None:
                return "micro login --username admin"
    elif not first.session:
        return f"micro login --username {first.id}"
    return "micro new greeter && cd greeter && micro run ."


def _who_may(settings: Settings) -> str:
    if settings.on_loopback:
        return "services: anyone can call them, the listeners are on loopback"
    if settings.public:
        return "services: anyone can call them, on every address: --public says so"
    return "services: an account is needed"


def _how_private(settings: Settings) -> str:
    if not settings.tls_cert:
        return "off" if settings.on_loopback else "off: what is in front of the listeners has to do it"
    more = ", and clients need a certificate: the command line of this home has one" if settings.tls_client_ca else ""
    return f"on, with {settings.tls_cert}{more}"
