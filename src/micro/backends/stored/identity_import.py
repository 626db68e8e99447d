"""All of a deployment's identity at once, written as records where there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from micro.backends.stored import _layout as layout
from micro.backends.stored._audit import AuditLog
from micro.backends.stored._layout import (
    ACCOUNTS,
    CALLED,
    DEPLOYMENT,
    ENDS,
    NAMESPACES,
    PLACES,
    REVOKED,
    RULES,
    SERVED,
    SESSIONS,
    TOKENS,
)
from micro.backends.stored._records import BATCH, Records, encoded
from micro.backends.stored._sealed import Sealed
from micro.backends.stored.identity import DATABASE, lot
from micro.domain.account import Account
from micro.domain.namespace import Namespace
from micro.domain.record import Operation, Put
from micro.domain.rule import Rule
from micro.ports.identity import Entry, Revoked, Session, SigningKey
from micro.ports.sealing import Sealing
from micro.ports.store import Store


@dataclass(frozen=True, slots=True)
class Known:
    """A session, and the refresh tokens that have served it with the time of each, the first first."""

    session: Session
    served: Sequence[tuple[bytes, float]] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """All that an `IdentityStore` holds.

    Attributes:
        begun: whether `create_first` was asked for.
        accounts: with the hashes of their secrets.
        keys: the newest first.
        audit: the oldest first.
    """

    issuer: str
    begun: bool
    namespaces: Sequence[Namespace]
    accounts: Sequence[tuple[Account, str]]
    sessions: Sequence[Known]
    rules: Sequence[Rule]
    keys: Sequence[SigningKey]
    revoked: Sequence[Revoked]
    audit: Sequence[Entry]


async def write(store: Store, sealing: Sealing, memory: Memory) -> None:
    """Write it to a started store, in many batches: when this is interrupted, drop the database and begin anew."""
    records = Records(store, DATABASE)
    sealed = Sealed(records, sealing, DATABASE)
    await sealed.start()
    batch: list[Operation] = []
    for operation in (*_operations(memory, sealed), *AuditLog(records).puts(memory.audit)):
        batch.append(operation)
        if len(batch) == BATCH:
            await records.commit(batch)
            batch = []
    if batch:
        await records.commit(batch)


def _operations(memory: Memory, sealed: Sealed) -> Iterator[Operation]:
    yield _put(DEPLOYMENT, "issuer", {"issuer": memory.issuer, "begun": memory.begun})
    keys = [[key.kid, sealed.seal(f"keys/{key.kid}", key.private.hex()), key.created] for key in memory.keys]
    yield _put(DEPLOYMENT, "keys", keys)
    homes = {namespace.name: lot() for namespace in memory.namespaces}
    for namespace in memory.namespaces:
        yield _put(NAMESPACES, namespace.name, layout.from_namespace(namespace, homes[namespace.name]))
    for rule in memory.rules:
        yield _put(RULES, f"{homes[rule.namespace]}/{rule.id}", layout.from_rule(rule))
    lineages = {}
    for account, secret in memory.accounts:
        home = homes[account.namespace]
        lineages[account.key] = lineage = lot()
        yield _put(ACCOUNTS, f"{home}/{account.id}", layout.from_account(account, secret, lineage))
        for called in {account.id, account.name or account.id}:
            yield _put(CALLED, layout.called(home, called), account.id)
    for known in memory.sessions:
        session = known.session
        lineage = lineages[session.namespace, session.account]
        yield from _session(known, layout.place(homes[session.namespace], lineage, session.id))
    for revoked in memory.revoked:
        yield _put(REVOKED, f"{revoked.namespace}/{revoked.session}", layout.from_revoked(revoked))


def _session(known: Known, place: str) -> Iterator[Operation]:
    session = known.session
    yield _put(SESSIONS, place, layout.from_session(session, len(known.served)))
    yield _put(PLACES, session.id, place)
    yield _put(TOKENS, session.current.hex(), {"place": place})
    yield _put(ENDS, layout.ends(session.expires, session.id), place)
    for token, time in known.served:
        yield _put(TOKENS, token.hex(), {"place": place, "served": time})
        yield _put(SERVED, layout.served(session.id, time, token), 0)


def _put(table: str, key: str, value: object) -> Put:
    return Put(table, key, encoded(value))
