"""Where accounts, rules, sessions, keys, namespaces and the audit log are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from micro.domain.account import Account
from micro.domain.namespace import Namespace
from micro.domain.rule import Rule


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
    """Access tokens of an account, or of a session, made before `before` are refused until `until` (then all have
    ended by themselves). Seconds since 1970. One of `account` and `session` is empty."""

    namespace: str
    account: str
    session: str
    before: float
    until: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log; `time` in seconds since 1970, `actor` as NAMESPACE/ID."""

    time: float
    actor: str
    action: str
    target: str
    namespace: str
    address: str
    outcome: str = "ok"


class IdentityStore(ABC):
    """Durable and whole: a method that returns has stored all of what it was given, one that raises nothing of it.

    Every change takes the entries of the audit log that belong to it, and stores them with it. All methods raise
    UNAVAILABLE when the state cannot be reached, and RESOURCE_EXHAUSTED when the disk is full.
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

        Returns the session as it is now; None when nobody knows `used`, or the session had ended.
        Raises ABORTED, naming the session's id, when `used` has served before: somebody else has it.
        """

    @abstractmethod
    async def sessions(self, namespace: str, account: str = "") -> list[Session]:
        """Sessions that were not ended, of an account or of all of a namespace, the newest first, 1000 at most. The
        caller leaves out what has expired."""

    @abstractmethod
    async def end_sessions(
        self, namespace: str, revoked: Revoked, *audit: Entry, session: str = "", account: str = ""
    ) -> bool:
        """End one session or all of an account's; whether there was one."""

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
    async def delete_namespace(self, name: str, revoked: Sequence[Revoked], *audit: Entry) -> None:
        """Remove it with its accounts, sessions and rules; its part of the audit log stays. Raises NOT_FOUND."""

    @abstractmethod
    async def namespaces(self) -> list[Namespace]:
        """All, sorted by name. "micro" is always there."""

    # --- keys, revocations, audit -------------------------------------------------------------------------------------

    @abstractmethod
    async def issuer(self) -> str:
        """The name of this deployment, random, made when the state is."""

    @abstractmethod
    async def keys(self) -> list[SigningKey]:
        """The newest first."""

    @abstractmethod
    async def add_key(self, key: SigningKey, keep: int, *audit: Entry) -> None:
        """Add a key and forget all but the newest `keep`."""

    @abstractmethod
    async def revocations(self, now: float) -> list[Revoked]:
        """Those that still matter; the others are forgotten."""

    @abstractmethod
    async def record(self, *audit: Entry) -> None:
        """Add to the audit log what changed nothing else; 100,000 entries are kept."""

    @abstractmethod
    async def audit(self, namespace: str = "", *, account: str = "", limit: int = 50) -> list[Entry]:
        """The newest first; of all namespaces for none. `account` is an actor as NAMESPACE/ID, or a target."""
