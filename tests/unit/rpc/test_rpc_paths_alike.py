"""One table of calls, answered by the fast path and by connectrpc's: nobody can tell which one it was."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest
from connectrpc._gen.google.rpc.status_pb import Status
from echo_service import LIMIT, AuditHandler, EchoHandler, echo, frame, web_trailers

from gen.echo.v1.echo_pb import EchoRequest, EchoResponse, Everything, FailRequest, MetaRequest, SleepRequest
from micro.domain.errors import Error, Kind
from micro.rpc import http as rpc_http
from micro.rpc import unary
from micro.rpc.app import Application
from micro.testing.app import Answer, http


class General(Application):
    """The same service, answering everything with connectrpc."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        method, headers = self.resolve(scope["path"]), dict(scope["headers"])
        if method is None:
            await super().__call__(scope, receive, send)
            return
        kind = headers.get(b"content-type", b"")
        try:
            await self._general(method, scope, headers, receive, send)
        except Error as error:
            if kind.startswith(b"application/grpc"):
                await unary.fail_grpc(send, error, None, (b"content-type", kind))
            else:
                await unary.fail_http(send, error, None, rpc_http.status(error))


@dataclass(frozen=True)
class Case:
    name: str
    method: str
    message: Any = None
    body: bytes | None = None
    chunks: tuple[bytes, ...] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    kind: Kind | None = None
    says: str = ""
    http: int = 0
    """What the fast path answers where Connect has another status for the kind."""

    def __str__(self) -> str:
        return self.name


EVERYTHING = Everything(
    name="né",
    count=-1,
    big=2**62,
    huge=2**64 - 1,
    flag=True,
    ratio=0.5,
    data=b"\0\xff",
    names=["a", ""],
    a=Everything.Inner(b=1, tags=["x"], more=Everything(name="deep")),
    counts={"a": 1, "": 2},
    by_id={1: Everything.Inner(b=2)},
    maybe="",
)

BOTH = [
    Case("a value", "Call", EchoRequest(name="Ann", count=3)),
    Case("every kind of field", "Call", EchoRequest(body=EVERYTHING)),
    Case("an empty message", "Call", EchoRequest()),
    Case("one megabyte", "Call", EchoRequest(name="x" * 2**20)),
    Case("a name of two words", "GetThing", EchoRequest(name="a")),
    Case("metadata both ways", "Meta", MetaRequest(key="x-mine"), headers={"x-mine": "ä=1", "micro-namespace": "foo"}),
    Case("metadata that is repeated", "Meta", MetaRequest(key="micro-namespace")),
    Case("a bad namespace", "Meta", MetaRequest(), headers={"micro-namespace": "No!"}, kind=Kind.INVALID_ARGUMENT),
    Case(
        "an error of connectrpc's",
        "Fail",
        FailRequest(code=5, message="gone", connect=True, detail=True),
        kind=Kind.NOT_FOUND,
        says="gone",
    ),
    Case("an unexpected error", "Fail", FailRequest(unexpected=True, message="pw"), kind=Kind.INTERNAL, says="id"),
    Case("a deadline that passes", "Sleep", SleepRequest(seconds=30), kind=Kind.DEADLINE_EXCEEDED, headers={"@": "30"}),
    Case("a deadline that does not", "Sleep", SleepRequest(seconds=0), headers={"@": "5000"}),
    Case("a deadline of nonsense", "Call", EchoRequest(), headers={"@": "soon"}, kind=Kind.INVALID_ARGUMENT),
    Case("a deadline of a sign", "Call", EchoRequest(), headers={"@": "-1"}, kind=Kind.INVALID_ARGUMENT),
    Case("a second handler", "/echo.v1.Audit/List", EchoRequest()),
    *(
        Case(
            f"error {kind.code}", "Fail", FailRequest(code=kind, message="né\n%", detail=True), kind=kind, says="né\n%"
        )
        for kind in Kind
    ),
    Case("an error without words", "Fail", FailRequest(code=5), kind=Kind.NOT_FOUND),
    Case("an oversize message", "Call", EchoRequest(name="x" * LIMIT), kind=Kind.RESOURCE_EXHAUSTED, http=413),
]

_FRAME = frame(EchoRequest(name="Ann").to_binary())

GRPC = [
    Case("in pieces", "Call", chunks=(_FRAME[:3], b"", _FRAME[3:7], _FRAME[7:])),
    Case("no frame", "Call", body=b"", kind=Kind.UNIMPLEMENTED),
    Case("half a prefix", "Call", body=b"\0\0\0", kind=Kind.INVALID_ARGUMENT),
    Case("half a message", "Call", body=_FRAME[:-1], kind=Kind.INVALID_ARGUMENT),
    Case("half a message, promised more", "Call", chunks=(_FRAME[:6], _FRAME[6:-1]), kind=Kind.INVALID_ARGUMENT),
    Case("two frames", "Call", body=_FRAME * 2, kind=Kind.UNIMPLEMENTED),
    Case("many frames", "Call", body=_FRAME * 5000, kind=Kind.UNIMPLEMENTED),
    Case("two frames in pieces", "Call", chunks=(_FRAME, _FRAME), kind=Kind.UNIMPLEMENTED),
    Case("trailing garbage", "Call", body=_FRAME + b"\0\0", kind=Kind.INVALID_ARGUMENT),
    Case("a frame that grows after its end", "Call", chunks=(_FRAME, b"abcdefgh"), kind=Kind.INVALID_ARGUMENT),
    Case("a flag that nobody knows", "Call", body=b"\x40" + _FRAME[1:], kind=Kind.INVALID_ARGUMENT),
    Case("compressed without saying how", "Call", body=b"\1" + _FRAME[1:], kind=Kind.INTERNAL),
    Case("bytes that are no message", "Call", body=frame(b"\xff\xff"), kind=Kind.INVALID_ARGUMENT),
    Case("bad UTF-8", "Call", body=frame(b"\x12\x02\xff\xfe"), kind=Kind.INVALID_ARGUMENT),
    Case("a promise beyond the limit", "Call", body=b"\0\xff\xff\xff\xff" + b"x", kind=Kind.RESOURCE_EXHAUSTED),
    Case("an unknown field", "Call", body=frame(b"\xfa\x3f\x01x")),
    Case("without te", "Call", EchoRequest(name="Ann"), headers={"te": ""}),
]

JSON = [
    Case("in pieces", "Call", chunks=(b'{"na', b"", b'me":"Ann"}')),
    Case("no body", "Call", body=b""),
    Case("not JSON", "Call", body=b"{", kind=Kind.INVALID_ARGUMENT),
    Case("a list", "Call", body=b"[]", kind=Kind.INVALID_ARGUMENT),
    Case("a wrong type", "Call", body=b'{"count":"x"}', kind=Kind.INVALID_ARGUMENT, says="EchoRequest.count"),
    Case("out of range", "Call", body=b'{"count":4294967296}', kind=Kind.INVALID_ARGUMENT, says="count"),
    Case("bad UTF-8", "Call", body=b'{"name":"\xff"}', kind=Kind.INVALID_ARGUMENT),
    Case("half a surrogate", "Call", body=b'{"name":"\\ud800"}', kind=Kind.INVALID_ARGUMENT),
    Case("trailing garbage", "Call", body=b'{"name":"Ann"} x', kind=Kind.INVALID_ARGUMENT),
    Case("an unknown field", "Call", body=b'{"name":"Ann","other":[1]}'),
    Case("a number for a text", "Call", body=b'{"name":1}', kind=Kind.INVALID_ARGUMENT, says="name"),
    Case("too deep", "Call", body=b'{"body":{"a":{"more":' * 400 + b"{}" + b"}}}" * 400, kind=Kind.INVALID_ARGUMENT),
    Case(
        "oversize in pieces",
        "Call",
        chunks=(b'{"name":"', *(b"x" * 2**20,) * 3),
        kind=Kind.RESOURCE_EXHAUSTED,
        http=413,
    ),
    Case(
        "another version of the protocol",
        "Call",
        EchoRequest(),
        headers={"connect-protocol-version": "2"},
        kind=Kind.INVALID_ARGUMENT,
    ),
]


def _path(case: Case) -> str:
    return case.method if case.method.startswith("/") else f"/echo.v1.Echo/{case.method}"


async def _grpc(app: Application, case: Case, content_type: str) -> dict[str, Any]:
    headers = {"content-type": content_type, "te": "trailers", **case.headers}
    if (milliseconds := headers.pop("@", None)) is not None:
        headers["grpc-timeout"] = f"{milliseconds}m"
    codec = (lambda m: m.to_json().encode()) if content_type.endswith("json") else (lambda m: m.to_binary())
    body = case.body if case.body is not None else frame(codec(case.message)) if case.message is not None else b""
    answer = await http(app, "POST", _path(case), headers=headers, body=body, chunks=case.chunks)
    assert answer.complete
    return _grpc_view(answer)


def _grpc_view(answer: Answer) -> dict[str, Any]:
    view: dict[str, Any] = {
        "http": answer.status,
        "type": answer.headers["content-type"].replace("application/grpc+proto", "application/grpc"),
        "head": answer.headers.get("x-head"),
        "tail": answer.trailers.get("x-tail"),
        "status": int(answer.trailers["grpc-status"]),
        "message": unquote(answer.trailers.get("grpc-message", "")),
        "body": answer.body,
    }
    if details := answer.trailers.get("grpc-status-details-bin"):
        status = Status.from_binary(base64.b64decode(details + "==="))
        view["details"] = [(detail.type_url, detail.value) for detail in status.details]
    return view


async def _json(app: Application, case: Case) -> dict[str, Any]:
    headers = {"content-type": "application/json", **case.headers}
    if (milliseconds := headers.pop("@", None)) is not None:
        headers["connect-timeout-ms"] = milliseconds
    body = case.body if case.body is not None else case.message.to_json().encode() if case.message is not None else b""
    answer = await http(app, "POST", _path(case), headers=headers, body=body, chunks=case.chunks)
    assert answer.complete
    return {
        "http": answer.status,
        "type": answer.headers["content-type"],
        "head": answer.headers.get("x-head"),
        "tail": answer.headers.get("trailer-x-tail"),
        "body": answer.json(),
    }


def _settled(view: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from call to call: the ids of internal errors."""
    text = repr(view)
    if "internal error, id" in text:
        where = view["body"] if isinstance(view["body"], dict) else view
        assert len(where["message"]) == len("internal error, id 0123456789ab")
        where["message"] = "internal error"
    return view


@pytest.mark.parametrize(
    ("content_type", "case"),
    [
        *(("application/grpc", case) for case in (*BOTH, *GRPC)),
        *(("application/grpc+proto", case) for case in (*BOTH, *GRPC)),
        *(("application/grpc+json", case) for case in BOTH),
    ],
    ids=str,
)
async def test_grpc_is_answered_alike(content_type: str, case: Case) -> None:
    fast = await _grpc(echo(), case, content_type)
    general = await _grpc(General("echo", [EchoHandler(), AuditHandler()], max_message=LIMIT), case, content_type)
    assert fast["status"] == (case.kind or 0)
    assert case.says in fast["message"]
    assert "secret" not in repr(fast)
    assert _settled(fast) == _settled(general)


@pytest.mark.parametrize("case", [*BOTH, *JSON], ids=str)
async def test_json_is_answered_alike(case: Case) -> None:
    fast = await _json(echo(), case)
    general = await _json(General("echo", [EchoHandler(), AuditHandler()], max_message=LIMIT), case)
    if case.kind is not None:
        assert fast["body"]["code"] == case.kind.code
        assert case.says in fast["body"]["message"]
    usual = case.kind.http_status if case.kind else 200
    assert (fast["http"], general["http"]) == (case.http or usual, usual)
    assert "secret" not in json.dumps(fast)
    assert _settled(fast) == {**_settled(general), "http": fast["http"]}


async def test_values_come_back_whole() -> None:
    """The table compares the two paths with each other; this compares one with what was sent."""
    sent = EchoRequest(body=EVERYTHING, name="Ann", names=["a", "b"])
    view = await _grpc(echo(), Case("", "Call", sent), "application/grpc")
    got = EchoResponse.from_binary(view["body"][5:])
    assert got.body == EVERYTHING
    assert got.names == ["a", "b"]


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc-web"])
async def test_an_unknown_method_is_unimplemented_over_grpc(kind: str) -> None:
    answer = await http(echo(), "POST", "/echo.v1.Echo/Nope", headers={"content-type": kind}, body=_FRAME)
    trailers = answer.trailers or web_trailers(answer.body)
    assert (answer.status, trailers["grpc-status"]) == (200, "12")
    assert "Echo.Call" in unquote(trailers["grpc-message"])


async def test_an_unknown_method_is_not_found_over_http() -> None:
    answer = await http(echo(), "POST", "/echo.v1.Echo/Nope", headers={"content-type": "application/json"}, body=b"{}")
    assert (answer.status, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/grpc-web-text", "application/grpc+xml", "application/grpcx", "multipart/form-data"],
)
async def test_a_wrong_content_type_is_refused(kind: str) -> None:
    answer = await http(echo(), "POST", "/echo.v1.Echo/Call", headers={"content-type": kind}, body=b"{}")
    assert answer.status == 415
    assert "application/json" in answer.json()["message"]


@pytest.mark.parametrize(
    ("verb", "kind", "query"),
    [
        ("POST", "application/json", b""),
        ("POST", "application/json; charset=utf-8", b""),
        ("PUT", "application/json", b""),
        ("POST", "application/proto", b""),
        ("GET", "", b"connect=v1&encoding=json&compression=br&message={}"),
    ],
)
async def test_a_compression_that_is_not_spoken_is_the_caller_s_mistake(verb: str, kind: str, query: bytes) -> None:
    headers = {"content-type": kind, **({} if query else {"content-encoding": "br"})}
    answer = await http(echo(), verb, "/echo.v1.Echo/Safe", query=query, headers=headers, body=b"{}")
    assert (answer.status, answer.json()["code"]) == (415, "unimplemented")
    assert "gzip" in answer.json()["message"]


class LongHandler(EchoHandler):
    async def call(self, request: EchoRequest, ctx: Any) -> EchoResponse:
        return EchoResponse(name="x" * 200)

    async def chat(self, requests: AsyncIterator[EchoRequest], ctx: Any) -> AsyncIterator[EchoResponse]:
        yield EchoResponse(name="x" * 200)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("application/grpc", "Call"),
        ("application/grpc", "Chat"),
        ("application/grpc-web", "Call"),
        ("application/connect+json", "Chat"),
        ("application/proto", "Call"),
        ("application/json", "Call"),
        ("", "Call"),
    ],
)
async def test_an_answer_that_is_too_long_is_not_sent(kind: str, method: str) -> None:
    app = Application("echo", [LongHandler()], max_message=100)
    headers = {"content-type": kind, "te": "trailers"}
    body = frame(b"") if "grpc" in kind else frame(b"{}") if "connect" in kind else b"{}" if "json" in kind else b""
    answer = await http(app, "POST" if kind else "GET", f"/echo.v1.Echo/{method}", headers=headers, body=body)
    assert answer.complete
    assert b"x" * 200 not in answer.body
    assert "raise max_message" in unquote(str(answer.trailers) + answer.body.decode("latin-1"))


async def test_a_message_that_is_too_long_ends_a_stream_of_lines() -> None:
    answer = await http(echo(max_message=12), "GET", "/echo/count", query=b"to=20")
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[:-1] == [{"number": number} for number in range(1, 10)]
    assert lines[-1]["error"]["code"] == "resource_exhausted"
