"""The accounts of the platform's own services. They are not stored: their secrets follow from the server's."""

from __future__ import annotations

import hashlib
import hmac

from micro.domain import names
from micro.domain.account import ADMIN, Account, Type

SERVER = "server"
"""Id of `micro server` itself."""

IDS = frozenset({*names.CORE_SERVICES, SERVER})
"""Ids in namespace "micro" that nobody else can have."""


def account(id: str) -> Account:  # noqa: A002 - what it is
    """The account of one of them."""
    return Account(id, names.DEFAULT_NAMESPACE, name=id, type=Type.SERVICE, scopes=frozenset({ADMIN}))


def reserved(namespace: str, id: str) -> bool:  # noqa: A002
    """Whether the id is one of theirs."""
    return namespace == names.DEFAULT_NAMESPACE and id in IDS


def is_core(account: Account) -> bool:
    """Whether it is one of them."""
    return reserved(account.namespace, account.id)


def secret(server_secret: str, id: str) -> str:  # noqa: A002
    """The secret of one of them: HMAC-SHA256, in hex."""
    return hmac.new(server_secret.encode(), f"core:{id}".encode(), hashlib.sha256).hexdigest()


def proven(server_secret: str, namespace: str, id: str, shown: str) -> Account | None:  # noqa: A002
    """The account, when it is one of theirs and the secret is its own. Nobody can guess one of 256 bits, so that
    attempts need not be counted."""
    if not server_secret or not reserved(namespace, id):
        return None
    right = hmac.compare_digest(secret(server_secret, id).encode(), shown.encode())
    return account(id) if right else None
