"""How identity is laid out as records: tables, keys, and values as JSON.

Accounts and rules lie below their namespace's home, sessions below their account's lineage; both are drawn by lot. So a
namespace goes with one record, and all sessions of an account with one field: what lies below is out of reach at once,
and is removed in its own time.
"""

from __future__ import annotations

import hashlib
from typing import Any

from micro.domain.account import Account, Type
from micro.domain.namespace import Namespace, Quota
from micro.domain.rule import Access, Resource, Rule
from micro.ports.identity import Entry, Revoked, Session

DEPLOYMENT = "deployment"
"""Key "issuer": its name, and whether it has begun. Key "keys": the signing keys, the newest first, sealed."""

NAMESPACES = "namespaces"
"""By name."""

ACCOUNTS = "accounts"
"""HOME/ID."""

CALLED = "called"
"""HOME/digest: the account's id by its id and its name, which share one space."""

RULES = "rules"
"""HOME/ID."""

SESSIONS = "sessions"
"""HOME/LINEAGE/ID."""

PLACES = "session_places"
"""Key of the session by its id."""

ENDS = "session_ends"
"""MILLISECOND/ID: key of the session, to be cleared away then."""

TOKENS = "refresh_tokens"
"""Key of the session by the token's SHA-256, and when the token served, where it has."""

SERVED = "served_tokens"
"""ID/MICROSECOND/SHA-256: what a session's tokens were, the first first."""

REVOKED = "revoked"
"""NAMESPACE/SESSION."""

AUDIT = "audit"
"""POSITION.COUNT/NAMESPACE: entries of one change, at most ENTRIES."""

LEFTOVERS = "leftovers"
"""HOME/ or HOME/LINEAGE/: what nobody reaches any more, to be removed."""

ENTRIES = 500


def called(home: str, name: str) -> str:
    return f"{home}/{hashlib.sha256(name.encode()).hexdigest()}"


def place(home: str, lineage: str, session: str) -> str:
    return f"{home}/{lineage}/{session}"


def ends(expires: float, session: str) -> str:
    return f"{_milliseconds(expires)}/{session}"


def ended_by(now: float) -> str:
    """A key of ENDS that is greater than those of all that have ended."""
    return f"{_milliseconds(now + 0.001)}/"


def served(session: str, now: float, token: bytes) -> str:
    return f"{session}/{max(0, int(now * 1e6)):018d}/{token.hex()}"


def _milliseconds(seconds: float) -> str:
    return f"{max(0, int(seconds * 1000)):015d}"


def from_namespace(namespace: Namespace, home: str) -> dict[str, Any]:
    quota = namespace.quota
    return {
        "home": home,
        "quota": [quota.services, quota.instances, quota.requests, quota.upload],
        "created": namespace.created,
    }


def to_namespace(name: str, kept: dict[str, Any]) -> Namespace:
    return Namespace(name, Quota(*kept["quota"]), kept["created"])


def from_account(account: Account, secret: str, lineage: str) -> dict[str, Any]:
    return {
        "namespace": account.namespace,
        "id": account.id,
        "name": account.name,
        "type": account.type.value,
        "scopes": sorted(account.scopes),
        "metadata": dict(account.metadata),
        "created": account.created,
        "secret": secret,
        "lineage": lineage,
    }


def to_account(kept: dict[str, Any]) -> Account:
    return Account(
        kept["id"],
        kept["namespace"],
        kept["name"],
        Type(kept["type"]),
        frozenset(kept["scopes"]),
        kept["metadata"],
        kept["created"],
    )


def from_session(session: Session, spent: int = 0) -> dict[str, Any]:
    """`spent`: how many of its tokens are in SERVED."""
    return {
        "id": session.id,
        "account": session.account,
        "namespace": session.namespace,
        "current": session.current.hex(),
        "created": session.created,
        "refreshed": session.refreshed,
        "expires": session.expires,
        "address": session.address,
        "spent": spent,
    }


def to_session(kept: dict[str, Any]) -> Session:
    return Session(
        kept["id"],
        kept["account"],
        kept["namespace"],
        bytes.fromhex(kept["current"]),
        kept["created"],
        kept["refreshed"],
        kept["expires"],
        kept["address"],
    )


def from_rule(rule: Rule) -> dict[str, Any]:
    about = rule.resource
    return {
        "id": rule.id,
        "namespace": rule.namespace,
        "scope": rule.scope,
        "resource": [about.type, about.name, about.endpoint],
        "access": rule.access.value,
        "priority": rule.priority,
    }


def to_rule(kept: dict[str, Any]) -> Rule:
    return Rule(
        kept["id"],
        kept["namespace"],
        kept["scope"],
        Resource(*kept["resource"]),
        Access(kept["access"]),
        kept["priority"],
    )


def from_revoked(revoked: Revoked) -> list[Any]:
    return [revoked.namespace, revoked.session, revoked.before, revoked.until]


def from_entry(entry: Entry) -> list[Any]:
    return [entry.time, entry.actor, entry.action, entry.target, entry.namespace, entry.address, entry.outcome]
