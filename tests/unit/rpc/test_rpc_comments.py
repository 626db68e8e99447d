"""What a contract's comments say reaches who calls."""

from __future__ import annotations

from echo_service import EchoHandler

from micro.domain.service import Value
from micro.rpc import comments, schema
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.rpc.gen.micro.registry.v1.registry_connect import Registry
from micro.rpc.method import table


class Handler(Registry):
    async def get_service(self, request, ctx):
        """The author's own words."""


def test_a_methods_comment_is_the_contracts_not_the_authors() -> None:
    assert comments.of_method(Handler(), "get_service").startswith("GetService returns every version of one service")
    assert comments.of_method(Handler(), "no_such_method") == ""
    assert comments.of_method(object(), "get_service") == ""


def test_fields_have_their_comments_and_nothing_of_the_definition() -> None:
    said = comments.of_fields(pb.Service.desc())
    assert said["descriptors"].startswith("A google.protobuf.FileDescriptorSet")
    assert said["version"] == 'Version, for example "latest" or "v1.2".'
    assert not [text for text in said.values() if "proto" in text and "```" in text]


def test_they_are_in_the_schema_at_every_depth() -> None:
    endpoints = {endpoint.name: endpoint for endpoint in schema.endpoints(table([Handler()], None))}
    register = endpoints["Registry.Register"]
    assert register.description.startswith("Register adds the instance")
    service = _child(register.request, "service")
    assert service.description == "The service, with exactly one node."
    assert _child(_child(service, "nodes"), "address").description == "Where it listens: HOST:PORT."


def test_a_contract_without_comments_has_none_in_the_schema() -> None:
    for endpoint in schema.endpoints(table([EchoHandler()], None)):
        assert "```" not in endpoint.description


def _child(value: Value, name: str) -> Value:
    return next(child for child in value.values if child.name == name)
