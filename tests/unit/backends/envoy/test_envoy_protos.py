"""Our subset of Envoy's contracts has Envoy's own numbers and types.

`tests/golden/envoy/protos.json` was taken from the descriptors of Envoy's complete contracts. A message or field that
is missing there has to be looked up in them and added to both.
"""

import importlib
import json
import pkgutil
from pathlib import Path

import micro.rpc.gen.envoy as envoy
import micro.rpc.gen.google as google
import micro.rpc.gen.xds as xds

GOLDEN = Path(__file__).parents[3] / "golden/envoy/protos.json"


def files():
    for package in (envoy, xds, google):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if module.name.endswith("_pb"):
                yield importlib.import_module(module.name).desc().proto


def shape(field):
    """Number, type, and whether it is a list."""
    return [field.number, field.type_name or field.type.name, field.label.name == "REPEATED"]


def described(message, name):
    """The message and those in it, by full name; what protobuf makes for maps is left in."""
    yield name, {field.name: shape(field) for field in message.field}
    for inner in message.nested_type:
        yield from described(inner, f"{name}.{inner.name}")


def enums(message, name):
    for enum in message.enum_type:
        yield f"{name}.{enum.name}", {value.name: value.number for value in enum.value}
    for inner in getattr(message, "message_type", ()) or getattr(message, "nested_type", ()):
        yield from enums(inner, f"{name}.{inner.name}")


def ours():
    found = {}
    for file in files():
        for message in file.message_type:
            found.update(described(message, f"{file.package}.{message.name}"))
        found.update(enums(file, file.package))
    return found


def test_numbers_and_types_are_envoys():
    golden = json.loads(GOLDEN.read_text())
    found = ours()
    assert len(found) > 50
    assert found == golden


def test_the_service_has_envoys_name_and_methods_stream_both_ways():
    [service] = [service for file in files() for service in file.service]
    [file] = [file for file in files() if file.service]
    assert f"{file.package}.{service.name}" == "envoy.service.discovery.v3.AggregatedDiscoveryService"
    [method] = service.method
    assert (method.name, method.client_streaming, method.server_streaming) == ("DeltaAggregatedResources", True, True)
