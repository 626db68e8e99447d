"""Following what the runtime tells of itself, to show what runs as it changes."""

from __future__ import annotations

import base64
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from micro.cli import failures, news
from micro.cli.consuming import Messages
from micro.cli.view import clock
from micro.domain.errors import Error, Kind

if TYPE_CHECKING:
    from micro.cli.platform import Platform
    from micro.cli.session import Session

TOPIC = "micro.runtime"

_SETTLED = 1.0
"""Seconds after the last event until one more look: it is told a moment before all of it is true."""

_AWAY = 2.0
"""Seconds between looks while nobody tells anything."""

_SELDOM = 30.0
"""Seconds between looks while somebody does."""

_LINES = 5
_CLEAR = "\x1b[2J\x1b[H"


class Feed:
    """The live feed, read by a thread of its own.

    Attributes:
        alive: whether somebody tells what happens.
        tried: whether that is known already.
    """

    def __init__(self, platform: Platform, pause: Callable[[], None]) -> None:
        self.alive = self.tried = False
        self._platform = platform
        self._pause = pause
        self._next = 0
        self._told: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def start(self) -> None:
        threading.Thread(target=self._follow, name="micro-feed", daemon=True).start()

    def wait(self, seconds: float) -> list[str] | None:
        """What was told since the last look, a line each; None when nothing is within that time."""
        try:
            found = self._told.get(timeout=seconds)
        except queue.Empty:
            return None
        with contextlib.suppress(queue.Empty):
            while True:
                found += self._told.get_nowait()
        return found

    def _follow(self) -> None:
        """For ever: who watches ends with the process."""
        while True:
            with contextlib.suppress(Error):
                for lines in self._connected():
                    self.alive = self.tried = True
                    self._told.put(lines)
            if self.alive or not self.tried:
                self.alive, self.tried = False, True
                self._told.put([])
            self._pause()

    def _connected(self) -> Iterator[list[str]]:
        start = {"offset": str(self._next)} if self._next else {"new": True}
        said = Messages({"topic": TOPIC, "from": start, "autoAck": True})
        answers = self._platform.events_stream("Stream/Consume", said)
        try:
            for answer in answers:
                events = answer.get("events", [])
                self._next = int(events[-1]["offset"]) + 1 if events else int(answer.get("next", self._next))
                yield [_line(event) for event in events]
        finally:
            said.end()
            answers.close()


def follow(show: Callable[[], None], session: Session, *, screen: bool) -> None:
    """Call `show` now and whenever something has changed, for ever.

    Args:
        screen: whether each takes the place of the one before, with what happened last below it.

    Raises:
        Error: the first time; later ones are shown, and pass.
    """
    feed = Feed(session.platform, lambda: session.sleep(_AWAY))
    last: deque[str] = deque(maxlen=_LINES)
    failure = ""

    def shown(*, first: bool = False) -> None:
        nonlocal failure
        session.out.stream.write(_CLEAR if screen else "")
        try:
            show()
            failure = ""
        except Error as error:
            if first or not _passes(error):
                raise
            if screen or failure != str(error):
                session.err.line(f"{error}; trying again")
            failure = str(error)
        if screen:
            _below(last, feed, session)

    shown(first=True)
    feed.start()
    stale = True
    while True:
        lines = feed.wait(_SETTLED if stale else _SELDOM if feed.alive else _AWAY)
        stale = lines is not None
        last.extend(lines or ())
        shown()


def _below(last: deque[str], feed: Feed, session: Session) -> None:
    session.out.line()
    for line in last:
        session.out.line(session.out.cut(line))
    how = "live" if feed.alive or not feed.tried else f"events cannot be reached: looking every {_AWAY:g} s"
    session.out.line(session.out.styled(f"{how}; Ctrl-C ends", "dim"))


def _passes(error: Error) -> bool:
    away = (Kind.UNAVAILABLE, Kind.CANCELED, Kind.DEADLINE_EXCEEDED)
    return isinstance(error, failures.UnreachableError | failures.NoServiceError) or error.kind in away


def _line(event: dict[str, Any]) -> str:
    key = str(event.get("key", ""))
    said = news.words(base64.b64decode(event.get("payload", "")), key)
    return f"{clock(str(event.get('timestamp', '')))}  {key}  {said}"
