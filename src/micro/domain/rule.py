"""Rules: who may call what. One pure decision, which every callee makes for itself."""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from micro.domain import errors, names
from micro.domain.account import Account

V = TypeVar("V")

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

    def __str__(self) -> str:
        """What it says, in words."""
        who = {
            ANYONE: "anyone",
            ANY_ACCOUNT: f"any account of namespace {self.namespace}",
            ANY_NAMESPACE: "any account of any namespace",
        }.get(self.scope, f"scope {self.scope}")
        verb = "may" if self.access is Access.GRANTED else "may not"
        place = "lowest priority" if self.priority == LOWEST else f"priority {self.priority}"
        return f"{who} {verb} call {self.resource}, {place}"

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
    return sorted(rules, key=_place)


def decide(rules: Sequence[Rule], account: Account | None, resource: Resource) -> Decision:
    """The first rule, of those that `ordered` gives, that is about the resource and the caller decides; none denies."""
    for rule in rules:
        if rule.applies(account) and rule.resource.covers(resource):
            return Decision(rule.access is Access.GRANTED, rule)
    return Decision(allowed=False)


class Rules:
    """The rules of a namespace, laid out so that a decision looks at few of them: says what `decide` says of them all.

    Never changes: `with_rule` and `without` give others. Ids are unique; of two rules with one id the later counts.
    """

    __slots__ = ("_by_id", "_names")

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._by_id = {rule.id: rule for rule in rules}
        names: dict[str, dict[str, dict[str, list[Rule]]]] = {}
        for rule in ordered(self._by_id.values()):
            endpoints = names.setdefault(rule.resource.name.lower(), {})
            endpoints.setdefault(rule.resource.endpoint.lower(), {}).setdefault(rule.scope, []).append(rule)
        self._names: _Patterns[_Patterns[dict[str, list[Rule]]]] = _Patterns(
            {name: _Patterns(endpoints) for name, endpoints in names.items()}
        )

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Rule]:
        """In the order in which they are looked at."""
        return iter(ordered(self._by_id.values()))

    def get(self, id: str) -> Rule | None:  # noqa: A002 - what it is
        """The rule of that id."""
        return self._by_id.get(id)

    def decide(self, account: Account | None, resource: Resource) -> Decision:
        """The first rule that is about the resource and the caller decides; none denies."""
        scopes = (ANYONE,) if account is None else (ANYONE, ANY_ACCOUNT, ANY_NAMESPACE, *account.scopes)
        endpoint = resource.endpoint.lower()
        first: Rule | None = None
        for endpoints in self._names.covering(resource.name.lower()):
            for by_scope in endpoints.covering(endpoint):
                for scope in scopes:
                    for rule in by_scope.get(scope, ()):
                        if first is not None and _place(first) <= _place(rule):
                            break
                        if rule.applies(account) and _covers(rule.resource.type, resource.type):
                            first = rule
                            break
        return Decision(first is not None and first.access is Access.GRANTED, first)

    def with_rule(self, rule: Rule) -> Rules:
        """These and that one, in the place of the one with its id."""
        return self.without(rule.id)._changed(rule, add=True)

    def without(self, id: str) -> Rules:  # noqa: A002
        """These without the one of that id, if there is one."""
        rule = self._by_id.get(id)
        return self if rule is None else self._changed(rule, add=False)

    def _changed(self, rule: Rule, *, add: bool) -> Rules:
        """Share with these all that the rule does not touch."""
        name, endpoint = rule.resource.name.lower(), rule.resource.endpoint.lower()
        endpoints = self._names.get(name) or _Patterns({})
        by_scope = dict(endpoints.get(endpoint) or {})
        kept = [each for each in by_scope.pop(rule.scope, ()) if each.id != rule.id]
        made = Rules()
        made._by_id = {**self._by_id, rule.id: rule}
        if add:
            kept = ordered([*kept, rule])
        else:
            del made._by_id[rule.id]
        if kept:
            by_scope[rule.scope] = kept
        made._names = self._names.replaced(name, endpoints.replaced(endpoint, by_scope))
        return made


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
    """Return the rule when it is one that can be stored: of the right form, and not about one of the platform's own
    services, which no rule is about. Raises INVALID_ARGUMENT that names what is wrong."""
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
    name = resource(str(rule.resource)).name
    own = name.lower().partition(".")[0]
    if own in names.CORE_SERVICES:
        raise errors.invalid_argument(
            f"{name} is the platform's own, and what it asks of its callers is fixed: `micro auth explain ACCOUNT "
            f"service:{own}:ENDPOINT` tells it; rules are about users' services, and * means all of those"
        )
    return rule


def _place(rule: Rule) -> tuple[int, bool, str]:
    return (-rule.priority, rule.access is Access.GRANTED, rule.id)


def _covers(pattern: str, part: str) -> bool:
    pattern, part = pattern.lower(), part.lower()
    return part.startswith(pattern[:-1]) if _open(pattern) else pattern == part


class _Patterns(Generic[V]):
    """Values by the pattern of a resource's part, in lower case. Never changes."""

    __slots__ = ("_lengths", "_values")

    def __init__(self, values: dict[str, V], lengths: dict[int, int] | None = None) -> None:
        """`lengths` tells how many patterns of each length cover more than one part, where that is known."""
        self._values = values
        self._lengths = Counter(map(len, filter(_open, values))) if lengths is None else lengths

    def __len__(self) -> int:
        return len(self._values)

    def get(self, pattern: str) -> V | None:
        return self._values.get(pattern)

    def covering(self, part: str) -> list[V]:
        """Those whose pattern covers the part, found without a look at the others."""
        patterns = [part, *(f"{part[: length - 1]}*" for length in self._lengths if length <= len(part) + 1)]
        return [self._values[pattern] for pattern in patterns if pattern in self._values]

    def replaced(self, pattern: str, value: V) -> _Patterns[V]:
        """These with another value for a pattern; without the pattern when the value is empty."""
        values, lengths = {**self._values, pattern: value}, self._lengths
        if not value:
            del values[pattern]
        if _open(pattern):
            size = len(pattern)
            count = lengths.get(size, 0) + (pattern in values) - (pattern in self._values)
            lengths = {each: many for each, many in {**lengths, size: count}.items() if many}
        return _Patterns(values, lengths)


def _open(pattern: str) -> bool:
    return pattern.endswith("*")
