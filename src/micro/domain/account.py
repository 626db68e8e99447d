"""Accounts: who calls, to which namespace they belong, and what they hold."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from micro.domain import errors, names

ADMIN = "admin"
"""The scope that lets an account change other people's things in its namespace; in "micro", in every namespace."""

SHORTEST_SECRET = 8
LONGEST_SECRET = 1024

_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@+-]){0,127}")
_SCOPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/-]){0,63}")
_LONGEST_NAME = 128
_MOST_SCOPES = 32
_MOST_METADATA = 2048


class Type(enum.StrEnum):
    """What kind of caller."""

    USER = "user"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who calls.

    Attributes:
        id: unique in the namespace.
        namespace: where it belongs.
        name: what people call it; unique in the namespace.
        created: RFC 3339; empty for the platform's own, which are not stored. With the id it tells an account from a
            later one of the same id.
    """

    id: str
    namespace: str
    name: str = ""
    type: Type = Type.USER
    scopes: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.id}"

    @property
    def key(self) -> tuple[str, str]:
        return (self.namespace, self.id)

    @property
    def platform(self) -> bool:
        """Whether it may act in every namespace: it is an admin of "micro", which the platform's own services are."""
        return self.namespace == names.DEFAULT_NAMESPACE and ADMIN in self.scopes

    def belongs(self, namespace: str) -> bool:
        """Whether it counts as one of that namespace's own."""
        return self.namespace == namespace or self.platform

    def administers(self, namespace: str) -> bool:
        """Whether it may change other people's things there."""
        return ADMIN in self.scopes and self.belongs(namespace)

    @property
    def service(self) -> str:
        """The one service that an account made by the runtime stands for; empty for all others."""
        return self.metadata.get("service", "") if self.type is Type.SERVICE else ""


def account_id(text: str) -> str:
    """Return the id when it is one. Raises INVALID_ARGUMENT that says what is allowed."""
    if not _ID.fullmatch(text):
        raise errors.invalid_argument(
            f"{text[:200]!r} is not an account id: use up to 128 letters, digits, dots, hyphens, @, + and underscores"
        )
    return text


def called(text: str) -> str:
    """Return what an account is called when it is one line to print. Raises INVALID_ARGUMENT."""
    if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable() or text != text.strip():
        raise errors.invalid_argument(
            f"{text[:200]!r} is not a name of an account: use up to {_LONGEST_NAME} characters in one line"
        )
    return text


def scopes(given: Iterable[str]) -> frozenset[str]:
    """Return the scopes when all are. Raises INVALID_ARGUMENT that names the first that is none."""
    found = frozenset(given)
    for scope in sorted(found):
        if not _SCOPE.fullmatch(scope):
            raise errors.invalid_argument(f"{scope[:200]!r} is not a scope: use up to 64 letters, digits and ._:/-")
    if len(found) > _MOST_SCOPES:
        raise errors.invalid_argument(f"{len(found)} scopes are too many: {_MOST_SCOPES} are the most")
    return found


def secret(text: str) -> str:
    """Return a secret that somebody chose. Raises INVALID_ARGUMENT, which does not quote it."""
    if len(text) < SHORTEST_SECRET:
        raise errors.invalid_argument(f"the secret is too short: use at least {SHORTEST_SECRET} characters")
    if len(text) > LONGEST_SECRET:
        raise errors.invalid_argument(f"the secret is too long: {LONGEST_SECRET} characters are the most")
    return text


def metadata(pairs: Mapping[str, str]) -> dict[str, str]:
    """Return the pairs when they are short, as JSON: they travel in every token. Raises INVALID_ARGUMENT."""
    size = len(json.dumps(dict(pairs)))
    if size > _MOST_METADATA:
        raise errors.invalid_argument(
            f"metadata of {size} characters as JSON is too large: {_MOST_METADATA} are the most"
        )
    return dict(pairs)
