"""Streams that are followed for ever: through restarts of the server, and telling of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from micro.cli import failures
from micro.cli.session import Session
from micro.domain.errors import Error

_AWAY = 0.5
"""Seconds between two attempts."""

Answer = TypeVar("Answer")


class Outage:
    """Tells that the server is away, and that it is back, each once.

    Args:
        back: what is said when it is back.
    """

    def __init__(self, session: Session, back: str = "the server is back") -> None:
        self._session, self._back = session, back
        environment = session.environment
        self._address, self._ours = environment.address, environment.trusted
        self._told = False

    @property
    def elsewhere(self) -> bool:
        """Whether the server of this home was followed and does not run: what listens there now may be another."""
        return self._ours and not self._session.environment.trusted

    def passes(self, error: Error) -> bool:
        """Whether an error is only that the server is away."""
        return failures.passes(error) or self.elsewhere

    def wait(self) -> None:
        """Say that the server is away, and wait a moment."""
        if not self._told:
            self._say(f"waiting for the server at {self._address} …")
        self._told = True
        self._session.sleep(_AWAY)

    def over(self) -> None:
        """The server has answered."""
        if self._told:
            self._say(self._back)
        self._told = False

    def _say(self, text: str) -> None:
        self._session.err.line(self._session.err.styled(text, "dim"))


def follow(
    connect: Callable[[], Iterator[Answer]], session: Session, back: str = "the server is back"
) -> Iterator[Answer]:
    """The answers of a stream, which is opened anew whenever it ends, for ever.

    Args:
        connect: opens the stream, where the last one ended.
        back: what is said when it is open again.

    Raises:
        Error: the stream could not be opened the first time, or for a reason that does not pass.
    """
    outage, reached = Outage(session, back), False
    while True:
        try:
            for answer in () if outage.elsewhere else connect():
                reached = True
                outage.over()
                yield answer
        except Error as error:
            if not (reached and outage.passes(error)):
                raise
        outage.wait()
