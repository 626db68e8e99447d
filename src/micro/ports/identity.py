"""Where accounts, rules, sessions, keys, namespaces and the audit log are kept."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from micro.domain import errors
from micro.domain.account import Account
from micro.domain.namespace import Namespace
from micro.domain.rule import Rule

AUDIT_KEPT = 100_000
"""Entries of the audit log of namespace "micro", and as many of all others together; older ones make room. So no other
can flush what is kept of "micro"."""

AUDIT_EACH = 20_000
"""Entries of one namespace other than "micro": none can flush what is kept of others."""

SERVED_KEPT = 1000
"""Refresh tokens that a session is remembered to have used; older ones are unknown."""

SESSIONS_LISTED = 1000
"""Sessions in one answer at most."""


@dataclass(frozen=True, slots=True)
class Session:
    """What began with one login.

    Attributes:
        id: says nothing about its tokens.
        current: SHA-256 of the refresh token that serves next, 32 bytes.
        created, refreshed, expires: seconds since 1970.
        address: IP address that it began from.
    """

    id: str
    account: str
    namespace: str
    current: bytes
    created: float
    refreshed: float
    expires: float
    address: str = ""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key: PKCS #8 in PEM; `created` in seconds since 1970."""

    kid: str
    private: bytes
    created: float


@dataclass(frozen=True, slots=True)
class Revoked:
    """Access tokens of a session, or of all whose id begins with `session`, made before `before` are refused until
    `until` (then all have ended by themselves). Seconds since 1970."""

    namespace: str
    session: str
    before: float
    until: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log; `time` in seconds since 1970, `actor` as NAMESPACE/ID.

    Attributes:
        place: where it lies in the log, to go on from; given by the store.
    """

    time: float
    actor: str
    action: str
    target: str
    namespace: str
    address: str
    outcome: str = "ok"
    place: str = field(default="", compare=False)


class RefreshTokenReusedError(errors.Error):
    """ABORTED: a refresh token came that has served before, so two hold it. `session` is the one that it was of."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            errors.Kind.ABORTED, f"session {session.id} was asked for with a refresh token that has served"
        )
        self.session = session


class IdentityStore(ABC):
    """Durable and whole: a method that returns has stored all of what it was given, one that raises nothing of it.

    Every change takes the entries of the audit log that belong to it, and stores them with it. All methods raise
    UNAVAILABLE when the state cannot be reached, RESOURCE_EXHAUSTED when the disk is full, and DATA_LOSS when what is
    there turns out to be damaged.
    """

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open. Raises DATA_LOSS, with the way to restore, when what is there is damaged."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether the last operation reached the state."""

    # --- accounts -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_account(self, account: Account, secret: str, *audit: Entry) -> None:
        """Add an account with its secret's hash. Raises ALREADY_EXISTS when its id or name is another's there,
        as id or as name; NOT_FOUND when there is no such namespace."""

    @abstractmethod
    async def create_first(self, account: Account, secret: str, *audit: Entry) -> bool:
        """Add the account that a deployment begins with, once in the life of the state; whether this was the time.

        It was not when it was asked for before, whatever became of that account, or when a user has one there. Raises
        as `create_account` does, and then may be asked for again."""

    @abstractmethod
    async def account(self, namespace: str, id: str) -> Account | None:  # noqa: A002 - what it is
        """The account of that id."""

    @abstractmethod
    async def secret(self, namespace: str, id_or_name: str) -> tuple[Account, str] | None:
        """The account of that id, else of that name, with its secret's hash."""

    @abstractmethod
    async def accounts(self, namespace: str, *, after: str = "", limit: int = 100) -> list[Account]:
        """Accounts of a namespace with an id greater than `after`, sorted by id (by code points)."""

    @abstractmethod
    async def replace_account(
        self, account: Account, *audit: Entry, secret: str | None = None, revoked: Revoked | None = None
    ) -> None:
        """Store an account anew; its secret's hash too where one is given, which ends its sessions.
        Raises NOT_FOUND, and ALREADY_EXISTS for a name that is another's."""

    @abstractmethod
    async def delete_account(self, namespace: str, id: str, revoked: Revoked, *audit: Entry) -> None:  # noqa: A002
        """Remove an account and its sessions. Raises NOT_FOUND."""

    # --- sessions -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def open_session(self, session: Session, *audit: Entry) -> None:
        """Add a session. Raises NOT_FOUND when its account is gone by now."""

    @abstractmethod
    async def rotate(self, used: bytes, fresh: bytes, now: float, expires: float) -> Session | None:
        """Put `fresh` in the place of the refresh token `used` (both SHA-256), once, even when asked twice at a time.

        For REPEAT_SECONDS it may be asked again, as long as `fresh` is in the place and is given again: then it stays,
        and only the session's times change.

        Returns the session as it is now; None when nobody knows `used`, or the session had ended.
        Raises ABORTED as a RefreshTokenReusedError when `used` has served before: somebody else has it. That is known
        until the session ends, for as long as a refresh token lives, of the last SERVED_KEPT of a session.
        """

    @abstractmethod
    async def sessions(self, namespace: str, account: str = "") -> list[Session]:
        """Sessions that were not ended, of an account or of all of a namespace, the newest first, SESSIONS_LISTED at
        most. The caller leaves out what has expired."""

    @abstractmethod
    async def end_sessions(
        self, namespace: str, revoked: Revoked, *audit: Entry, session: str = "", account: str = ""
    ) -> bool:
        """End one session, only if it is that account's where one is given, or all of an account's; whether there was
        one. For a session that is not there nothing is stored; for an account the revocation is in any case, since
        its access tokens outlive its sessions."""

    # --- rules --------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_rule(self, rule: Rule, *audit: Entry) -> None:
        """Raises ALREADY_EXISTS; NOT_FOUND when there is no such namespace."""

    @abstractmethod
    async def replace_rule(self, rule: Rule, *audit: Entry) -> None:
        """Raises NOT_FOUND."""

    @abstractmethod
    async def delete_rule(self, namespace: str, id: str, *audit: Entry) -> None:  # noqa: A002
        """Raises NOT_FOUND."""

    @abstractmethod
    async def rules(self, namespace: str) -> list[Rule]:
        """Of a namespace, sorted by id."""

    # --- namespaces ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        """Raises ALREADY_EXISTS."""

    @abstractmethod
    async def replace_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        """Raises NOT_FOUND."""

    @abstractmethod
    async def delete_namespace(self, name: str, *audit: Entry) -> None:
        """Remove it with its accounts, sessions and rules; its part of the audit log stays. Raises NOT_FOUND, and
        FAILED_PRECONDITION for "micro"."""

    @abstractmethod
    async def namespaces(self) -> list[Namespace]:
        """All, sorted by name. "micro" is always there."""

    # --- keys, revocations, audit -------------------------------------------------------------------------------------

    @abstractmethod
    async def issuer(self) -> str:
        """The name of this deployment, random, made when the state is."""

    @abstractmethod
    async def keys(self) -> list[SigningKey]:
        """Those added last come first, whatever the clock said."""

    @abstractmethod
    async def add_key(self, key: SigningKey, keep: int, *audit: Entry) -> None:
        """Add a key and forget all but the last `keep`. Raises ALREADY_EXISTS for a kid that is there."""

    @abstractmethod
    async def revocations(self, now: float) -> list[Revoked]:
        """Those that still matter, in no order; the others are forgotten. Of two of one session the later `before`
        and the later `until` hold."""

    @abstractmethod
    async def record(self, *audit: Entry) -> None:
        """Add to the audit log what changed nothing else; of all that it was ever given, AUDIT_KEPT are kept of
        "micro", AUDIT_EACH of each other namespace, and AUDIT_KEPT of all of these."""

    @abstractmethod
    async def audit(
        self,
        namespace: str = "",
        *,
        account: str = "",
        limit: int = 50,
        before: str = "",
        since: float = 0.0,
        until: float = math.inf,
    ) -> list[Entry]:
        """Those recorded last first; of all namespaces for none. `account` is an actor as NAMESPACE/ID, or a target.

        Args:
            before: only those that were recorded before the one with this place; it may be gone by now. Some that had
                to make room may still be told so.
            since, until: only what was done from that moment on, and before this one; seconds since 1970.

        Raises INVALID_ARGUMENT for a place that is none.
        """


# What every backend says when it refuses.


def no_namespace(name: str) -> errors.Error:
    return errors.not_found(f"there is no namespace {name}: make it with `micro namespace create {name}`")


def namespace_exists(name: str) -> errors.Error:
    return errors.already_exists(f"there is a namespace {name} already")


def namespace_stays(name: str) -> errors.Error:
    return errors.failed_precondition(f"namespace {name} is the platform's own: it cannot be deleted")


def no_account(namespace: str, id: str) -> errors.Error:  # noqa: A002 - what it is
    return errors.not_found(f"there is no account {id} in namespace {namespace}: see `micro auth list accounts`")


def account_exists(account: Account) -> errors.Error:
    called = f" named {account.name}" if account.name not in ("", account.id) else ""
    return errors.already_exists(
        f"account {account.id}{called}: the id or the name is another's in namespace {account.namespace}; choose others"
    )


def session_exists(id: str) -> errors.Error:  # noqa: A002
    return errors.already_exists(f"there is a session {id} already, or one with its refresh token")


def no_rule(namespace: str, id: str) -> errors.Error:  # noqa: A002
    return errors.not_found(f"there is no rule {id} in namespace {namespace}: see `micro auth list rules`")


def rule_exists(rule: Rule) -> errors.Error:
    return errors.already_exists(f"there is a rule {rule.id} in namespace {rule.namespace} already: update it")


def no_place(text: str) -> errors.Error:
    return errors.invalid_argument(f"{text[:64]!r} is no place in the audit log: begin without one")


def key_exists(kid: str) -> errors.Error:
    return errors.already_exists(f"there is a key {kid} already")
