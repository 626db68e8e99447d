"""Who calls, in tests of handlers."""

from __future__ import annotations

from collections.abc import Mapping

from micro.domain.account import Account
from micro.rpc.context import Context
from micro.rpc.guard import Guard


class As(Guard):
    """Lets everybody in as one account; None for a caller without one. May be changed between calls."""

    def __init__(self, account: Account | None, actor: Account | None = None) -> None:
        self.account = account
        self.actor = actor

    def admit(self, ctx: Context, headers: Mapping[bytes, bytes]) -> None:
        ctx.account = self.account
        ctx.actor = self.actor

    def reveal(self, headers: Mapping[bytes, bytes]) -> None:
        return
