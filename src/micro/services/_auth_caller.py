"""Who asks, from where, and what the audit log keeps of it."""

from __future__ import annotations

import ipaddress
from typing import Any, Protocol

from micro.domain import errors
from micro.domain.account import Account
from micro.ports.identity import Entry, no_namespace
from micro.services import _caller


def address(ctx: Any) -> str:
    """The IP address that a call comes from; empty when there is none.

    A gateway of this host appends whom it serves to `x-forwarded-for`. Nobody else is believed, nor what stands before.
    """
    peer = _ip((ctx.client_address or "").rpartition(":")[0].strip("[]"))
    if peer is not None and not peer.is_loopback:
        return str(peer)
    forwarded = _ip(ctx.metadata.get("x-forwarded-for", "").rpartition(",")[2].strip())
    return str(forwarded or peer or "")


def entry(ctx: Any, now: float, action: str, target: str, namespace: str) -> Entry:
    """A line of the audit log about what the caller does."""
    return Entry(now, str(ctx.account or ""), action, target, namespace, address(ctx))


class Namespaces(Protocol):
    """Tells which there are."""

    def has_namespace(self, name: str) -> bool: ...


def within(ctx: Any, asked: str, known: Namespaces) -> str:
    """The namespace that is asked for. Raises PERMISSION_DENIED for one that the caller does not belong to, and
    NOT_FOUND for one that there is none of."""
    namespace = _caller.namespace(ctx, asked)
    if not known.has_namespace(namespace):
        raise missing(namespace)
    return namespace


def missing(namespace: str) -> errors.Error:
    return no_namespace(namespace)


def administered(ctx: Any, asked: str, known: Namespaces) -> str:
    """The namespace that is asked for, which the caller has to administer. Raises PERMISSION_DENIED and NOT_FOUND."""
    namespace = within(ctx, asked, known)
    if not ctx.account.administers(namespace):
        raise no_admin(ctx, namespace)
    return namespace


def no_admin(ctx: Any, namespace: str) -> errors.Error:
    return errors.permission_denied(f"{ctx.account} lacks the admin scope in namespace {namespace}")


def own_or_administered(ctx: Any, asked: str, account: str, known: Namespaces) -> tuple[str, str]:
    """The namespace and the account's id; the caller's own for none, and only an admin may name another's."""
    caller: Account = ctx.account
    namespace = within(ctx, asked, known)
    wanted = account or caller.id
    if (namespace, wanted) != caller.key:
        if not account:
            raise errors.invalid_argument(f"{caller} is not of namespace {namespace}: say which account")
        administered(ctx, namespace, known)
    return namespace, wanted


def page(limit: int, usual: int, most: int) -> int:
    """How many to tell. Raises INVALID_ARGUMENT below 0."""
    if limit < 0:
        raise errors.invalid_argument(f"limit {limit} is below 0: leave it out for {usual}")
    return min(limit or usual, most)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
