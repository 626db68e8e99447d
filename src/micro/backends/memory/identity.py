"""Identity in dicts: the reference that other backends are compared with. Forgets all when the process ends."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import islice

from micro.domain import names, token
from micro.domain.account import Account, Type
from micro.domain.namespace import Namespace
from micro.domain.rule import Rule
from micro.ports import identity
from micro.ports.identity import (
    AUDIT_EACH,
    AUDIT_KEPT,
    SERVED_KEPT,
    SESSIONS_LISTED,
    Entry,
    IdentityStore,
    Revoked,
    Session,
    SigningKey,
)


@dataclass
class _Tenant:
    """What a namespace has in it."""

    namespace: Namespace
    accounts: dict[str, tuple[Account, str]] = field(default_factory=dict)
    """With the hashes of their secrets."""
    called: dict[str, str] = field(default_factory=dict)
    """The account's id by each of its id and name."""
    rules: dict[str, Rule] = field(default_factory=dict)


class _Log:
    """The audit log."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._own: deque[int] = deque()
        self._tenants: dict[str, deque[int]] = {}
        self._count = 0

    def extend(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._count += 1
            self._entries[self._count] = entry
            if entry.namespace == names.DEFAULT_NAMESPACE:
                self._add(self._own, AUDIT_KEPT)
                continue
            self._add(self._tenants.setdefault(entry.namespace, deque()), AUDIT_EACH)
            if len(self._entries) - len(self._own) > AUDIT_KEPT:
                oldest = min((positions for positions in self._tenants.values() if positions), key=lambda each: each[0])
                del self._entries[oldest.popleft()]

    def _add(self, positions: deque[int], most: int) -> None:
        positions.append(self._count)
        if len(positions) > most:
            del self._entries[positions.popleft()]

    def backwards(self) -> Iterator[tuple[int, Entry]]:
        """The entries by number, the last one first."""
        return reversed(self._entries.items())


class MemoryIdentity(IdentityStore):
    """Each method runs to its end without awaiting anything, so none sees half of what another does."""

    def __init__(self) -> None:
        self._issuer = secrets.token_hex(16)
        self._begun = False
        self._tenants = {names.DEFAULT_NAMESPACE: _Tenant(Namespace(names.DEFAULT_NAMESPACE))}
        self._sessions: dict[str, Session] = {}
        self._current: dict[bytes, str] = {}
        self._used: dict[bytes, tuple[str, float]] = {}
        self._keys: list[SigningKey] = []
        self._revoked: dict[tuple[str, str], Revoked] = {}
        self._audit = _Log()

    async def start(self, stack: AsyncExitStack) -> None:
        pass

    def healthy(self) -> bool:
        return True

    # --- accounts -----------------------------------------------------------------------------------------------------

    async def create_account(self, account: Account, secret: str, *audit: Entry) -> None:
        tenant = self._tenant(account.namespace)
        if account.id in tenant.accounts:
            raise identity.account_exists(account)
        self._put_account(tenant, account, secret)
        self._audit.extend(audit)

    async def create_first(self, account: Account, secret: str, *audit: Entry) -> bool:
        tenant = self._tenant(account.namespace)
        first = not self._begun and all(known.type is not Type.USER for known, _ in tenant.accounts.values())
        if first:
            await self.create_account(account, secret, *audit)
        self._begun = True
        return first

    async def account(self, namespace: str, id: str) -> Account | None:  # noqa: A002
        tenant = self._tenants.get(namespace)
        found = tenant.accounts.get(id) if tenant else None
        return found[0] if found else None

    async def secret(self, namespace: str, id_or_name: str) -> tuple[Account, str] | None:
        tenant = self._tenants.get(namespace)
        return tenant.accounts.get(tenant.called.get(id_or_name, "")) if tenant else None

    async def accounts(self, namespace: str, *, after: str = "", limit: int = 100) -> list[Account]:
        tenant = self._tenants.get(namespace)
        later = sorted(id for id in tenant.accounts if id > after) if tenant else []  # noqa: A001
        return [tenant.accounts[id][0] for id in later[:limit]] if tenant else []  # noqa: A001

    async def replace_account(
        self, account: Account, *audit: Entry, secret: str | None = None, revoked: Revoked | None = None
    ) -> None:
        tenant = self._tenants.get(account.namespace)
        if tenant is None or account.id not in tenant.accounts:
            raise identity.no_account(account.namespace, account.id)
        self._put_account(tenant, account, tenant.accounts[account.id][1] if secret is None else secret)
        if secret is not None:
            self._end(self._of(account.namespace, account.id))
        self._revoke([revoked] if revoked else [])
        self._audit.extend(audit)

    async def delete_account(self, namespace: str, id: str, revoked: Revoked, *audit: Entry) -> None:  # noqa: A002
        tenant = self._tenants.get(namespace)
        if tenant is None or id not in tenant.accounts:
            raise identity.no_account(namespace, id)
        self._forget_account(tenant, id)
        self._end(self._of(namespace, id))
        self._revoke([revoked])
        self._audit.extend(audit)

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def open_session(self, session: Session, *audit: Entry) -> None:
        if await self.account(session.namespace, session.account) is None:
            raise identity.no_account(session.namespace, session.account)
        if session.id in self._sessions or session.current in self._current or session.current in self._used:
            raise identity.session_exists(session.id)
        self._end([old for old in self._sessions.values() if old.expires <= session.created])
        self._sessions[session.id] = session
        self._current[session.current] = session.id
        self._audit.extend(audit)

    async def rotate(self, used: bytes, fresh: bytes, now: float, expires: float) -> Session | None:
        served = self._used.get(used)
        session = self._sessions.get(served[0] if served else self._current.get(used, ""))
        if session is None or session.expires <= now:
            return None
        if served:
            if served[1] <= now - token.REFRESH_SECONDS:
                return None
            if fresh == session.current and now < served[1] + token.REPEAT_SECONDS:
                self._sessions[session.id] = session = replace(session, refreshed=now, expires=expires)
                return session
            raise identity.RefreshTokenReusedError(session)
        if fresh == used or fresh in self._current or fresh in self._used:
            raise identity.session_exists(session.id)
        session = replace(session, current=fresh, refreshed=now, expires=expires)
        self._sessions[session.id] = session
        del self._current[used]
        self._current[fresh] = session.id
        self._used = {
            old: (id, at)
            for old, (id, at) in self._used.items()  # noqa: A001
            if id != session.id or at > now - token.REFRESH_SECONDS
        }
        self._used[used] = (session.id, now)
        spent = sorted((at, old) for old, (id, at) in self._used.items() if id == session.id)  # noqa: A001
        for _, old in spent[:-SERVED_KEPT]:
            del self._used[old]
        return session

    async def sessions(self, namespace: str, account: str = "") -> list[Session]:
        found = sorted(self._of(namespace, account), key=lambda session: session.id)
        return sorted(found, key=lambda session: session.created, reverse=True)[:SESSIONS_LISTED]

    async def end_sessions(
        self, namespace: str, revoked: Revoked, *audit: Entry, session: str = "", account: str = ""
    ) -> bool:
        assert session or account, "neither is all of a namespace's, which nobody may mean"
        ended = [each for each in self._of(namespace, account) if session in ("", each.id)]
        if ended or not session:
            self._end(ended)
            self._revoke([revoked])
            self._audit.extend(audit)
        return bool(ended)

    # --- rules --------------------------------------------------------------------------------------------------------

    async def create_rule(self, rule: Rule, *audit: Entry) -> None:
        tenant = self._tenant(rule.namespace)
        if rule.id in tenant.rules:
            raise identity.rule_exists(rule)
        tenant.rules[rule.id] = rule
        self._audit.extend(audit)

    async def replace_rule(self, rule: Rule, *audit: Entry) -> None:
        tenant = self._tenants.get(rule.namespace)
        if tenant is None or rule.id not in tenant.rules:
            raise identity.no_rule(rule.namespace, rule.id)
        tenant.rules[rule.id] = rule
        self._audit.extend(audit)

    async def delete_rule(self, namespace: str, id: str, *audit: Entry) -> None:  # noqa: A002
        tenant = self._tenants.get(namespace)
        if tenant is None or tenant.rules.pop(id, None) is None:
            raise identity.no_rule(namespace, id)
        self._audit.extend(audit)

    async def rules(self, namespace: str) -> list[Rule]:
        tenant = self._tenants.get(namespace)
        return sorted(tenant.rules.values(), key=lambda rule: rule.id) if tenant else []

    # --- namespaces ---------------------------------------------------------------------------------------------------

    async def create_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        if namespace.name in self._tenants:
            raise identity.namespace_exists(namespace.name)
        self._tenants[namespace.name] = _Tenant(namespace)
        self._audit.extend(audit)

    async def replace_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        self._tenant(namespace.name).namespace = namespace
        self._audit.extend(audit)

    async def delete_namespace(self, name: str, *audit: Entry) -> None:
        if name == names.DEFAULT_NAMESPACE:
            raise identity.namespace_stays(name)
        self._tenant(name)
        del self._tenants[name]
        self._end(self._of(name))
        self._audit.extend(audit)

    async def namespaces(self) -> list[Namespace]:
        return [self._tenants[name].namespace for name in sorted(self._tenants)]

    # --- keys, revocations, audit -------------------------------------------------------------------------------------

    async def issuer(self) -> str:
        return self._issuer

    async def keys(self) -> list[SigningKey]:
        return list(self._keys)

    async def add_key(self, key: SigningKey, keep: int, *audit: Entry) -> None:
        if any(key.kid == known.kid for known in self._keys):
            raise identity.key_exists(key.kid)
        self._keys = [key, *self._keys][:keep]
        self._audit.extend(audit)

    async def revocations(self, now: float) -> list[Revoked]:
        self._revoked = {key: revoked for key, revoked in self._revoked.items() if revoked.until > now}
        return list(self._revoked.values())

    async def record(self, *audit: Entry) -> None:
        self._audit.extend(audit)

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
        if not (before.isascii() and before.isdecimal()) and before:
            raise identity.no_place(before)
        found = (
            replace(entry, place=str(number))
            for number, entry in self._audit.backwards()
            if not before or number < int(before)
            if namespace in ("", entry.namespace) and account in ("", entry.actor, entry.target)
            if since <= entry.time < until
        )
        return list(islice(found, limit))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _tenant(self, name: str) -> _Tenant:
        if name not in self._tenants:
            raise identity.no_namespace(name)
        return self._tenants[name]

    def _put_account(self, tenant: _Tenant, account: Account, secret: str) -> None:
        called = {account.id, account.name or account.id}
        if any(tenant.called.get(each, account.id) != account.id for each in called):
            raise identity.account_exists(account)
        self._forget_account(tenant, account.id)
        tenant.called.update(dict.fromkeys(called, account.id))
        tenant.accounts[account.id] = (account, secret)

    @staticmethod
    def _forget_account(tenant: _Tenant, id: str) -> None:  # noqa: A002
        if id in tenant.accounts:
            account, _ = tenant.accounts.pop(id)
            for called in {account.id, account.name or account.id}:
                del tenant.called[called]

    def _of(self, namespace: str, account: str = "") -> list[Session]:
        return [
            session
            for session in self._sessions.values()
            if session.namespace == namespace and account in ("", session.account)
        ]

    def _end(self, sessions: Iterable[Session]) -> None:
        ended = {session.id for session in sessions}
        if not ended:
            return
        self._sessions = {id: session for id, session in self._sessions.items() if id not in ended}  # noqa: A001
        self._current = {hashed: id for hashed, id in self._current.items() if id not in ended}  # noqa: A001
        self._used = {hashed: (id, at) for hashed, (id, at) in self._used.items() if id not in ended}  # noqa: A001

    def _revoke(self, revoked: Iterable[Revoked]) -> None:
        for each in revoked:
            key = (each.namespace, each.session)
            known = self._revoked.get(key, each)
            self._revoked[key] = replace(
                each, before=max(each.before, known.before), until=max(each.until, known.until)
            )
