"""The file that identity was kept in by releases of format 1: copied and read, never changed."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from micro.backends.sqlite._faults import Faults
from micro.backends.stored.identity_import import Known, Memory
from micro.domain import errors
from micro.domain.account import Account, Type
from micro.domain.namespace import Namespace, Quota
from micro.domain.rule import Access, Resource, Rule
from micro.ports.identity import Entry, Revoked, Session, SigningKey

_VERSIONS = (1, 2)
_RESTORE = "stop the server, move {files} away, put a backup there as {name}, and start it again"


def copy(path: Path, target: Path) -> None:
    """Copy the file whole, with what a killed server left beside it. Raises UNAVAILABLE, DATA_LOSS,
    RESOURCE_EXHAUSTED."""
    with Faults(path, ("-wal", "-shm"), _RESTORE).told():
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        source, copied = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True), sqlite3.connect(target)
        try:
            source.backup(copied)
        finally:
            source.close()
            copied.close()
        with target.open("rb") as file:
            os.fsync(file.fileno())


def read(path: Path) -> Memory:
    """All that is in such a file. Raises DATA_LOSS for a damaged one, FAILED_PRECONDITION for one of a newer
    release."""
    faults = Faults(path, ("-wal", "-shm"), _RESTORE)
    with faults.told():
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise faults.damage(" ".join(str(found).split()))
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > max(_VERSIONS):
                raise errors.failed_precondition(f"{path} was written by a newer release of micro: upgrade micro")
            if version not in _VERSIONS:
                raise faults.damage("it has nothing of micro in it")
            return _read(connection)
        finally:
            connection.close()


def _read(connection: sqlite3.Connection) -> Memory:
    def rows(query: str) -> list[tuple[Any, ...]]:
        return connection.execute(query).fetchall()

    [(issuer, begun)] = rows("SELECT issuer, begun FROM deployment")
    served: dict[str, list[tuple[bytes, float]]] = {}
    for token, session, time in rows("SELECT token, session, time FROM used ORDER BY time"):
        served.setdefault(session, []).append((token, time))
    sessions = rows("SELECT id, account, namespace, current, created, refreshed, expires, address FROM sessions")
    return Memory(
        issuer=issuer,
        begun=bool(begun),
        namespaces=[
            Namespace(name, Quota(*limits), created)
            for name, *limits, created in rows(
                "SELECT name, services, instances, requests, upload, created FROM namespaces"
            )
        ],
        accounts=[
            (_account(row[:-1]), row[-1])
            for row in rows("SELECT namespace, id, name, type, scopes, metadata, created, secret FROM accounts")
        ],
        sessions=[Known(Session(*row), served.get(row[0], [])) for row in sessions],
        rules=[
            Rule(id_, of, scope, Resource(type_, name, endpoint), Access(access), priority)
            for of, id_, scope, type_, name, endpoint, access, priority in rows(
                "SELECT namespace, id, scope, type, name, endpoint, access, priority FROM rules"
            )
        ],
        keys=[SigningKey(*row) for row in rows("SELECT kid, private, created FROM keys ORDER BY position DESC")],
        # Those of whole accounts are of before tokens told their account: such tokens have ended long ago.
        revoked=[
            Revoked(*row) for row in rows("SELECT namespace, session, before, until FROM revoked WHERE session <> ''")
        ],
        audit=[
            Entry(*row)
            for row in rows(
                "SELECT time, actor, action, target, namespace, address, outcome FROM audit ORDER BY position"
            )
        ],
    )


def _account(row: tuple[Any, ...]) -> Account:
    namespace, id_, name, type_, scopes, metadata, created = row
    return Account(id_, namespace, name, Type(type_), frozenset(json.loads(scopes)), json.loads(metadata), created)
