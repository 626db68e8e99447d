"""Who calls one of the platform's services, and about which namespace: what a handler asks before it does anything."""

from __future__ import annotations

from typing import Any

from micro.domain import errors
from micro.domain.account import Account

ALL = "*"
"""What stands for all in a request: all namespaces, or all accounts of one."""


def account(ctx: Any) -> Account:
    """Who calls. Raises UNAUTHENTICATED for nobody, whom no guard lets in: a handler without one opens nothing up."""
    found: Account | None = ctx.account
    if found is None:
        raise errors.unauthenticated("this needs an account: log in with `micro login`")
    return found


def namespace(ctx: Any, asked: str) -> str:
    """The namespace that a request is about. Raises PERMISSION_DENIED when the caller does not belong there."""
    account(ctx)
    found: str = ctx.within(asked)
    return found


def listed(ctx: Any, asked: str) -> str:
    """The namespace that a list is asked of, or empty for all. Raises PERMISSION_DENIED."""
    if asked != ALL:
        return namespace(ctx, asked)
    if not account(ctx).platform:
        raise errors.permission_denied(f"{ctx.account} sees one namespace only: all are for admins of namespace micro")
    return ""


def visible(ctx: Any, asked: str) -> str:
    """As `listed`, where nothing asked for means all that the caller may see."""
    return "" if not asked and account(ctx).platform else listed(ctx, asked)
