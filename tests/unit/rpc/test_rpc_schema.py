"""Contracts as plain values, and registrations as messages, both ways."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from echo_service import AuditHandler, EchoHandler, echo
from hypothesis import given
from hypothesis import strategies as st

from gen.echo.v1.echo_pb import Everything
from micro.domain.errors import Error
from micro.domain.service import Endpoint, Node, Registration, StreamKind, Value
from micro.rpc import convert, schema
from micro.rpc.app import Application
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.rpc.method import method


def test_every_method_is_an_endpoint() -> None:
    found = {endpoint.name: endpoint for endpoint in schema.endpoints(echo().methods)}
    assert found["Echo.Call"].path == "/echo.v1.Echo/Call"
    assert found["Echo.Call"].timeout == 10.0
    assert found["Echo.Count"].timeout == 0.0
    assert {name: endpoint.kind for name, endpoint in found.items() if endpoint.stream} == {
        "Echo.Count": StreamKind.SERVER,
        "Echo.Sum": StreamKind.CLIENT,
        "Echo.Chat": StreamKind.BIDI,
    }
    assert "Audit.List" in found
    assert not any(name.startswith(("Health", "ServerReflection")) for name in found)


def silent(value: Value) -> Value:
    """The shape without what the contract's comments say."""
    return dataclasses.replace(value, description="", values=tuple(silent(inner) for inner in value.values))


def test_shapes_go_to_any_depth_and_stop_at_themselves() -> None:
    shape = {value.name: silent(value) for value in schema.message(Everything.desc()).values}
    inner = Value(
        name="a",
        type="message",
        type_name="echo.v1.Everything.Inner",
        values=(
            Value(name="b", type="int32"),
            Value(name="more", type="message", type_name="echo.v1.Everything"),
            Value(name="tags", type="string", repeated=True),
        ),
    )
    assert shape["a"] == inner
    assert shape["inners"] == dataclasses.replace(inner, name="inners", repeated=True)
    assert shape["counts"] == Value(
        name="counts", type="map", key_type="string", values=(Value(name="value", type="int32"),)
    )
    assert shape["by_id"].values == (dataclasses.replace(inner, name="value"),)
    assert shape["color"] == Value(
        name="color",
        type="enum",
        type_name="echo.v1.Color",
        enum_values=("COLOR_UNSPECIFIED", "COLOR_RED", "COLOR_GREEN"),
    )
    assert shape["maybe"] == Value(name="maybe", type="string", optional=True)
    assert shape["name"] == Value(name="name", type="string")
    assert {name: field.oneof for name, field in shape.items() if field.oneof} == {"left": "choice", "right": "choice"}
    assert shape["at"].type_name == "google.protobuf.Timestamp"


def test_a_handler_must_be_one() -> None:
    for wrong, says in [
        (object(), "derive its class"),
        (EchoHandler, "pass EchoHandler()"),
        ("echo", "a str is not a handler"),
    ]:
        with pytest.raises(TypeError, match="not a handler") as raised:
            Application("echo", [wrong])
        assert says in str(raised.value)
    with pytest.raises(TypeError, match="two handlers"):
        Application("echo", [AuditHandler(), AuditHandler()])


texts = st.text(max_size=8)
pairs = st.dictionaries(texts, texts, max_size=3)
values = st.recursive(
    st.builds(Value, name=texts, type=texts, values=st.just(())),
    lambda inner: st.builds(
        Value,
        name=texts,
        type=texts,
        type_name=texts,
        repeated=st.booleans(),
        optional=st.booleans(),
        values=st.lists(inner, max_size=3).map(tuple),
        enum_values=st.lists(texts, max_size=3).map(tuple),
        key_type=texts,
        description=texts,
        oneof=texts,
        json_name=texts,
    ),
    max_leaves=6,
)
endpoints = st.builds(
    Endpoint,
    name=texts,
    path=texts,
    request=values,
    response=values,
    kind=st.sampled_from(StreamKind),
    timeout=st.floats(0, 1e6),
    description=texts,
)
registrations = st.builds(
    Registration,
    namespace=texts,
    name=texts,
    version=texts,
    node=st.builds(Node, id=texts, address=texts, metadata=pairs),
    endpoints=st.lists(endpoints, max_size=3).map(tuple),
    metadata=pairs,
    descriptors=st.binary(max_size=8),
)


@given(registrations)
def test_a_registration_survives_the_wire(registration: Registration) -> None:
    message = pb.Service.from_binary(convert.to_service(registration).to_binary())
    assert convert.from_service(message) == registration
    assert convert.to_service(convert.from_service(message)) == message


@pytest.mark.parametrize(
    "service",
    [
        pb.Service(name="a"),
        pb.Service(name="a", nodes=[pb.Node(), pb.Node()]),
        pb.Service(name="a", nodes=[pb.Node()], endpoints=[pb.Endpoint(kind="sideways")]),
    ],
)
def test_what_is_no_registration_is_refused(service: pb.Service) -> None:
    with pytest.raises(Error):
        convert.from_service(service)


@pytest.mark.parametrize("odd", [math.nan, -1.0, -math.inf, 1e20])
def test_what_is_no_time_is_no_timeout(odd: float) -> None:
    with pytest.raises(ValueError, match=r"timeout is .* s: use 0 to 2592000"):
        method(timeout=odd)
    with pytest.raises(ValueError, match="timeout is"):
        Application("echo", [AuditHandler()], timeout=odd)


@pytest.mark.parametrize("none", [math.inf, 0, None])
def test_for_ever_is_no_timeout_at_all(none: float | None) -> None:
    class Handler(AuditHandler):
        @method(timeout=none)
        async def list(self, request: Any, ctx: Any) -> Any:
            return await super().list(request, ctx)

    [marked] = schema.endpoints(Application("echo", [Handler()], timeout=7.0).methods)
    assert marked.timeout == 0.0
