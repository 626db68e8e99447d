"""Who may come in: asked before anything of a call is read but its headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from micro.domain.errors import Error

if TYPE_CHECKING:
    from micro.rpc.context import Context

AUTHORIZATION = b"authorization"
"""`Bearer TOKEN`: the account that the call is made as."""

ACTOR = b"micro-actor"
"""`Bearer TOKEN`: the service that makes the call for that account, where one does."""

NAMESPACE = b"micro-namespace"

REFUSED = b"micro-refused"
"""In the trailers of a gRPC call: the header whose token does not hold. Only a guard says so, so nothing has come of
the call, and a caller that can log in anew may repeat it."""


class Guard(Protocol):
    """Decides for every call. Runs for each of them, so it answers from memory and awaits nothing."""

    def admit(self, ctx: Context, headers: Mapping[bytes, bytes]) -> None:
        """Let a call in, or raise; leaves what it learned in `ctx.account` and `ctx.actor`.

        Raises:
            Error: UNAUTHENTICATED for a token that does not hold (RefusedTokenError), and without one where one is
                needed; PERMISSION_DENIED; UNAVAILABLE while it is not known yet who may.
        """
        ...

    def keep(self, ctx: Context, headers: Mapping[bytes, bytes], end: Callable[[Error], None]) -> Callable[[], None]:
        """Have a call that was just let in, and goes on, ended once it would not be let in any more.

        Args:
            end: given what a new call would be told; called by the event loop that the call runs in.

        Returns what to call when the call is done. By default nothing ends it.
        """
        return _nothing

    def reveal(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a caller know that there is nothing at a path, and what there is instead, or raise as `admit` does."""
        ...


def _nothing() -> None:
    pass


class RefusedTokenError(Error):
    """A token that does not hold; `header` is the one that it came in."""

    def __init__(self, cause: Error, header: bytes) -> None:
        super().__init__(cause.kind, cause.message)
        self.header = header
