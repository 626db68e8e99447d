"""What can go wrong in a command, and the exit code that each kind owns.

`micro --help` lists the codes; scripts depend on them.
"""

from __future__ import annotations

from micro.domain.errors import Error, Kind

OK = 0
FAILED = 1
USAGE = 2
NO_SERVICE = 4
NO_ENDPOINT = 5
ANSWERED = 127
INTERRUPTED = 130

CODES = (
    (OK, "ok"),
    (FAILED, "any other failure"),
    (USAGE, "wrong usage, or not authorised"),
    (NO_SERVICE, "service not found, or server unreachable"),
    (NO_ENDPOINT, "endpoint not found"),
    (ANSWERED, "the service answered with an error"),
    (INTERRUPTED, "interrupted by Ctrl-C"),
)


class UsageError(Error):
    """The command was typed wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(Kind.INVALID_ARGUMENT, message)


class UnreachableError(Error):
    """No server answers at the address."""

    def __init__(self, message: str) -> None:
        super().__init__(Kind.UNAVAILABLE, message)


class NoServiceError(Error):
    """The server answers and knows no such service."""

    def __init__(self, message: str) -> None:
        super().__init__(Kind.NOT_FOUND, message)


class StartingError(NoServiceError):
    """The service is known and cannot be called yet."""


class NoEndpointError(Error):
    """The service is there and has no such endpoint."""

    def __init__(self, message: str) -> None:
        super().__init__(Kind.UNIMPLEMENTED, message)


class AnsweredError(Error):
    """A service answered with an error; shown with its kind, as its author raised it.

    Attributes:
        body: the error as JSON, as it came.
    """

    def __init__(self, kind: Kind, message: str, body: bytes = b"") -> None:
        super().__init__(kind, message)
        self.body = body

    def __str__(self) -> str:
        return f"{self.kind.code}: {self.message}" if self.message else self.kind.code


def passes(error: Error) -> bool:
    """Whether what was under way may go on by itself: who was asked is away, or not back yet."""
    return isinstance(error, UnreachableError) or error.kind in (Kind.UNAVAILABLE, Kind.CANCELED)


_OWN_CODES: tuple[tuple[type[Error], int], ...] = (
    (UsageError, USAGE),
    (UnreachableError, NO_SERVICE),
    (NoServiceError, NO_SERVICE),
    (NoEndpointError, NO_ENDPOINT),
)
_DENIED = (Kind.UNAUTHENTICATED, Kind.PERMISSION_DENIED)


def exit_code(error: Error) -> int:
    """The exit code that belongs to an error."""
    for kind, code in _OWN_CODES:
        if isinstance(error, kind):
            return code
    if error.kind in _DENIED:
        return USAGE
    if isinstance(error, AnsweredError):
        return ANSWERED
    return USAGE if error.kind is Kind.INVALID_ARGUMENT else FAILED


def closest(word: str, known: list[str]) -> str:
    """The known word that was probably meant; empty when none is near."""
    import difflib

    folded = {name.lower().replace("_", "-"): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", "-"), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else ""
