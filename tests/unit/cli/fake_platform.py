"""A server in a thread that speaks the proxy's contract: JSON over POST, streams in Connect's envelopes.

It keeps what it was asked, so that a test can say what travelled.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

STRING = "string"


def value(name: str, type_: str = STRING, **rest: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, **rest}


def message(name: str, *fields: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"name": name, "type": "message", "values": list(fields), **rest}


def endpoint(name: str, package: str, request: dict[str, Any], kind: str = "unary", **rest: Any) -> dict[str, Any]:
    owner, _, method = name.partition(".")
    found = {"name": name, "path": f"/{package}.{owner}/{method}", "request": request, "kind": kind, **rest}
    found["response"] = message("Response", value("msg"))
    return found | ({"stream": True} if kind != "unary" else {})


ADDRESS = message("address", value("city", description="Where the house stands."), value("zip_code", "int32"))
USER = message("user", value("name"), value("email"), ADDRESS | {"typeName": "users.Address"}, typeName="users.User")
TREE = message(
    "tree", value("label"), {"name": "left", "type": "message", "typeName": "users.Tree"}, typeName="users.Tree"
)
SAVE = message(
    "SaveRequest",
    USER,
    TREE,
    value("age", "int32"),
    value("total", "int64"),
    value("ratio", "double"),
    value("active", "bool"),
    value("tags", repeated=True),
    value("scores", "int32", repeated=True),
    value("role", "enum", typeName="users.Role", enumValues=["ROLE_UNSPECIFIED", "ROLE_ADMIN", "ROLE_READER"]),
    value("photo", "bytes"),
    value("labels", "map", keyType="string", values=[value("value")]),
    value("limits", "map", keyType="string", values=[value("value", "int32")]),
    value("friends", "message", repeated=True, typeName="users.Friend", values=[value("name")]),
    value("born", "message", typeName="google.protobuf.Timestamp", values=[value("seconds", "int64")]),
    typeName="users.SaveRequest",
)
HELLO = message("Request", value("name", description="Who is greeted."), typeName="helloworld.Request")

SERVICES: list[dict[str, Any]] = [
    {
        "name": "helloworld",
        "version": "latest",
        "namespace": "micro",
        "nodes": [{"id": "helloworld-1", "address": "127.0.0.1:40001"}],
        "endpoints": [
            endpoint(
                "Helloworld.Call", "helloworld", HELLO, description="Call greets someone. It is quick.", timeout=10
            ),
            endpoint("Helloworld.PingPong", "helloworld", message("Ping", value("stroke", "int64")), "bidi_stream"),
            endpoint(
                "Helloworld.Stream", "helloworld", message("StreamRequest", value("count", "int64")), "server_stream"
            ),
        ],
    },
    {
        "name": "users",
        "version": "latest",
        "namespace": "micro",
        "nodes": [{"id": "users-1", "address": "127.0.0.1:40002"}],
        "endpoints": [
            endpoint("Users.Save", "users", SAVE),
            endpoint("Accounts.List", "users", message("ListRequest")),
            endpoint("Accounts.Count", "users", message("CountRequest")),
            endpoint("Groups.Count", "users", message("CountRequest")),
        ],
    },
]


@dataclass
class Call:
    """What one exchange brought."""

    path: str
    headers: dict[str, str]
    messages: list[Any] = field(default_factory=list)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.code, self.text, self.status = code, text, status

    @property
    def json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.text, "details": []}


class FakePlatform:
    """Registry, runtime, network and two services behind one port."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.services = json.loads(json.dumps(SERVICES))
        self.running: dict[tuple[str, str], dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        core = ("registry", "auth", "network", "runtime", "store", "config", "broker", "events")
        self.health = dict.fromkeys(core, "SERVING")
        self.proxies = [
            {"id": "api", "revision": "7"},
            {"id": "mesh", "revision": "7"},
            {"id": "proxy", "revision": "7"},
        ]
        self.fail_start = ""
        self.log = [
            {
                "timestamp": f"2026-01-31T08:00:0{n}.000000Z",
                "level": "info",
                "message": f"line {n}",
                "instance": "helloworld-1",
            }
            for n in range(5)
        ]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def last(self, path_end: str = "") -> Call:
        return next(call for call in reversed(self.calls) if call.path.endswith(path_end))

    def unary(self, path: str, request: dict[str, Any], headers: dict[str, str]) -> Any:
        answer = getattr(self, "do_" + path.rpartition("/")[2].lower(), None)
        if answer is None:
            raise Refusal("not_found", f"no route to {path}", 404)
        return answer(request, headers)

    def do_listservices(self, _: dict[str, Any], __: dict[str, str]) -> Any:
        return {"services": self.services} if self.services else {}

    def do_getservice(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        found = [one for one in self.services if one["name"] == request["name"]]
        if not found or request.get("namespace", "micro") != found[0]["namespace"]:
            raise Refusal("not_found", "no such service", 404)
        return {"services": found}

    def do_call(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        if request.get("name") == "nobody":
            raise Refusal("not_found", "no such book", 404)
        if request.get("name") == "secret":
            raise Refusal("permission_denied", "not yours", 403)
        return {"msg": f"Hello {request.get('name', '')}", "sum": "9007199254740993"}

    def do_save(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        return {"msg": "saved"}

    def do_list(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        return {}

    def do_check(self, request: dict[str, Any], headers: dict[str, str]) -> Any:
        asked = " ".join(filter(None, (headers["micro-service"], request.get("service", ""))))
        if asked not in self.health:
            raise Refusal("unavailable", "no healthy upstream", 503)
        return {"status": self.health[asked]}

    def do_proxies(self, _: dict[str, Any], __: dict[str, str]) -> Any:
        return {"proxies": self.proxies}

    def do_create(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        wanted = request["service"]
        key = (wanted["name"], wanted.get("version", "latest"))
        if key in self.running:
            raise Refusal("already_exists", f"service {key[0]} runs already", 409)
        if self.fail_start:
            self.running[key] = wanted | {"status": "STATUS_ERROR", "error": self.fail_start}
            raise Refusal("failed_precondition", self.fail_start)
        self.running[key] = self._run(wanted, request)
        return {"service": self.running[key]}

    def do_update(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        wanted = request["service"]
        key = (wanted["name"], wanted.get("version", "latest"))
        if key not in self.running:
            raise Refusal("not_found", f"service {key[0]!r} version {key[1]!r} is not running", 404)
        if self.fail_start:
            raise Refusal("failed_precondition", self.fail_start)
        self.running[key] = self._run(self.running[key] | wanted, request)
        return {"service": self.running[key]}

    def _run(self, wanted: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        count = request.get("instances", 0) or 1
        return wanted | {
            "status": "STATUS_RUNNING",
            "updated": "2026-01-31T08:00:00Z",
            "instances": [
                {"id": f"{wanted['name']}-{n}", "address": f"127.0.0.1:4000{n}", "status": "STATUS_RUNNING"}
                for n in range(count)
            ],
        }

    def do_read(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        found = [
            one
            for key, one in sorted(self.running.items())
            if (request.get("name", key[0]), request.get("version", key[1])) == key
        ]
        return {"services": found} if found else {}

    def do_delete(self, request: dict[str, Any], _: dict[str, str]) -> Any:
        key = (request["name"], request.get("version", "latest"))
        if key not in self.running:
            raise Refusal("not_found", f"service {key[0]!r} version {key[1]!r} is not running", 404)
        del self.running[key]
        return {}

    def stream(self, path: str, requests: Iterator[dict[str, Any]]) -> Iterator[Any]:
        method = path.rpartition("/")[2]
        if method == "Stream":
            count = int(next(requests).get("count", 0))
            for n in range(count):
                if n == 5:
                    raise Refusal("out_of_range", "five is enough")
                yield {"count": str(n)}
        elif method == "PingPong":
            for ping in requests:
                yield {"stroke": ping.get("stroke", "0")}
        elif method == "Upload":
            yield self._upload(requests)
        elif method == "Logs":
            request = next(requests)
            if request["name"] not in ("helloworld", "registry"):
                raise Refusal("not_found", f"service {request['name']!r} is not running", 404)
            yield from self.log[-int(request.get("lines", 15)) :]
        else:
            raise Refusal("unimplemented", f"no stream at {path}")

    def _upload(self, requests: Iterator[dict[str, Any]]) -> dict[str, Any]:
        import base64

        first = next(requests)
        pieces = [first, *requests]
        assert all(len(piece.get("data", "")) <= 4 * 262144 // 3 + 4 for piece in pieces)
        self.uploads[f"upload-{len(self.uploads)}"] = b"".join(
            base64.b64decode(piece.get("data", "")) for piece in pieces
        )
        return {"id": f"upload-{len(self.uploads) - 1}"}


class _Handler(BaseHTTPRequestHandler):
    platform: ClassVar[FakePlatform]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        call = Call(self.path, {name.lower(): text for name, text in self.headers.items()})
        self.platform.calls.append(call)
        with contextlib.suppress(ConnectionError):  # a client may leave when it has heard enough
            if self.headers["content-type"] == "application/connect+json":
                self._stream(call)
            else:
                self._unary(call)

    def _unary(self, call: Call) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        call.messages.append(request)
        try:
            status, answer = 200, self.platform.unary(self.path, request, call.headers)
        except Refusal as refusal:
            status, answer = refusal.status, refusal.json
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, call: Call) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/connect+json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        end: dict[str, Any] = {}
        try:
            for answer in self.platform.stream(self.path, self._requests(call)):
                self._envelope(0, answer)
        except Refusal as refusal:
            end = {"error": refusal.json}
        self._envelope(2, end)
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _envelope(self, flags: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        data = bytes([flags]) + len(body).to_bytes(4, "big") + body
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _requests(self, call: Call) -> Iterator[dict[str, Any]]:
        held = b""
        while size := int(self.rfile.readline() or b"0", 16):
            held += self.rfile.read(size)
            self.rfile.readline()
            while len(held) >= 5 and len(held) >= 5 + int.from_bytes(held[1:5], "big"):
                length = int.from_bytes(held[1:5], "big")
                call.messages.append(json.loads(held[5 : 5 + length]))
                held = held[5 + length :]
                yield call.messages[-1]
        self.rfile.readline()

    def log_message(self, *_: object) -> None:
        return


def _handler(platform: FakePlatform) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"platform": platform})
