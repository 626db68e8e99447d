"""Identity in one SQLite file."""

# ruff: noqa: S608 - what is put into the queries' text are constants of this file; values are bound

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar

from micro.backends.sqlite._database import Database
from micro.backends.sqlite._identity_schema import MIGRATIONS
from micro.domain import names, token
from micro.domain.account import Account, Type
from micro.domain.namespace import Namespace, Quota
from micro.domain.rule import Access, Resource, Rule
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

T = TypeVar("T")

_ACCOUNT = "namespace, id, name, type, scopes, metadata, created"
_SESSION = "id, account, namespace, current, created, refreshed, expires, address"
_RULE = "namespace, id, scope, type, name, endpoint, access, priority"
_ENTRY = "time, actor, action, target, namespace, address, outcome"


class SqliteIdentity(IdentityStore):
    """Every change is one transaction, its part of the audit log included, and on disk when it returns."""

    def __init__(self, path: Path) -> None:
        """`path` is the file. Its folder is for it alone: made where it is missing, and closed to all but its owner."""
        self._database = Database(path, MIGRATIONS)

    async def start(self, stack: AsyncExitStack) -> None:
        await self._database.start(stack)

    def healthy(self) -> bool:
        return self._database.healthy

    # --- accounts -----------------------------------------------------------------------------------------------------

    async def create_account(self, account: Account, secret: str, *audit: Entry) -> None:
        await self._change(audit, lambda connection: _create_account(connection, account, secret))

    async def create_first(self, account: Account, secret: str, *audit: Entry) -> bool:
        def create(connection: Connection) -> bool:
            begun = connection.execute("SELECT begun FROM deployment").fetchone()[0]
            users = "SELECT 1 FROM accounts WHERE namespace = ? AND type = ? LIMIT 1"
            first = not begun and not connection.execute(users, (account.namespace, Type.USER.value)).fetchone()
            if first:
                _create_account(connection, account, secret)
                _record(connection, audit)
            else:
                _need_namespace(connection, account.namespace)
            connection.execute("UPDATE deployment SET begun = 1")
            return first

        return await self._database.write(create)

    async def account(self, namespace: str, id: str) -> Account | None:  # noqa: A002
        rows = await self._rows(f"SELECT {_ACCOUNT} FROM accounts WHERE namespace = ? AND id = ?", namespace, id)
        return _account(rows[0]) if rows else None

    async def secret(self, namespace: str, id_or_name: str) -> tuple[Account, str] | None:
        rows = await self._rows(
            f"SELECT {_ACCOUNT}, secret FROM accounts WHERE namespace = ? AND id = "
            "(SELECT account FROM called WHERE namespace = ? AND called = ?)",
            namespace,
            namespace,
            id_or_name,
        )
        return (_account(rows[0][:-1]), rows[0][-1]) if rows else None

    async def accounts(self, namespace: str, *, after: str = "", limit: int = 100) -> list[Account]:
        query = f"SELECT {_ACCOUNT} FROM accounts WHERE namespace = ? AND id > ? ORDER BY id LIMIT ?"
        return [_account(row) for row in await self._rows(query, namespace, after, limit)]

    async def replace_account(
        self, account: Account, *audit: Entry, secret: str | None = None, revoked: Revoked | None = None
    ) -> None:
        def replace(connection: Connection) -> None:
            values = (account.name, *_described(account), account.namespace, account.id)
            update = "UPDATE accounts SET name = ?, type = ?, scopes = ?, metadata = ?, created = ?"
            if not connection.execute(f"{update} WHERE namespace = ? AND id = ?", values).rowcount:
                raise identity.no_account(account.namespace, account.id)
            connection.execute("DELETE FROM called WHERE namespace = ? AND account = ?", account.key)
            _call(connection, account)
            if secret is not None:
                changed = (secret, *account.key)
                connection.execute("UPDATE accounts SET secret = ? WHERE namespace = ? AND id = ?", changed)
                connection.execute("DELETE FROM sessions WHERE namespace = ? AND account = ?", account.key)
            _revoke(connection, [revoked] if revoked else [])

        await self._change(audit, replace)

    async def delete_account(self, namespace: str, id: str, revoked: Revoked, *audit: Entry) -> None:  # noqa: A002
        def delete(connection: Connection) -> None:
            if not connection.execute("DELETE FROM accounts WHERE namespace = ? AND id = ?", (namespace, id)).rowcount:
                raise identity.no_account(namespace, id)
            _revoke(connection, [revoked])

        await self._change(audit, delete)

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def open_session(self, session: Session, *audit: Entry) -> None:
        def create(connection: Connection) -> None:
            account = (session.namespace, session.account)
            if not connection.execute("SELECT 1 FROM accounts WHERE namespace = ? AND id = ?", account).fetchone():
                raise identity.no_account(*account)
            connection.execute("DELETE FROM sessions WHERE expires <= ?", (session.created,))
            _need_fresh(connection, session.id, session.current)
            try:
                connection.execute(f"INSERT INTO sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(session))
            except sqlite3.IntegrityError:
                raise identity.session_exists(session.id) from None

        await self._change(audit, create)

    async def rotate(self, used: bytes, fresh: bytes, now: float, expires: float) -> Session | None:
        return await self._database.write(lambda connection: _rotate(connection, used, fresh, now, expires))

    async def sessions(self, namespace: str, account: str = "") -> list[Session]:
        query = f"SELECT {_SESSION} FROM sessions WHERE namespace = ? AND ? IN ('', account)"
        order = f"ORDER BY created DESC, id LIMIT {SESSIONS_LISTED}"
        return [Session(*row) for row in await self._rows(f"{query} {order}", namespace, account)]

    async def end_sessions(
        self, namespace: str, revoked: Revoked, *audit: Entry, session: str = "", account: str = ""
    ) -> bool:
        assert session or account, "neither is all of a namespace's, which nobody may mean"

        def end(connection: Connection) -> bool:
            ended = connection.execute(
                "DELETE FROM sessions WHERE namespace = ? AND ? IN ('', account) AND ? IN ('', id)",
                (namespace, account, session),
            ).rowcount
            if ended or not session:
                _revoke(connection, [revoked])
                _record(connection, audit)
            return ended > 0

        return await self._database.write(end)

    # --- rules --------------------------------------------------------------------------------------------------------

    async def create_rule(self, rule: Rule, *audit: Entry) -> None:
        def create(connection: Connection) -> None:
            _need_namespace(connection, rule.namespace)
            values = (rule.namespace, rule.id, *_ruled(rule))
            try:
                connection.execute(f"INSERT INTO rules ({_RULE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            except sqlite3.IntegrityError:
                raise identity.rule_exists(rule) from None

        await self._change(audit, create)

    async def replace_rule(self, rule: Rule, *audit: Entry) -> None:
        def replace(connection: Connection) -> None:
            update = "UPDATE rules SET scope = ?, type = ?, name = ?, endpoint = ?, access = ?, priority = ?"
            values = (*_ruled(rule), rule.namespace, rule.id)
            if not connection.execute(f"{update} WHERE namespace = ? AND id = ?", values).rowcount:
                raise identity.no_rule(rule.namespace, rule.id)

        await self._change(audit, replace)

    async def delete_rule(self, namespace: str, id: str, *audit: Entry) -> None:  # noqa: A002
        def delete(connection: Connection) -> None:
            if not connection.execute("DELETE FROM rules WHERE namespace = ? AND id = ?", (namespace, id)).rowcount:
                raise identity.no_rule(namespace, id)

        await self._change(audit, delete)

    async def rules(self, namespace: str) -> list[Rule]:
        rows = await self._rows(f"SELECT {_RULE} FROM rules WHERE namespace = ? ORDER BY id", namespace)
        return [
            Rule(id, of, scope, Resource(type, name, endpoint), Access(access), priority)
            for of, id, scope, type, name, endpoint, access, priority in rows  # noqa: A001
        ]

    # --- namespaces ---------------------------------------------------------------------------------------------------

    async def create_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        def create(connection: Connection) -> None:
            try:
                values = (namespace.name, *_limits(namespace))
                connection.execute("INSERT INTO namespaces VALUES (?, ?, ?, ?, ?, ?)", values)
            except sqlite3.IntegrityError:
                raise identity.namespace_exists(namespace.name) from None

        await self._change(audit, create)

    async def replace_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        def replace(connection: Connection) -> None:
            update = "UPDATE namespaces SET services = ?, instances = ?, requests = ?, upload = ?, created = ?"
            values = (*_limits(namespace), namespace.name)
            if not connection.execute(f"{update} WHERE name = ?", values).rowcount:
                raise identity.no_namespace(namespace.name)

        await self._change(audit, replace)

    async def delete_namespace(self, name: str, revoked: Sequence[Revoked], *audit: Entry) -> None:
        def delete(connection: Connection) -> None:
            if name == names.DEFAULT_NAMESPACE:
                raise identity.namespace_stays(name)
            if not connection.execute("DELETE FROM namespaces WHERE name = ?", (name,)).rowcount:
                raise identity.no_namespace(name)
            _revoke(connection, revoked)

        await self._change(audit, delete)

    async def namespaces(self) -> list[Namespace]:
        rows = await self._rows("SELECT * FROM namespaces ORDER BY name")
        return [Namespace(name, Quota(*limits), created) for name, *limits, created in rows]

    # --- keys, revocations, audit -------------------------------------------------------------------------------------

    async def issuer(self) -> str:
        return str((await self._rows("SELECT issuer FROM deployment"))[0][0])

    async def keys(self) -> list[SigningKey]:
        rows = await self._rows("SELECT kid, private, created FROM keys ORDER BY position DESC")
        return [SigningKey(*row) for row in rows]

    async def add_key(self, key: SigningKey, keep: int, *audit: Entry) -> None:
        def add(connection: Connection) -> None:
            try:
                values = (key.kid, key.private, key.created)
                connection.execute("INSERT INTO keys (kid, private, created) VALUES (?, ?, ?)", values)
            except sqlite3.IntegrityError:
                raise identity.key_exists(key.kid) from None
            kept = "SELECT position FROM keys ORDER BY position DESC LIMIT ?"
            connection.execute(f"DELETE FROM keys WHERE position NOT IN ({kept})", (keep,))

        await self._change(audit, add)

    async def revocations(self, now: float) -> list[Revoked]:
        def read(connection: Connection) -> list[Revoked]:
            connection.execute("DELETE FROM revoked WHERE until <= ?", (now,))
            rows = connection.execute("SELECT namespace, account, session, before, until FROM revoked")
            return [Revoked(*row) for row in rows]

        return await self._database.write(read)

    async def record(self, *audit: Entry) -> None:
        await self._change(audit, lambda connection: None)

    async def audit(self, namespace: str = "", *, account: str = "", limit: int = 50) -> list[Entry]:
        where, values = ("namespace = ?", [namespace]) if namespace else ("TRUE", [])
        if account:
            where, values = f"{where} AND ? IN (actor, target)", [*values, account]
        query = f"SELECT {_ENTRY} FROM audit WHERE {where} ORDER BY position DESC LIMIT ?"
        return [Entry(*row) for row in await self._rows(query, *values, limit)]

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return await self._database.read(lambda connection: connection.execute(query, values).fetchall())

    async def _change(self, audit: Sequence[Entry], work: Callable[[Connection], T]) -> T:
        def change(connection: Connection) -> T:
            found = work(connection)
            _record(connection, audit)
            return found

        return await self._database.write(change)


def _record(connection: Connection, entries: Sequence[Entry]) -> None:
    rows = [
        (each.time, each.actor, each.action, each.target, each.namespace, each.address, each.outcome)
        for each in entries
    ]
    if rows:
        connection.executemany(f"INSERT INTO audit ({_ENTRY}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        for namespace in {each.namespace for each in entries} - {names.DEFAULT_NAMESPACE}:
            _make_room(connection, "WHERE namespace = ?", namespace, AUDIT_EACH)
        _make_room(connection, "WHERE ? = '*'", "*", AUDIT_KEPT)


def _make_room(connection: Connection, where: str, counted: str, most: int) -> None:
    """Forget the oldest entries of a namespace, or of all, beyond that many."""
    row = connection.execute("SELECT entries FROM audited WHERE namespace = ?", (counted,)).fetchone()
    if row is not None and row[0] > most:
        oldest = f"SELECT position FROM audit {where} ORDER BY position LIMIT ?"
        connection.execute(f"DELETE FROM audit WHERE position IN ({oldest})", (counted, row[0] - most))


def _revoke(connection: Connection, revoked: Iterable[Revoked]) -> None:
    connection.executemany(
        "INSERT INTO revoked (namespace, account, session, before, until) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET before = max(before, excluded.before), until = max(until, excluded.until)",
        [(each.namespace, each.account, each.session, each.before, each.until) for each in revoked],
    )


def _need_namespace(connection: Connection, name: str) -> None:
    if not connection.execute("SELECT 1 FROM namespaces WHERE name = ?", (name,)).fetchone():
        raise identity.no_namespace(name)


def _create_account(connection: Connection, account: Account, secret: str) -> None:
    _need_namespace(connection, account.namespace)
    values = (*account.key, account.name, *_described(account), secret)
    try:
        connection.execute(f"INSERT INTO accounts ({_ACCOUNT}, secret) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    except sqlite3.IntegrityError:
        raise identity.account_exists(account) from None
    _call(connection, account)


def _call(connection: Connection, account: Account) -> None:
    called = {account.id, account.name or account.id}
    try:
        connection.executemany(
            "INSERT INTO called VALUES (?, ?, ?)", [(*account.key[:1], each, account.id) for each in called]
        )
    except sqlite3.IntegrityError:
        raise identity.account_exists(account) from None


def _described(account: Account) -> tuple[str, str, str, str]:
    return (
        account.type.value,
        json.dumps(sorted(account.scopes)),
        json.dumps(dict(account.metadata)),
        account.created,
    )


def _account(row: Sequence[Any]) -> Account:
    namespace, id, name, type, scopes, metadata, created = row  # noqa: A001
    return Account(id, namespace, name, Type(type), frozenset(json.loads(scopes)), json.loads(metadata), created)


def _row(session: Session) -> tuple[object, ...]:
    return (
        session.id,
        session.account,
        session.namespace,
        session.current,
        session.created,
        session.refreshed,
        session.expires,
        session.address,
    )


def _rotate(connection: Connection, used: bytes, fresh: bytes, now: float, expires: float) -> Session | None:
    oldest = now - token.REFRESH_SECONDS
    served = connection.execute("SELECT session FROM used WHERE token = ? AND time > ?", (used, oldest)).fetchone()
    where, value = ("id", served[0]) if served else ("current", used)
    query = f"SELECT {_SESSION} FROM sessions WHERE {where} = ? AND expires > ?"
    row = connection.execute(query, (value, now)).fetchone()
    if row is None:
        return None
    if served:
        raise identity.RefreshTokenReusedError(Session(*row))
    id = row[0]  # noqa: A001
    _need_fresh(connection, id, fresh)
    update = "UPDATE sessions SET current = ?, refreshed = ?, expires = ? WHERE id = ?"
    connection.execute(update, (fresh, now, expires, id))
    connection.execute("DELETE FROM used WHERE session = ? AND time <= ?", (id, oldest))
    connection.execute("INSERT INTO used VALUES (?, ?, ?)", (used, id, now))
    last = f"SELECT token FROM used WHERE session = ? ORDER BY time DESC LIMIT -1 OFFSET {SERVED_KEPT}"
    connection.execute(f"DELETE FROM used WHERE token IN ({last})", (id,))
    return Session(*connection.execute(f"SELECT {_SESSION} FROM sessions WHERE id = ?", (id,)).fetchone())


def _need_fresh(connection: Connection, session: str, token: bytes) -> None:
    query = "SELECT 1 FROM used WHERE token = ? UNION ALL SELECT 1 FROM sessions WHERE current = ?"
    if connection.execute(query, (token, token)).fetchone():
        raise identity.session_exists(session)


def _ruled(rule: Rule) -> tuple[object, ...]:
    resource = rule.resource
    return (rule.scope, resource.type, resource.name, resource.endpoint, rule.access.value, rule.priority)


def _limits(namespace: Namespace) -> tuple[object, ...]:
    quota = namespace.quota
    return (quota.services, quota.instances, quota.requests, quota.upload, namespace.created)
