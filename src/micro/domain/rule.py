"""Rules: who may call what. One pure decision, which every callee makes for itself."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from micro.domain import errors
from micro.domain.account import Account

ANYONE = ""
ANY_ACCOUNT = "*"
ANY_NAMESPACE = "+"

BUILT_IN = "default"
"""Id of the rule that stands below all others; it follows from how the server was started, and is not stored."""

LOWEST = -(2**31)
_HIGHEST = 2**31 - 1

_PART = re.compile(r"[A-Za-z0-9_./-]{1,255}\*?|\*")
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/-]){0,127}")


class Access(enum.StrEnum):
    """What a rule says."""

    GRANTED = "granted"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Resource:
    """What is called: "service", the service's name, and the endpoint ("Helloworld.Call").

    In a rule each part may be "*" for all, or end in "*" for all that begin so. Case is not looked at.
    """

    type: str = "*"
    name: str = "*"
    endpoint: str = "*"

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{self.endpoint}"

    def covers(self, other: Resource) -> bool:
        """Whether a rule about this is about the other."""
        return (
            _covers(self.type, other.type) and _covers(self.name, other.name) and _covers(self.endpoint, other.endpoint)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Lets callers through, or does not.

    Attributes:
        scope: ANYONE, ANY_ACCOUNT of the rule's namespace, ANY_NAMESPACE's accounts, or a scope's name.
        priority: rules of a higher one are looked at first; of the same one, those that deny.
    """

    id: str
    namespace: str
    scope: str = ANYONE
    resource: Resource = Resource()
    access: Access = Access.GRANTED
    priority: int = 0

    def applies(self, account: Account | None) -> bool:
        """Whether the rule is about this caller; None is one without an account.

        An account of another namespace counts as none of this one's: only ANY_NAMESPACE is about it.
        """
        if account is None:
            return self.scope == ANYONE
        if self.scope == ANY_NAMESPACE:
            return True
        return account.belongs(self.namespace) and (self.scope in (ANYONE, ANY_ACCOUNT) or self.scope in account.scopes)


@dataclass(frozen=True, slots=True)
class Decision:
    """What came out, and the rule that it came from; None when none applied."""

    allowed: bool
    rule: Rule | None = None


def built_in(namespace: str, *, public: bool) -> Rule:
    """The rule below all others: lets anyone through in a public deployment, any account of the namespace elsewhere."""
    return Rule(BUILT_IN, namespace, ANYONE if public else ANY_ACCOUNT, Resource(), Access.GRANTED, LOWEST)


def ordered(rules: Iterable[Rule]) -> list[Rule]:
    """In the order in which they are looked at: by priority, the highest first, then those that deny, then by id."""
    return sorted(rules, key=lambda rule: (-rule.priority, rule.access is Access.GRANTED, rule.id))


def decide(rules: Sequence[Rule], account: Account | None, resource: Resource) -> Decision:
    """The first rule, of those that `ordered` gives, that is about the resource and the caller decides; none denies."""
    for rule in rules:
        if rule.applies(account) and rule.resource.covers(resource):
            return Decision(rule.access is Access.GRANTED, rule)
    return Decision(allowed=False)


def allowed(rules: Iterable[Rule], account: Account | None, resource: Resource) -> bool:
    """Whether the caller may, by these rules in whatever order they come."""
    return decide(ordered(rules), account, resource).allowed


def resource(text: str, *, exact: bool = False) -> Resource:
    """Parse "type:name:endpoint". Raises INVALID_ARGUMENT; for patterns too when `exact`."""
    parts = text.split(":")
    legal = len(parts) == 3 and all(_PART.fullmatch(part) for part in parts) and not (exact and "*" in text)
    if not legal:
        wanted = "service:NAME:ENDPOINT" + ("" if exact else ', each a name, "*", or a beginning and "*"')
        raise errors.invalid_argument(f"{text[:200]!r} is not a resource: write {wanted}")
    return Resource(*parts)


def checked(rule: Rule) -> Rule:
    """Return the rule when it is one that can be stored. Raises INVALID_ARGUMENT that names what is wrong."""
    if not _ID.fullmatch(rule.id) or rule.id == BUILT_IN:
        why = "is the built-in rule's" if rule.id == BUILT_IN else "is not an id"
        raise errors.invalid_argument(f"{rule.id[:200]!r} {why}: use up to 128 letters, digits and ._:/-")
    if rule.scope not in (ANYONE, ANY_ACCOUNT, ANY_NAMESPACE) and not _ID.fullmatch(rule.scope):
        raise errors.invalid_argument(
            f"{rule.scope[:200]!r} is not a scope: write a scope's name, '*' for any account, '+' for any account of "
            "any namespace, or nothing for anyone"
        )
    if not LOWEST < rule.priority <= _HIGHEST:
        raise errors.invalid_argument(f"priority {rule.priority} is out of range: use {LOWEST + 1} to {_HIGHEST}")
    resource(str(rule.resource))
    return rule


def _covers(pattern: str, part: str) -> bool:
    pattern, part = pattern.lower(), part.lower()
    return part.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == part
