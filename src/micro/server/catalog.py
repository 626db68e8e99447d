"""Which backend a setting names: the bill of materials, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micro.domain import errors
from micro.ports.blobs import Blobs
from micro.ports.identity import IdentityStore
from micro.ports.lifecycle import Startable
from micro.ports.registry import Registry
from micro.ports.sealing import Sealing
from micro.ports.store import Now, Store, now
from micro.server.settings import Layout, Settings

if TYPE_CHECKING:
    from micro.backends.postgres.store import PostgresStore


@dataclass(frozen=True, slots=True)
class RegistryState:
    """A backend of the registry, and what has to be started before it."""

    registry: Registry
    below: tuple[Startable, ...] = ()


def registry(settings: Settings, layout: Layout) -> RegistryState:
    """The registry's state, not started yet.

    Raises:
        Error: INVALID_ARGUMENT for a backend that there is none of.
    """
    match settings.registry_state:
        case "memory":
            from micro.backends.memory.registry import MemoryRegistry

            return RegistryState(MemoryRegistry())
        case "nats":
            from micro.backends.nats._connection import Connection, NatsAddress
            from micro.backends.nats.process import load_credentials
            from micro.backends.nats.registry import NatsRegistry

            if settings.nats_url:
                address = NatsAddress.parse(settings.nats_url)
            else:
                address = load_credentials(layout.nats / "credentials.json")
            connection = Connection(address, "micro-registry")
            return RegistryState(NatsRegistry(connection), (connection,))
        case other:
            raise errors.invalid_argument(f"MICRO_REGISTRY_STATE={other!r}: use nats or memory")


def identity(settings: Settings, layout: Layout) -> IdentityStore:
    """Where accounts and rules are kept, not started yet."""
    from micro.backends.stored.identity import StoredIdentity

    return StoredIdentity(store(settings, layout, "auth"), sealing(layout))


def sealing(layout: Layout) -> Sealing:
    """How secrets are sealed: with the keys of a variable, else of a file outside of the data folder."""
    from micro.backends.aesgcm.keyring import VARIABLE, Keyring
    from micro.backends.aesgcm.sealing import AesGcmSealing

    return AesGcmSealing(Keyring(os.environ.get(VARIABLE, ""), layout.config_key, layout.key_ids))


SQLITE = "SQLite"
"""The place of the stores below the home."""


def place(settings: Settings) -> str:
    """Where a store is that is not memory, to be shown: without user and password.

    Raises:
        Error: INVALID_ARGUMENT for a URL that is none, FAILED_PRECONDITION when a package is missing.
    """
    return SQLITE if settings.store == "sqlite" else f"PostgreSQL at {_postgres(settings.store, 'micro', now).place}"


def store(settings: Settings, layout: Layout, owner: str, *, clock: Now = now) -> Store:
    """Where a core service keeps its records, not started yet. Each has a store of its own: none needs another's
    process to read its own memory.

    Args:
        owner: "store", which keeps what users write, "config", "auth" or "runtime".
    """
    match settings.store:
        case "memory":
            from micro.backends.memory.store import MemoryStore

            return MemoryStore(clock=clock)
        case "sqlite":
            from micro.backends.sqlite.store import SqliteStore

            return SqliteStore(layout.records(owner), clock=clock)
        case url:
            return _postgres(url, f"micro_{owner}", clock)


def _postgres(url: str, schema: str, clock: Now) -> PostgresStore:
    try:
        from micro.backends.postgres.store import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise errors.failed_precondition(
            "MICRO_STORE names PostgreSQL, which needs a package: pip install 'micro[postgres]'"
        ) from None
    return PostgresStore(url, schema, clock=clock)


def blobs(settings: Settings, layout: Layout) -> Blobs:
    """Where users' blobs are kept, not started yet. Raises INVALID_ARGUMENT for a URL that is none."""
    match settings.blobs:
        case "memory":
            from micro.backends.memory.blobs import MemoryBlobs

            return MemoryBlobs()
        case "files":
            from micro.backends.files.blobs import FileBlobs

            return FileBlobs(layout.blobs)
        case url:
            try:
                from micro.backends.objects.blobs import ObjectBlobs
            except ModuleNotFoundError as error:
                if error.name != "obstore":
                    raise
                raise errors.failed_precondition(
                    "MICRO_BLOBS names an S3 bucket, which needs a package: pip install 'micro[s3]'"
                ) from None
            return ObjectBlobs(url)
