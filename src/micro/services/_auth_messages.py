"""Identity between the domain's values and auth's messages."""

from __future__ import annotations

import datetime as dt

from micro.domain import errors
from micro.domain.account import Account
from micro.domain.namespace import Namespace, Quota
from micro.domain.rule import Access, Resource, Rule
from micro.ports.identity import Entry, Session
from micro.ports.tokens import PublicKey
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb

_ACCESS = {Access.GRANTED: pb.Access.GRANTED, Access.DENIED: pb.Access.DENIED}
_FROM_ACCESS = {message: access for access, message in _ACCESS.items()}


def rfc3339(seconds: float) -> str:
    """A moment, given in seconds since 1970, to the millisecond."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(text: str, field: str) -> float | None:
    """Seconds since 1970 of a moment as RFC 3339 writes it; None for none. Raises INVALID_ARGUMENT."""
    if not text:
        return None
    try:
        found = dt.datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.timestamp()
    except (ValueError, OverflowError):
        pass
    raise errors.invalid_argument(f"{field} {text[:40]!r} is no moment: give one such as 2026-01-31T08:00:00Z")


def to_account(account: Account) -> pb.Account:
    return pb.Account(
        id=account.id,
        name=account.name or account.id,
        type=account.type.value,
        namespace=account.namespace,
        scopes=sorted(account.scopes),
        metadata=dict(account.metadata),
        created=account.created,
    )


def to_rule(rule: Rule) -> pb.Rule:
    return pb.Rule(
        id=rule.id,
        scope=rule.scope,
        resource=pb.Resource(type=rule.resource.type, name=rule.resource.name, endpoint=rule.resource.endpoint),
        access=_ACCESS[rule.access],
        priority=rule.priority,
        namespace=rule.namespace,
    )


def from_rule(rule: pb.Rule, namespace: str) -> Rule:
    """The rule, of that namespace. Raises INVALID_ARGUMENT for one without a resource, or that says nothing."""
    if rule.resource is None:
        raise errors.invalid_argument(f"rule {rule.id[:200]!r} has no resource: say what it is about")
    access = _FROM_ACCESS.get(rule.access)
    if access is None:
        raise errors.invalid_argument(f"rule {rule.id[:200]!r} does not say whether they may: set access")
    resource = Resource(rule.resource.type, rule.resource.name, rule.resource.endpoint)
    return Rule(rule.id, namespace, rule.scope, resource, access, rule.priority)


def to_key(key: PublicKey) -> pb.Key:
    return pb.Key(kid=key.kid, kty="EC", crv="P-256", x=key.x, y=key.y, alg="ES256", use="sig", created=key.created)


def to_namespace(namespace: Namespace) -> pb.Namespace:
    quota = namespace.quota
    return pb.Namespace(
        name=namespace.name,
        quota=pb.Quota(
            services=quota.services,
            instances=quota.instances,
            requests=quota.requests,
            upload=quota.upload,
            topics=quota.topics,
            events=quota.events,
        ),
        created=namespace.created,
    )


def from_quota(quota: pb.Quota) -> Quota:
    """Raises INVALID_ARGUMENT for limits that cannot be meant."""
    return Quota(quota.services, quota.instances, quota.requests, quota.upload, quota.topics, quota.events).checked()


def to_session(session: Session) -> pb.Session:
    return pb.Session(
        id=session.id,
        account=session.account,
        namespace=session.namespace,
        created=rfc3339(session.created),
        refreshed=rfc3339(session.refreshed),
        expires=rfc3339(session.expires),
        address=session.address,
    )


def to_entry(entry: Entry) -> pb.AuditEntry:
    return pb.AuditEntry(
        time=rfc3339(entry.time),
        actor=entry.actor,
        action=entry.action,
        target=entry.target,
        namespace=entry.namespace,
        address=entry.address,
        outcome=entry.outcome,
    )
