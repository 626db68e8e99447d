"""Which backend a setting names: the bill of materials, in one place."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from micro.domain import errors
from micro.domain.record import Durability
from micro.ports.blobs import Blobs
from micro.ports.broker import Broker
from micro.ports.events import Events
from micro.ports.identity import IdentityStore
from micro.ports.lifecycle import Startable
from micro.ports.registry import Registry
from micro.ports.sealing import Sealing
from micro.ports.store import Now, Store, now
from micro.server.settings import STORE_ELSEWHERE, Layout, Settings

if TYPE_CHECKING:
    from micro.backends.nats._address import NatsAddress
    from micro.backends.nats._connection import Connection
    from micro.backends.postgres.store import PostgresStore


NATS_URL = "MICRO_NATS_URL"
"""The variable that names NATS, in the processes that need it."""

STORE_URL = "MICRO_STORE"
"""The variable that names the store, in the processes that open one."""


@dataclass(frozen=True, slots=True)
class RegistryState:
    """A backend of the registry, and what has to be started before it."""

    registry: Registry
    below: tuple[Startable, ...] = ()
    durability: Durability = Durability.MEMORY


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
            from micro.backends.nats.registry import PATIENCE_SECONDS, NatsRegistry

            connection = nats_connection(settings, layout, "registry")
            patience = _patience(settings, PATIENCE_SECONDS)
            state = NatsRegistry(connection, replicas=settings.nats_replicas, patience=patience)
            return RegistryState(state, (connection,), connection.durability(settings.nats_replicas))
        case other:
            raise errors.invalid_argument(f"MICRO_REGISTRY_STATE={other!r}: use nats or memory")


@dataclass(frozen=True, slots=True)
class BrokerState:
    """A backend of the broker, and what has to be started before it."""

    broker: Broker
    below: tuple[Startable, ...] = ()


def broker(settings: Settings, layout: Layout) -> BrokerState:
    """What carries messages, not started yet."""
    if settings.messaging == "memory":
        from micro.backends.memory.broker import MemoryBroker

        return BrokerState(MemoryBroker())
    from micro.backends.nats.broker import NatsBroker

    connection = nats_connection(settings, layout, "broker")
    return BrokerState(NatsBroker(connection), (connection,))


@dataclass(frozen=True, slots=True)
class EventsState:
    """A backend of event streams, and what has to be started before it."""

    events: Events
    below: tuple[Startable, ...] = ()


def events(settings: Settings, layout: Layout) -> EventsState:
    """Where events are kept, not started yet."""
    if settings.messaging == "memory":
        from micro.backends.memory.events import MemoryEvents

        return EventsState(MemoryEvents())
    from micro.backends.nats.events import PATIENCE_SECONDS, NatsEvents

    connection = nats_connection(settings, layout, "events")
    patience = _patience(settings, PATIENCE_SECONDS)
    return EventsState(NatsEvents(connection, replicas=settings.nats_replicas, patience=patience), (connection,))


def nats_connection(settings: Settings, layout: Layout, name: str) -> Connection:
    """A connection to NATS of the core service `name`, not started yet: to the one of the settings, else to our own.

    Raises:
        Error: INVALID_ARGUMENT for what is no URL of NATS, FAILED_PRECONDITION when our own has no credentials yet.
    """
    from micro.backends.nats._connection import Connection

    return Connection(nats_address(settings, layout), f"micro-{name}")


def _patience(settings: Settings, alone: float) -> float:
    """Seconds that a request goes on while NATS is away: longer than several servers take to elect another leader,
    where they do."""
    return 15.0 if settings.nats_replicas > 1 else alone


def nats_address(settings: Settings, layout: Layout) -> NatsAddress:
    """Where NATS is, and how to be let in. Raises as `nats_connection`."""
    from micro.backends.nats._address import NatsAddress
    from micro.backends.nats.process import load_credentials

    if not settings.nats_url:
        return load_credentials(layout.nats / "credentials.json")
    # Of the processes only those that need it are given a URL with a password.
    address = NatsAddress.parse(os.environ.get(NATS_URL) or settings.nats_url)
    return dataclasses.replace(
        address,
        credentials=_path(settings.nats_credentials),
        nkey=_path(settings.nats_nkey),
        ca=_path(settings.nats_ca),
        cert=_path(settings.nats_cert),
        key=_path(settings.nats_key),
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


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
    # Of the processes only those that open a store are given a URL with a password.
    match os.environ.get(STORE_URL, "") if settings.store == STORE_ELSEWHERE else settings.store:
        case "memory":
            from micro.backends.memory.store import MemoryStore

            return MemoryStore(clock=clock)
        case "sqlite":
            from micro.backends.sqlite.store import SqliteStore

            return SqliteStore(layout.records(owner), clock=clock, restore=_restore(layout, owner))
        case url:
            return _postgres(url, f"micro_{owner}", clock)


def check(settings: Settings, layout: Layout) -> None:
    """Look at the files without which nothing starts, before anything does. Raises DATA_LOSS for a damaged one."""
    if settings.store == "sqlite":
        from micro.backends.sqlite import store as sqlite

        for owner in ("auth", "runtime"):
            sqlite.check(layout.records(owner), _restore(layout, owner))


def _restore(layout: Layout, owner: str) -> str:
    """How a damaged database of a store in files is brought back."""
    by_hand = (
        f"stop the server, move {{files}} of $MICRO_HOME/{layout.records(owner).relative_to(layout.home)} away, put a "
        "copy of the file there as {name}, and start the server"
    )
    way = "`micro store restore FILE --namespace {stem} --force` puts a backup there" if owner == "store" else by_hand
    return f"{way}; see Damaged files in docs/store.md"


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
