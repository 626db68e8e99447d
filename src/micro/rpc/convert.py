"""Registrations between the domain's values and the registry's messages, both ways and without loss."""

from __future__ import annotations

from micro.domain import errors
from micro.domain.service import Endpoint, Node, Registration, StreamKind, Value
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb


def to_service(registration: Registration) -> pb.Service:
    """A service with the registration's one node."""
    return pb.Service(
        name=registration.name,
        version=registration.version,
        namespace=registration.namespace,
        metadata=dict(registration.metadata),
        nodes=[to_node(registration.node)],
        endpoints=[to_endpoint(endpoint) for endpoint in registration.endpoints],
        descriptors=registration.descriptors,
        since=registration.since,
    )


def from_service(service: pb.Service) -> Registration:
    """The registration of a service with exactly one node. Raises INVALID_ARGUMENT for any other number."""
    if len(service.nodes) != 1:
        raise errors.invalid_argument(f"service {service.name!r} comes with {len(service.nodes)} nodes: send one")
    return Registration(
        namespace=service.namespace,
        name=service.name,
        version=service.version,
        node=from_node(service.nodes[0]),
        endpoints=tuple(from_endpoint(endpoint) for endpoint in service.endpoints),
        metadata=dict(service.metadata),
        descriptors=service.descriptors,
        since=service.since,
    )


def to_node(node: Node) -> pb.Node:
    return pb.Node(id=node.id, address=node.address, metadata=dict(node.metadata))


def from_node(node: pb.Node) -> Node:
    return Node(id=node.id, address=node.address, metadata=dict(node.metadata))


def to_endpoint(endpoint: Endpoint) -> pb.Endpoint:
    return pb.Endpoint(
        name=endpoint.name,
        path=endpoint.path,
        request=to_value(endpoint.request),
        response=to_value(endpoint.response),
        stream=endpoint.stream,
        kind=endpoint.kind.value,
        timeout=endpoint.timeout,
        description=endpoint.description,
    )


def from_endpoint(endpoint: pb.Endpoint) -> Endpoint:
    """Raises INVALID_ARGUMENT for a kind that is none."""
    try:
        kind = StreamKind(endpoint.kind or StreamKind.UNARY)
    except ValueError:
        raise errors.invalid_argument(f"endpoint {endpoint.name!r} has no kind {endpoint.kind!r}") from None
    return Endpoint(
        name=endpoint.name,
        path=endpoint.path,
        request=from_value(endpoint.request or pb.Value()),
        response=from_value(endpoint.response or pb.Value()),
        kind=kind,
        timeout=endpoint.timeout,
        description=endpoint.description,
    )


def to_value(value: Value) -> pb.Value:
    return pb.Value(
        name=value.name,
        type=value.type,
        type_name=value.type_name,
        repeated=value.repeated,
        optional=value.optional,
        values=[to_value(inner) for inner in value.values],
        enum_values=list(value.enum_values),
        key_type=value.key_type,
        description=value.description,
        oneof=value.oneof,
        json_name=value.json_name,
    )


def from_value(value: pb.Value) -> Value:
    return Value(
        name=value.name,
        type=value.type,
        type_name=value.type_name,
        repeated=value.repeated,
        optional=value.optional,
        values=tuple(from_value(inner) for inner in value.values),
        enum_values=tuple(value.enum_values),
        key_type=value.key_type,
        description=value.description,
        oneof=value.oneof,
        json_name=value.json_name,
    )
