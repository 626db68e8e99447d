"""Which backend a setting names: the bill of materials, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from micro.domain import errors
from micro.ports.identity import IdentityStore
from micro.ports.lifecycle import Startable
from micro.ports.registry import Registry
from micro.server.settings import Layout, Settings


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
    from micro.backends.sqlite.identity import SqliteIdentity

    return SqliteIdentity(layout.auth / "identity.db")
