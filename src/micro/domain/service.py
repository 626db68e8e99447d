"""What the registry knows: services, their instances and endpoints. Plain values, equal when alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class StreamKind(StrEnum):
    """Which sides of a method are streams."""

    UNARY = "unary"
    SERVER = "server_stream"
    CLIENT = "client_stream"
    BIDI = "bidi_stream"


@dataclass(frozen=True, slots=True)
class Value:
    """The shape of a message or of one of its fields; see `micro.registry.v1.Value` for each attribute."""

    name: str
    type: str
    type_name: str = ""
    repeated: bool = False
    optional: bool = False
    values: tuple[Value, ...] = ()
    enum_values: tuple[str, ...] = ()
    key_type: str = ""
    description: str = ""
    oneof: str = ""
    json_name: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method: `name` is "Helloworld.Call", `path` "/helloworld.Helloworld/Call", `timeout` seconds (0: none)."""

    name: str
    path: str
    request: Value
    response: Value
    kind: StreamKind = StreamKind.UNARY
    timeout: float = 0.0
    description: str = ""

    @property
    def stream(self) -> bool:
        return self.kind is not StreamKind.UNARY


@dataclass(frozen=True, slots=True)
class Node:
    """One instance; `address` is HOST:PORT."""

    id: str
    address: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registration:
    """One instance with all that is known of its service: what is registered, stored and watched.

    Attributes:
        since: when the account was made that registered it, RFC 3339; empty for the platform's own.
    """

    namespace: str
    name: str
    version: str
    node: Node
    endpoints: tuple[Endpoint, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    descriptors: bytes = b""
    since: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Namespace, service and node id: unique in a registry."""
        return (self.namespace, self.name, self.node.id)


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a registry's history.

    Attributes:
        revision: counts up, with gaps allowed; resuming a watch after it loses nothing.
        key: of the registration that changed.
        registration: what is there now; None when it is gone.
        expired: whether it is gone because its lease ended.
    """

    revision: int
    key: tuple[str, str, str]
    registration: Registration | None
    expired: bool = False
