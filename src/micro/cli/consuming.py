"""Consuming a topic, which is waited for: one event after the other, acknowledged once it has been shown, through
restarts of the server."""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from micro.cli import failures, following
from micro.cli.session import Session
from micro.domain.errors import Error, Kind

_IN_FLIGHT = 64

_LOOK = 1.0
"""Seconds between looks for a topic that is not there yet."""

Show = Callable[[Mapping[str, Any]], None]


class Messages:
    """What is sent on one stream: the first message, and what is said until `end`.

    It can be gone through again, as when the token was renewed; whoever went through it before then ends.
    """

    def __init__(self, first: Mapping[str, Any]) -> None:
        self._first = first
        self._said: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        self.end()
        self._said = queue.SimpleQueue()
        return self._told(self._said)

    def _told(self, said: queue.SimpleQueue[Mapping[str, Any] | None]) -> Iterator[Mapping[str, Any]]:
        yield self._first
        while (message := said.get()) is not None:
            yield message

    def say(self, **message: Any) -> None:
        self._said.put(message)

    def end(self) -> None:
        self._said.put(None)


class Consumer:
    """A member of a group, or one of its own.

    Args:
        topic: what is consumed.
        group: whose progress is shared; empty to get every event, alone.
        start: where a new group, or one of its own, begins; None for new events.
        limit: how many events; 0 for no end.
        show: is called for each event, which counts as handled when it returns.
    """

    def __init__(
        self, topic: str, group: str, start: Mapping[str, Any] | None, limit: int, show: Show, session: Session
    ) -> None:
        self._topic, self._group, self._start = topic, group, start
        self._limit, self._seen, self._show, self._session = limit, 0, show, session
        self._reached = self._over = self._interrupted = False
        self._failure: OSError | None = None
        self._messages = Messages({})
        self._outage = following.Outage(session)

    def run(self) -> int:
        """Consume until the limit, Ctrl-C or an error that does not pass; returns the exit code."""
        with self._interrupts():
            while not self._over:
                try:
                    if not self._outage.elsewhere:
                        self._connected()
                except Error as error:
                    if self._reset(error):
                        continue
                if not self._over:
                    self._outage.wait()
        if self._failure:
            raise self._failure
        return failures.INTERRUPTED if self._interrupted else failures.OK

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """With a group, Ctrl-C gives back what was not shown yet; a second one does not wait for that."""
        if not self._group:
            yield
            return

        def leave(*_: object) -> None:
            if self._over:
                raise KeyboardInterrupt
            self._over = self._interrupted = True
            self._messages.say(drain=True)

        before = signal.signal(signal.SIGINT, leave)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _request(self) -> dict[str, Any]:
        left = self._limit - self._seen if self._limit else _IN_FLIGHT
        request: dict[str, Any] = {"topic": self._topic, "maxInFlight": min(left, _IN_FLIGHT)}
        # Alone, nobody else could handle what was not acknowledged; in a group, somebody shall.
        request |= {"group": self._group} if self._group else {"autoAck": True}
        return request | ({"from": dict(self._start)} if self._start else {})

    def _connected(self) -> None:
        """Consume until the stream ends."""
        said = self._messages = Messages(self._request())
        answers = self._session.platform.events_stream("Stream/Consume", said)
        try:
            for answer in answers:
                self._outage.over()
                if "events" not in answer:
                    self._begun(int(answer.get("next", 0)))
                elif self._group:
                    self._take(answer["events"])
                else:
                    self._pass(answer["events"])
                if self._over and not self._group:
                    return
        finally:
            said.end()
            answers.close()

    def _begun(self, after: int) -> None:
        if not after:
            return
        if not self._group:
            self._start = {"offset": str(after)}
        if not self._reached:
            group = f", group {self._group}" if self._group else ""
            where = f"consuming {self._topic} from {after} on{group}; Ctrl-C ends"
            self._session.err.line(self._session.err.styled(where, "dim"))
        self._reached = True

    def _pass(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            self._shown(event)
            self._start = {"offset": str(int(event.get("offset", 0)) + 1)}
            if self._over:
                return

    def _take(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Show events and acknowledge them; those that are too many, or whose reader has gone, are given back."""
        done = 0
        for event in events:
            if self._over:
                break
            try:
                self._shown(event)
            except OSError as error:
                self._failure, self._over = error, True
                break
            done += 1
        deliveries = [str(event.get("delivery", 0)) for event in events]
        said: dict[str, Any] = {"acks": deliveries[:done]}
        said["nacks"] = [{"delivery": one, "release": True} for one in deliveries[done:]]
        self._messages.say(**said, drain=self._over)

    def _shown(self, event: Mapping[str, Any]) -> None:
        self._show(event)
        self._seen += 1
        self._over = self._over or self._seen == self._limit

    def _reset(self, error: Error) -> bool:
        """Whether the group only was told to go on from elsewhere; raises what does not pass by itself."""
        away = self._outage.passes(error)
        if self._over and away:
            return False  # what was acknowledged last may come again
        reset = not away and self._reached and error.kind is Kind.ABORTED and self._group_is_there()
        if not (reset or (away and self._reached)):
            raise error
        return reset

    def _group_is_there(self) -> bool:
        if not self._group:
            return False
        groups = self._session.platform.events("Groups/List", {"topic": self._topic}).get("groups", [])
        return any(one.get("name") == self._group for one in groups)


def awaited(topic: str, known: Callable[[], list[str]], session: Session) -> bool:
    """Return when a topic is there: consuming would make it, mistyped or not. Tells whether it had to be waited for.

    Args:
        known: tells the topics that there are.
    """
    waited = False
    for there in following.follow(lambda: _looks(topic, session), session):
        if there:
            break
        if not waited:
            near = ""
            with contextlib.suppress(Error):
                near = failures.closest(topic, known())
            meant = f" (did you mean {near}?)" if near else ""
            session.err.line(f"there is no topic {topic} yet{meant}; waiting for its first event, Ctrl-C ends")
        waited = True
    return waited


def _looks(topic: str, session: Session) -> Iterator[bool]:
    """Whether a topic is there, again and again; whoever may not ask that is let go on."""
    while True:
        try:
            session.platform.events("Topics/Info", {"topic": topic})
        except Error as error:
            if error.kind not in (Kind.NOT_FOUND, Kind.PERMISSION_DENIED):
                raise
            yield error.kind is Kind.PERMISSION_DENIED
        else:
            yield True
        session.sleep(_LOOK)
