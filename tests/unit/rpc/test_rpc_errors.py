"""Errors keep their kind, words and details on every wire, both ways."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from hypothesis import given
from hypothesis import strategies as st
from protobuf import wkt

from gen.echo.v1.echo_pb import EchoRequest
from micro.domain.errors import Error, Kind
from micro.rpc import errors as wire

DETAIL = EchoRequest(name="why")


def same(one: Error, other: Error) -> None:
    def packed(error: Error) -> list[tuple[str, bytes]]:
        anys = [detail if isinstance(detail, wkt.Any) else wkt.Any.pack(detail) for detail in error.details]
        return [(each.type_url, each.value) for each in anys]

    assert (one.kind, one.message, packed(one)) == (other.kind, other.message, packed(other))


def aio(error: Error) -> grpc.aio.AioRpcError:
    """What grpc.aio makes of our trailers."""
    pairs = dict(wire.trailers(error))
    number = int(pairs.pop(b"grpc-status"))
    code = next(each for each in grpc.StatusCode if each.value[0] == number)
    words = unquote(pairs.pop(b"grpc-message", b"").decode())
    trailing = grpc.aio.Metadata(*((key.decode(), value.decode()) for key, value in pairs.items()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, words)


@pytest.mark.parametrize("details", [(), (DETAIL,), (DETAIL, wkt.Any.pack(DETAIL))])
@pytest.mark.parametrize("message", ["", "gone", "né\n% ✓"])
@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_survives_every_wire(kind: Kind, message: str, details: tuple[Any, ...]) -> None:
    error = Error(kind, message, details)
    same(wire.from_connect(wire.to_connect(error)), error)
    same(wire.from_value(json.loads(wire.to_json(error))), error)
    same(wire.from_grpc(aio(error)), error)


def test_the_list_of_kinds_is_gRPC_s_and_Connect_s() -> None:
    assert {kind.code for kind in Kind} == {code.value for code in Code}
    assert {kind.name.replace("CANCELED", "CANCELLED"): kind.value for kind in Kind} == {
        code.name: code.value[0] for code in grpc.StatusCode if code is not grpc.StatusCode.OK
    }


@given(st.text())
def test_any_words_fit_a_header(message: str) -> None:
    [*_, (key, value)] = wire.trailers(Error(Kind.NOT_FOUND, message or "x"))
    assert key == b"grpc-message"
    assert all(0x20 <= byte <= 0x7E for byte in value)


def test_endless_words_are_cut() -> None:
    error = Error(Kind.NOT_FOUND, "x" * 100_000)
    assert len(dict(wire.trailers(error))[b"grpc-message"]) < 5000
    assert len(wire.to_json(error)) < 5000


def test_what_nobody_expected_is_in_the_log_and_not_in_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        try:
            raise RuntimeError("password is hunter2")
        except RuntimeError as raised:
            error = wire.of(raised)
    assert error.kind is Kind.INTERNAL
    assert "hunter2" not in error.message
    number = error.message.rpartition(" ")[2]
    assert number in caplog.text
    assert "hunter2" in caplog.text
    assert "Traceback" in caplog.text


def test_expected_errors_pass_and_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = Error(Kind.NOT_FOUND, "gone")
    assert wire.of(error) is error
    same(wire.of(ConnectError(Code.NOT_FOUND, "gone", [DETAIL])), Error(Kind.NOT_FOUND, "gone", [DETAIL]))
    assert not caplog.records


@pytest.mark.parametrize(
    ("value", "status", "kind"),
    [
        ({"code": "not_found", "message": "gone"}, 404, Kind.NOT_FOUND),
        ({"code": "brand_new"}, 500, Kind.UNKNOWN),
        ({"message": "no code"}, 503, Kind.UNAVAILABLE),
        ("text", 401, Kind.UNAUTHENTICATED),
        (None, 418, Kind.UNKNOWN),
        ({"code": "internal", "details": [{"type": "x"}, 3, {"type": "x", "value": "a"}]}, 500, Kind.INTERNAL),
        ({"code": "internal", "details": "x"}, 500, Kind.INTERNAL),
    ],
)
def test_bodies_of_others_are_understood_as_far_as_they_go(value: object, status: int, kind: Kind) -> None:
    assert wire.from_value(value, status).kind is kind
