"""Who may come in: asked before anything of a call is read but its headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from micro.rpc.context import Context

AUTHORIZATION = b"authorization"
"""`Bearer TOKEN`: the account that the call is made as."""

ACTOR = b"micro-actor"
"""`Bearer TOKEN`: the service that makes the call for that account, where one does."""


class Guard(Protocol):
    """Decides for every call. Runs for each of them, so it answers from memory and awaits nothing."""

    def admit(self, ctx: Context, headers: Mapping[bytes, bytes]) -> None:
        """Let a call in, or raise; leaves what it learned in `ctx.account` and `ctx.actor`.

        Raises:
            Error: UNAUTHENTICATED for a token that does not hold, and without one where one is needed;
                PERMISSION_DENIED; UNAVAILABLE while it is not known yet who may.
        """
        ...
