"""Identity as records of a store."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from micro.backends.stored import _layout as layout
from micro.backends.stored._audit import AuditLog, Wanted
from micro.backends.stored._layout import ACCOUNTS, CALLED, DEPLOYMENT, LEFTOVERS, NAMESPACES, REVOKED, RULES
from micro.backends.stored._records import BATCH, Records, Transaction
from micro.backends.stored._sealed import Sealed
from micro.backends.stored._sessions import Sessions
from micro.domain import names
from micro.domain.account import Account, Type
from micro.domain.errors import Error
from micro.domain.namespace import Namespace
from micro.domain.record import Query
from micro.domain.rule import Rule
from micro.ports import background, identity
from micro.ports.identity import Entry, IdentityStore, Revoked, Session, SigningKey
from micro.ports.sealing import Sealing
from micro.ports.store import Store

T = TypeVar("T")

DATABASE = "auth"

_log = logging.getLogger(__name__)


class StoredIdentity(IdentityStore):
    """Every change is one batch, its part of the audit log included. Several may work on one store at a time.

    Args:
        store: started by this.
        sealing: for the private keys.
    """

    def __init__(self, store: Store, sealing: Sealing) -> None:
        self._records = Records(store, DATABASE)
        self._sealed = Sealed(self._records, sealing, DATABASE)
        self._sessions = Sessions(self._records)
        self._log = AuditLog(self._records)
        self._due = asyncio.Event()
        self._started = False

    async def start(self, stack: AsyncExitStack) -> None:
        await self._records.start(stack)
        await self._sealed.start()
        await self._records.transact(_begin)
        await self._log.start()
        self._due.set()
        background.spawn(stack, self._keep(), "clearing away what identity no longer needs")
        stack.callback(self._stop)
        self._started = True

    def healthy(self) -> bool:
        return self._started and self._records.healthy()

    def _stop(self) -> None:
        self._started = False

    # --- accounts -----------------------------------------------------------------------------------------------------

    async def create_account(self, account: Account, secret: str, *audit: Entry) -> None:
        await self._change(audit, lambda transaction: self._create_account(transaction, account, secret))

    async def create_first(self, account: Account, secret: str, *audit: Entry) -> bool:
        async def create(transaction: Transaction) -> bool:
            deployment = await transaction.read(DEPLOYMENT, "issuer")
            assert deployment is not None, "it was not started"
            begun = deployment["begun"]
            home = await _home(transaction, account.namespace)
            first = not begun and not await self._has_users(home)
            if first:
                await self._create_account(transaction, account, secret)
                self._log.add(transaction, audit)
            if not begun:
                transaction.write(DEPLOYMENT, "issuer", {**deployment, "begun": True})
            return first

        return await self._records.transact(create)

    async def account(self, namespace: str, id: str) -> Account | None:  # noqa: A002
        home = await self._records.read(NAMESPACES, namespace)
        found = None if home is None else await self._records.read(ACCOUNTS, f"{home['home']}/{id}")
        return None if found is None else layout.to_account(found)

    async def secret(self, namespace: str, id_or_name: str) -> tuple[Account, str] | None:
        kept = await self._records.read(NAMESPACES, namespace)
        if kept is None:
            return None
        home = kept["home"]
        id_ = await self._records.read(CALLED, layout.called(home, id_or_name))
        found = None if id_ is None else await self._records.read(ACCOUNTS, f"{home}/{id_}")
        return None if found is None else (layout.to_account(found), found["secret"])

    async def accounts(self, namespace: str, *, after: str = "", limit: int = 100) -> list[Account]:
        kept = await self._records.read(NAMESPACES, namespace)
        if kept is None or limit <= 0:
            return []
        prefix = f"{kept['home']}/"
        query = Query(prefix=prefix, after=f"{prefix}{after}" if after else None, limit=limit)
        return [layout.to_account(found) for found in await self._all(ACCOUNTS, query)]

    async def replace_account(
        self, account: Account, *audit: Entry, secret: str | None = None, revoked: Revoked | None = None
    ) -> None:
        async def replace(transaction: Transaction) -> None:
            home, kept = await _need_account(transaction, *account.key)
            lineage = kept["lineage"] if secret is None else lot()
            if secret is not None:
                transaction.write(LEFTOVERS, f"{home}/{kept['lineage']}/", 0)
            await self._call(transaction, home, account, kept)
            hashed = kept["secret"] if secret is None else secret
            transaction.write(ACCOUNTS, f"{home}/{account.id}", layout.from_account(account, hashed, lineage))
            if revoked is not None:
                await _revoke(transaction, revoked)

        await self._change(audit, replace)
        if secret is not None:
            self._due.set()

    async def delete_account(self, namespace: str, id: str, revoked: Revoked, *audit: Entry) -> None:  # noqa: A002
        async def delete(transaction: Transaction) -> None:
            home, kept = await _need_account(transaction, namespace, id)
            for called in {id, kept["name"] or id}:
                transaction.remove(CALLED, layout.called(home, called))
            transaction.remove(ACCOUNTS, f"{home}/{id}")
            transaction.write(LEFTOVERS, f"{home}/{kept['lineage']}/", 0)
            await _revoke(transaction, revoked)

        await self._change(audit, delete)
        self._due.set()

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def open_session(self, session: Session, *audit: Entry) -> None:
        await self._change(audit, lambda transaction: self._sessions.open(transaction, session))
        await self._sessions.clear(session.created)

    async def rotate(self, used: bytes, fresh: bytes, now: float, expires: float) -> Session | None:
        return await self._records.transact(
            lambda transaction: self._sessions.rotate(transaction, used, fresh, now, expires)
        )

    async def sessions(self, namespace: str, account: str = "") -> list[Session]:
        return await self._sessions.find(namespace, account)

    async def end_sessions(
        self, namespace: str, revoked: Revoked, *audit: Entry, session: str = "", account: str = ""
    ) -> bool:
        assert session or account, "neither is all of a namespace's, which nobody may mean"

        async def end(transaction: Transaction) -> bool:
            if session:
                ended = await self._sessions.end(transaction, namespace, session, account)
                if not ended:
                    return False
            else:
                ended = await self._end_all(transaction, namespace, account)
            await _revoke(transaction, revoked)
            self._log.add(transaction, audit)
            return ended

        ended = await self._records.transact(end)
        self._due.set()
        return ended

    # --- rules --------------------------------------------------------------------------------------------------------

    async def create_rule(self, rule: Rule, *audit: Entry) -> None:
        async def create(transaction: Transaction) -> None:
            place = f"{await _home(transaction, rule.namespace)}/{rule.id}"
            if await transaction.read(RULES, place) is not None:
                raise identity.rule_exists(rule)
            transaction.write(RULES, place, layout.from_rule(rule))

        await self._change(audit, create)

    async def replace_rule(self, rule: Rule, *audit: Entry) -> None:
        async def replace(transaction: Transaction) -> None:
            place = await _need_rule(transaction, rule.namespace, rule.id)
            transaction.write(RULES, place, layout.from_rule(rule))

        await self._change(audit, replace)

    async def delete_rule(self, namespace: str, id: str, *audit: Entry) -> None:  # noqa: A002
        async def delete(transaction: Transaction) -> None:
            transaction.remove(RULES, await _need_rule(transaction, namespace, id))

        await self._change(audit, delete)

    async def rules(self, namespace: str) -> list[Rule]:
        kept = await self._records.read(NAMESPACES, namespace)
        if kept is None:
            return []
        return [layout.to_rule(found) for found in await self._all(RULES, Query(prefix=f"{kept['home']}/"))]

    # --- namespaces ---------------------------------------------------------------------------------------------------

    async def create_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        async def create(transaction: Transaction) -> None:
            if await transaction.read(NAMESPACES, namespace.name) is not None:
                raise identity.namespace_exists(namespace.name)
            transaction.write(NAMESPACES, namespace.name, layout.from_namespace(namespace, lot()))

        await self._change(audit, create)

    async def replace_namespace(self, namespace: Namespace, *audit: Entry) -> None:
        async def replace(transaction: Transaction) -> None:
            home = await _home(transaction, namespace.name)
            transaction.write(NAMESPACES, namespace.name, layout.from_namespace(namespace, home))

        await self._change(audit, replace)

    async def delete_namespace(self, name: str, *audit: Entry) -> None:
        async def delete(transaction: Transaction) -> None:
            if name == names.DEFAULT_NAMESPACE:
                raise identity.namespace_stays(name)
            transaction.write(LEFTOVERS, f"{await _home(transaction, name)}/", 0)
            transaction.remove(NAMESPACES, name)

        await self._change(audit, delete)
        self._due.set()

    async def namespaces(self) -> list[Namespace]:
        found = self._records.scan(NAMESPACES, Query())
        return [layout.to_namespace(each.key, self._records.decoded(NAMESPACES, each)) async for each in found]

    # --- keys, revocations, audit -------------------------------------------------------------------------------------

    async def issuer(self) -> str:
        found = await self._records.read(DEPLOYMENT, "issuer")
        assert found is not None, "it was not started"
        return str(found["issuer"])

    async def keys(self) -> list[SigningKey]:
        return [
            SigningKey(kid, bytes.fromhex(self._sealed.open(f"keys/{kid}", private)), created)
            for kid, private, created in await self._records.read(DEPLOYMENT, "keys") or ()
        ]

    async def add_key(self, key: SigningKey, keep: int, *audit: Entry) -> None:
        async def add(transaction: Transaction) -> None:
            kept = await transaction.read(DEPLOYMENT, "keys") or []
            if any(kid == key.kid for kid, _, _ in kept):
                raise identity.key_exists(key.kid)
            fresh = [key.kid, self._sealed.seal(f"keys/{key.kid}", key.private.hex()), key.created]
            transaction.write(DEPLOYMENT, "keys", [fresh, *kept][:keep])

        await self._change(audit, add)

    async def revocations(self, now: float) -> list[Revoked]:
        found = [Revoked(*each) for each in await self._all(REVOKED, Query())]
        past = [(REVOKED, _place(each)) for each in found if each.until <= now]

        async def forget(transaction: Transaction) -> None:
            for (table, place), kept in zip(part, await transaction.read_all(*part), strict=True):
                if kept is not None and Revoked(*kept).until <= now:
                    transaction.remove(table, place)

        for begin in range(0, len(past), BATCH):
            part = past[begin : begin + BATCH]
            await self._records.transact(forget)
        # What was made later meanwhile is told by whoever did that.
        return [each for each in found if each.until > now]

    async def record(self, *audit: Entry) -> None:
        await self._change(audit, _nothing)

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
        return await self._log.find(Wanted(namespace, account, since, until), limit, before)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _change(self, audit: Sequence[Entry], work: Callable[[Transaction], Awaitable[T]]) -> T:
        async def change(transaction: Transaction) -> T:
            found = await work(transaction)
            self._log.add(transaction, audit)
            return found

        changed = await self._records.transact(change)
        if self._log.added(len(audit)):
            self._due.set()
        return changed

    async def _all(self, table: str, query: Query) -> list[Any]:
        return [self._records.decoded(table, record) async for record in self._records.scan(table, query)]

    async def _has_users(self, home: str) -> bool:
        async for record in self._records.scan(ACCOUNTS, Query(prefix=f"{home}/")):
            if self._records.decoded(ACCOUNTS, record)["type"] == Type.USER.value:
                return True
        return False

    async def _create_account(self, transaction: Transaction, account: Account, secret: str) -> None:
        home = await _home(transaction, account.namespace)
        if await transaction.read(ACCOUNTS, f"{home}/{account.id}") is not None:
            raise identity.account_exists(account)
        await self._call(transaction, home, account, None)
        transaction.write(ACCOUNTS, f"{home}/{account.id}", layout.from_account(account, secret, lot()))

    @staticmethod
    async def _call(transaction: Transaction, home: str, account: Account, kept: dict[str, Any] | None) -> None:
        """Make the id and the name the account's, and no longer those that it had. Raises ALREADY_EXISTS."""
        had = set() if kept is None else {kept["id"], kept["name"] or kept["id"]}
        wanted = {account.id, account.name or account.id}
        places = [layout.called(home, each) for each in sorted(wanted - had)]
        if any(found is not None for found in await transaction.read_all(*((CALLED, place) for place in places))):
            raise identity.account_exists(account)
        for place in places:
            transaction.write(CALLED, place, account.id)
        for each in had - wanted:
            transaction.remove(CALLED, layout.called(home, each))

    async def _end_all(self, transaction: Transaction, namespace: str, account: str) -> bool:
        kept = await transaction.read(NAMESPACES, namespace)
        found = None if kept is None else await transaction.read(ACCOUNTS, f"{kept['home']}/{account}")
        if kept is None or found is None:
            return False
        below = f"{kept['home']}/{found['lineage']}/"
        transaction.write(LEFTOVERS, below, 0)
        transaction.write(ACCOUNTS, f"{kept['home']}/{account}", {**found, "lineage": lot()})
        return await self._sessions.any_below(below)

    async def _keep(self) -> None:
        """Clear away what is due, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                if self._log.added(0):
                    await self._log.make_room()
                await self._remove_leftovers()
            except Error as error:  # the next change has it tried again
                _log.warning("what identity no longer needs cannot be removed: %s", error)

    async def _remove_leftovers(self) -> None:
        async for record in self._records.scan(LEFTOVERS, Query(keys_only=True)):
            await self._sessions.clear_below(record.key)
            if record.key.count("/") == 1:
                for table in (ACCOUNTS, CALLED, RULES):
                    await self._records.remove_below(table, record.key)
            await self._records.remove([(LEFTOVERS, record.key)])


def lot() -> str:
    """What nobody else draws."""
    return secrets.token_hex(12)


async def _nothing(transaction: Transaction) -> None:
    """A change of nothing but the audit log."""


async def _begin(transaction: Transaction) -> None:
    """What every deployment has, made once."""
    if await transaction.read(DEPLOYMENT, "issuer") is None:
        micro = Namespace(names.DEFAULT_NAMESPACE)
        transaction.write(DEPLOYMENT, "issuer", {"issuer": secrets.token_hex(16), "begun": False})
        transaction.create(NAMESPACES, micro.name, layout.from_namespace(micro, lot()))


async def _home(transaction: Transaction, namespace: str) -> str:
    kept = await transaction.read(NAMESPACES, namespace)
    if kept is None:
        raise identity.no_namespace(namespace)
    return str(kept["home"])


async def _need_account(transaction: Transaction, namespace: str, id: str) -> tuple[str, dict[str, Any]]:  # noqa: A002
    kept = await transaction.read(NAMESPACES, namespace)
    found = None if kept is None else await transaction.read(ACCOUNTS, f"{kept['home']}/{id}")
    if kept is None or found is None:
        raise identity.no_account(namespace, id)
    return kept["home"], found


async def _need_rule(transaction: Transaction, namespace: str, id: str) -> str:  # noqa: A002
    kept = await transaction.read(NAMESPACES, namespace)
    place = "" if kept is None else f"{kept['home']}/{id}"
    if kept is None or await transaction.read(RULES, place) is None:
        raise identity.no_rule(namespace, id)
    return place


def _place(revoked: Revoked) -> str:
    return f"{revoked.namespace}/{revoked.session}"


async def _revoke(transaction: Transaction, revoked: Revoked) -> None:
    place = _place(revoked)
    kept = await transaction.read(REVOKED, place)
    before, until = (revoked.before, revoked.until) if kept is None else kept[2:]
    merged = Revoked(revoked.namespace, revoked.session, max(before, revoked.before), max(until, revoked.until))
    transaction.write(REVOKED, place, layout.from_revoked(merged))
