"""Health and reflection: what tools that know nothing of the platform ask every service."""

from __future__ import annotations

from typing import Any

import pytest
from echo_service import echo, frame
from protobuf import Oneof
from protobuf.wkt import FileDescriptorProto, FileDescriptorSet

from gen.echo.v1 import echo_pb
from micro.rpc import health
from micro.rpc.app import Application
from micro.rpc.gen.grpc.health.v1.health_pb import HealthCheckRequest, HealthCheckResponse
from micro.rpc.gen.grpc.reflection.v1 import reflection_pb as v1
from micro.rpc.gen.grpc.reflection.v1alpha import reflection_pb as v1alpha
from micro.testing.app import Answer, http

GRPC = {"content-type": "application/grpc", "te": "trailers"}
SERVING, NOT_SERVING = HealthCheckResponse.ServingStatus.SERVING, HealthCheckResponse.ServingStatus.NOT_SERVING


async def check(app: Application, service: str = "") -> Answer:
    body = frame(HealthCheckRequest(service=service).to_binary())
    return await http(app, "POST", "/grpc.health.v1.Health/Check", headers=GRPC, body=body)


async def test_a_service_is_healthy_until_a_check_says_otherwise() -> None:
    app = echo()
    states = []
    for change in (lambda: None, lambda: app.readiness.fail("disk", "full"), lambda: app.readiness.clear("disk")):
        change()
        answer = await check(app)
        states.append(HealthCheckResponse.from_binary(answer.body[5:]).status)
    assert states == [SERVING, NOT_SERVING, SERVING]


@pytest.mark.parametrize(("service", "status"), [("", "0"), ("echo.v1.Echo", "0"), ("echo.v1.Nope", "5")])
async def test_health_knows_the_contracts_by_name(service: str, status: str) -> None:
    assert (await check(echo(), service)).trailers["grpc-status"] == status


async def test_a_side_of_a_service_has_a_health_of_its_own() -> None:
    app, found = echo(), dict[str, object]()
    app.aspects["consumers"] = health.Readiness()
    app.aspects["consumers"].fail("orders", "away")
    for name in ("", "consumers"):
        answer = await check(app, name)
        found[name] = HealthCheckResponse.from_binary(answer.body[5:]).status
    assert found == {"": SERVING, "consumers": NOT_SERVING}
    assert (await check(app, "blobs")).trailers["grpc-status"] == "5"


async def test_what_a_probe_finds_is_told_to_those_who_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PROBING", 0.001)
    reasons, readiness = ["away"], health.Readiness()
    readiness.add("probe", lambda: reasons[0])
    watching = health.Health(health.Readiness(), (), {"consumers": readiness}).watch(
        HealthCheckRequest(service="consumers"), None
    )
    seen = [(await anext(watching)).status]
    reasons[0] = ""
    seen.append((await anext(watching)).status)
    assert seen == [NOT_SERVING, SERVING]


async def test_health_can_be_asked_in_json() -> None:
    answer = await http(
        echo(), "POST", "/grpc.health.v1.Health/Check", headers={"content-type": "application/json"}, body=b"{}"
    )
    assert answer.json() == {"status": "SERVING"}


async def test_health_is_watched_change_by_change() -> None:
    readiness = health.Readiness()
    watching = health.Health(readiness, {"a.A"}, {}).watch(HealthCheckRequest(), None)
    seen = [(await anext(watching)).status]
    readiness.fail("a", "broken")
    readiness.fail("b", "broken too")
    seen.append((await anext(watching)).status)
    readiness.clear("a")
    readiness.clear("b")
    seen.append((await anext(watching)).status)
    unknown = health.Health(readiness, {"a.A"}, {}).watch(HealthCheckRequest(service="x"), None)
    seen.append((await anext(unknown)).status)
    assert seen == [SERVING, NOT_SERVING, SERVING, HealthCheckResponse.ServingStatus.SERVICE_UNKNOWN]


async def reflect(pb: Any, package: str, *questions: tuple[str, Any]) -> list[Any]:
    requests = [pb.ServerReflectionRequest(message_request=Oneof(*question)) for question in questions]
    body = b"".join(frame(request.to_binary()) for request in requests)
    path = f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo"
    answer = await http(echo(), "POST", path, headers=GRPC, body=body)
    assert answer.trailers == {"grpc-status": "0"}
    return [pb.ServerReflectionResponse.from_binary(chunk[5:]).message_response for chunk in answer.chunks]


@pytest.mark.parametrize(("pb", "package"), [(v1, "v1"), (v1alpha, "v1alpha")])
async def test_reflection_tells_everything_that_a_tool_needs(pb: Any, package: str) -> None:
    listed, by_symbol, by_method, by_name, nothing = await reflect(
        pb,
        package,
        ("list_services", ""),
        ("file_containing_symbol", "echo.v1.Everything.Inner"),
        ("file_containing_symbol", "echo.v1.Echo.Call"),
        ("file_by_filename", "google/protobuf/timestamp.proto"),
        ("file_containing_symbol", "echo.v1.Nope"),
    )
    names = [service.name for service in listed.value.service]
    assert names == [
        "echo.v1.Audit",
        "echo.v1.Echo",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    files = [FileDescriptorProto.from_binary(each) for each in by_symbol.value.file_descriptor_proto]
    assert files[0].name == "echo/v1/echo.proto"
    assert {name for file in files for name in file.dependency} <= {file.name for file in files}
    assert by_method.value == by_symbol.value
    assert FileDescriptorProto.from_binary(by_name.value.file_descriptor_proto[0]).package == "google.protobuf"
    assert (nothing.field, nothing.value.error_code) == ("error_response", 5)


async def test_reflection_answers_what_it_does_not_have() -> None:
    numbers, unknown, extension = await reflect(
        v1,
        "v1",
        ("all_extension_numbers_of_type", "echo.v1.EchoRequest"),
        ("all_extension_numbers_of_type", "x"),
        ("file_containing_extension", v1.ExtensionRequest(containing_type="echo.v1.EchoRequest", extension_number=1)),
    )
    assert numbers.value == v1.ExtensionNumberResponse(base_type_name="echo.v1.EchoRequest")
    assert [unknown.value.error_code, extension.value.error_code] == [5, 5]


def test_descriptors_stand_on_their_own() -> None:
    from micro.rpc import schema

    found = FileDescriptorSet.from_binary(schema.descriptors(echo().methods)).to_registry()
    message = found.message("echo.v1.Everything")
    assert message is not None
    assert [field.name for field in message.fields] == [field.name for field in echo_pb.Everything.desc().fields]
